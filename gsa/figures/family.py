"""The family of the book: its layers by who computes their weights, and over which positions."""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gsa.figures.draw import draw_map, mark
from gsa.figures.style import COLOURS, UNSEEN, Pixel

FRAMED: Pixel = (5, 2)


def members() -> dict[str, dict[str, np.ndarray]]:
    """The layers of the book by who computes their weights: a sketch of those of the FRAMED pixel of an 8 × 8 map."""
    row, column = np.indices((8, 8))
    down, right = row - FRAMED[0], column - FRAMED[1]
    content = np.random.default_rng(1).uniform(0.15, 0.9, (8, 8))
    neighbours = np.maximum(abs(down), abs(right))
    patch = (row // 4 == FRAMED[0] // 4) & (column // 4 == FRAMED[1] // 4)
    sampled = np.zeros((8, 8))
    sampled[[2, 3, 3, 4, 5, 5, 6, 7, 7], [1, 3, 6, 0, 2, 5, 3, 0, 4]] = 0.7
    return {
        "Training, once for all,\nfor each offset j − i": {
            "1 convolution\nits neighbours": (neighbours < 2) * (0.85 - 0.2 * (abs(down) + abs(right))),
        },
        "A small network,\nfrom the map": {
            "2 gates\nitself": (neighbours == 0) * 0.85,
            "3 sampling\nwhere it points": sampled,
        },
        "i and j together: the\nquery of i meets\nthe key of j": {
            "4 self-attention\neverywhere": content,
            "5 stand-alone\nits neighbours": (neighbours < 3) * content,
            "6 Twins\nits window, then\nall summaries": np.where(
                patch, content, 0.5 * (row % 4 % 3 > 0) * (column % 4 % 3 > 0)
            ),
            "7 GSA\nits sub-image,\nthen its patch": np.where((down % 4 == 0) & (right % 4 == 0), 0.85, patch * 0.3),
        },
    }


def draw_family() -> Figure:
    """The map of the book: one branch for each way to compute weights, and for each layer the positions it covers."""
    figure = plt.figure(figsize=(7.2, 6.2), layout="none")
    branch = partial(Line2D, color=COLOURS["grey"], linewidth=1, transform=figure.transFigure)
    figure.text(0.01, 0.945, r"$y_i = \sum_j\; w_{ij}\; v_j$", fontsize=15)
    figure.text(0.01, 0.87, "Who computes the weights,\nand from what?", weight="bold", va="center")
    figure.text(0.33, 0.884, "Over which positions?", weight="bold", va="center")
    figure.text(0.33, 0.856, "Framed: i. The darker a pixel, the more it counts.", va="center")
    for number, (who, layers) in enumerate(members().items()):
        bottom = 0.6 - 0.27 * number
        middle = bottom + 0.08
        figure.text(0.045, middle, who, va="center")
        figure.add_artist(branch([0.02, 0.02, 0.04], [0.83 if number == 0 else middle + 0.27, middle, middle]))
        for column, (name, weights) in enumerate(layers.items()):
            axes = figure.add_axes((0.33 + 0.17 * column, bottom, 0.16, 0.16))
            title, positions = name.split("\n", 1)
            draw_map(
                axes,
                np.array(to_rgb(UNSEEN)) + weights[..., None] * np.subtract(to_rgb(COLOURS["blue"]), to_rgb(UNSEEN)),
            )
            axes.set_title(title, fontsize=10, loc="center", weight="bold")
            axes.set_xlabel(positions, fontsize=9)
            axes.set_ylabel("")
            mark(axes, FRAMED)
    return figure
