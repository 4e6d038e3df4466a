"""The tables of studies as pictures: what each arm is better or worse by, and what its accuracy takes."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from scipy.optimize import isotonic_regression

from gsa.figures.style import COLOURS, SEEN

COSTS = {
    "seconds": (1.0, "time of training (s)"),
    "flops": (1e15, "work of training (PFLOP)"),
    "macs": (1e6, "cost of one image (MMAC)"),
}
"""The columns of a table that accuracies can be drawn over: the unit in which they are shown, and its name."""


def draw_forest(axes: Axes, table: pd.DataFrame, *, margin: float = 0.003) -> Axes:
    """A ledger's table: how far each arm is from the control, and what may be said of it.

    A line is the corrected 95 % interval of the difference. A hollow dot on a dotted line has one seed on one side: its
    interval is the expected one, and there is no verdict. Differences in the shaded band count as equal.
    """
    arms = table[table["verdict"] != "control"]
    rows = np.arange(len(arms))
    axes.axvspan(-100 * margin, 100 * margin, color=SEEN, alpha=0.5, linewidth=0, zorder=0)
    axes.axvline(0, color=COLOURS["grey"], linewidth=0.8, linestyle="-", zorder=1)
    for row, (_, arm) in zip(rows, arms.iterrows(), strict=True):
        draw_mean(axes, 100 * arm.difference, float(row), judged=bool(arm.test), colour=COLOURS["vermilion"])
        bar = [100 * arm.difference_low, 100 * arm.difference_high]
        axes.plot(bar, [row, row], color=COLOURS["vermilion"], linestyle="-" if arm.test else ":")
    control = next(iter(table.index[table["verdict"] == "control"]), "control")
    axes.set(xlabel=f"test accuracy − that of {control} (points)", ylim=(len(arms) - 0.4, -0.6))
    axes.set_yticks(rows, [f"{arm} ({seeds})" for arm, seeds in zip(arms.index, arms["seeds"], strict=True)])
    words = axes.secondary_yaxis("right")
    words.set_yticks(rows, arms["verdict"])
    for sides in (axes, words):
        sides.tick_params(axis="y", length=0)
        sides.spines[:].set_visible(False)
    axes.spines["bottom"].set_visible(True)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    return axes


def draw_accuracy_cost(axes: Axes, table: pd.DataFrame, cost: str) -> Axes:
    """A ledger's table: the accuracy of each arm over a cost of COSTS, with the 95 % intervals of both.

    Hollow dots and dotted intervals are of one seed; the dashed line is at the accuracy of the control. Arms without a
    cost of their own, as those that were timed on several devices, are left out. The axis of accuracies spans at least
    a point, so that little differences look little.
    """
    unit, name = COSTS[cost]
    table = table[table[cost].notna()].sort_values("accuracy")
    for _, arm in table.iterrows():
        x, y, several = arm[cost] / unit, 100 * arm.accuracy, arm.seeds > 1
        colour = COLOURS["blue" if arm.verdict == "control" else "vermilion"]
        axes.plot([x, x], [100 * arm.low, 100 * arm.high], color=colour, linestyle="-" if several else ":")
        if f"{cost}_low" in table:
            axes.plot([arm[f"{cost}_low"] / unit, arm[f"{cost}_high"] / unit], [y, y], color=colour, linestyle="-")
        draw_mean(axes, x, y, judged=several, colour=colour)
        if arm.verdict == "control":
            axes.axhline(y, color=colour, linewidth=0.8, linestyle="--", zorder=0)
    axes.set(xlabel=name, ylabel="test accuracy (%)", xlim=(0, None))
    low, high = axes.get_ylim()
    room = max(0.0, 0.5 - (high - low) / 2)
    axes.set_ylim(low - room, high + room)
    axes.margins(x=0.05)
    name_at_the_side(axes, {name: (arm[cost] / unit, 100 * arm.accuracy) for name, arm in table.iterrows()})
    return axes


def draw_mean(axes: Axes, x: float, y: float, *, judged: bool, colour: str) -> None:
    axes.plot([x], [y], marker="o", color=colour, markerfacecolor=colour if judged else "white", zorder=3)


def name_at_the_side(axes: Axes, dots: dict[str, tuple[float, float]]) -> None:
    """The names of dots, given from the lowest up, in a column right of the axes, each with a thin line to its dot."""
    low, high = axes.get_ylim()
    steps = min(0.1, 1 / max(1, len(dots))) * (high - low) * np.arange(len(dots))
    heights = isotonic_regression([y for _, y in dots.values()] - steps).x + steps  # as near their dots as they fit
    thin = {"arrowstyle": "-", "color": COLOURS["grey"], "linewidth": 0.5, "shrinkB": 4}
    for (name, dot), height in zip(dots.items(), heights, strict=True):
        place = {"xytext": (1.04, height), "textcoords": axes.get_yaxis_transform(), "va": "center", "fontsize": 9}
        axes.annotate(name, dot, arrowprops=thin, annotation_clip=False, **place)
