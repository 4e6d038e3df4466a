"""Images in: data sets as uint8 tensors, each with a sentence on where it came from, and batches of them."""

from gsa.data.dataset import (
    BUDGETS,
    NAMES,
    WORDS,
    Dataset,
    Described,
    Moved,
    budget,
    data_dir,
    described,
    fetch,
    load,
    moved,
)
from gsa.data.download import DataError
from gsa.data.photographs import PHOTOGRAPHS, Photograph, photograph

__all__ = [
    "BUDGETS",
    "NAMES",
    "PHOTOGRAPHS",
    "WORDS",
    "DataError",
    "Dataset",
    "Described",
    "Moved",
    "Photograph",
    "budget",
    "data_dir",
    "described",
    "fetch",
    "load",
    "moved",
    "photograph",
]
