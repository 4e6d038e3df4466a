"""The lottery of seeds: what a thousand studies of the same truth report, and by which rules they report too much."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy import stats

from gsa.figures import COLOURS, INK, KEY, QUERY
from gsa.playable.base import Playable, read_module
from gsa.results import dunnett_reach

STUDIES = 1000
CANDIDATES = (1, 2, 5, 10, 20)
SEEDS = range(2, 21)
LEFT, RIGHT, TOP = -0.9, 1.1, 0.7  # the picture, in points
WIDTHS = [(RIGHT - LEFT) / columns for columns in range(48, 408, 8)]
STAR, FALSE, NONE = KEY, QUERY, "#aeb6bf"


@dataclass(frozen=True)
class Studies:
    """What each study reports: of the candidate that is farthest from the control, by how many points, how far its
    interval reaches, and after how many seeds."""

    candidate: np.ndarray
    difference: np.ndarray
    reach: np.ndarray
    seeds: np.ndarray

    @property
    def star(self) -> np.ndarray:
        """Whether zero is outside the interval."""
        return abs(self.difference) > self.reach

    def stacks(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Where each study's dot lies, in points, stars below the others, and how wide a dot is, so that all fit."""

        def columns(wide: float) -> np.ndarray:
            last = round((RIGHT - LEFT) / wide) - 1
            return np.clip(np.floor((self.difference - LEFT) / wide), 0, last).astype(int)

        wide = max((w for w in WIDTHS if np.bincount(columns(w)).max() * w <= TOP), default=WIDTHS[-1])
        column = columns(wide)
        order = np.lexsort((self.difference, ~self.star, column))
        level = np.empty(STUDIES, int)
        level[order] = np.arange(STUDIES) - np.searchsorted(column[order], column[order])
        return LEFT + (column + 0.5) * wide, (level + 0.5) * wide, wide


class SeedLottery(Playable):
    """A thousand studies of candidates that are all better than the control by ``difference`` points.

    Runs are normal with standard deviation ``sigma``. A study reports the candidate whose mean is farthest from that of
    the control, with an interval that reaches as many standard errors as 1.96 ("z"), Student's ("t") or Dunnett's ("d")
    quantile says; where zero is outside, it earns a star. With ``peek`` it looks after each seed from the second on and
    stops at a star. ``draw`` counts the thousands; ``study`` is the one whose runs are shown.

    Raises:
        ValueError: if the numbers of seeds or candidates are none of the sliders'.
    """

    name = "seed_lottery"
    _esm = read_module(name)

    def __init__(
        self,
        difference: float = 0.0,
        sigma: float = 0.2,
        seeds: int = 5,
        candidates: int = 1,
        *,
        reach: Literal["z", "t", "d"] = "t",
        peek: bool = False,
        draw: int = 0,
        study: int = 0,
    ) -> None:
        if seeds not in SEEDS or candidates not in CANDIDATES:
            raise ValueError(f"needs seeds of {SEEDS} and candidates of {CANDIDATES}, got {seeds} and {candidates}")
        state = {"difference": difference, "sigma": sigma, "seeds": seeds, "candidates": candidates}
        state |= {"reach": reach, "peek": peek, "draw": draw, "study": study}
        super().__init__(data={"studies": STUDIES, "reaches": count_reaches()}, state=state)

    def runs(self) -> np.ndarray:
        """Studies by arms, the control first, by seeds: points above the true mean of the control."""
        state = self.state
        runs = state["sigma"] * draw_normals(state["draw"])[:, : state["candidates"] + 1, : state["seeds"]]
        runs[:, 1:] += state["difference"]
        return runs

    def studies(self) -> Studies:
        state, runs = self.state, self.runs()
        reaches = self.data["reaches"][state["reach"]][str(state["candidates"])]
        found = Studies(np.zeros(STUDIES, int), np.zeros(STUDIES), np.zeros(STUDIES), np.zeros(STUDIES, int))
        for n in SEEDS[: state["seeds"] - 1] if state["peek"] else [state["seeds"]]:
            going = ~found.star
            seen = runs[going, :, :n]
            differences = seen[:, 1:].mean(2) - seen[:, :1].mean(2)
            farthest = abs(differences).argmax(1)
            found.candidate[going] = farthest + 1
            found.difference[going] = np.take_along_axis(differences, farthest[:, None], 1)[:, 0]
            found.reach[going] = reaches[n - SEEDS[0]] * np.sqrt(seen.var(2, ddof=1).mean(1) * 2 / n)
            found.seeds[going] = n
        return found

    def words(self) -> str:
        state, found = self.state, self.studies()
        several = state["candidates"] > 1
        who = f"All {state['candidates']} candidates are" if several else "The candidate is"
        stars, right = found.star.sum(), (found.star & (found.difference > 0)).sum()
        size = abs(found.difference[found.star]).mean()
        if state["difference"]:
            told = (
                f"{who} {state['difference']:.2f} points better. {STUDIES:,} studies: {right} with a star of the "
                f"right sign, {stars - right} with one of the wrong sign, {STUDIES - stars} without. "
                f"What is found is {size / state['difference']:.1f} times too large on average. "
            )
        else:
            told = (
                f"{who} as good as the control. Of {STUDIES:,} studies {stars} find a difference all the same: "
                f"false stars, {size:.2f} points from the truth on average. "
            )
        if state["peek"]:
            told += f"A study takes {found.seeds.mean():.1f} seeds an arm on average. "
        difference, reach = found.difference[state["study"]], found.reach[state["study"]]
        shown = [f"{value:+.2f}".replace("-", "−") for value in (difference, difference - reach, difference + reach)]
        star = "a star" if found.star[state["study"]] else "no star"
        return told + f"The marked study reports {shown[0]} points, from {shown[1]} to {shown[2]}: {star}."

    def draw(self) -> Figure:
        figure, axes = plt.subplots(figsize=(7.2, 5.6))
        self.draw_studies(axes)
        self.draw_study(axes)
        truth = self.state["difference"]
        axes.vlines([0, truth], -0.6, TOP + 0.08, INK, linewidth=[0.8, 1.5], zorder=0)
        axes.annotate("truth", (truth, TOP + 0.08), (0, 3), textcoords="offset points", ha="center")
        axes.set(xlim=(LEFT, RIGHT), ylim=(-0.6, TOP + 0.15), xlabel="difference (points)", aspect="equal")
        axes.set_yticks([-0.15, -0.3, -0.45], ["control", "candidate", "difference"])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        return figure

    def colours(self, found: Studies) -> np.ndarray:
        right = found.star & (found.difference * self.state["difference"] > 0)
        return np.where(right, STAR, np.where(found.star, FALSE, NONE))

    def draw_studies(self, axes: Axes) -> None:
        found, truth = self.studies(), self.state["difference"]
        x, y, wide = found.stacks()
        colours = self.colours(found)
        edges = np.where(np.arange(STUDIES) == self.state["study"], INK, colours)
        size = np.full(STUDIES, 0.85 * wide)
        dots = {"units": "xy", "offsets": np.c_[x, y], "offset_transform": axes.transData}
        axes.add_collection(EllipseCollection(size, size, 0 * size, facecolors=colours, edgecolors=edges, **dots))
        if truth:
            mean = abs(found.difference[found.star]).mean()
            axes.vlines(mean, 0, TOP, STAR, linestyle="--")
            axes.annotate("mean of the stars", (mean, TOP), (4, 0), textcoords="offset points", va="top", color=STAR)
        names = {"star": STAR, "false star": FALSE, "no star": NONE}
        handles = [Patch(color=colour, label=name) for name, colour in names.items()]
        axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, handlelength=0.8)

    def draw_study(self, axes: Axes) -> None:
        """The marked study: its runs of the control and of the candidate that it reports, their means, its interval."""
        found, study = self.studies(), self.state["study"]
        for row, arm in enumerate([0, found.candidate[study]], 1):
            runs = self.runs()[study, arm, : found.seeds[study]]
            axes.plot(runs, np.full(len(runs), -0.15 * row), "o", color=COLOURS["grey"], alpha=0.6, linewidth=0)
            axes.plot(runs.mean(), -0.15 * row, "|", color=INK, markersize=14, markeredgewidth=2)
        colour = self.colours(found)[study]
        axes.errorbar(found.difference[study], -0.45, xerr=found.reach[study], fmt="o", color=colour, capsize=3)


@cache
def draw_normals(draw: int) -> np.ndarray:
    """Studies by arms by seeds, normal and the same in every language: Box and Muller of the counters of mulberry32."""
    arms, seeds = CANDIDATES[-1] + 1, SEEDS[-1]
    size = STUDIES * arms * seeds
    bits = (2 * size * draw + np.arange(1, 2 * size + 1)).astype(np.uint32) * np.uint32(0x6D2B79F5)
    bits = (bits ^ (bits >> 15)) * (bits | 1)
    bits ^= bits + (bits ^ (bits >> 7)) * (bits | 61)
    length, angle = (((bits ^ (bits >> 14)) + 0.5) / 2**32).reshape(-1, 2).T
    normal = np.sqrt(-2 * np.log(length)) * np.cos(2 * np.pi * angle)
    return normal.reshape(arms, seeds, STUDIES).transpose(2, 0, 1)


@cache
def count_reaches() -> dict[str, dict[str, list[float]]]:
    """How many standard errors an interval reaches: by its quantile, the candidates, and the seeds from two on."""

    def freedom(m: int, n: int) -> int:
        return (m + 1) * (n - 1)

    def reaches(quantile: Callable[[int, int], float]) -> dict[str, list[float]]:
        return {str(m): [float(quantile(m, n)) for n in SEEDS] for m in CANDIDATES}

    return {
        "z": reaches(lambda m, n: stats.norm.ppf(0.975)),
        "t": reaches(lambda m, n: stats.t.ppf(0.975, freedom(m, n))),
        "d": reaches(lambda m, n: dunnett_reach((n,) * m, n, freedom(m, n))),
    }
