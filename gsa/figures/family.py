"""The family of the book: every layer by its answers to the four questions that the weighted sum asks."""

from dataclasses import dataclass
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from gsa.figures.draw import draw_map, mark
from gsa.figures.style import COLOURS, UNSEEN, VALUE, Pixel

FRAMED: Pixel = (5, 2)

STEPS = np.stack(np.meshgrid((-3, 0, 3), (-3, 0, 3), indexing="ij"), -1).reshape(9, 2)
STEPS = STEPS + np.random.default_rng(4).integers(-2, 3, (9, 2))
"""Nine points that a sampling layer may read from, as seen from its pixel: rows and columns away."""

KINDS = {
    "a number": 0.75 * np.eye(4),
    "a diagonal": np.diag([0.95, 0.3, 0.75, 0.5]),
    "a matrix": np.random.default_rng(3).uniform(0.15, 0.95, (4, 4)),
}
"""What kind of thing one weight is, as the 4 × 4 matrix that it amounts to."""


@dataclass(frozen=True)
class Member:
    """One layer: its chapter, its four answers, and a sketch of the weights of the FRAMED pixel of an 8 × 8 map."""

    chapter: int
    who: str
    source: str
    where: str
    kind: str
    weights: Float[np.ndarray, "8 8"]


def members() -> dict[str, Member]:
    """The layers of the book, in its order."""
    row, column = np.indices((8, 8))
    down, right = row - FRAMED[0], column - FRAMED[1]
    content = np.random.default_rng(1).uniform(0.15, 0.9, (8, 8))
    neighbours = np.maximum(abs(down), abs(right))
    patch = (row // 4 == FRAMED[0] // 4) & (column // 4 == FRAMED[1] // 4)
    summaries = 0.5 * (row % 4 % 3 > 0) * (column % 4 % 3 > 0)
    sampled = np.zeros((8, 8))
    sampled[[2, 3, 3, 4, 5, 5, 6, 7, 7], [1, 3, 6, 0, 2, 5, 3, 0, 4]] = 0.7
    fixed = (neighbours < 2) * (0.85 - 0.2 * (abs(down) + abs(right)))
    hops = np.where((down % 4 == 0) & (right % 4 == 0), 0.85, patch * 0.3)
    network, meeting = ("a small network", "the map"), ("query and key", "pixels i and j")
    return {
        "convolution": Member(1, "training", "the offset j − i", "its neighbours", "a matrix", fixed),
        "gates": Member(2, *network, "itself", "a diagonal", (neighbours == 0) * 0.85),
        "sampling": Member(3, *network, "where it points", "a matrix", sampled),
        "self-attention": Member(4, *meeting, "everywhere", "a number", content),
        "stand-alone": Member(5, *meeting, "its neighbours", "a number", (neighbours < 3) * content),
        "Twins": Member(6, *meeting, "its window, then\nsummaries", "a number", np.where(patch, content, summaries)),
        "GSA": Member(7, *meeting, "its sub-image,\nthen its patch", "a number", hops),
    }


def draw_answers(name: str) -> Figure:
    """The four answers of one layer, around a picture of its weighted sum."""
    member = members()[name]
    figure = plt.figure(figsize=(5.4, 2), layout="none")
    draw_weight_map(figure.add_axes((0, 0.18, 0.25, 0.67)), member)
    figure.text(0.345, 0.5, r"$y_i = \sum_j$", fontsize=17, ha="center", va="center")
    draw_shades(figure.add_axes((0.445, 0.24, 0.205, 0.55)), KINDS[member.kind], COLOURS["blue"])
    draw_shades(figure.add_axes((0.655, 0.24, 0.052, 0.55)), np.array([[0.9], [0.35], [0.6], [0.75]]), VALUE)
    figure.text(0.681, 0.11, "$v_j$", color=VALUE, ha="center", va="center")
    answers = {
        (0.005, 0.93, 0.1): ("Over which positions?", member.where.replace("\n", " ")),
        (0.45, 0.93, 0.1): ("What is $w_{ij}$?", member.kind),
        (0.735, 0.77, 0.64): ("Who computes it?", member.who),
        (0.735, 0.42, 0.29): ("From what?", member.source),
    }
    for (left, top, below), (question, answer) in answers.items():
        figure.text(left, top, question, color=COLOURS["grey"], va="center")
        figure.text(left, below, answer, weight="bold", va="center")
    return figure


def draw_family() -> Figure:
    """The map of the book: one branch for each way to compute weights, for each layer its positions and its kind."""
    figure = plt.figure(figsize=(7.2, 6.5), layout="none")
    branch = partial(Line2D, color=COLOURS["grey"], linewidth=1, transform=figure.transFigure)
    figure.text(0.01, 0.945, r"$y_i = \sum_j\; w_{ij}\; v_j$", fontsize=15)
    figure.text(0.01, 0.87, "Who computes the weights,\nand from what?", weight="bold", va="center")
    figure.text(0.33, 0.884, "Over which positions? What is one weight?", weight="bold", va="center")
    figure.text(0.33, 0.856, "Framed: i. The darker a pixel, the more it counts.", va="center")
    branches: dict[str, dict[str, Member]] = {}
    for name, member in members().items():
        branches.setdefault(f"{member.who.capitalize()},\nfrom {member.source}", {})[name] = member
    for number, (who, layers) in enumerate(branches.items()):
        bottom = 0.625 - 0.27 * number
        middle = bottom + 0.08
        figure.text(0.045, middle, who, va="center")
        figure.add_artist(branch([0.02, 0.02, 0.04], [0.83 if number == 0 else middle + 0.27, middle, middle]))
        for column, (name, member) in enumerate(layers.items()):
            axes = figure.add_axes((0.33 + 0.17 * column, bottom, 0.16, 0.16))
            draw_weight_map(axes, member)
            axes.set_title(f"{member.chapter} {name}", fontsize=10, loc="center", weight="bold")
            axes.set_xlabel(f"{member.where}\n{member.kind}", fontsize=9)
    return figure


def draw_eyes(photograph: UInt8[Tensor, "3 size size"], pixel: Pixel) -> Figure:
    """A photograph as each layer of the book lets one pixel see it: the more a place counts, the less it is faded.

    Weights of attention are e to the squared distance of two colours, times -8: query and key are the colour itself.
    """
    image = photograph.movedim(0, -1).numpy() / 255
    figure, panels = plt.subplots(2, 4, figsize=(7.2, 3.9))
    names = [f"{member.chapter} {name}" for name, member in members().items()]
    views = [(image, np.ones(image.shape[:2])), *seen(image, pixel)]
    for axes, name, (picture, weights) in zip(panels.flat, ["the photograph", *names], views, strict=True):
        strength = (0.08 + 0.92 * weights)[..., None]
        axes.imshow(1 - strength * (1 - picture))
        axes.set_title(name, fontsize=10)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=UNSEEN)
        mark(axes, pixel)
    return figure


def seen(image: Float[np.ndarray, "size size 3"], pixel: Pixel) -> list[tuple[np.ndarray, np.ndarray]]:
    """What is there to be seen, and the weights of ``pixel`` over it, for each member of the family; patches of 8."""
    row, column = np.indices(image.shape[:2])
    near = np.maximum(abs(row - pixel[0]), abs(column - pixel[1]))
    patch = (row // 8 == pixel[0] // 8) & (column // 8 == pixel[1] // 8)
    sub_image = (row % 8 == pixel[0] % 8) & (column % 8 == pixel[1] % 8)
    blocks = rearrange(image, "(rows k) (columns l) rgb -> rows k columns l rgb", k=8, l=8)
    summaries = np.broadcast_to(blocks.mean((1, 3), keepdims=True), blocks.shape).reshape(image.shape)
    sampled = (STEPS[:, :, None, None] == (row - pixel[0], column - pixel[1])).all(1).any(0)

    def content(values: np.ndarray) -> np.ndarray:
        return np.exp(-8 * ((values - image[pixel]) ** 2).sum(-1))

    return [
        (image, near < 2),
        (image, near < 1),
        (image, sampled),
        (image, content(image)),
        (image, content(image) * (near < 4)),
        (np.where(patch[..., None], image, summaries), np.where(patch, content(image), content(summaries))),
        (image, np.where(sub_image, 1, patch * content(image))),
    ]


def draw_weight_map(axes: Axes, member: Member) -> None:
    """Whom the FRAMED pixel sums over."""
    draw_shades(axes, member.weights, COLOURS["blue"])
    mark(axes, FRAMED)


def draw_shades(axes: Axes, strengths: Float[np.ndarray, "height width"], colour: str) -> None:
    """Cells from UNSEEN, at strength 0, to the colour, at 1."""
    draw_map(axes, np.array(to_rgb(UNSEEN)) + strengths[..., None] * np.subtract(to_rgb(colour), to_rgb(UNSEEN)))
    axes.set(xlabel="", ylabel="")
