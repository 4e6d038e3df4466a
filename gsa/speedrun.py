"""The speedrun: a short training on CIFAR-10 whose work is counted, with a mechanism in the network or none."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from gsa.data import Dataset, load
from gsa.ledger import PUBLISHED, points, t_interval
from gsa.models.resnet import MixingBlock
from gsa.models.whitened import MatrixConvolution, WhitenedNet
from gsa.pipeline import Images, Normalizer, batches, split
from gsa.probes import count_parameters
from gsa.training import (
    TrainingError,
    best_precision,
    check_batch,
    commit,
    device_name,
    evaluate,
    schedule,
    versions,
)

FILE = "speedrun.jsonl"
"""The file of a ledger's directory that keeps finished speedruns, one a line."""


@dataclass(frozen=True)
class Speedrun:
    """Everything that decides the outcome of a speedrun.

    Muon trains the kernels of the convolutions at ``lr``; AdamW all else, at rates of their own for the mechanism, for
    the last layer, and for biases and norms. All fall linearly to zero over ``epochs``. ``holdout`` is the share of the
    training images that is kept back to be judged on; with 0 the network is trained on all and judged on test images,
    which is for recipes that were chosen before. ``precision`` "auto" is bf16 where the GPU has it, else fp32.
    """

    mechanism: str = "none"
    epochs: int = 8
    batch: int = 500
    lr: float = 0.24
    momentum: float = 0.6
    mechanism_lr: float = 2e-3
    head_lr: float = 1e-2
    bias_lr: float = 2e-2
    weight_decay: float = 1e-2
    label_smoothing: float = 0.2
    crop: int = 2
    holdout: float = 0.1
    data: str = "cifar10"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.holdout < 1:
            raise ValueError(f"holdout is a share, at least 0 and less than 1, got {self.holdout}")

    @property
    def arm(self) -> str:
        return f"{self.mechanism}-{self.epochs}epochs"


@dataclass(frozen=True)
class Finish:
    """A finished speedrun. ``seconds`` is whitening and training on images that lie on the device already, without
    compilation and evaluation. ``flops`` is twice the multiply-accumulates of the network in all steps, forward and
    backward; those of the optimizer and of whitening are not counted."""

    run: Speedrun
    accuracy: float
    accuracy_flip: float
    images: int
    seconds: float
    flops: int
    parameters: int
    device: str
    precision: str
    versions: dict[str, str]
    commit: str
    data_source: str
    finished: str


_FINISH = TypeAdapter(Finish)


def train_missing(runs: Sequence[Speedrun], results: Path) -> None:
    """Train what ``results`` lacks of ``runs``, one after the other, and keep each as it ends."""
    done = {finish.run for finish in finished(results)}
    for one in runs:
        if one not in done:
            keep(train(one), results)


def keep(finish: Finish, results: Path) -> None:
    """Append a finished speedrun to the file in ``results``."""
    results.mkdir(parents=True, exist_ok=True)
    with (results / FILE).open("ab") as file:
        file.write(_FINISH.dump_json(finish) + b"\n")


def finished(results: Path = PUBLISHED) -> list[Finish]:
    """The speedruns that ``results`` keeps. ValueError naming the line where one is no finished speedrun."""
    path, runs = Path(results) / FILE, []
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), 1):
        try:
            runs.append(_FINISH.validate_json(line, strict=True, extra="forbid"))
        except ValidationError as error:
            raise ValueError(f"{path}, line {number}, is no finished speedrun: {error.errors()[0]['msg']}") from None
    return runs


def table(results: Path = PUBLISHED) -> pd.DataFrame:
    """One row a recipe and device: means over seeds, of the accuracy with flip averaging also the 95 % t-interval.

    "judged on" says which images: held-out ones, to choose a recipe, or test images, after all others were trained on.
    """
    groups: dict[tuple[Speedrun, str], list[Finish]] = {}
    for finish in finished(results):
        groups.setdefault((replace(finish.run, seed=0), finish.device), []).append(finish)
    return pd.DataFrame([_row(recipe, device, runs) for (recipe, device), runs in groups.items()])


def display(results: Path = PUBLISHED) -> pd.DataFrame:
    """The table as text for readers."""
    rows = table(results).to_dict("records")
    return pd.DataFrame(
        {
            "mechanism": row["mechanism"],
            "epochs": str(row["epochs"]),
            "batch": str(row["batch"]),
            "judged on": row["judged on"],
            "runs": str(row["runs"]),
            "flips, %": points(row["accuracy"], row["low"], row["high"]),
            "PFLOP": f"{row['petaflops']:.3g}",
            "seconds": f"{row['seconds']:,.1f}",
            "device": row["device"],
        }
        for row in rows
    )


def _row(recipe: Speedrun, device: str, runs: list[Finish]) -> dict[str, Any]:
    mean, low, high = t_interval([one.accuracy_flip for one in runs])
    return {
        "mechanism": recipe.mechanism,
        "epochs": recipe.epochs,
        "batch": recipe.batch,
        "judged on": "held-out" if recipe.holdout else "test",
        "runs": len(runs),
        "accuracy": mean,
        "low": low,
        "high": high,
        "seconds": float(np.mean([one.seconds for one in runs])),
        "petaflops": runs[0].flops / 1e15,
        "parameters": runs[0].parameters,
        "device": device,
    }


def train(run: Speedrun, dataset: Dataset | None = None) -> Finish:
    """Train as ``run`` says. Errors: ValueError for what cannot be trained, TrainingError for a run that diverges."""
    dataset = dataset or load(run.data)
    torch.manual_seed(run.seed)
    bf16 = run.precision == "bf16" or (run.precision == "auto" and best_precision() == "bf16")
    AcceleratorState._reset_state()  # as in training.py
    accelerator = Accelerator(mixed_precision="bf16" if bf16 else "no")
    train_set, judging_set = _splits(run, dataset, accelerator.device)
    check_batch(run.batch, len(train_set), 1)
    normalize = Normalizer.of(train_set)

    _, in_channels, size, _ = dataset.x_train.shape
    model = WhitenedNet(mechanism=run.mechanism, classes=len(dataset.classes), in_channels=in_channels, size=size)
    flops = count_step_flops(model, (1, in_channels, size, size))
    model.to(accelerator.device, memory_format=torch.channels_last)
    seconds = Race(run, model, accelerator).seconds(train_set, normalize)
    score = evaluate(model, judging_set, normalize, accelerator, flip=True)
    return Finish(
        run=run,
        accuracy=score.accuracy,
        accuracy_flip=score.accuracy_flip,
        images=len(judging_set),
        seconds=seconds,
        flops=flops * run.epochs * (len(train_set) // run.batch) * run.batch,
        parameters=count_parameters(model),
        device=device_name(accelerator.device),
        precision="bf16" if bf16 else "fp32",
        versions=versions(),
        commit=commit(),
        data_source=dataset.source,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _splits(run: Speedrun, dataset: Dataset, device: torch.device) -> tuple[Images, Images]:
    """What is trained on and what is judged on."""
    if run.holdout:
        train, held_out, _ = split(dataset, run.holdout, 0, device)
        return train, held_out
    train, test = (dataset.x_train, dataset.y_train), (dataset.x_test, dataset.y_test)
    return Images(*(part.to(device) for part in train)), Images(*(part.to(device) for part in test))


class Race:
    """The training of one network, against the clock."""

    def __init__(self, run: Speedrun, model: WhitenedNet, accelerator: Accelerator) -> None:
        self.run, self.model, self.accelerator = run, model.train(), accelerator
        self.network = torch.compile(model) if run.compile else model
        self.optimizers = make_optimizers(model, run)

    def seconds(self, images: Images, normalize: Normalizer) -> float:
        """Train on ``images``: the seconds from the first look at them to the last step."""
        run, steps = self.run, len(images) // self.run.batch
        if run.compile:
            self.warm_up(images, normalize)
        started = self.now()
        self.model.whiten(normalize(images.x[:5000]))
        for epoch in tqdm(range(run.epochs), desc=f"{run.arm}-{run.seed}", unit="epoch"):
            for number, batch in enumerate(batches(images, run.batch, run.seed, epoch, run.crop)):
                factor = schedule(epoch * steps + number, run.epochs * steps, warmup=0.0)
                loss = self.step(normalize(batch.x), batch.y, factor)
            if not loss.isfinite():
                raise TrainingError(f"the loss is not finite after epoch {epoch}; try a smaller --lr than {run.lr:g}")
        return self.now() - started

    def step(self, x: Tensor, y: Tensor, factor: float) -> Tensor:
        loss = self.loss(x, y)
        loss.backward()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        with self.accelerator.autocast():
            return F.cross_entropy(self.network(x), y, label_smoothing=self.run.label_smoothing)

    def warm_up(self, images: Images, normalize: Normalizer) -> None:
        """Compile, and leave no trace."""
        batch = slice(self.run.batch)
        self.loss(normalize(images.x[batch]), images.y[batch]).backward()
        self.model.zero_grad()
        for norm in (module for module in self.model.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.reset_running_stats()

    def now(self) -> float:
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def make_optimizers(model: WhitenedNet, run: Speedrun) -> list[torch.optim.Optimizer]:
    """Muon for the kernels, AdamW for all else. ValueError where torch has no Muon."""
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(f"a speedrun needs torch 2.9 or newer, which has Muon; this is {torch.__version__}")
    kernels = [module.weight for module in model.modules() if isinstance(module, MatrixConvolution)]
    mechanism = [p for block in model.modules() if isinstance(block, MixingBlock) for p in block.mechanism.parameters()]
    known = {id(p) for p in (*kernels, *mechanism, model.head.weight, model.stem.weight)}
    groups = [
        {"params": mechanism, "peak_lr": run.mechanism_lr, "weight_decay": run.weight_decay},
        {"params": [model.head.weight], "peak_lr": run.head_lr, "weight_decay": run.weight_decay},
        {"params": [p for p in model.parameters() if id(p) not in known], "peak_lr": run.bias_lr, "weight_decay": 0.0},
    ]
    muon = {"params": kernels, "peak_lr": run.lr, "weight_decay": run.weight_decay}
    return [torch.optim.Muon([muon], momentum=run.momentum, ns_steps=3), torch.optim.AdamW(groups)]


def count_step_flops(model: WhitenedNet, shape: tuple[int, ...]) -> int:
    """Floating-point operations of one training step on a batch of ``shape``, forward and backward, counted."""
    model = copy.deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(shape, device="meta")).sum().backward()
    return counter.get_total_flops()
