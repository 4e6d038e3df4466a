"""What holds for every test: shapes are checked, runs repeat and stay on the CPU, budgets are small."""

import os
import shutil
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


@pytest.fixture(scope="module")
def browser():
    """The system's Chromium, or else Playwright's own."""
    api = pytest.importorskip("playwright.sync_api")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with api.sync_playwright() as playwright:
        try:
            chromium = shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=chromium, args=quiet)
        except api.Error as error:
            pytest.skip(f"no Chromium, neither the system's nor Playwright's own: {error.message.splitlines()[0]}")
        yield browser
        browser.close()
