"""θ's grid under a reader's hand: where an affine transformation sends it on a photograph, and what is read there."""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from gsa.figures import COLOURS, KEY, QUERY, Pixel, mark
from gsa.playable.base import Playable, pack, read_module, rounded

ACROSS = torch.linspace(-1, 1, 9, dtype=torch.double)
"""Where the lines of the grid are drawn, in the units of θ."""


class SamplingGrid(Playable):
    """A square photograph, or as a wide map the middle half of its rows, read through the six numbers ``theta``.

    Places are those of F.affine_grid, values those of F.grid_sample. In the state each of the two has its own
    align_corners; at the start both are False, as in :class:`~gsa.layers.sampling.SpatialTransformer`.

    Raises:
        ValueError: if the photograph is no square whose side four divides.
    """

    name = "sampling_grid"
    _esm = read_module(name)

    def __init__(
        self,
        photograph: UInt8[Tensor, "3 height width"],
        theta: Float[Tensor, "2 3"],
        *,
        pixel: Pixel,
    ) -> None:
        side = photograph.shape[1]
        if photograph.shape[1:] != (side, side) or side % 4:
            raise ValueError(f"needs a square with a side that 4 divides, got {side}×{photograph.shape[2]}")
        self.photograph = photograph
        data = {"side": side, "pixels": pack(photograph.movedim(0, -1).numpy())}
        numbers = [[round(value, 3) for value in row] for row in theta.tolist()]
        state = {"theta": numbers, "pixel": pixel, "wide": False, "affine_grid": False, "grid_sample": False}
        super().__init__(data=data, state=state)

    def map(self) -> UInt8[Tensor, "3 height width"]:
        """What is read from."""
        margin = self.photograph.shape[1] // 4
        return self.photograph[:, margin:-margin] if self.state["wide"] else self.photograph

    def theta(self) -> Float[Tensor, "1 2 3"]:
        return torch.tensor([self.state["theta"]], dtype=torch.double)

    def grid(self) -> Float[Tensor, "1 height width 2"]:
        """Where θ sends the pixels, as (horizontal, vertical) in its units."""
        return F.affine_grid(self.theta(), [1, *self.map().shape], align_corners=self.state["affine_grid"])

    def read(self) -> UInt8[np.ndarray, "height width 3"]:
        """The picture that is read there."""
        values = F.grid_sample(self.map()[None].double(), self.grid(), align_corners=self.state["grid_sample"])
        return values[0].movedim(0, -1).round().to(torch.uint8).numpy()

    def places(self, points: Float[Tensor, "*points 2"]) -> Float[np.ndarray, "*points 2"]:
        """Points in θ's units, (horizontal, vertical), as (row, column) in pixels."""
        sizes, aligned = torch.tensor(self.map().shape[1:]), int(self.state["grid_sample"])
        return (((points.flip(-1) + 1) * (sizes - aligned) + aligned - 1) / 2).numpy()

    def words(self) -> str:
        row, column = self.state["pixel"]
        places = self.places(self.grid()[0])
        along, down = places[0, 1] - places[0, 0], places[1, 0] - places[0, 0]
        area = float(along[1] * down[0] - along[0] * down[1])
        angle = rounded(math.degrees(math.atan2(abs(area), along @ down)), 0)
        steps = [rounded(math.hypot(*step)) for step in (along, down)]
        kept = steps[0] == steps[1] and angle == "90"
        read = f"Pixel ({row}, {column}) is read at ({', '.join(map(rounded, places[row, column]))})."
        if rounded(abs(area)) == "0.00":
            return f"{read} The grid has no area: the picture is that of a line, or of a point."
        return (
            f"{read} From a pixel to the next the reader goes {steps[0]} pixels along a row of the grid and {steps[1]} "
            f"along a column, which meet at {angle}°: shapes are {'not ' * (not kept)}kept. "
            f"In the picture they have {rounded(1 / abs(area))} times their area{' and are mirrored' * (area < 0)}."
        )

    def draw(self) -> Figure:
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.8), width_ratios=(3, 2))
        height, width = self.map().shape[1:]
        middle, reach = ((height - 1) / 2, (width - 1) / 2), 0.75 * width
        left.imshow(self.map().movedim(0, -1).numpy())
        plane = {"facecolor": "black", "xticks": [], "yticks": []}
        left.set(xlim=(middle[1] - reach, middle[1] + reach), ylim=(middle[0] + reach, middle[0] - reach), **plane)
        points = torch.stack([*torch.meshgrid(ACROSS, ACROSS, indexing="xy"), torch.ones(9, 9)], -1)
        lines = self.places(points @ self.theta()[0].T)
        for ends in (*lines, *lines.swapaxes(0, 1)):
            left.plot(ends[:, 1], ends[:, 0], "-", color=COLOURS["grey"], linewidth=1.8)
            left.plot(ends[:, 1], ends[:, 0], "-", color="white", linewidth=0.8)
        corners = lines[::8, ::8].reshape(-1, 2)
        left.scatter(*corners.T[::-1], 40, [KEY, "white", "white", "white"], edgecolors=KEY, zorder=3)
        row, column = self.state["pixel"]
        left.plot(*self.places(self.grid()[0, row, column])[::-1], "o", color=QUERY)
        right.imshow(self.read())
        right.set(xticks=[], yticks=[])
        mark(right, (row, column))
        left.set_title("the map, and where the reader looks")
        right.set_title("what is read there")
        rows = ("".join(f"{rounded(value, 3):>8}" for value in row) for row in self.state["theta"])
        right.set_xlabel("\n".join(["θ", *rows]), family="monospace")
        return figure
