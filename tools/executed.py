"""A pytest plugin that lets nbval and the book share one run: it keeps what the cells showed, and the book shows that.

    python -m pytest -p tools.executed --nbval-lax book/01_convolution.ipynb  # keeps _build/executed/…

Where a cell's output is committed, the book shows the committed one. It must agree, except for what a line says after
"≈": times, which are those of the machine that wrote the page.
"""

from functools import partial

import nbformat
import pytest
from nbval.plugin import coalesce_streams


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Compares neither standard error, which the book leaves out, nor what a line says after "≈".

    What a kernel sent in pieces is put together first, because nbval would add later pieces to the first and keep them.
    """
    for item in items:
        item.cell.outputs = coalesce_streams(item.cell.outputs)
    for notebook in {item.parent for item in items}:
        notebook.skip_compare += ("stderr",)
        notebook.sanitize_patterns["≈.*"] = "≈"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Runs a cell as a notebook does: nbval does it without history, and then no semicolon hides a value."""
    kernel = item.parent.kernel
    kernel.execute_cell_input = partial(kernel.kc.execute, stop_on_error=False)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Writes the executed copies, if no cell failed."""
    if exitstatus != pytest.ExitCode.OK:
        return
    for item in session.items:
        item.cell.outputs = item.cell.outputs or item.test_outputs
    for notebook in {item.parent for item in session.items}:
        copy = session.config.rootpath / "_build" / "executed" / notebook.path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook.nb, copy)
