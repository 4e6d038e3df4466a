"""The ledger keeps runs whole, refuses what is not one, and its intervals are scipy's."""

import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gsa.results import Ledger, expected_sigma, seeds_to_see, speed, t_interval, wilson
from gsa.training import Config, Epoch, Record

EPOCH = Epoch(0, 0.1, train_loss=1.5, train_accuracy=0.5, holdout_loss=1.2, holdout_accuracy=0.6, seconds=3.0)
accuracies = st.lists(st.integers(5000, 10000), min_size=2, max_size=8, unique=True).map(
    lambda right: [r / 10000 for r in right]
)


def a_run(accuracy: float = 0.9, **config) -> Record:
    config = Config(**{"epochs": 2, "study": "trial"} | config)
    return Record(
        config=config,
        history=[replace(EPOCH, epoch=epoch) for epoch in range(config.epochs)],
        holdout_accuracy_tta=0.61,
        test_accuracy=accuracy,
        test_accuracy_tta=accuracy + 0.001,
        test_images=10000,
        train_images=45000,
        parameters=270_000,
        macs=41_000_000,
        flops=22_000_000_000_000,
        seconds=6.0,
        peak_memory=None,
        device="x86_64 CPU",
        threads=1,
        precision="fp32",
        processes=1,
        versions={"torch": "2.6"},
        commit="abc",
        data_source="drawn",
        finished="2026-01-01T00:00:00+00:00",
    )


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(tmp_path / "results")


def fill(ledger: Ledger, **arms: list[float]) -> None:
    for mechanism, values in arms.items():
        for seed, accuracy in enumerate(values):
            ledger.add(a_run(accuracy, mechanism=mechanism, seed=seed))


# Keeping


def test_what_is_added_is_read_back_equal(ledger):
    run = a_run(0.9123, mechanism="gsa", seed=11, stages=(3,))
    path = ledger.add(run)
    assert path == ledger.path / "trial" / "gsa-11.json"
    assert Ledger(ledger.path).records("trial") == ledger.records() == [run]
    assert ledger.records("another") == []


def test_runs_come_in_the_order_of_arm_and_seed(ledger):
    for mechanism, seed in (("gsa", 10), ("none", 0), ("gsa", 9)):
        ledger.add(a_run(mechanism=mechanism, seed=seed))
    assert [(r.config.arm, r.config.seed) for r in ledger.records()] == [("gsa", 9), ("gsa", 10), ("none", 0)]
    ledger.add(a_run(study="another"))
    assert ledger.studies() == ["another", "trial"]


def test_has_knows_the_very_run_only(ledger):
    kept = ledger.add(a_run(seed=1)) and a_run(seed=1).config
    assert ledger.has(kept)
    assert not ledger.has(replace(kept, seed=2))
    assert not ledger.has(replace(kept, mechanism="gsa"))
    assert not ledger.has(replace(kept, study="another", lr=9.0))


def test_a_second_ledger_sees_what_the_first_has_added(ledger):
    other = Ledger(ledger.path)
    ledger.add(a_run())
    assert other.has(a_run().config)


def test_a_finished_run_is_never_overwritten(ledger):
    path = ledger.add(a_run(0.9))
    with pytest.raises(ValueError, match=r"none-0\.json keeps this run already"):
        ledger.add(a_run(0.95))
    assert json.loads(path.read_text())["test_accuracy"] == 0.9


def test_weights_are_there_before_the_record_that_names_them(ledger, monkeypatch):
    written, replace_file = [], os.replace

    def note(source, target):
        written.append(target.name)
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", note)
    ledger.add(a_run(), b"weights")
    assert written == ["none-0.safetensors", "none-0.json"]


def test_no_weights_are_left_without_their_record(ledger, monkeypatch):
    replace_file = os.replace

    def full(source, target):
        if target.suffix == ".json":
            raise OSError(28, "No space left on device")
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        ledger.add(a_run(), b"weights")
    assert not list((ledger.path / "trial").iterdir())


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("refuse", [lambda ledger, run: ledger.add(run), lambda ledger, run: ledger.has(run.config)])
def test_one_arm_never_mixes_recipes_whatever_the_seed(ledger, seed, refuse):
    ledger.add(a_run(lr=0.2, batch=128))
    with pytest.raises(ValueError, match=r"none-0\.json was run with batch=128, not 64; lr=0\.2, not 0\.1: "):
        refuse(ledger, a_run(lr=0.1, batch=64, seed=seed))
    assert len(list(ledger.path.rglob("*.json"))) == 1


def test_an_arm_that_was_mixed_by_hand_is_refused(ledger):
    ledger.add(a_run())
    text = ledger.add(a_run(seed=1)).read_text()
    (ledger.path / "trial" / "none-1.json").write_text(text.replace('"lr": 0.24', '"lr": 0.4'))
    with pytest.raises(ValueError, match=r"lr=0\.24, not 0\.4"):
        Ledger(ledger.path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"test_accuracy": math.nan},
        {"test_accuracy": 91.2},
        {"test_accuracy_tta": 91.2},
        {"holdout_accuracy_tta": -0.1},
        {"history": [EPOCH]},
        {"history": [replace(EPOCH, train_loss=math.nan), EPOCH]},
    ],
)
def test_what_could_not_be_read_back_is_not_written(ledger, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ledger.add(replace(a_run(), **wrong))
    assert not list(ledger.path.rglob("*.*"))


@pytest.mark.parametrize("study", ["../elsewhere", "a/b", ".hidden"])
def test_a_study_stays_inside_the_ledger(ledger, study):
    with pytest.raises(ValueError, match="cannot name a file"):
        ledger.add(a_run(study=study))


def test_a_run_cut_off_while_it_is_written_leaves_no_file(ledger, monkeypatch):
    ledger.add(a_run(seed=0))

    def cut_off(source, target):
        assert json.loads(source.read_bytes())["config"]["seed"] == 1, "all of it is written before it gets its name"
        assert not target.exists()
        assert len(Ledger(ledger.path).records()) == 1, "who reads at this moment sees the finished runs only"
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", cut_off)
    with pytest.raises(KeyboardInterrupt):
        ledger.add(a_run(seed=1))
    assert [path.name for path in (ledger.path / "trial").iterdir()] == ["none-0.json"]


def test_a_full_disk_is_one_clear_line(ledger, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"^cannot write .*none-0\.json: No space left on device$"):
        ledger.add(a_run())


def test_an_unwritable_place_is_reported_before_training(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"^cannot keep a run in .*trial: Not a directory$"):
        Ledger(tmp_path / "file").check(a_run().config)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OSError, match=r"^cannot keep a run in .*trial: permission denied$"):
        Ledger(tmp_path / "results").check(a_run().config)


# Reading


def change(**changes):
    return lambda record: record | changes


def drop(*path):
    def dropped(record):
        inner = record
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        return record

    return dropped


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (change(rating=5), "rating: Unexpected"),
        (change(test_accuracy="0.9"), "test_accuracy: Input should be a valid number"),
        (change(test_accuracy=91.2), r"test_accuracy 91\.2"),
        (change(history=[]), "history has 0 of 2 epochs"),
        (change(config=5), "config: "),
        (drop("commit"), "commit: "),
        (drop("config", "lr"), "config lacks lr"),
        (drop("history", 1, "train_loss"), r"history\.1\.train_loss: "),
        (lambda record: record | {"config": record["config"] | {"extra": 1}}, r"config\.extra: Unexpected"),
        (lambda record: record | {"config": record["config"] | {"mechanism": "magic"}}, "config: .*'magic'"),
    ],
)
def test_a_file_that_is_no_run_is_refused_by_file_and_field(ledger, spoil, named):
    path = ledger.add(a_run())
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=rf"none-0\.json is no finished run: .*{named}"):
        Ledger(ledger.path)


@pytest.mark.parametrize("content", [b"", b'{"config": {"model"', b"\xff\xfe", b"[]"])
def test_a_file_that_is_no_json_is_refused(ledger, content):
    ledger.add(a_run()).write_bytes(content)
    with pytest.raises(ValueError, match=r"none-0\.json is no finished run: file: "):
        Ledger(ledger.path)


@pytest.mark.parametrize("name", ["trial/none-1.json", "trial/gsa-0.json", "another/none-0.json", "trial/copy.json"])
def test_a_file_under_another_name_is_refused(ledger, name):
    path = ledger.add(a_run())
    (ledger.path / name).parent.mkdir(exist_ok=True)
    path.rename(ledger.path / name)
    with pytest.raises(ValueError, match=rf"{name} holds the run that belongs in .*trial/none-0\.json"):
        Ledger(ledger.path)


# Statistics


@given(accuracies)
def test_interval_of_the_mean_is_scipys(values):
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert t_interval(values) == pytest.approx((sum(values) / len(values), expected.low, expected.high))


@pytest.mark.parametrize("values", [[0.9], [0.9, 0.9], [0.91 - 0.86, 0.3 - 0.25]])
def test_no_interval_without_spread(values):
    mean, low, high = t_interval(values)
    assert mean == pytest.approx(values[0])
    assert math.isnan(low) and math.isnan(high)


@given(st.integers(0, 500), st.integers(1, 500))
def test_wilson_interval_holds_the_accuracies_that_a_score_test_does_not_reject(right, more):
    images, accuracy = right + more, right / (right + more)
    low, high = wilson(accuracy, images)
    z = stats.norm.ppf(0.975)
    for bound in (low, high):
        if 0 < bound < 1:
            assert abs(accuracy - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / images), rel=1e-6)
    assert low <= accuracy <= high


@given(st.floats(1e-3, 1e-1), st.floats(1e-3, 1e-1))
def test_seeds_to_see_is_a_few_more_than_the_usual_formula(sigma, difference):
    usual = 15.7 * sigma**2 / difference**2
    assert 0.999 * usual <= seeds_to_see(difference, sigma) <= 1.001 * usual + 4


@pytest.mark.parametrize("ratio", [2.0, 1.0])
def test_that_many_seeds_have_eighty_percent_power(ratio):
    seeds = int(seeds_to_see(ratio, 1.0))
    rng = np.random.default_rng(0)
    for count, enough in ((seeds, True), (seeds - 1, False)):
        d = (rng.normal(ratio, 1, (40_000, count)) - rng.normal(0, 1, (40_000, count))).T
        reach = stats.t.ppf(0.975, count - 1) * d.std(0, ddof=1) / math.sqrt(count)
        assert ((d.mean(0) > reach).mean() > 0.795) == enough
    assert math.isnan(seeds_to_see(0.005, math.nan))


# The table


class InMemory(Ledger):
    """A ledger of runs that were never written, to make many of them fast."""

    def __init__(self, **arms: list[float]):
        self.runs = [a_run(a, mechanism=m, seed=seed) for m, values in arms.items() for seed, a in enumerate(values)]

    def records(self, study: str | None = None) -> list[Record]:
        return self.runs


@given(accuracies, accuracies)
def test_difference_is_paired_over_shared_seeds(control, values):
    n = min(len(control), len(values))
    expected = stats.ttest_rel(values[:n], control[:n])
    low, high = expected.confidence_interval(0.95)
    row = InMemory(none=control, gsa=values).table("trial").loc["gsa"]
    assert row["shared"] == n
    if math.isnan(low) or abs(high - low) < 1e-9:
        assert row["verdict"] == "no spread: no verdict"
    else:
        assert (row["difference_low"], row["difference_high"]) == pytest.approx((low, high), abs=1e-9)
        sign = "better" if expected.statistic > 0 else "worse"
        assert row["verdict"] == (sign if expected.pvalue < 0.05 else "not distinguishable")


def test_table_by_hand(ledger):
    fill(ledger, gsa=[0.92, 0.93, 0.94], none=[0.90, 0.92, 0.91], se=[0.92, 0.90, 0.91], conv=[0.80, 0.82, 0.815])
    table = ledger.table("trial")
    assert list(table.index) == ["none", "gsa", "se", "conv"], "control first, then by accuracy"
    assert list(table["verdict"]) == ["control", "not distinguishable", "not distinguishable", "worse"]
    none = table.loc["none"]
    half = stats.t.ppf(0.975, 2) * 0.01 / math.sqrt(3)
    assert (none["seeds"], none["accuracy"], none["sigma"]) == pytest.approx((3, 0.91, 0.01))
    assert (none["low"], none["high"]) == pytest.approx((0.91 - half, 0.91 + half))
    assert table.loc["gsa", "difference"] == pytest.approx(0.02)
    assert none["seeds_for_half_point"] == 65
    assert none["expected_sigma"] == pytest.approx(math.sqrt(0.09 / 20000))
    assert table.loc["gsa", "seeds_for_difference"] == seeds_to_see(0.02, 0.01)
    assert none[["difference", "images_low", "seeds_for_difference"]].isna().all()


@pytest.mark.parametrize("accuracy, sigma", [(0.96, 0.0014), (0.94, 0.0017), (0.90, 0.0022)])
def test_the_expected_spread_by_hand(accuracy, sigma):
    assert expected_sigma(accuracy, 10_000) == pytest.approx(sigma, abs=5e-5)


def test_no_difference_takes_no_number_of_seeds(ledger):
    assert math.isnan(seeds_to_see(0.0, 0.01)) and math.isnan(seeds_to_see(1e-17, 0.01))
    assert math.isnan(seeds_to_see(math.nan, 0.01)) and math.isnan(seeds_to_see(0.01, math.nan))


def test_seeds_are_paired_by_number_not_by_position(ledger):
    fill(ledger, none=[0.50, 0.90, 0.80, 0.70])
    for seed, accuracy in ((3, 0.75), (1, 0.95), (2, 0.86)):
        ledger.add(a_run(accuracy, mechanism="gsa", seed=seed))
    row = ledger.table("trial").loc["gsa"]
    assert (row["shared"], row["difference"]) == pytest.approx((3, 0.16 / 3))
    assert row["verdict"] == "better"


def test_one_seed_has_no_interval_over_seeds_and_no_verdict(ledger):
    fill(ledger, none=[0.90], gsa=[0.95])
    row = ledger.table("trial").loc["gsa"]
    assert row["verdict"] == "one seed: no verdict"
    assert row["difference"] == pytest.approx(0.05)
    assert row[["low", "high", "sigma", "difference_low", "difference_high"]].isna().all()
    assert row["seeds_for_half_point"] == seeds_to_see(0.005, expected_sigma(0.95, 10_000))
    assert row["seeds_for_difference"] == seeds_to_see(0.05, expected_sigma(0.95, 10_000)) == 2
    assert (row["images_low"], row["images_high"]) == pytest.approx((0.94555, 0.95410), abs=1e-5)
    shown = ledger.display("trial").loc["gsa"]
    assert shown["test accuracy, %"] == "95.00 (images: 94.56 to 95.41)"
    assert shown["− none"] == "+5.00"
    assert (shown["σ"], shown["expected σ"]) == ("–", "0.16")


def test_a_control_that_is_not_run_gives_no_verdict(ledger):
    fill(ledger, gsa=[0.9, 0.91])
    assert ledger.table("trial").loc["gsa", "verdict"] == "no shared seed: no verdict"
    assert ledger.display("trial").loc["gsa", "− none"] == "–"
    assert ledger.table("trial", control="gsa").loc["gsa", "verdict"] == "control"


def test_display_by_hand(ledger):
    fill(ledger, none=[0.90, 0.92, 0.91], conv=[0.80, 0.82, 0.815])
    shown = ledger.display("trial").loc["conv"]
    assert dict(shown) == {
        "seeds": "3",
        "test accuracy, %": "81.17 ± 2.59",
        "TTA": "81.27",
        "σ": "1.04",
        "expected σ": "0.31",
        "seeds for 0.5": "70",
        "seeds for its difference": "3",
        "− none": "-9.83 ± 0.72",
        "verdict": "worse",
        "epochs": "2",
        "parameters": "270,000",
        "MACs": "41.0 M",
        "s/epoch": "3.0",
        "GPU memory": "–",
        "device": "x86_64 CPU",
    }
    text = ledger.text("trial")
    assert "81.17 ± 2.59" in text and "Wilson" in text and "study trial" in text


def test_an_unknown_study_names_those_there_are(ledger):
    with pytest.raises(ValueError, match=r"no runs of study 'trial' in .*; it has no runs at all"):
        ledger.table("trial")
    ledger.add(a_run())
    with pytest.raises(ValueError, match=r"no runs of study 'tiral' in .*; it has \['trial'\]"):
        ledger.table("tiral")


def test_the_published_speed_has_every_layer_beside_a_convolution_of_its_size():
    table = speed()
    convolutions = table[table.layer == "conv"]
    assert set(table.layer) >= {"conv", "gsa", "self", "gsa-folded", "gsa-folded, PyTorch"}
    assert (convolutions.ratio == 1).all() and set(convolutions["size"]) == set(table["size"])
    assert (table[["milliseconds", "peak_megabytes", "macs"]] > 0).all(axis=None)


def test_published_weights_are_small_and_belong_to_records():
    ledger = Ledger()
    files = {path.relative_to(ledger.path).with_suffix("").as_posix() for path in ledger.path.glob("*/*.safetensors")}
    kept = [record.config for record in ledger.records() if record.weights_sha256]
    assert files == {f"{config.study}/{config.arm}-{config.seed}" for config in kept}
    for config in kept:
        assert ledger.trained(config.study, config.arm, config.seed).classes
