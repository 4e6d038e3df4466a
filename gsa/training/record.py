"""What is known of a finished run, and the trained network itself."""

import os
import platform
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter
from torch import nn

from gsa.data.pipeline import Normalizer
from gsa.training.config import Config


class TrainingError(RuntimeError):
    """A run that cannot go on: it diverged or ran out of memory. The message is one line that says what to change."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch did. Accuracies are shares, losses are in nats; ``seconds`` is training alone, and ``lr`` that of
    the last step. None is what was not measured: without held-out images, or by an earlier program."""

    epoch: int
    lr: float | None
    train_loss: float | None
    train_accuracy: float | None
    holdout_loss: float | None
    holdout_accuracy: float | None
    seconds: float | None


@dataclass(frozen=True)
class Record:
    """A finished run, as the ledger keeps it.

    "tta" is test-time augmentation: an image and its mirror image vote together. ``test_accuracy`` is None where the
    run was not to read the test images. ``macs`` are the multiply-accumulates of one image, ``flops`` the
    floating-point operations of all training steps, forward and backward, counted on the network (two for a
    multiply-accumulate; those of the optimizer are not counted). ``seconds`` is training alone. ``peak_memory`` is the
    most bytes that tensors took on a GPU, None on a CPU. ``weights_sha256`` names the file of its weights, where the
    ledger has it.
    """

    config: Config
    history: list[Epoch]
    holdout_accuracy_tta: float | None
    test_accuracy: float | None
    test_accuracy_tta: float | None
    test_images: int
    train_images: int
    parameters: int
    macs: int
    flops: int
    seconds: float
    peak_memory: int | None
    device: str
    threads: int
    precision: str
    processes: int
    versions: dict[str, str]
    commit: str
    data_source: str
    finished: str
    weights_sha256: str | None = None


@dataclass
class Run:
    """A finished run: its record and the trained network, in evaluation mode, with what it takes to show it images:
    the normalizer, the names of the classes and the (channels, height, width) of an image. ``losses`` are those of the
    steps, in nats, on augmented images and smoothed targets; of a run that went on from a checkpoint, those since."""

    record: Record
    model: nn.Module = field(repr=False)
    normalize: Normalizer = field(repr=False)
    classes: tuple[str, ...]
    image: tuple[int, int, int]
    losses: list[float] = field(repr=False)


def versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "accelerate", "einops", "numpy")}
    return {"python": platform.python_version(), **packages}


def commit() -> str:
    """The commit of the code that runs, with "-dirty" if it was changed since; outside its repository $GSA_COMMIT."""
    here = Path(__file__)
    tracked = ["git", "-C", str(here.parent), "ls-files", "--error-unmatch", here.name]
    describe = ["git", "-C", str(here.parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        subprocess.run(tracked, capture_output=True, check=True)
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("GSA_COMMIT", "unknown")


def to_json(value: Config | Epoch | Record) -> dict:
    """A dataclass as JSON keeps it; ``TypeAdapter(type).validate_python`` turns it back."""
    return TypeAdapter(type(value)).dump_python(value, mode="json")
