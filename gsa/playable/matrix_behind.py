"""The matrix behind a layer: what a pixel of its result sums, and which row of all weights that is."""

from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Int
from matplotlib.figure import Figure
from torch import Tensor, nn

from gsa.figures import QUERY, Pixel, mark
from gsa.playable.base import Playable, pack, read_module
from gsa.probes import mixing

NUMERALS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class MatrixBehind(Playable):
    """The matrix of a linear layer on a small square image: a row for each pixel of the result, an entry for each read.

    Its ``weights`` are "free", free but only for "near" pixels, or "shared", those of a convolution with the
    ``kernel``. Beyond the ``border`` the image is zero ("zeros"), or it goes on at the other side ("circular"). In the
    state, ``moved`` says by how many columns the image is moved to the right, in a circle. All numbers are integers.
    """

    name = "matrix_behind"
    _esm = read_module(name)

    def __init__(
        self,
        kernel: Int[Tensor, "3 3"],
        image: Int[Tensor, "side side"],
        *,
        weights: Literal["free", "near", "shared"] = "shared",
        border: Literal["zeros", "circular"] = "zeros",
        pixel: Pixel = (3, 4),
    ) -> None:
        self.kernel, self.image = kernel, image.numpy().astype(int)
        drawn, pixels = np.random.default_rng(0), image.numel()
        self.free = drawn.integers(1, 10, (pixels, pixels)) * drawn.choice([-1, 1], (pixels, pixels))
        packed = pack(self.free.astype(np.int8))
        data = {"kernel": kernel.flatten().tolist(), "image": self.image.tolist(), "free": packed}
        super().__init__(data=data, state={"weights": weights, "border": border, "pixel": pixel, "moved": 0})

    def matrix(self) -> Int[np.ndarray, "pixels pixels"]:
        """The weight for every pixel of the result (row) of every pixel of the image (column)."""
        if self.state["weights"] == "free":
            return self.free
        shared = convolve(self.kernel, len(self.image), self.state["border"])
        return shared if self.state["weights"] == "shared" else np.where(shared, self.free, 0)

    def seen(self) -> Int[np.ndarray, "side side"]:
        """The image as it lies, moved or not."""
        return np.roll(self.image, self.state["moved"], 1)

    def result(self) -> Int[np.ndarray, "side side"]:
        """What the layer makes of it."""
        return (self.matrix() @ self.seen().flatten()).reshape(self.image.shape)

    def along(self) -> np.ndarray:
        """Which results have moved along with the image."""
        before = (self.matrix() @ self.image.flatten()).reshape(self.image.shape)
        return self.result() == np.roll(before, self.state["moved"], 1)

    def row(self) -> Int[np.ndarray, "pixels"]:
        """The matrix's row of the pixel."""
        return self.matrix()[np.ravel_multi_index(self.state["pixel"], self.image.shape)]

    def products(self) -> list[str]:
        """What the pixel sums over a window, row by row."""
        weights, seen = self.row().reshape(self.image.shape), self.seen()
        around = np.roll(np.dstack([weights, seen]), 1 - np.array(self.state["pixel"]), (0, 1))[:3, :3]
        return [f"{signed(weight)}·{value}" for weight, value in around.reshape(-1, 2) if weight]

    def words(self) -> str:
        (row, column), kind, weights = self.state["pixel"], self.state["weights"], self.row()
        entries, value = np.count_nonzero(weights), signed(self.result()[row, column])
        sums = f"{entries} products, one for each pixel, to {value}"
        if kind != "free":
            terms = " + ".join(self.products()).replace("+ −", "− ")
            sums = f"{NUMERALS[entries]} products: {terms} = {value}"
        own = f"made of {np.count_nonzero(self.kernel)} numbers" if kind == "shared" else "each a number of its own"
        said = (
            f"({row}, {column}) sums {sums}. Its row of the matrix has {entries} weights, which sum to "
            f"{signed(weights.sum())}. The matrix has {np.count_nonzero(self.matrix()):,} weights, {own}."
        )
        if moved := self.state["moved"]:
            columns, along = f"{moved} column{'s' * (moved > 1)}", self.along()
            said += f" The image has moved by {columns}, and {along.sum()} of {along.size} results with it."
        return said

    def draw(self) -> Figure:
        figure, (image, table, result) = plt.subplots(1, 3, figsize=(7.2, 3), width_ratios=(1, 1.5, 1))
        matrix, reads = self.matrix(), self.row().reshape(self.image.shape) != 0
        most, number = abs(matrix).max(), np.ravel_multi_index(self.state["pixel"], self.image.shape)
        image.imshow(self.seen(), cmap="gray", alpha=np.where(reads, 1, 0.4), vmin=0, vmax=self.image.max())
        table.imshow(matrix, cmap="PuOr", vmin=-most, vmax=most)
        table.axhspan(number - 1, number + 1, fill=False, edgecolor=QUERY, linewidth=1)
        result.imshow(self.result(), cmap="gray")
        mark(result, tuple(self.state["pixel"]))
        for place in np.argwhere(reads & (self.state["weights"] != "free")).tolist():
            mark(image, tuple(place))
        titles = ("image", f"matrix: {np.count_nonzero(matrix):,} weights", "result")
        for axes, title in zip((image, table, result), titles, strict=True):
            axes.set(title=title, xticks=[], yticks=[])
        table.set(xlabel="j, a pixel of the image", ylabel="i, a pixel of the result")
        return figure


def convolve(kernel: Int[Tensor, "3 3"], side: int, border: str) -> Int[np.ndarray, "pixels pixels"]:
    """The matrix of a convolution, as its derivatives have it."""
    layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode=border, bias=False)
    layer.weight = nn.Parameter(kernel[None, None].float())
    return mixing(layer, torch.zeros(1, 1, side, side))[0, :, 0].int().numpy()


def signed(value: int | np.integer) -> str:
    """A number with the sign that print has for minus."""
    return str(value).replace("-", "−")
