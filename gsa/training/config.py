"""What decides the outcome of a run, field by field, and what may stand in each."""

import re
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gsa.layers import MECHANISMS, VARIANTS
from gsa.models import MODELS

POSITIVE = ("epochs", "batch", "lr", "mechanism_lr", "head_lr", "bias_lr")
NOT_NEGATIVE = ("images", "weight_decay", "mechanism_weight_decay", "crop", "sam_radius", "seed")
SHARES = ("holdout", "momentum", "warmup", "label_smoothing")


@dataclass(frozen=True)
class Config:
    """Everything that decides the outcome of a run. The defaults are the recipe of the book's fast host."""

    model: str = "whitened"
    """The host, by its name in gsa.models.MODELS."""
    mechanism: str = "none"
    """The layer that it carries, by its name in gsa.layers.MECHANISMS."""
    stages: tuple[int, ...] = (1,)
    """The stages of the host after which the mechanism stands, counted from 1."""
    width: int | None = None
    """Channels of the host's first stage; None is its own."""
    match: Literal["", "parameters", "macs"] = ""
    """Take the host without the mechanism, widened until it costs as much of this as with the mechanism."""
    data: str = "cifar10"
    """The data set, by its name in gsa.data; of your own data any name that is none of these."""
    images: int = 0
    """How many training images to use; 0 is all."""
    holdout: float = 0.1
    """The share of the training images that is held out for choices; the same images whatever the seed."""
    test: bool = True
    """Read the test images at the end. Runs that choose a recipe do not."""
    epochs: int = 3
    """How often every image is shown."""
    batch: int = 250
    """Images a step, over all processes."""
    optimizer: Literal["muon", "sgd"] = "muon"
    """Who trains the host, "muon" its kernels, with AdamW for its head, biases and norms, or "sgd" all of it."""
    lr: float = 0.16
    """Peak learning rate of the host's kernels, under "sgd" of all of the host."""
    momentum: float = 0.6
    """Nesterov momentum of "muon" or "sgd"."""
    weight_decay: float = 0.01
    """Decoupled decay of the host's matrices; under "sgd" it is added to the gradient."""
    head_lr: float = 0.005
    """Peak learning rate of the host's last layer, under "muon"."""
    bias_lr: float = 0.01
    """Peak learning rate of the host's biases and norms, under "muon"."""
    mechanism_lr: float = 0.002
    """Peak learning rate of the mechanism, which AdamW trains."""
    mechanism_weight_decay: float = 0.01
    """Decoupled decay of the mechanism's matrices."""
    warmup: float = 0.0
    """The share of all steps in which the rates rise in a line; then they fall in a line to zero."""
    label_smoothing: float = 0.2
    """The share of each target that is spread over all classes."""
    crop: int = 2
    """Pixels by which an image is shifted at most, in either direction."""
    sam_radius: float = 0.0
    """The radius of sharpness-aware minimisation; 0 is none."""
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """The numbers of matrix products; "auto" is the fastest that the device computes with in hardware."""
    compile: bool = False
    """Run the network through torch.compile; the time that this takes does not count."""
    seed: int = 0
    """Decides initial weights, order and augmentation."""
    study: str = "own"
    """The study that keeps the run."""
    named: str = ""
    """What the study calls the arm, where neither the mechanism nor the control of one says it."""

    def __post_init__(self) -> None:
        for name, kind in _kinds().items():
            try:
                kind.validate_python(getattr(self, name))
            except ValidationError as error:
                wrong = error.errors()[0]["msg"].lower()
                raise ValueError(f"{name}: {wrong}, got {getattr(self, name)!r}") from None
        self._check_names()
        rules = (
            (POSITIVE, lambda value: value > 0, "must be more than 0"),
            (NOT_NEGATIVE, lambda value: value >= 0, "must be 0 or more"),
            (SHARES, lambda value: 0 <= value < 1, "is a share: at least 0 and less than 1"),
            (("width",), lambda value: value is None or value > 0, "must be more than 0"),
            (("seed",), lambda value: value < 2**32, "must be less than 2^32"),
        )
        for names, holds, what in rules:
            for name in names:
                if not holds(getattr(self, name)):
                    raise ValueError(f"{name} {what}, got {getattr(self, name)}")
        if self.sam_radius and self.precision == "fp16":
            raise ValueError(f"sam_radius {self.sam_radius} needs precision bf16 or fp32: fp16 gradients overflow")

    def _check_names(self) -> None:
        mechanisms = MECHANISMS | VARIANTS
        for value, known, what in ((self.model, MODELS, "model"), (self.mechanism, mechanisms, "mechanism")):
            if value not in known:
                raise ValueError(f"unknown {what} {value!r}; there are {', '.join(known)}")
        if self.match and self.mechanism == "none":
            raise ValueError(f"match {self.match!r} needs a mechanism whose cost the host is to match, got 'none'")
        if self.mechanism != "none" and not self.stages:
            raise ValueError(f"mechanism {self.mechanism!r} needs a stage to stand after: stages is empty")
        for name in (self.study, self.arm):
            if not re.fullmatch(r"\w[\w.,=+-]*", name):
                raise ValueError(f"{name!r} cannot name a file: use letters, digits and . , = + - _")

    @property
    def arm(self) -> str:
        """What a study calls this configuration whatever its seed."""
        return self.named or (f"none-{self.match}-of-{self.mechanism}" if self.match else self.mechanism)

    @property
    def name(self) -> str:
        """Study, arm and seed, as files are called after them."""
        return f"{self.study}/{self.arm}-{self.seed}"

    def scaled(self, budget: str) -> "Config":
        """The same run at a budget: "full" is the recipe, "demo" at most 8 epochs of it, "smoke" seconds on a CPU: the
        host with 16 channels and 1,200 drawn images, which it learns to tell apart."""
        if budget == "full":
            return self
        if budget == "demo":
            return replace(self, epochs=min(self.epochs, 8), study=f"{self.study}-demo")
        data = "shapes" if self.data in ("cifar10", "mnist") else self.data
        small = {"width": 16, "images": 1200, "batch": 25, "epochs": min(self.epochs, 3), "precision": "fp32"}
        return replace(self, data=data, study=f"{self.study}-smoke", **small)


@cache
def _kinds() -> dict[str, TypeAdapter]:
    """What may stand in each field, by its annotation; numbers are finite, and nothing is converted."""
    exact = ConfigDict(strict=True, allow_inf_nan=False)
    return {item.name: TypeAdapter(item.type, config=exact) for item in fields(Config)}
