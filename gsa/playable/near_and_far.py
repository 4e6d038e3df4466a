"""Two sliders: what window and reduction of Twins let a pixel see, what they cost, and what the summaries tell."""

from functools import cache

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn
from torch.nn import functional as F

from gsa.figures import COLOURS, INK, KEY, Pixel, mark
from gsa.layers import GlobalSubsampledAttention, LocallyGroupedAttention, attend
from gsa.layers.checks import divisors
from gsa.playable.base import Playable, pack, read_module
from gsa.probes import count_macs

SIDE, CHANNELS = 56, 64
PIXELS = SIDE**2
KS = divisors(SIDE)
BOUND = 2 * SIDE
"""Keys that a pixel has at least, if window and reduction are one number."""


class NearAndFar(Playable):
    """A photograph as one pixel attends to it in Twins: its window in detail, of the rest one summary a patch.

    The map is that of Twins' first stage: 56 × 56 pixels and, where costs are counted, 64 channels. Summaries are mean
    colours; in what pixels read from them, queries, keys and values are colours, too, and it varies by its standard
    deviation over the map. A ``reduction`` that is not given is locked to the window.

    Raises:
        ValueError: if the photograph has another size, or a number does not divide its side.
    """

    name = "near_and_far"
    _esm = read_module(name)

    def __init__(
        self,
        photograph: UInt8[Tensor, "3 side side"],
        window: int = 7,
        reduction: int | None = None,
        *,
        pixel: Pixel = (17, 25),
    ) -> None:
        chosen = {"window": window, "reduction": reduction or window}
        if photograph.shape[1:] != (SIDE, SIDE) or not {*chosen.values()} <= {*KS}:
            sides = "×".join(str(side) for side in photograph.shape[1:])
            raise ValueError(f"needs {SIDE}×{SIDE} pixels and one of {KS}, got {sides} and {chosen}")
        self.summaries = {k: F.avg_pool2d(photograph.float(), k) for k in KS}
        told = {k: read(photograph.float(), summaries) for k, summaries in self.summaries.items()}
        spreads = {k: colours.std((1, 2), correction=0).norm().item() for k, colours in told.items()}
        self.told = {k: to_bytes(colours) for k, colours in told.items()}
        data = {
            "summaries": {str(k): pack(to_bytes(colours)) for k, colours in self.summaries.items()},
            "told": {str(k): pack(colours) for k, colours in self.told.items()},
            "spreads": {str(k): spread / spreads[1] for k, spread in spreads.items()},
            "costs": count_costs(),
            "bound": BOUND,
        }
        super().__init__(data=data, state={**chosen, "locked": reduction is None, "pixel": pixel})

    def seen(self) -> np.ndarray:
        """What the pixel attends to, as a picture: the pixels of its window, and the summaries around it."""
        colours = to_bytes(self.summaries[self.state["reduction"]])
        picture = colours.repeat(self.state["reduction"], 0).repeat(self.state["reduction"], 1)
        top, left = self.corner()
        near = np.s_[top : top + self.state["window"], left : left + self.state["window"]]
        picture[near] = to_bytes(self.summaries[1])[near]
        return picture

    def corner(self) -> Pixel:
        """The first pixel of the pixel's window."""
        row, column = (place - place % self.state["window"] for place in self.state["pixel"])
        return row, column

    def costs(self) -> dict[str, list[int]]:
        """Multiply-accumulates for every reduction: attention to the window and to the summaries, and projections."""
        windows = [str(k if self.state["locked"] else self.state["window"]) for k in KS]
        near = [self.data["costs"]["window"][window] for window in windows]
        far = [self.data["costs"]["reduction"][str(k)] for k in KS]
        projections = [one + other for (one, _), (other, _) in zip(near, far, strict=True)]
        return {
            "window": [macs for _, macs in near],
            "summaries": [macs for _, macs in far],
            "projections": projections,
        }

    def words(self) -> str:
        window, reduction, locked = (self.state[name] for name in ("window", "reduction", "locked"))
        costs = {name: values[KS.index(reduction)] for name, values in self.costs().items()}
        pixels, summaries, (row, column) = window**2, PIXELS // reduction**2, self.state["pixel"]
        spread = self.data["spreads"][str(reduction)]
        told = (
            f"What pixels read from the summaries varies {spread:.2f} times as much as what they would read from all."
            if summaries > 1
            else "One summary tells all pixels the same: the second picture is flat."
        )
        return (
            f"({row}, {column}) attends to {pixels:,} pixel{'s' * (pixels > 1)} of its window and {summaries:,} "
            f"summar{'ies' if summaries > 1 else 'y'}: {pixels + summaries:,} keys"
            f"{f', where the lock allows no fewer than {BOUND}' * locked}. "
            f"Attention costs {(costs['window'] + costs['summaries']) / 1e6:.1f} MMAC, "
            f"projections {costs['projections'] / 1e6:.1f}. {told}"
        )

    def draw(self) -> Figure:
        figure, (seen, told, costs) = plt.subplots(1, 3, figsize=(7.2, 2.6), width_ratios=(1, 1, 1.15))
        seen.imshow(self.seen())
        told.imshow(self.told[self.state["reduction"]])
        (top, left), window = self.corner(), self.state["window"]
        frame = {"fill": False, "edgecolor": KEY, "linewidth": 1.5}
        seen.add_patch(Rectangle((left - 0.5, top - 0.5), window, window, **frame))
        mark(seen, tuple(self.state["pixel"]))
        for axes, title in {seen: "what the pixel attends to", told: "what pixels read"}.items():
            axes.set(title=title, xticks=[], yticks=[])
        self.draw_costs(costs)
        return figure

    def draw_costs(self, axes: Axes) -> None:
        costs = {name: np.array(values) / 1e6 for name, values in self.costs().items()}
        places, both = range(len(KS)), costs["window"] + costs["summaries"]
        colours = {"window": KEY, "summaries": COLOURS["purple"], "projections": COLOURS["grey"]}
        for name, colour in colours.items():
            axes.semilogy(places, costs[name], "-", color=colour, label=name)
        axes.semilogy(places, both, "-o", color=INK, label="attention", markersize=3)
        place = KS.index(self.state["reduction"])
        axes.semilogy(place, both[place], "o", color=INK, markersize=8)
        if self.state["locked"]:
            axes.axhline(2 * PIXELS * CHANNELS * BOUND / 1e6, color=INK, linestyle="--", linewidth=0.8)
        axes.set(xlabel="window = reduction" if self.state["locked"] else "reduction", ylabel="cost (MMAC)")
        axes.set_xticks(places, KS)
        axes.minorticks_off()
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=8, handlelength=0.8)


def read(image: Tensor, summaries: Tensor) -> Tensor:
    """What every pixel reads from the summaries, where queries, keys and values are colours, standardised."""
    mean, std = image.mean((1, 2), keepdim=True), (image - image.mean((1, 2), keepdim=True)).std()
    q, k = (((colours - mean) / std).flatten(1).T[None, None] for colours in (image, summaries))
    return attend(q, k, k, scale=1.0)[0, 0].T.view_as(image) * std + mean


def to_bytes(colours: Tensor) -> np.ndarray:
    """Rows, columns and channels, in 256 steps."""
    return colours.round().clamp(0, 255).byte().movedim(0, -1).numpy()


@cache
def count_costs() -> dict[str, dict[str, list[int]]]:
    """Multiply-accumulates of both halves, projections and attention, by window and by reduction."""

    def count(layer: nn.Module, projections: int) -> list[int]:
        return [projections, count_macs(layer, (1, CHANNELS, SIDE, SIDE)) - projections]

    unit = PIXELS * CHANNELS**2
    window = {str(k): count(LocallyGroupedAttention(CHANNELS, window=k), 4 * unit) for k in KS}
    reduction = {
        str(k): count(
            GlobalSubsampledAttention(CHANNELS, reduction=k), (3 * unit if k > 1 else 2 * unit) + 2 * unit // k**2
        )
        for k in KS
    }
    return {"window": window, "reduction": reduction}
