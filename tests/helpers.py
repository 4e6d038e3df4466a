"""What several test files need."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gsa.data import Dataset


def tinted(train: int = 80, test: int = 20, height: int = 8, width: int = 8) -> Dataset:
    """Four classes of noise, each with a tint of its own."""
    drawn = torch.Generator().manual_seed(0)
    y = torch.arange(train + test) % 4
    tints = torch.randint(256, (4, 3, 1, 1), generator=drawn)
    noise = torch.randint(-90, 91, (len(y), 3, height, width), generator=drawn)
    x = (tints[y] + noise).clamp(0, 255).to(torch.uint8)
    return Dataset("tinted", "drawn by a test", tuple("abcd"), x[:train], y[:train], x[train:], y[train:])


def assert_same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def assert_same_with_gradients(
    one: Tensor, other: Tensor, inputs: list[Tensor], others: list[Tensor] | None = None
) -> None:
    """The two are the same, and so are their gradients to ``inputs``, those of the second to ``others`` if given."""
    assert_same(one, other)
    cotangent = torch.randn_like(one)
    found, expected = (
        torch.autograd.grad(one, inputs, cotangent),
        torch.autograd.grad(other, others or inputs, cotangent),
    )
    for mine, theirs in zip(found, expected, strict=True):
        assert_same(mine, theirs)


def laid_out(x: Tensor) -> tuple[Tensor, Tensor]:
    """The same numbers in two other orders in memory."""
    return x.mT.contiguous().mT, x.contiguous(memory_format=torch.channels_last)


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_) -> None: ...


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """A folder, served on this machine: its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def failed_rules(page, wanted: dict) -> list[str]:
    """The rules of axe that a page fails, each with the element and what is wrong with it."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    options = {"preload": False, "resultTypes": ["violations"], **wanted}
    violations = axe.run(page, options=options).response["violations"]
    return [f"{rule['id']}: {node['html']} {node['failureSummary']}" for rule in violations for node in rule["nodes"]]


def watch(page, address: str) -> list[str]:
    """What goes wrong in a tab from here on: errors, and requests to another host."""
    troubles: list[str] = []
    page.on("console", lambda message: message.type == "error" and troubles.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: troubles.append(f"script: {error}"))
    page.on("request", lambda request: request.url.startswith((address, "data:")) or troubles.append(request.url))
    return troubles
