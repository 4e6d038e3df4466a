"""What holds for every test: shapes are checked, runs repeat and stay on the CPU, budgets are small."""

import os
from collections.abc import Iterator

os.environ.setdefault("GSA_BUDGET", "smoke")
os.environ.setdefault("ACCELERATE_USE_CPU", "1")

import matplotlib
import pytest
import torch
from hypothesis import settings
from jaxtyping import config, install_import_hook

install_import_hook("gsa", "beartype.beartype")
matplotlib.use("Agg")
settings.register_profile("book", deadline=None, derandomize=True)
settings.load_profile("book")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Types are not checked, as outside of tests: torch.compile cannot trace the checks."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
