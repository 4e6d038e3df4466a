"""Images in: named data sets as uint8 tensors, with a sentence on where they came from."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from platformdirs import user_cache_path
from torch import Tensor

from gsa.data import cifar10
from gsa.data.cifar10 import DataError

BUDGETS = ("smoke", "demo", "full")


@dataclass(frozen=True)
class Dataset:
    """A data set in memory, and the sentence that says where it came from."""

    name: str
    source: str
    classes: tuple[str, ...]
    x_train: UInt8[Tensor, "train channels height width"]
    y_train: Int64[Tensor, " train"]
    x_test: UInt8[Tensor, "test channels height width"]
    y_test: Int64[Tensor, " test"]


def budget() -> str:
    """How much work a cell may do: $GSA_BUDGET, else "demo" where a GPU is found and "smoke" elsewhere."""
    chosen = os.environ.get("GSA_BUDGET") or ("demo" if torch.accelerator.is_available() else "smoke")
    if chosen not in BUDGETS:
        raise ValueError(f"GSA_BUDGET is {chosen!r}; it must be one of {', '.join(BUDGETS)}")
    return chosen


def data_dir() -> Path:
    """Where images are kept: $GSA_DATA, else the user's cache directory."""
    return Path(os.environ.get("GSA_DATA") or user_cache_path("gsa")).expanduser()


def _cifar10() -> Dataset:
    arrays, digest = cifar10.read(data_dir() / "cifar10.npz")
    source = f"CIFAR-10, 50,000 + 10,000 images, cifar10.npz with SHA-256 {digest[:16]}"
    return _dataset("cifar10", source, cifar10.CLASSES, arrays)


def _dataset(name: str, source: str, classes: tuple[str, ...], arrays: dict[str, np.ndarray]) -> Dataset:
    images = {f"x_{s}": torch.from_numpy(arrays[f"x_{s}"]).permute(0, 3, 1, 2).contiguous() for s in ("train", "test")}
    labels = {f"y_{s}": torch.from_numpy(arrays[f"y_{s}"]).long() for s in ("train", "test")}
    return Dataset(name, source, classes, **images, **labels)


def load(name: str, budget: str = "full") -> Dataset:
    """The data set of that name."""
    return {"cifar10": _cifar10}[name]()
