"""The hop map: which path joins two pixels in Global Sparse Attention, and what the patch costs."""

from functools import cache
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import nn

from gsa.figures import COLOURS, INK, KEY, QUERY, SEEN, UNSEEN, Pixel, draw_map, draw_path, mark, tint
from gsa.layers import GlobalSparseAttention, Partition, SelfAttention, grid, window
from gsa.layers.checks import divisors
from gsa.playable.base import Playable, read_module
from gsa.probes import count_macs

CHANNELS = 64
SIDES = (8, 16, 32, 64)
PARTS = {"projections": "#aeb6bf", "hop 1": KEY, "hop 2": QUERY}


class HopMap(Playable):
    """The one path from a sender to a receiver, on a square map in patches, and the cost of every patch that tiles it.

    ``first`` is the hop that comes first: "across" patches, as in :class:`~gsa.layers.sparse.GlobalSparseAttention`, or
    "within" them, as in MaxViT (arXiv:2204.01697). Pixels are (row, column). Costs are counted, with 64 channels.

    Raises:
        ValueError: if the side is none of the slider's, or the patch does not divide it.
    """

    name = "hop_map"
    _esm = read_module(name)

    def __init__(
        self,
        side: int = 16,
        patch: int = 4,
        *,
        receiver: Pixel = (6, 5),
        sender: Pixel = (1, 14),
        first: Literal["across", "within"] = "across",
    ) -> None:
        if side not in SIDES or side % patch:
            raise ValueError(f"the side must be one of {SIDES} and a multiple of the patch, got {side} and {patch}")
        state = {"side": side, "patch": patch, "receiver": receiver, "sender": sender, "first": first}
        super().__init__(data={"channels": CHANNELS, "costs": count_costs()}, state=state)

    def groups(self) -> tuple[np.ndarray, np.ndarray]:
        """The pixels that the relay pixel sums over in hop 1, and those that the receiver sums over in hop 2."""
        state = self.state
        one, two = grid(state["patch"]), window(state["patch"])
        if state["first"] == "within":
            one, two = two, one
        return together(one, state["sender"], state["side"]), together(two, state["receiver"], state["side"])

    def relay(self) -> Pixel:
        """The one pixel of both groups."""
        one, two = self.groups()
        ((row, column),) = np.argwhere(one & two).tolist()
        return row, column

    def costs(self) -> dict[str, list[int]]:
        """Multiply-accumulates of full attention and of GSA with each patch: projections, hop 1, hop 2."""
        costs = self.data["costs"][str(self.state["side"])]
        order = 1 if self.state["first"] == "across" else -1
        gsa = {patch: [projections, *hops[::order]] for patch, (projections, *hops) in costs["gsa"].items()}
        return {"full": costs["full"], **gsa}

    def words(self) -> str:
        state, (one, two), costs = self.state, self.groups(), self.costs()
        receiver, sender, relay = (
            f"({row}, {column})" for row, column in (state["receiver"], state["sender"], self.relay())
        )
        sizes = [int(group.sum()) for group in (one, two)]
        pixels = [f"{size:,} pixel{'s' * (size > 1)}" for size in sizes]
        across, within = "{}, one of every patch".format, "the {} of one patch".format
        hop_1, hop_2 = (across, within) if state["first"] == "across" else (within, across)
        share = sum(costs[str(state["patch"])]) / sum(costs["full"])
        return (
            f"{receiver} hears {sender} by one path, through {relay}. "
            f"Hop 1 sums over {hop_1(pixels[0])}; hop 2 over {hop_2(pixels[1])}. "
            f"So each pixel computes {sum(sizes):,} weights and hears all {one.size:,} pixels, "
            f"for {share:.2f} of the cost of full attention."
        )

    def draw(self) -> Figure:
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.2), width_ratios=(1.25, 1))
        self.draw_path(left)
        self.draw_costs(right)
        return figure

    def draw_path(self, axes: Axes) -> None:
        state, (one, two), relay = self.state, self.groups(), self.relay()
        colours = np.full((*one.shape, 3), to_rgb(UNSEEN))
        colours[one], colours[two], colours[relay] = to_rgb(SEEN), tint(QUERY), to_rgb(COLOURS["purple"])
        colours[tuple(state["sender"])] = to_rgb(KEY)
        draw_map(axes, colours, block=state["patch"])
        mark(axes, state["receiver"])
        draw_path(axes, [state["sender"], relay, state["receiver"]])
        names = {"sender": KEY, "relay": COLOURS["purple"], "receiver": QUERY}
        handles = [Patch(color=colour, label=name) for name, colour in names.items()]
        axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, handlelength=0.8)

    def draw_costs(self, axes: Axes) -> None:
        costs = {name: np.array(parts) / 1e6 for name, parts in self.costs().items()}
        bottom = np.zeros(len(costs))
        for number, (part, colour) in enumerate(PARTS.items()):
            heights = np.array([cost[number] if number < len(cost) else 0 for cost in costs.values()])
            bars = axes.bar(list(costs), heights, 0.8, bottom, color=colour, label=part)
            bottom += heights
            if number == 1:
                bars[0].set_color(COLOURS["grey"])
        axes.axhline(bottom[0], color=INK, linestyle="--", linewidth=0.8, zorder=0)
        axes.set(xlabel="side k of a patch (pixels)", ylabel="cost (MMAC)")
        axes.get_xticklabels()[list(costs).index(str(self.state["patch"]))].set(fontweight="bold")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, handlelength=0.8)


def together(partition: Partition, pixel: Pixel, side: int) -> np.ndarray:
    """The pixels of a map that a partition puts into one group with this one, itself among them."""
    numbers = torch.arange(float(side**2)).view(1, 1, side, side)
    groups = partition.split(numbers)[..., 0].int().numpy()
    number = np.ravel_multi_index(pixel, (side, side))
    (group,) = groups[(groups == number).any(1)]
    return np.isin(np.arange(side**2), group).reshape(side, side)


@cache
def count_costs() -> dict[str, dict]:
    """Multiply-accumulates on maps of every side: projections and sums of full attention, and of both hops by patch."""

    def count(*hops: nn.Module) -> list[int]:
        projections = 4 * side**2 * CHANNELS**2
        counted = [count_macs(hop, (1, CHANNELS, side, side)) for hop in hops]
        return [projections * len(hops), *(macs - projections for macs in counted)]

    costs = {}
    for side in SIDES:
        layers = {patch: GlobalSparseAttention(CHANNELS, patch=patch) for patch in divisors(side)}
        gsa = {str(patch): count(layer.across, layer.within) for patch, layer in layers.items()}
        costs[str(side)] = {"full": count(SelfAttention(CHANNELS)), "gsa": gsa}
    return costs
