"""Reading a map between its pixels: four weights, what they add up to, and how that changes when the place moves."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from gsa.figures import COLOURS, INK, QUERY, UNSEEN, draw_map, tint
from gsa.layers import bilinear_sample
from gsa.playable.base import Playable, read_module, rounded

STEP = 1 / 256


class BilinearRead(Playable):
    """A map of numbers and a place (row, column) that may lie between its pixels, or outside of it.

    Values and weights are those of :func:`~gsa.layers.sampling.bilinear_sample`, slopes are differences over 1/256.
    """

    name = "bilinear_read"
    _esm = read_module(name)

    def __init__(self, values: Float[Tensor, "side side"], place: tuple[float, float] = (0.5, 1.25)) -> None:
        self.values = values.double()
        super().__init__(data={"values": values.tolist()}, state={"place": place})

    def weights(self) -> np.ndarray:
        """How much each pixel counts: what is read of a map that is one there and zero everywhere else."""
        pixels = torch.eye(self.values.numel()).double().view(1, -1, *self.values.shape)
        return self.sample(pixels, self.state["place"]).view(self.values.shape).numpy()

    def read(self, down: float = 0, right: float = 0) -> float:
        """The value at the place, or that far from it."""
        row, column = self.state["place"]
        return self.sample(self.values[None, None], (row + down, column + right)).item()

    def slopes(self) -> dict[str, float]:
        """The change by a pixel, when the place moves a little to one side."""
        here = self.read()
        return {
            "right": (self.read(right=STEP) - here) / STEP,
            "left": (here - self.read(right=-STEP)) / STEP,
            "down": (self.read(down=STEP) - here) / STEP,
            "up": (here - self.read(down=-STEP)) / STEP,
        }

    @staticmethod
    def sample(maps: Float[Tensor, "1 maps side side"], place: tuple[float, float]) -> Float[Tensor, "maps"]:
        return bilinear_sample(maps, torch.tensor(place, dtype=torch.double).view(1, 1, 1, 2)).flatten()

    def words(self) -> str:
        weights, values = self.weights(), self.values.numpy()
        row, column = self.state["place"]
        here = f"At ({rounded(row)}, {rounded(column)})"
        if not weights.any():
            return f"{here} no pixel is within one step. It reads 0, its slope is 0: there is nothing to learn from."
        pairs = zip(weights.flat, values.flat, strict=True)
        terms = [f"{rounded(weight, 3)} · {value:.0f}" for weight, value in pairs if weight]
        right, left, down, up = (rounded(slope) for slope in self.slopes().values())
        read = f"{here} it reads {' + '.join(terms)} = {rounded(self.read())}."
        if (right, down) == (left, up):
            return f"{read} The slope is {right} to the right and {down} downwards."
        return f"{read} The slope jumps here: to the right from {left} to {right}, downwards from {up} to {down}."

    def draw(self) -> Figure:
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3), width_ratios=(1.25, 1))
        side, (row, column) = len(self.values), self.state["place"]
        for pixel in range(side):
            weight = max(0, 1 - abs(pixel - column))
            colour = COLOURS["purple"] if weight else COLOURS["grey"]
            left.plot([pixel - 1, pixel, pixel + 1], [0, 1, 0], "-", color=colour, linewidth=1.8 if weight else 0.6)
            if weight:
                left.plot(column, weight, "o", color=colour)
        left.axvline(column, color=INK, linewidth=1.2, linestyle=":")
        left.set(xlabel="column (pixels)", ylabel="weight of a pixel's column", ylim=(0, 1.15))
        empty, full = (np.array(tint(colour, 1.0)) for colour in (UNSEEN, COLOURS["purple"]))
        shades = empty + self.weights()[..., None] * (full - empty)
        draw_map(right, shades, text=np.vectorize("{:.0f}".format)(self.values.numpy()))
        right.plot(column, row, "o", color=QUERY)
        slopes, arrow = self.slopes(), {"arrowstyle": "-|>", "color": QUERY, "shrinkA": 0, "shrinkB": 0}
        tip = column + slopes["right"] / 40, row + slopes["down"] / 40
        right.annotate("", tip, (column, row), arrowprops=arrow)
        return figure
