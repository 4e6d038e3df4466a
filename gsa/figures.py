"""How the book draws: one style, one meaning for each colour, and the pictures that chapters share."""

import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyArrowPatch, Rectangle

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
SEEN, UNSEEN = "#a9d0e8", "#eef0f2"

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
