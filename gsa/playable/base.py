"""What all figures share: a module for the browser, the numbers that it shows, a picture and words in its place."""

import base64
import html
import io
import json
import re
from pathlib import Path

import anywidget
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from traitlets import Dict

from gsa.figures import RC

HERE = Path(__file__).parent


def read_module(name: str) -> str:
    """A figure's ES module in one piece, as anywidget takes it: what it imports from shared.js stands before it."""
    shared, own = ((HERE / f"{part}.js").read_text() for part in ("shared", name))
    return shared.replace("export ", "") + re.sub(r"^import .*\n", "", own, flags=re.MULTILINE)


def pack(values: np.ndarray) -> str:
    """Numbers as text, for the module to unpack."""
    return base64.b64encode(values.tobytes()).decode()


def rounded(value: float, digits: int = 2) -> str:
    """A number in words; halves are rounded up, as the module does, and there is no minus zero."""
    return re.sub(r"^-(?=[0.]+$)", "", f"{value + 1e-9:.{digits}f}").replace("-", "−")


class Playable(anywidget.AnyWidget):
    """A figure to play with: ``data`` are its numbers, ``state`` is what its reader has chosen.

    With a kernel anywidget runs the module ``name``.js beside this object, and both may set ``state``. On a page
    without one, a small loader runs the same module with the numbers that the page carries. Where nothing runs, as in
    print or in a preview, there is the picture, with the words as its alternative text.
    """

    name: str
    _css = (HERE / "playable.css").read_text()
    data = Dict().tag(sync=True)
    state = Dict().tag(sync=True)

    def draw(self) -> Figure:
        """Draws the state."""
        raise NotImplementedError

    def words(self) -> str:
        """Says what is to be seen in this state; the module says the same."""
        raise NotImplementedError

    def picture(self) -> bytes:
        """The state as a PNG file in the book's style."""
        with plt.rc_context(RC), io.BytesIO() as file:
            figure = self.draw()
            figure.savefig(file, format="png", dpi=150)
            plt.close(figure)
            return file.getvalue()

    def _repr_mimebundle_(self, **options) -> tuple[dict, dict]:
        bundle, metadata = super()._repr_mimebundle_(**options) or ({}, {})
        picture, words = base64.b64encode(self.picture()).decode(), self.words()
        values = json.dumps({"data": self.data, "state": self.state}, separators=(",", ":")).replace("<", r"\u003c")
        page = (
            f'<div class="playable" data-module="{self.name}">\n'
            f'<img alt="{html.escape(words)}" src="data:image/png;base64,{picture}">\n'
            f'<script type="application/json">{values}</script>\n</div>'
        )
        return bundle | {"text/html": page, "image/png": picture, "text/plain": words}, metadata
