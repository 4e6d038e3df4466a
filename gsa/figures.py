"""How the book draws: one style, one meaning for each colour, and the pictures that chapters share."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise, zip_longest

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from gsa.training import Record

COLOURS = {
    "blue": "#0072b2",
    "vermilion": "#c84e00",
    "green": "#00805a",
    "purple": "#94459a",
    "ochre": "#8a6a00",
    "grey": "#6b6b6b",
}
"""Six colours that colour-blind readers tell apart, each dark enough on white (4.5:1) to be the colour of a text."""

INK = "#1f2933"
QUERY, KEY, VALUE = COLOURS["vermilion"], COLOURS["blue"], COLOURS["green"]
SEEN, UNSEEN = "#b4d9ee", "#eef0f2"

Pixel = tuple[int, int]
"""(row, column), counted from the upper left corner."""

RC = {
    "figure.figsize": (7.2, 3.2),
    "figure.dpi": 200,
    "savefig.dpi": 200,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "axes.titlelocation": "left",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": "#4a5561",
    "ytick.color": "#4a5561",
    "axes.edgecolor": "#8a949e",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "grid.color": "#e3e7eb",
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=list(COLOURS.values()))
    + cycler(linestyle=["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1))]),
    "image.cmap": "Blues",
    "image.interpolation": "nearest",
}


def use_style() -> None:
    """Draw in the book's style from here on: white figures, 7.2 inches wide, which is the text column."""
    plt.rcParams.update(RC)
    if "ipykernel" in sys.modules:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("png", bbox_inches=None)  # uncropped: every figure keeps the width of the column


def tint(colour: str, strength: float = 0.3) -> tuple[float, ...]:
    """The colour thinned with white, to lie under a text."""
    return tuple(1 - strength * (1 - part) for part in to_rgb(colour))


def draw_map(axes: Axes, colours: np.ndarray, *, text: np.ndarray | None = None, block: int = 0) -> Axes:
    """A map as cells of (height, width, 3) colours, a ``text`` in each, and heavy lines around every ``block``."""
    height, width = colours.shape[:2]
    axes.imshow(colours)
    for edge, span, lines in ((height, width, axes.hlines), (width, height, axes.vlines)):
        lines(np.arange(edge + 1) - 0.5, -0.5, span - 0.5, color="white", linewidth=min(1.0, 16 / edge), linestyle="-")
        if block:
            lines(np.arange(0, edge + 1, block) - 0.5, -0.5, span - 0.5, color=INK, linewidth=1.2, linestyle="-")
    for (row, column), word in np.ndenumerate(np.empty((0, 0)) if text is None else text):
        axes.text(column, row, word, ha="center", va="center")
    axes.set(xticks=[], yticks=[], xlabel="column", ylabel="row", xlim=(-0.6, width - 0.4), ylim=(height - 0.4, -0.6))
    axes.spines[:].set_visible(False)
    return axes


def draw_sight(axes: Axes, sees: np.ndarray, query: Pixel, *, path: Sequence[Pixel] = (), block: int = 0) -> Axes:
    """Which pixels the ``query`` sees, as (height, width) booleans, and a ``path`` of hops that leads to it."""
    draw_map(axes, np.where(sees[..., None], to_rgb(SEEN), to_rgb(UNSEEN)), block=block)
    mark(axes, query)
    for (row, column), (to_row, to_column) in pairwise(path):
        hop = {"arrowstyle": "-|>", "mutation_scale": 12, "connectionstyle": "arc3,rad=-0.25", "color": INK}
        axes.add_patch(FancyArrowPatch((column, row), (to_column, to_row), linewidth=1.4, **hop))
    return axes


def draw_weights(axes: Axes, weights: np.ndarray, query: Pixel, *, label: str = "weight") -> Axes:
    """How much each pixel of a map counts for the ``query``: (height, width) weights, white where nothing counts."""
    picture = axes.imshow(weights, vmin=0)
    mark(axes, query)
    axes.set(xticks=[], yticks=[], xlabel="column", ylabel="row")
    axes.spines[:].set_visible(True)
    axes.figure.colorbar(picture, ax=axes, label=label, shrink=0.8, ticks=[0, weights.max()], format="%.2g")
    return axes


def mark(axes: Axes, query: Pixel) -> None:
    """A frame in the colour of queries around one pixel."""
    row, column = query
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=QUERY, linewidth=2, zorder=3))


def draw_butterfly(axes: Axes, radices: Sequence[int], path: Sequence[int]) -> Axes:
    """Positions on a line in mixed radix, one column of them a hop: hop t may change digit t. A ``path`` in bold."""
    digits = np.stack(np.unravel_index(np.arange(np.prod(radices)), radices), axis=1)
    for hop in range(len(radices)):
        rest = np.delete(digits, hop, axis=1)
        for start, end in np.argwhere((rest[:, None] == rest).all(-1)):
            axes.plot((hop, hop + 1), (start, end), color=SEEN, linestyle="-", linewidth=1.2, zorder=1)
    columns = np.arange(len(radices) + 1)
    axes.scatter(*np.meshgrid(columns, np.arange(len(digits))), color=COLOURS["grey"], s=14, zorder=2)
    axes.plot(columns, path, "o-", color=QUERY, linewidth=2.4, zorder=3)
    words = ["".join(map(str, digit)) for digit in digits]
    axes.set_xticks(columns, ["input", *(f"after hop {hop}" for hop in columns[1:])])
    axes.set_yticks(np.arange(len(digits)), [f"{position} = {word}" for position, word in enumerate(words)])
    axes.set(ylabel="position", ylim=(len(digits) - 0.5, -0.5))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return axes


def draw_costs(
    axes: Axes, x: np.ndarray, formulas: Mapping[str, np.ndarray], counted: Mapping[str, np.ndarray]
) -> Axes:
    """Costs that formulas predict, as lines, and costs that were counted, as dots upon them; both axes logarithmic."""
    for name, cost in formulas.items():
        (line,) = axes.loglog(x, cost, label=name)
        axes.loglog(x, counted[name], "o", color=line.get_color())
    axes.set(ylabel="cost (MMAC)")
    axes.grid(axis="y")
    axes.legend()
    return axes


def draw_growth(axes: Axes, speed: pd.DataFrame, powers: Mapping[str, float]) -> Axes:
    """Measured time of layers over the size N of the map, each with a dotted line that grows with a power of N."""
    for layer, power in powers.items():
        rows = speed[speed.layer == layer].sort_values("size")
        pixels, time = rows["size"].to_numpy() ** 2, (rows.milliseconds / rows.batch).to_numpy()
        (line,) = axes.loglog(pixels, time, "o-", label=layer)
        axes.loglog(pixels, time[-1] * (pixels / pixels[-1]) ** power, ":", color=line.get_color(), linewidth=1)
    axes.set(xlabel="size N of the map (pixels)", ylabel="forward + backward (ms per image)")
    axes.grid(axis="y")
    axes.legend()
    return axes


def draw_images(
    grid: np.ndarray, images: UInt8[Tensor, "images channels height width"], titles: Sequence[str] = ()
) -> None:
    """Colour images, one in each of a ``grid`` of axes, each under its title."""
    for axes, image, title in zip_longest(grid.flat, images, titles):
        axes.imshow(image.permute(1, 2, 0).numpy())
        axes.set_title(title, fontsize=9, loc="center")
        axes.set_axis_off()


def draw_curves(axes: Axes, records: Sequence[Record], measure: str) -> Axes:
    """A share that `Epoch` calls ``measure``, over the epochs of runs: one line a run, one stroke an arm."""
    arms = sorted({record.config.arm for record in records}, key=lambda arm: (arm != "none", arm))
    styles = dict(zip(arms, plt.rcParams["axes.prop_cycle"]))
    for record in records:
        shares = [getattr(epoch, measure) for epoch in record.history]
        label = f"{record.config.arm}, seed {record.config.seed}"
        axes.plot(range(1, len(shares) + 1), 100 * np.array(shares), label=label, **styles[record.config.arm])
    axes.set(xlabel="epoch", ylabel=f"{measure.replace('_', ' ')} (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    return axes


def draw_forest(accuracies: Axes, differences: Axes, table: pd.DataFrame) -> None:
    """A ledger's table: the accuracy of each arm, and how far it is from the control's, with what may be said of it.

    A full dot is a mean over seeds with its t-interval. A hollow one is a single run; its dotted line is the Wilson
    interval over test images, which says nothing about other seeds, and its difference has no interval.
    """
    rows = np.arange(len(table))
    for row, arm in zip(rows, table.itertuples()):
        colour, several = COLOURS["blue" if arm.verdict == "control" else "vermilion"], arm.seeds > 1
        low, high = (arm.low, arm.high) if several else (arm.images_low, arm.images_high)
        dot = {"marker": "o", "color": colour, "markerfacecolor": colour if several else "white"}
        accuracies.plot([100 * low, 100 * high], [row, row], color=colour, linestyle="-" if several else ":")
        accuracies.plot([100 * arm.accuracy], [row], **dot)
        differences.plot([100 * arm.difference_low, 100 * arm.difference_high], [row, row], color=colour, linestyle="-")
        differences.plot([100 * arm.difference], [row], **dot)
    accuracies.set(xlabel="test accuracy (%)", yticks=rows, yticklabels=table.index)
    differences.set(xlabel="difference to the control (points)", yticks=rows, yticklabels=table.verdict)
    differences.yaxis.tick_right()
    differences.axvline(0, color=COLOURS["grey"], linewidth=0.8, linestyle="-")
    for axes in (accuracies, differences):
        axes.set_ylim(len(table) - 0.5, -0.5)
        axes.margins(x=0.1)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(4))


def draw_accuracy_cost(axes: Axes, table: pd.DataFrame) -> Axes:
    """A ledger's table: the accuracy of each arm over what its network costs; a dashed line at that of the control.

    A full dot is a mean over seeds with its t-interval, a hollow one a single run. The axis spans at least two points,
    so that little differences look little.
    """
    for arm in table.itertuples():
        x, y = arm.macs / 1e6, 100 * arm.accuracy
        colour = COLOURS["blue" if arm.verdict == "control" else "vermilion"]
        axes.plot([x, x], [100 * arm.low, 100 * arm.high], color=colour, linestyle="-")
        axes.plot([x], [y], marker="o", color=colour, markerfacecolor=colour if arm.seeds > 1 else "white")
        axes.annotate(arm.Index, (x, y), (6, 4), textcoords="offset points")
        if arm.verdict == "control":
            axes.axhline(y, color=colour, linewidth=0.8, linestyle="--", zorder=0)
    axes.set(xlabel="cost of one image (MMAC)", ylabel="test accuracy (%)")
    axes.margins(x=0.2)
    low, high = axes.get_ylim()
    room = max(0.1, 1 - (high - low) / 2)
    axes.set_ylim(low - room, high + room)
    return axes


FRAMED: Pixel = (5, 2)


def family() -> dict[str, dict[str, np.ndarray]]:
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
    for number, (who, layers) in enumerate(family().items()):
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
