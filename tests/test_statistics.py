"""Intervals, tests and verdicts are scipy's and statsmodels', and keep their promises in simulated studies."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import ttost_ind, ttost_paired

from gsa.results import (
    compare,
    dunnett_reach,
    expected_sigma,
    luck,
    power,
    seed_correlation,
    seeds_to_see,
    t_interval,
    wilson,
)

accuracies = st.lists(st.integers(5000, 10000), min_size=2, max_size=8, unique=True).map(
    lambda right: [r / 10000 for r in right]
)


def study(rng, arms: int, seeds: int, *, shift: float = 0.0, shared: float = 0.0) -> dict[str, dict[int, float]]:
    """Simulated runs with σ = 1: the first arm is the control, all others lie ``shift`` above it.

    ``shared`` is the correlation of runs that share a seed.
    """
    runs = math.sqrt(1 - shared) * rng.normal(size=(arms + 1, seeds)) + math.sqrt(shared) * rng.normal(size=seeds)
    runs[1:] += shift
    names = ["none", *(f"arm{number}" for number in range(arms))]
    return {name: dict(enumerate(row.tolist())) for name, row in zip(names, runs, strict=True)}


def values(runs: dict[int, float]) -> list[float]:
    return [*runs.values()]


# Intervals of one number


@settings(max_examples=20)
@given(accuracies)
def test_interval_of_the_mean_is_scipys(values):
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert t_interval(values) == pytest.approx((sum(values) / len(values), expected.low, expected.high))


@pytest.mark.parametrize("values", [[0.9], [0.9, 0.9], [0.91 - 0.86, 0.3 - 0.25]])
def test_no_interval_without_spread(values):
    mean, low, high = t_interval(values)
    assert mean == pytest.approx(values[0])
    assert math.isnan(low) and math.isnan(high)


@settings(max_examples=30)
@given(st.integers(0, 500), st.integers(1, 500))
def test_wilson_interval_holds_the_accuracies_that_a_score_test_does_not_reject(right, more):
    images, accuracy = right + more, right / (right + more)
    low, high = wilson(accuracy, images)
    z = stats.norm.ppf(0.975)
    for bound in (low, high):
        if 0 < bound < 1:
            assert abs(accuracy - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / images), rel=1e-6)
    assert low <= accuracy <= high


@pytest.mark.parametrize("accuracy, sigma", [(0.96, 0.0014), (0.94, 0.0017), (0.90, 0.0022)])
def test_the_expected_spread_by_hand(accuracy, sigma):
    assert expected_sigma(accuracy, 10_000) == pytest.approx(sigma, abs=5e-5)


# Runs that share a seed


def test_the_correlation_by_hand():
    """Seeds move one arm by −2 … 2 and the other by twice that: F = 11.25 / 1.25 = 9, and F(.975; 4, 4) = 9.60."""
    arms = {"none": dict(enumerate([0.0, 1.0, 2.0, 3.0, 4.0])), "gsa": dict(enumerate([5.0, 7.0, 9.0, 11.0, 13.0]))}
    found = seed_correlation(arms)
    assert found.estimate == pytest.approx(0.8)
    assert found.low == pytest.approx((9 - 9.6045) / (9 + 9.6045), rel=1e-3)
    assert found.high == pytest.approx((9 * 9.6045 - 1) / (9 * 9.6045 + 1), rel=1e-5)
    assert not found.paired


def test_four_seeds_or_one_arm_have_no_correlation_and_are_not_paired():
    four, five = dict(enumerate([0.9, 0.8, 0.7, 0.6])), dict(enumerate([0.9, 0.8, 0.7, 0.6, 0.5]))
    for arms in ({"none": five}, {"none": five, "gsa": four}, {"none": five, "gsa": {0: 0.9}}, {}):
        assert math.isnan(seed_correlation(arms).estimate) and not seed_correlation(arms).paired
    assert seed_correlation({"none": five, "gsa": {s: v**2 for s, v in five.items()}, "one": {9: 0.1}}).paired


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_the_interval_of_the_correlation_covers_the_truth(shared):
    rng = np.random.default_rng(1)
    found = [seed_correlation(study(rng, 5, 10, shared=shared)) for _ in range(600)]
    assert 0.93 < np.mean([one.low < shared < one.high for one in found]) < 0.97
    assert np.median([one.estimate for one in found]) == pytest.approx(shared, abs=0.03)


# Many arms against one control


@pytest.mark.parametrize("seeds", [(6, 6, 6, 6), (9, 4, 6, 6)])
def test_pooled_arms_are_compared_by_dunnetts_test(seeds):
    arms = study(np.random.default_rng(2), 3, 9, shift=1.0)
    arms = {arm: dict([*runs.items()][:n]) for (arm, runs), n in zip(arms.items(), seeds, strict=True)}
    control, *others = map(values, arms.values())
    expected = stats.dunnett(*others, control=control, rng=np.random.default_rng(0)).confidence_interval(0.95)
    found = [*compare(arms, "none").values()]
    assert [one.test for one in found] == ["Dunnett"] * 3
    assert [one.low for one in found] == pytest.approx(expected.low.tolist(), abs=5e-3)
    assert [one.high for one in found] == pytest.approx(expected.high.tolist(), abs=5e-3)


def test_arms_that_are_not_pooled_are_compared_by_welchs_test_at_bonferronis_level():
    arms = study(np.random.default_rng(3), 3, 6, shift=1.0)
    arms["arm1"] |= {6: 2.0, 7: 3.0}
    control, *others = map(values, arms.values())
    for one, other in zip(compare(arms, "none", pooled=False).values(), others, strict=True):
        interval = stats.ttest_ind(other, control, equal_var=False).confidence_interval(1 - 0.05 / 3)
        assert (one.low, one.high, one.test) == pytest.approx((interval.low, interval.high, "Welch, Bonferroni"))
        assert one.standard_error == pytest.approx(math.hypot(stats.sem(other), stats.sem(control)))


def test_runs_that_seeds_move_together_are_paired_by_seed_and_not_by_position():
    arms = study(np.random.default_rng(4), 2, 8, shift=0.2, shared=0.99)
    arms["arm0"] = dict(reversed(arms["arm0"].items()))
    del arms["arm1"][0]
    found = compare(arms, "none")
    assert [one.test for one in found.values()] == ["paired t, Bonferroni"] * 2
    a, c = ([arms[arm][seed] for seed in range(1, 8)] for arm in ("arm1", "none"))
    interval = stats.ttest_rel(a, c).confidence_interval(1 - 0.05 / 2)
    assert (found["arm1"].low, found["arm1"].high) == pytest.approx((interval.low, interval.high))
    assert found["arm1"].standard_error == pytest.approx(stats.sem(np.subtract(a, c)))


@pytest.mark.parametrize(
    "shift, margin, verdict",
    [
        (3.0, 1.0, "better"),
        (0.5, 5.0, "better"),
        (-3.0, 1.0, "worse"),
        (0.0, 2.0, "equal within the margin"),
        (0.0, 0.1, "not known"),
    ],
)
def test_the_four_verdicts(shift, margin, verdict):
    arms = study(np.random.default_rng(5), 1, 40, shift=shift)
    assert compare(arms, "none", margin=margin)["arm0"].verdict == verdict


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_equal_is_what_two_one_sided_tests_call_equivalent(shared):
    called = set()
    for seed in range(20):
        arms = study(np.random.default_rng(seed), 1, 12, shared=shared)
        a, c = np.array([values(arms["arm0"]), values(arms["none"])])
        margin = 2.5 * stats.sem(a - c if shared else c)
        one = compare(arms, "none", margin=margin, pooled=False)["arm0"]
        if one.test == "paired t, Bonferroni":
            p = ttost_paired(a, c, -margin, margin)[0]
        else:
            p = ttost_ind(a, c, -margin, margin, usevar="unequal")[0]
        assert (one.verdict == "equal within the margin") == (p < 0.025 and one.low < 0 < one.high)
        called.add(one.verdict)
    assert {"equal within the margin", "not known"} <= called


def test_an_arm_of_one_seed_or_without_spread_is_not_judged():
    arms = {"none": {0: 0.9, 1: 0.91}, "one": {0: 0.95}, "same": {0: 0.8, 1: 0.8}, "gsa": {0: 0.9, 1: 0.92}}
    assert list(compare(arms, "none")) == ["same", "gsa"], "the control's spread is a scale"
    assert compare({"none": {0: 0.9, 1: 0.9}, "same": arms["same"]}, "none") == {}
    assert compare({"none": {0: 0.9}, "gsa": arms["gsa"]}, "none") == {} == compare({"gsa": arms["gsa"]}, "none")


@pytest.mark.parametrize("shared", [0.0, 0.3])
def test_of_studies_whose_arms_all_equal_the_control_one_in_twenty_calls_one_different(shared):
    """Whatever the runs have in common, and although they decide themselves whether they are paired."""
    rng, studies = np.random.default_rng(6), 400
    found = [compare(study(rng, 4, 8, shared=shared), "none") for _ in range(studies)]
    tests = {one.test for arms in found for one in arms.values()}
    wrong = [any(one.verdict in ("better", "worse") for one in arms.values()) for arms in found]
    assert len(tests) == 2
    assert np.mean(wrong) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / studies)


# What it takes


@pytest.mark.parametrize("arms, freedom, table", [(1, 20, 2.09), (2, 10, 2.57), (5, 20, 2.73), (5, 60, 2.58)])
def test_the_reach_of_dunnetts_test_is_that_of_his_table(arms, freedom, table):
    assert dunnett_reach((4,) * arms, 4, freedom) == pytest.approx(table, abs=0.006)


@pytest.mark.parametrize("freedom", [2, 7, 1000])
def test_the_reach_of_one_arm_is_students(freedom):
    assert dunnett_reach((3,), 8, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-3)


@pytest.mark.parametrize("arms, difference", [(1, 1.5), (4, 1.0)])
def test_power_is_how_often_the_difference_is_found(arms, difference):
    rng, seeds, studies = np.random.default_rng(8), 6, 20_000
    runs = rng.normal(size=(studies, arms + 1, seeds))
    runs[:, 1] += difference
    error = np.sqrt(runs.var(-1, ddof=1).mean(-1) * 2 / seeds)
    t = (runs[:, 1].mean(-1) - runs[:, 0].mean(-1)) / error
    found = (abs(t) > dunnett_reach((seeds,) * arms, seeds, (arms + 1) * (seeds - 1))).mean()
    assert power(difference, 1.0, seeds, arms) == pytest.approx(found, abs=0.01)


@pytest.mark.parametrize("ratio, arms", [(2.0, 1), (1.0, 1), (1.5, 5), (0.1, 30)])
def test_that_many_seeds_have_eighty_percent_power(ratio, arms):
    seeds = int(seeds_to_see(ratio, 1.0, arms))
    assert power(ratio, 1.0, seeds, arms) >= 0.8 > power(ratio, 1.0, seeds - 1, arms)


@settings(max_examples=10)
@given(st.floats(1e-3, 1e-1), st.floats(1e-3, 1e-1))
def test_seeds_to_see_is_a_few_more_than_the_usual_formula(sigma, difference):
    usual = 15.7 * sigma**2 / difference**2
    assert 0.999 * usual <= seeds_to_see(difference, sigma) <= 1.001 * usual + 4


def test_no_difference_takes_no_number_of_seeds():
    for difference, sigma in ((0.0, 0.01), (1e-17, 0.01), (math.nan, 0.01), (0.01, math.nan), (0.01, 0.0)):
        assert math.isnan(seeds_to_see(difference, sigma))


@pytest.mark.parametrize("true, reach", [(0.5, 1.96), (-2.0, 2.58)])
def test_luck_is_what_selection_does(true, reach):
    estimates = np.random.default_rng(9).normal(true, 1.0, 400_000)
    found = estimates[abs(estimates) > reach]
    expected = luck(true, 1.0, reach)
    assert expected.power == pytest.approx(len(found) / len(estimates), abs=2e-3)
    assert expected.wrong_sign == pytest.approx((found * true < 0).mean(), abs=5e-3)
    assert expected.exaggeration == pytest.approx(abs(found).mean() / abs(true), rel=1e-2)


def test_a_comparison_knows_its_own_luck():
    one = compare(study(np.random.default_rng(10), 1, 5), "none", margin=0.8)["arm0"]
    reach = (one.high - one.difference) / one.standard_error
    assert reach == pytest.approx(stats.t.ppf(0.975, 8), abs=1e-3)
    assert one.luck.exaggeration == pytest.approx(luck(0.8, one.standard_error, reach).exaggeration)
