"""What several runs say together: intervals over seeds and over images, and how many seeds a difference takes."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % t-interval, mean ∓ t(n−1)·σ/√n; NaN where a lone value or equal values give no scale."""
    if not len(values):
        return math.nan, math.nan, math.nan
    mean = float(np.mean(values))
    if np.ptp(values) < 1e-9:  # equal accuracies differ by rounding only, and a σ of 1e-17 is no evidence
        return mean, math.nan, math.nan
    low, high = stats.t.interval(0.95, len(values) - 1, mean, stats.sem(values))
    return mean, float(low), float(high)


def wilson(accuracy: float, images: int) -> tuple[float, float]:
    """95 % Wilson interval of a network's accuracy on all such images, given its accuracy on so many of them."""
    interval = stats.binomtest(round(accuracy * images), images).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def expected_sigma(accuracy: float, images: int) -> float:
    r"""The standard deviation between seeds that is to be expected of an accuracy on so many test images.

    .. math:: \sigma = \sqrt{(1 - p) / 2N}

    It follows for two classes (arXiv:2304.01910) if ensembles of the runs are calibrated and the runs are equally good
    on all such images. Of more classes the same argument gives at most this, and what the runs differ by on all images,
    as short ones do, comes on top: there it is a guide.
    """
    return math.sqrt((1 - accuracy) / (2 * images))


def seeds_to_see(difference: float, sigma: float) -> float:
    """Seeds an arm for 80 % power: as often, the 95 % t-interval of paired differences has zero below it.

    At least two, NaN without σ or a difference. Of many seeds it is 2(z.975 + z.8)²σ²/δ² = 15.7σ²/δ², of few it is
    more. Runs of two arms that share a seed are taken to be as different as others; where they are alike, fewer do.
    """
    if math.isnan(sigma) or math.isnan(difference) or not sigma or abs(difference) < 1e-9:
        return math.nan
    ratio = difference / (sigma * math.sqrt(2))

    def power(seeds: int) -> float:
        return float(stats.nct.sf(stats.t.ppf(0.975, seeds - 1), seeds - 1, ratio * math.sqrt(seeds)))

    seeds = max(2, math.floor((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 / ratio**2))
    return float(next(n for n in itertools.count(seeds) if power(n) >= 0.8))


def points(value: float, low: float = math.nan, high: float = math.nan, sign: str = "") -> str:
    """A share in percent, with half the width of its interval where there is one."""
    if math.isnan(value):
        return "–"
    return f"{100 * value:{sign}.2f}" + ("" if math.isnan(low) else f" ± {50 * (high - low):.2f}")
