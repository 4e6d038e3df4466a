"""Images in: data sets as uint8 tensors, each with a sentence on where it came from."""

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from platformdirs import user_cache_path
from torch import Tensor

from gsa.data import download, synthetic

BUDGETS = ("smoke", "demo", "full")
PUBLISHED = {"cifar10": (download.CIFAR10, download.cifar10), "mnist": (download.MNIST, download.mnist)}
SIZED = {
    "shapes": (tuple(synthetic.FIGURES), synthetic.draw_shapes),
    "same": (("different", "same"), synthetic.draw_same),
}
DRAWN = {
    name + ("" if size == synthetic.SIZE else f"-{size}"): (classes, partial(draw, size=size))
    for name, (classes, draw) in SIZED.items()
    for size in (synthetic.SIZE, 64, 128)
}
NAMES = (*PUBLISHED, *DRAWN)
WORDS = synthetic.WORDS


@dataclass(frozen=True)
class Dataset:
    """A data set in memory; ``source`` says in a sentence where it came from.

    Raises:
        ValueError: for images or labels that no network could be trained on, naming the first thing that is wrong.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    x_train: UInt8[Tensor, "train channels height width"]
    y_train: Int64[Tensor, " train"]
    x_test: UInt8[Tensor, "test channels height width"]
    y_test: Int64[Tensor, " test"]

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise ValueError(f"data set {self.name!r} needs two classes or more, got {self.classes}")
        for split in ("train", "test"):
            self._check(split, getattr(self, f"x_{split}"), getattr(self, f"y_{split}"))
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            shapes = [tuple(x.shape[1:]) for x in (self.x_train, self.x_test)]
            raise ValueError(f"data set {self.name!r}: training and test images differ in shape, {shapes}")

    def _check(self, split: str, x: Tensor, y: Tensor) -> None:
        """ValueError for what a split of a data set cannot be."""
        found = {f"x_{split}": (x, torch.uint8, 4), f"y_{split}": (y, torch.int64, 1)}
        wanted = "bytes of (images, channels, height, width)", "int64 numbers of classes, one an image"
        for (name, (tensor, dtype, axes)), what in zip(found.items(), wanted, strict=True):
            if not isinstance(tensor, Tensor):
                raise ValueError(f"data set {self.name!r}: {name} is no tensor but {type(tensor).__name__}")
            if tensor.dtype != dtype or tensor.ndim != axes or not tensor.numel():
                got = f"{str(tensor.dtype).removeprefix('torch.')} of {tuple(tensor.shape)}"
                raise ValueError(f"data set {self.name!r}: {name} must be {what}, got {got}")
        if len(x) != len(y):
            raise ValueError(f"data set {self.name!r}: {len(x)} images but {len(y)} labels in x_{split} and y_{split}")
        least, most = y.min().item(), y.max().item()
        if least < 0 or most >= len(self.classes):
            classes = f"0…{len(self.classes) - 1}"
            raise ValueError(f"data set {self.name!r}: y_{split} has labels {least}…{most}, its classes are {classes}")


class Described(NamedTuple):
    """Images of two or three figures, for each three indices into WORDS that name one of them, and where it is."""

    images: UInt8[Tensor, "count 3 height width"]
    sentences: Int64[Tensor, "count 3"]
    masks: Bool[Tensor, "count height width"]


class Moved(NamedTuple):
    """Textures before and after they moved: what pixel p of the first shows is at p + flow(p), (row, column)."""

    first: UInt8[Tensor, "count 3 height width"]
    second: UInt8[Tensor, "count 3 height width"]
    flow: Float32[Tensor, "count 2 height width"]


def budget() -> str:
    """How much work a cell may do: $GSA_BUDGET, else "demo" where a GPU is found and "smoke" elsewhere."""
    chosen = os.environ.get("GSA_BUDGET") or ("demo" if torch.accelerator.is_available() else "smoke")
    return _check_budget(chosen, "GSA_BUDGET")


def data_dir() -> Path:
    """Where images are kept: $GSA_DATA, else the user's cache directory."""
    return Path(os.environ.get("GSA_DATA") or user_cache_path("gsa")).expanduser()


def load(name: str, budget: str = "full") -> Dataset:
    """The data set of that name, one of NAMES: "cifar10", "mnist", or one that is drawn.

    The first two are fetched unless they are in :func:`data_dir`; with the budget "smoke", drawn "shapes" stand in.
    What is drawn has 32×32 pixels, or as many as the name says: "shapes-64", "shapes-128", "same-64", "same-128".

    Raises:
        ValueError: for an unknown name or budget
        DataError: for images that are missing or damaged.
    """
    _check_budget(budget, "budget")
    if name not in NAMES:
        raise ValueError(f"no data set is called {name!r}; there are {', '.join(NAMES)}")
    if name in DRAWN:
        return _draw(name)
    description, read = PUBLISHED[name]
    if budget == "smoke":
        shapes = _draw("shapes")
        return replace(shapes, source=f"{shapes.source}, in place of {description.name} (budget smoke)")
    arrays, provenance = read(data_dir())
    return _dataset(name, f"{description.name}: {provenance}", description.classes, arrays)


def described(count: int, seed: int) -> Described:
    """Coloured figures, and sentences of which every word is needed to tell which one is meant."""
    images, sentences, masks = synthetic.draw_described(np.random.default_rng(seed), count)
    return Described(_channels_first(images), torch.from_numpy(sentences), torch.from_numpy(masks))


def moved(count: int, seed: int) -> Moved:
    """Pairs of images of one texture that has moved by up to three pixels, turned and stretched a little."""
    first, second, flow = synthetic.draw_moved(np.random.default_rng(seed), count)
    return Moved(_channels_first(first), _channels_first(second), torch.from_numpy(flow))


def fetch(name: str) -> Path:
    """Fetch published images unless they are there, verify them, and return the directory they are in."""
    if name not in PUBLISHED:
        raise ValueError(f"{name!r} is not fetched; what can be is {' and '.join(PUBLISHED)}")
    PUBLISHED[name][1](data_dir())
    return data_dir()


def _check_budget(chosen: str, called: str) -> str:
    if chosen not in BUDGETS:
        raise ValueError(f"{called} is {chosen!r}; it must be one of {', '.join(BUDGETS)}")
    return chosen


def _draw(name: str) -> Dataset:
    classes, draw = DRAWN[name]
    arrays = synthetic.dataset(draw, len(classes))
    return _dataset(name, f"{name}: drawn by numpy from seed {synthetic.SEED}", classes, arrays)


def _dataset(name: str, source: str, classes: tuple[str, ...], arrays: dict[str, np.ndarray]) -> Dataset:
    tensors = {}
    for split in ("train", "test"):
        tensors[f"x_{split}"] = _channels_first(arrays[f"x_{split}"])
        tensors[f"y_{split}"] = torch.from_numpy(arrays[f"y_{split}"]).long()
    counted = f"{source}; {len(arrays['y_train']):,} + {len(arrays['y_test']):,} images"
    return Dataset(name, counted, classes, **tensors)


def _channels_first(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
