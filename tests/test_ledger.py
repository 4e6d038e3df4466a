"""The ledger keeps runs whole and refuses what is not one; its tables say what the runs say and no more."""

import json
import math
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from filelock import FileLock
from scipy import stats

from gsa.results import LEGEND, Ledger, compare, display, expected_sigma, seeds_to_see, speed
from gsa.results.tables import summarize
from gsa.training import Config, Epoch, Record

EPOCH = Epoch(0, 0.1, train_loss=1.5, train_accuracy=0.5, holdout_loss=1.2, holdout_accuracy=0.6, seconds=3.0)


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
    (ledger.path / "trial" / "none-1.json").write_text(text.replace(f'"lr": {Config().lr}', '"lr": 9.0'))
    with pytest.raises(ValueError, match=rf"lr={Config().lr}, not 9\.0"):
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


@pytest.mark.parametrize("name", [".ipynb_checkpoints/x.json", "trial/._none-0.json", "trial/.none-0.json.7.partial"])
def test_what_systems_and_editors_leave_blocks_nothing(ledger, name):
    ledger.add(a_run())
    (ledger.path / name).parent.mkdir(exist_ok=True)
    (ledger.path / name).write_text("none of ours")
    assert len(Ledger(ledger.path).records()) == 1


def test_of_two_processes_that_keep_the_same_run_the_second_is_refused(ledger, monkeypatch):
    """The other is done between our first look and our turn."""
    acquire = FileLock.acquire

    def late(self, *arguments, **options):
        monkeypatch.undo()
        ledger.add(a_run(0.8))
        return acquire(self, *arguments, **options)

    monkeypatch.setattr(FileLock, "acquire", late)
    with pytest.raises(ValueError, match="keeps this run already"):
        ledger.add(a_run(0.9))
    assert [record.test_accuracy for record in ledger.records()] == [0.8]


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


# The table


def in_memory(**arms: list[float]) -> dict[str, list[Record]]:
    return {arm: [a_run(value, mechanism=arm, seed=seed) for seed, value in enumerate(arms[arm])] for arm in arms}


def test_table_by_hand(ledger):
    fill(ledger, gsa=[0.92, 0.93, 0.94], none=[0.90, 0.92, 0.91], se=[0.92, 0.90, 0.91], conv=[0.80, 0.82, 0.815])
    table = ledger.table("trial")
    assert list(table.index) == ["none", "gsa", "se", "conv"], "control first, then by accuracy"
    none = table.loc["none"]
    half = stats.t.ppf(0.975, 2) * 0.01 / math.sqrt(3)
    assert (none["seeds"], none["accuracy"], none["sigma"]) == pytest.approx((3, 0.91, 0.01))
    assert (none["low"], none["high"]) == pytest.approx((0.91 - half, 0.91 + half))
    assert none["expected_sigma"] == pytest.approx(math.sqrt(0.09 / 20000))
    assert none["seeds_for_margin"] == seeds_to_see(0.003, none["expected_sigma"], 3)
    assert none[["difference", "difference_low", "exaggeration"]].isna().all()
    assert (none["seconds"], none["flops"], none["device"]) == (6.0, 22e12, "x86_64 CPU, 1 thread")


@pytest.mark.parametrize("pooled", [False, True])
def test_the_table_says_of_each_arm_what_the_comparison_says(pooled):
    arms = in_memory(none=[0.90, 0.92, 0.91], gsa=[0.92, 0.93, 0.945], conv=[0.80, 0.82, 0.815])
    scores = {arm: {run.config.seed: run.test_accuracy for run in runs} for arm, runs in arms.items()}
    table = summarize(arms, "none", margin=0.01, pooled=pooled)
    for arm, one in compare(scores, "none", margin=0.01, pooled=pooled).items():
        row = table.loc[arm]
        assert (row["difference"], row["difference_low"], row["difference_high"]) == (one.difference, one.low, one.high)
        assert (row["verdict"], row["test"]) == (one.verdict, one.test)
        assert row["exaggeration"] == one.luck.exaggeration
    assert table.loc["conv", "verdict"] == "worse"


def test_of_one_seed_the_bars_are_the_expected_ones_and_there_is_no_verdict(ledger):
    fill(ledger, none=[0.90], gsa=[0.95])
    row = ledger.table("trial").loc["gsa"]
    of_gsa, of_none = expected_sigma(0.95, 10_000), expected_sigma(0.90, 10_000)
    assert row["verdict"] == "one seed: no verdict"
    assert (row["low"], row["high"]) == pytest.approx((0.95 - 1.96 * of_gsa, 0.95 + 1.96 * of_gsa))
    half = 1.96 * math.hypot(of_gsa, of_none)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((0.05 - half, 0.05 + half))
    assert row[["sigma", "exaggeration", "seconds_low"]].isna().all()
    assert row["seeds_for_margin"] == seeds_to_see(0.003, of_gsa)
    shown = display(ledger.table("trial")).loc["gsa"]
    assert shown["test accuracy, %"] == "95.00 (expected ± 0.31)"
    assert shown["− none"] == "+5.00 (expected ± 0.54)"
    assert (shown["σ"], shown["expected σ"]) == ("–", "0.16")


def test_seeds_are_planned_by_the_spread_of_all_arms_where_it_is_known():
    rng = np.random.default_rng(0)
    arms = {"none": rng.normal(0.9, 0.002, 6).tolist(), "gsa": rng.normal(0.9, 0.004, 8).tolist(), "se": [0.95]}
    table = summarize(in_memory(**arms), "none")
    sigma = math.sqrt((5 * np.var(arms["none"], ddof=1) + 7 * np.var(arms["gsa"], ddof=1)) / 12)
    assert table["seeds_for_margin"].tolist() == [seeds_to_see(0.003, sigma, 2)] * 3


def test_several_seeds_against_one_have_a_narrower_expected_bar():
    table = summarize(in_memory(none=[0.90], gsa=[0.90, 0.90, 0.90, 0.90]), "none")
    half = 1.96 * expected_sigma(0.9, 10_000) * math.sqrt(1 + 1 / 4)
    assert table.loc["gsa", "difference_high"] == pytest.approx(half)
    assert table.loc["gsa", "verdict"] == "one seed: no verdict"


def test_arms_without_spread_and_arms_without_a_control_have_no_verdict(ledger):
    table = summarize(in_memory(none=[0.9, 0.9], gsa=[0.91, 0.91]), "none")
    assert table.loc["gsa", "verdict"] == "no spread: no verdict"
    assert table.loc["gsa", ["low", "sigma", "seeds_for_margin"]].notna().tolist() == [False, False, True]
    fill(ledger, gsa=[0.9, 0.91])
    assert ledger.table("trial").loc["gsa", "verdict"] == "no control: no verdict"
    assert display(ledger.table("trial")).loc["gsa", "− control"] == "–"
    assert ledger.table("trial", control="gsa").loc["gsa", "verdict"] == "control"


def test_runs_that_did_not_read_the_test_images_are_not_in_the_table(ledger):
    fill(ledger, none=[0.9])
    ledger.add(replace(a_run(mechanism="gsa", test=False), test_accuracy=None, test_accuracy_tta=None, test_images=0))
    assert list(ledger.table("trial").index) == ["none"]


def test_seconds_of_different_places_are_never_averaged():
    first, second = (a_run(seed=seed) for seed in (0, 1))
    for change in ({"device": "NVIDIA T4"}, {"threads": 2}, {"processes": 2}):
        row = summarize({"none": [first, replace(second, **change, seconds=60.0)]}, "none").loc["none"]
        assert math.isnan(row["seconds"]) and math.isnan(row["seconds_low"])
        assert len(row["device"].split("; ")) == 2 and str(next(iter(change.values()))) in row["device"]
    row = summarize({"none": [first, replace(second, seconds=8.0)]}, "none").loc["none"]
    assert (row["seconds"], row["device"]) == (7.0, "x86_64 CPU, 1 thread")


def test_memory_is_the_most_that_any_run_took():
    runs = [replace(a_run(seed=seed), peak_memory=peak) for seed, peak in enumerate((10**9, 3 * 10**9, None))]
    table = summarize({"none": runs}, "none")
    assert display(table).loc["none", "GPU memory"] == "3.00 GB"


def test_display_by_hand(ledger):
    fill(ledger, none=[0.90, 0.92, 0.91], conv=[0.80, 0.82, 0.815])
    shown = display(ledger.table("trial")).loc["conv"]
    assert dict(shown) == {
        "seeds": "3",
        "test accuracy, %": "81.17 ± 2.59",
        "TTA": "81.27",
        "σ": "1.04",
        "expected σ": "0.31",
        "seeds for margin": "18",
        "− none": "-9.83 ± 2.31",
        "verdict": "worse",
        "type M": "8.6",
        "epochs": "2",
        "parameters": "270,000",
        "MACs": "41.0 M",
        "PFLOP": "0.022",
        "seconds": "6",
        "GPU memory": "–",
        "device": "x86_64 CPU, 1 thread",
    }
    assert set(re.findall(r"^(\S.*?)  ", LEGEND, re.MULTILINE)) - {"±", "− control"} <= set(shown.index)


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
