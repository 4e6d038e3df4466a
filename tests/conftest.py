"""What holds for every test: shapes are checked, runs repeat, budgets are small."""

import os

os.environ.setdefault("GSA_BUDGET", "smoke")

import matplotlib
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("gsa", "beartype.beartype")
matplotlib.use("Agg")
settings.register_profile("book", deadline=None, derandomize=True)
settings.load_profile("book")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
