"""What several runs say together: how far arms are from a control, what may be said of it, and what it takes to know.

A study's accuracies go in as ``{arm: {seed: accuracy}}``, shares of 1; scipy and statsmodels do the tests.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy import optimize, stats

MARGIN = 0.003
"""Accuracies that differ by less count as equal: .3 points."""
ALPHA = 0.05
_EQUAL = 1e-9  # equal accuracies differ by rounding only, and a σ of 1e-17 is no evidence

Arms = Mapping[str, Mapping[int, float]]


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % t-interval, mean ∓ t(n−1)·σ/√n; NaN where a lone value or equal values give no scale."""
    if not len(values):
        return math.nan, math.nan, math.nan
    mean = float(np.mean(values))
    if np.ptp(values) < _EQUAL:
        return mean, math.nan, math.nan
    low, high = stats.t.interval(1 - ALPHA, len(values) - 1, mean, stats.sem(values))
    return mean, float(low), float(high)


def wilson(accuracy: float, images: int) -> tuple[float, float]:
    """95 % Wilson interval of a network's accuracy on all such images, given its accuracy on so many of them."""
    interval = stats.binomtest(round(accuracy * images), images).proportion_ci(1 - ALPHA, method="wilson")
    return float(interval.low), float(interval.high)


def expected_sigma(accuracy: float, images: int) -> float:
    r"""The standard deviation between seeds that is to be expected of an accuracy on so many test images.

    .. math:: \sigma = \sqrt{(1 - p) / 2N}

    It follows for two classes (arXiv:2304.01910) if ensembles of the runs are calibrated and the runs are equally good
    on all such images. Of more classes the same argument gives at most this, and what the runs differ by on all images,
    as short ones do, comes on top: there it is a guide.
    """
    return math.sqrt((1 - accuracy) / (2 * images))


@dataclass(frozen=True)
class SeedCorrelation:
    """How alike runs of several arms are because they share a seed, with a 95 % interval."""

    estimate: float
    low: float
    high: float

    @property
    def paired(self) -> bool:
        """Pair runs by seed where the interval lies above zero, else compare two samples.

        It looks at how seeds move all arms together, never at how far apart two arms are. In one of forty studies whose
        runs have nothing in common it pairs by accident, and of those more than 5 % find a difference that is not
        there; over all studies that adds less than one per cent.
        """
        return self.low > 0


def seed_correlation(arms: Arms) -> SeedCorrelation:
    r"""The correlation of runs that share a seed: the intraclass correlation of a table of seeds by arms.

    With :math:`F = MS_\text{seed} / MS_\text{rest}` of the two-way analysis of variance over k arms and n seeds

    .. math:: \rho = \frac{F - 1}{F + k - 1},

    and its interval from the quantiles of F (Shrout and Fleiss 1979, ICC(3, 1)). It takes the arms of at least two
    seeds and the seeds that all of them have; NaN where that leaves less than two arms or five seeds, which know too
    little of it.
    """
    several = [runs for runs in arms.values() if len(runs) > 1]
    shared = sorted(set.intersection(*(set(runs) for runs in several))) if several else []
    k, n = len(several), len(shared)
    if k < 2 or n < 5:
        return SeedCorrelation(math.nan, math.nan, math.nan)
    table = np.array([[runs[seed] for seed in shared] for runs in several])
    table = table - table.mean(1, keepdims=True)
    of_seeds = table.mean(0)
    rest = ((table - of_seeds) ** 2).sum() / ((n - 1) * (k - 1))
    if rest < _EQUAL**2:
        return SeedCorrelation(math.nan, math.nan, math.nan)
    ratio = k * (of_seeds**2).sum() / (n - 1) / rest
    low = ratio / stats.f.ppf(1 - ALPHA / 2, n - 1, (n - 1) * (k - 1))
    high = ratio * stats.f.ppf(1 - ALPHA / 2, (n - 1) * (k - 1), n - 1)
    return SeedCorrelation(*(float((f - 1) / (f + k - 1)) for f in (ratio, low, high)))


@dataclass(frozen=True)
class Comparison:
    """One arm beside the control: the difference of their means, with bounds that hold for all arms of the study
    together with 95 % confidence; ``test`` names test and correction."""

    difference: float
    low: float
    high: float
    standard_error: float
    margin: float
    test: str

    @property
    def verdict(self) -> str:
        """What the interval allows to say, and no more.

        better, worse: all of it lies on one side of zero. equal within the margin: zero is inside, and all of it lies
        within the margin, which is what two one-sided tests of 2.5 % ask for (Schuirmann 1987, doi:10.1007/BF01068419).
        not known: neither.
        """
        if self.low > 0 or self.high < 0:
            return "better" if self.low > 0 else "worse"
        return "equal within the margin" if -self.margin < self.low and self.high < self.margin else "not known"

    @property
    def luck(self) -> "Luck":
        """What this very test would make of a true difference as large as the margin."""
        return luck(self.margin, self.standard_error, (self.high - self.low) / 2 / self.standard_error)


def compare(arms: Arms, control: str, *, margin: float = MARGIN, pooled: bool = True) -> dict[str, Comparison]:
    r"""Every arm that can be judged beside the control: both have two seeds, and accuracies that are not all equal.

    Whether runs are paired by their seed is for :attr:`SeedCorrelation.paired` to say. The intervals are

    - paired: those of the t-test of the differences over shared seeds, at the level of Bonferroni's correction;
    - else, with σ ``pooled`` over all these arms: those of Dunnett's test of many arms against one control (1955,
      doi:10.2307/2281208), :math:`\bar a - \bar c \pm d\,s \sqrt{1/n_a + 1/n_c}` with d of :func:`dunnett_reach`;
    - else those of Welch's test, at the level of Bonferroni's correction.
    """
    paired = seed_correlation(arms).paired
    pairs = {arm: _samples(runs, arms.get(control, {}), paired) for arm, runs in arms.items() if arm != control}
    pairs = {arm: (a, c) for arm, (a, c) in pairs.items() if _can_be_judged(a, c, paired)}
    level = 1 - ALPHA / max(1, len(pairs))
    if paired:
        found = {arm: _interval(stats.ttest_rel(a, c), level, "paired t, Bonferroni") for arm, (a, c) in pairs.items()}
    elif pooled:
        found = _dunnett(pairs)
    else:
        tests = {arm: stats.ttest_ind(a, c, equal_var=False) for arm, (a, c) in pairs.items()}
        found = {arm: _interval(test, level, "Welch, Bonferroni") for arm, test in tests.items()}
    return {
        arm: Comparison(float(a.mean() - c.mean()), low, high, error, margin, test)
        for (arm, (a, c)), (low, high, error, test) in zip(pairs.items(), found.values(), strict=True)
    }


def _samples(runs: Mapping[int, float], control: Mapping[int, float], paired: bool) -> tuple[np.ndarray, np.ndarray]:
    """The accuracies of an arm and of the control; paired, those of shared seeds, in the same order."""
    shared = sorted(runs.keys() & control.keys())
    of_arm, of_control = (shared, shared) if paired else (sorted(runs), sorted(control))
    return np.array([runs[seed] for seed in of_arm]), np.array([control[seed] for seed in of_control])


def _can_be_judged(a: np.ndarray, c: np.ndarray, paired: bool) -> bool:
    spread = [a - c] if paired else [a, c]
    return min(len(a), len(c)) > 1 and any(float(np.ptp(values)) > _EQUAL for values in spread)


def _interval(test: Any, level: float, name: str) -> tuple[float, float, float, str]:
    """Low, high and standard error of the difference that a test of scipy's has found."""
    interval = test.confidence_interval(level)
    error = (interval.high - interval.low) / 2 / stats.t.ppf((1 + level) / 2, test.df)
    return float(interval.low), float(interval.high), float(error), name


def _dunnett(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[float, float, float, str]]:
    """Low, high and standard error of each difference to the common control, which stands second in every pair."""
    if not pairs:
        return {}
    controls = next(iter(pairs.values()))[1]
    groups = [controls, *(a for a, _ in pairs.values())]
    freedom = sum(len(group) - 1 for group in groups)
    sigma = math.sqrt(sum(((group - group.mean()) ** 2).sum() for group in groups) / freedom)
    reach = dunnett_reach(tuple(len(a) for a, _ in pairs.values()), len(controls), freedom)
    found = {}
    for arm, (a, c) in pairs.items():
        difference, error = float(a.mean() - c.mean()), sigma * math.sqrt(1 / len(a) + 1 / len(c))
        found[arm] = (difference - reach * error, difference + reach * error, error, "Dunnett")
    return found


@cache
def dunnett_reach(seeds: tuple[int, ...], control: int, freedom: int) -> float:
    r"""By how many standard errors an arm must differ from the common control, given the seeds of each (Dunnett 1955).

    It solves, with z normal, s² = χ²/freedom and bᵢ² = nᵢ / (nᵢ + n of the control),

    .. math:: E_{z, s}\Big[\prod_i \Phi\Big(\frac{b_i z + d s}{\sqrt{1 - b_i^2}}\Big)
        - \Phi\Big(\frac{b_i z - d s}{\sqrt{1 - b_i^2}}\Big)\Big] = .95 .

    Of one arm it is the quantile of t. scipy.stats.dunnett finds the same by random sampling, in seconds where this
    takes milliseconds.
    """
    z, z_weights = np.polynomial.hermite_e.hermegauss(64)
    u, u_weights = np.polynomial.legendre.leggauss(64)
    s = np.sqrt(stats.chi2.ppf((u + 1) / 2, freedom) / freedom)[:, None]
    sizes, counts = np.unique(seeds, return_counts=True)

    def inside(d: float) -> float:
        each = np.ones((64, 64))
        for n, count in zip(sizes, counts, strict=True):
            b, rest = math.sqrt(n / (n + control)), math.sqrt(control / (n + control))
            each *= (stats.norm.cdf((b * z + d * s) / rest) - stats.norm.cdf((b * z - d * s) / rest)) ** count
        return float(u_weights / 2 @ each @ z_weights) / math.sqrt(2 * math.pi)

    return float(optimize.brentq(lambda d: inside(d) - (1 - ALPHA), 1.0, 40.0))


@dataclass(frozen=True)
class Luck:
    """What luck does to the results that a test calls different.

    ``power``: how often the test finds the true difference. Of what it finds, ``wrong_sign`` is the share that points
    the wrong way (type S), and ``exaggeration`` how many times too large it is on average (type M).
    """

    power: float
    wrong_sign: float
    exaggeration: float


def luck(true_difference: float, standard_error: float, reach: float = 1.96) -> Luck:
    r"""Power, type-S and type-M error of a test that calls different what is ``reach`` standard errors from zero.

    With λ = true difference / standard error, c = reach, and normal estimates,

    .. math::
        \text{power} = \Phi(\lambda - c) + \Phi(-\lambda - c), \qquad
        \text{type S} = \Phi(-\lambda - c) / \text{power},

    .. math::
        \text{type M} = \frac{\lambda\,(\Phi(\lambda - c) - \Phi(-\lambda - c)) + \varphi(\lambda - c)
            + \varphi(\lambda + c)}{\lambda \cdot \text{power}}

    Gelman and Carlin 2014 (doi:10.1177/1745691614551642) simulate them; in this form in Lu, Qiu and Deng 2019
    (doi:10.1111/bmsp.12132).
    """
    size = abs(true_difference) / standard_error
    right, wrong = stats.norm.cdf([size - reach, -size - reach]).tolist()
    found = size * (right - wrong) + float(stats.norm.pdf([size - reach, size + reach]).sum())
    return Luck(right + wrong, wrong / (right + wrong), found / (size * (right + wrong)))


def power(difference: float, sigma: float, seeds: int, arms: int = 1) -> float:
    """How often Dunnett's test of so many arms against a control, 5 % for all together, finds one arm's difference.

    Of one arm it is the two-sample t-test.
    """
    freedom = (arms + 1) * (seeds - 1)
    reach, size = dunnett_reach((seeds,) * arms, seeds, freedom), abs(difference) / sigma * math.sqrt(seeds / 2)
    return float(stats.nct.sf(reach, freedom, size) + stats.nct.cdf(-reach, freedom, size))


def seeds_to_see(difference: float, sigma: float, arms: int = 1) -> float:
    """Seeds per arm at which the test of :func:`power` finds the difference with 80 % power.

    At least two, NaN without σ or a difference. For one arm and many seeds it is 2(z.975 + z.8)²σ²/δ² = 15.7σ²/δ²; few
    seeds and many arms take more. Pairing, where runs that share a seed are alike, takes fewer.
    """
    if math.isnan(sigma) or math.isnan(difference) or not sigma or abs(difference) < _EQUAL:
        return math.nan
    usual = 2 * ((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * sigma / difference) ** 2
    seeds = range(max(2, math.floor(usual)), 10 + 10 * math.ceil(usual))
    return float(seeds[bisect_left(seeds, 0.8, key=lambda n: power(difference, sigma, n, arms))])
