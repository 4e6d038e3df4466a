"""The pictures that chapters share: maps and what a pixel sees in them, costs and curves."""

from collections.abc import Mapping, Sequence
from itertools import pairwise, zip_longest

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.patches import FancyArrowPatch, Rectangle
from torch import Tensor

from gsa.figures.style import COLOURS, INK, KEY, QUERY, SEEN, UNSEEN, Pixel


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
    draw_path(axes, path)
    return axes


def draw_weights(axes: Axes, weights: np.ndarray, query: Pixel, *, label: str = "weight") -> Axes:
    """How much each pixel of a map counts for the ``query``: (height, width) weights, white where nothing counts."""
    picture = axes.imshow(weights, vmin=0)
    mark(axes, query)
    axes.set(xticks=[], yticks=[], xlabel="column", ylabel="row")
    axes.spines[:].set_visible(True)
    axes.figure.colorbar(picture, ax=axes, label=label, shrink=0.8, ticks=[0, weights.max()], format="%.2g")
    return axes


def draw_attention(
    axes: Axes,
    image: UInt8[Tensor, "3 rows columns"],
    weights: Float[np.ndarray, "height width height width"],
    query: Pixel | None = None,
) -> Axes:
    """What attention looks at in a photograph: the weights of a ``query``, or the mean of those of all queries.

    ``weights`` go from each pixel of a map to each. The photograph may have more pixels than the map; it lies beneath,
    pale and without colours, so that darkness means weight.
    """
    height, width = weights.shape[:2]
    shown = weights.mean((0, 1)) if query is None else weights[query]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    grey = image.float().mean(0).numpy()
    axes.imshow(grey, cmap="gray", vmin=2 * grey.min() - grey.max(), extent=extent)  # black becomes a middle grey
    picture = axes.imshow(shown, cmap=LinearSegmentedColormap.from_list("weight", [(*to_rgb(KEY), 0), KEY]), vmin=0)
    if query is not None:
        mark(axes, query)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    bar = {"location": "bottom", "label": "weight", "ticks": [0, shown.max()], "format": "%.2g"}
    axes.figure.colorbar(picture, ax=axes, shrink=0.8, aspect=15, pad=0.02, **bar)
    return axes


def draw_path(axes: Axes, path: Sequence[Pixel]) -> None:
    """Bent arrows from pixel to pixel."""
    for (row, column), (to_row, to_column) in pairwise(path):
        hop = {"arrowstyle": "-|>", "mutation_scale": 12, "connectionstyle": "arc3,rad=-0.25", "color": INK}
        axes.add_patch(FancyArrowPatch((column, row), (to_column, to_row), linewidth=1.4, **hop))


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
    """Cost:
    That formulas predict, as lines, and costs that were counted, as dots upon them; both axes logarithmic.
    """
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


def draw_losses(axes: Axes, losses: Mapping[str, Sequence[float]]) -> Axes:
    """Losses of the steps of runs, each the mean over a twentieth of the run around it: one line a run, by its name."""
    for name, steps in losses.items():
        count = max(1, len(steps) // 20)
        smooth = np.convolve(steps, np.ones(count) / count, "valid")
        axes.plot(np.arange(len(smooth)) + (count + 1) / 2, smooth, label=name)
    axes.set(xlabel="step", ylabel="loss (nats)")
    axes.grid(axis="y")
    axes.legend()
    return axes
