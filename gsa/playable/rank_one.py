"""Rank one: what four receivers of a patch may wish to hear of the senders at one place, and what one head can give."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from gsa.figures import COLOURS, KEY, QUERY, UNSEEN, Pixel, draw_map, mark
from gsa.layers import grid, window
from gsa.playable.base import Playable, read_module, rounded
from gsa.playable.hop_map import HopMap
from gsa.playable.hop_weights import members

SIDE, PATCH = 8, 2
ROOMS = SIDE // PATCH
"""Patches along a side of the map."""


class RankOne(Playable):
    """A wish for the weights between the receivers of one patch and the senders at one place, and the nearest product.

    The map has 8 × 8 pixels in patches of 2 × 2; ``patch`` and ``place`` are numbers of groups of its partitions. Each
    matrix of ``weights``, query × key, has a block that can be wished for, at first that of the first one, in shares of
    its largest weight. ``cell`` is the pair that is looked at, (row, column) of the folded picture.

    Raises:
        ValueError: if a matrix has another size.
    """

    name = "rank_one"
    _esm = read_module(name)

    def __init__(
        self,
        weights: Mapping[str, Float[Tensor, "queries keys"]],
        patch: int = 4,
        place: int = 2,
        *,
        cell: Pixel = (1, 2),
    ) -> None:
        receivers, senders = members(window(PATCH), SIDE)[patch], members(grid(PATCH), SIDE)[place]
        wishes = {name: block(matrix, receivers, senders) for name, matrix in weights.items()}
        wishes |= {"two pairs": pairs({0: 5, 3: 10}), "nothing": pairs({})}
        where = {"receivers": pixels(receivers), "senders": pixels(senders)}
        super().__init__(data={"wishes": wishes, **where}, state={"wish": next(iter(wishes.values())), "cell": cell})

    def wish(self) -> Float[Tensor, "receivers senders"]:
        """What is wished for."""
        return torch.tensor(self.state["wish"], dtype=torch.double)

    def factors(self) -> tuple[Float[Tensor, " receivers"], Float[Tensor, " senders"]]:
        """The column and the row whose product is nearest: the leading singular vectors, the most even if many lead."""
        wish = self.wish()
        _, strengths, rows = torch.linalg.svd(wish, full_matrices=False)
        leading = rows[strengths > (1 - 1e-7) * strengths[0]]
        row = leading.T @ leading.sum(1)
        return wish @ row / (row @ row).clamp(min=1e-9), row

    def nearest(self) -> Float[Tensor, "receivers senders"]:
        """The matrix of rank one that leaves the smallest sum of squares."""
        return torch.outer(*self.factors())

    def met(self) -> list[float]:
        """The share of the wish's sum of squares that 1, 2, 3 and 4 heads can meet."""
        squares = torch.linalg.svdvals(self.wish()).square()
        return (squares.cumsum(0) / squares.sum().clamp(min=1e-9)).tolist()

    def pair(self) -> tuple[int, int]:
        """The numbers of the receiver and of the sender of the cell that is looked at."""
        (row, other_row), (column, other_column) = (divmod(index, ROOMS) for index in self.state["cell"])
        return PATCH * row + column, ROOMS * other_row + other_column

    def path(self) -> tuple[Pixel, Pixel]:
        """The pixels of that receiver and of that sender on the map."""
        receiver, sender = self.pair()
        return tuple(self.data["receivers"][receiver]), tuple(self.data["senders"][sender])

    def words(self) -> str:
        if not self.wish().any():
            return "Nothing is wished for."
        one, two, three, four = (rounded(share) for share in self.met())
        receiver, sender = ("({}, {})".format(*pixel) for pixel in self.path())
        wished, heard = (rounded(matrix[self.pair()].item()) for matrix in (self.wish(), self.nearest()))
        return (
            f"Of the wish one head can meet {one}, two heads {two}, three {three}, four {four}. In the framed cell "
            f"{receiver} wishes to hear {sender} with {wished} and hears it with {heard}."
        )

    def draw(self) -> Figure:
        figure, axes = plt.subplot_mosaic("wnl;pfm", figsize=(7.2, 5.9))
        wish, nearest = self.wish(), self.nearest()
        titles = {"w": "the wish", "n": "the nearest: β times α", "l": "what is left over"}
        for name, weights in zip(titles, (wish, nearest, wish - nearest), strict=True):
            draw_map(axes[name], shades(fold(weights)), block=ROOMS).set(title=titles[name], xlabel="", ylabel="")
            mark(axes[name], tuple(self.state["cell"]))
        receiver, sender = self.path()
        HopMap(SIDE, PATCH, receiver=receiver, sender=sender).draw_path(axes["p"])
        axes["p"].set(xlabel="", ylabel="")
        self.draw_factors(axes["f"])
        self.draw_met(axes["m"])
        return figure

    def draw_factors(self, axes: Axes) -> None:
        column, row = (factor / factor.max().clamp(min=1e-9) for factor in self.factors())
        colours = np.ones((ROOMS, PATCH + 1 + ROOMS, 3))
        colours[1:-1, :PATCH] = shades(0.4 * column.view(PATCH, PATCH), QUERY)
        colours[:, -ROOMS:] = shades(row.view(ROOMS, ROOMS))
        draw_map(axes, colours).set(title="β times α", xlabel="", ylabel="")
        for number, value in enumerate(column.tolist()):
            axes.text(number % PATCH, 1 + number // PATCH, rounded(value), ha="center", va="center", fontsize=8)
        axes.text(PATCH, 1.5, "×", ha="center", va="center")

    def draw_met(self, axes: Axes) -> None:
        heads, shares = range(1, 5), self.met()
        for bar, share in zip(axes.bar(heads, shares, color=COLOURS["purple"], width=0.8), shares, strict=True):
            axes.annotate(rounded(share), (bar.get_x() + 0.4, share), ha="center", va="bottom")
        axes.set(title="met by 1 to 4 heads", ylim=(0, 1.15), xticks=heads, yticks=[])


def block(weights: Float[Tensor, "queries keys"], receivers: np.ndarray, senders: np.ndarray) -> list[list[float]]:
    """The weights that receivers give to senders, in shares of the largest, in ten-thousandths."""
    if weights.shape != (SIDE**2, SIDE**2):
        raise ValueError(f"needs weights of {SIDE}×{SIDE} pixels, {SIDE**2} × {SIDE**2}, got {tuple(weights.shape)}")
    chosen = weights.double().numpy()[np.ix_(receivers, senders)]
    return (chosen / chosen.max()).round(4).tolist()


def pixels(numbers: np.ndarray) -> list[Pixel]:
    """Where numbered pixels are on the map."""
    return [divmod(number, SIDE) for number in numbers.tolist()]


def pairs(partners: Mapping[int, int]) -> list[list[float]]:
    """Each of some receivers hears its one sender, and no other."""
    return [[float(partners.get(receiver) == sender) for sender in range(ROOMS**2)] for receiver in range(PATCH**2)]


def fold(weights: Float[Tensor, "receivers senders"]) -> Float[Tensor, "rows columns"]:
    """A square for each receiver, and in it a cell for each sender's patch, all as they lie on the map."""
    return rearrange(weights, "(i j) (rows columns) -> (i rows) (j columns)", i=PATCH, rows=ROOMS)


def shades(weights: Float[Tensor, "rows columns"], colour: str = KEY) -> np.ndarray:
    """The colour, or ochre for weights below zero, the stronger the larger they are."""
    ends = np.where(weights.numpy()[..., None] < -1e-9, to_rgb(COLOURS["ochre"]), to_rgb(colour))
    return to_rgb(UNSEEN) + weights.abs().clamp(max=1).numpy()[..., None] * (ends - to_rgb(UNSEEN))
