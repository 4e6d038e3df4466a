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

__all__ = [
    "BUDGETS",
    "NAMES",
    "WORDS",
    "DataError",
    "Dataset",
    "Described",
    "Moved",
    "budget",
    "data_dir",
    "described",
    "fetch",
    "load",
    "moved",
]
