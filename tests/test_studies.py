"""Studies choose rates on held-out images, train what the ledger lacks, and run anywhere through Snakemake."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gsa.__main__ import main
from gsa.results import Ledger, power, studies
from gsa.results.studies import STUDIES, Study, carrying, evidence, judged, plan, progress
from gsa.training import Config, build_for, train

ROOT = Path(__file__).parents[1]
TINY = Config("resnet8", optimizer="sgd", width=4, data="shapes", images=64, batch=32, epochs=2, study="tiny")
STUDY = Study(TINY, carrying("none", "se"), seeds=(0, 1), multipliers=(0.5, 1.0), question="Does it help?")


@pytest.fixture
def gsa(tmp_path, monkeypatch):
    """Runs ``python -m gsa`` with these arguments in an empty directory, with the tiny study in the list."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(STUDIES, "tiny", STUDY)

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["gsa", *arguments])
        main()

    return run


@pytest.fixture(scope="module")
def record():
    return train(TINY).record


def finish(ledger: Ledger, record, config: Config, **measured) -> None:
    ledger.add(replace(record, config=config, **measured))


def test_an_arm_gets_the_multiplier_that_ends_best_on_held_out_images(tmp_path, record):
    ledger = Ledger(tmp_path)
    for multiplier, first, last in ((0.5, 0.2, 0.4), (1.0, 0.35, 0.3)):
        history = [replace(epoch, holdout_accuracy=first) for epoch in record.history]
        measured = {"history": history, "holdout_accuracy_tta": last, "test_accuracy": 1 - last}
        finish(ledger, record, STUDY.choices("se")[multiplier], **measured)
    assert STUDY.multiplier("se", ledger) == 0.5
    run = STUDY.config("se", 3, 0.5)
    assert (run.lr, run.mechanism_lr, run.seed, run.study) == (TINY.lr / 2, TINY.mechanism_lr / 2, 3, "tiny")
    assert run.test and not any(choice.test for choice in STUDY.choices("se").values())


def test_no_rate_is_chosen_before_its_grid_is_complete(tmp_path, record):
    ledger = Ledger(tmp_path)
    finish(ledger, record, STUDY.choices("se")[1])
    with pytest.raises(ValueError, match=r"no rate can be chosen for se before its runs in tiny-rate0\.5"):
        STUDY.multiplier("se", ledger)


def test_a_study_trains_its_grid_and_then_its_runs_and_nothing_twice(gsa, capsys):
    gsa("study", "tiny", "--arms", "se", "--multipliers", "0.5")
    assert Ledger("results").studies() == ["tiny-rate0.5"]
    gsa("study", "tiny", "--arms", "se", "--seeds", "1", "--jobs", "2")
    kept = [(r.config.study, r.config.arm, r.config.seed) for r in Ledger("results").records()]
    assert kept == [("tiny", "se", 1), ("tiny-rate0.5", "se", 0), ("tiny-rate1", "se", 0)]
    assert [r.test_accuracy is None for r in Ledger("results").records()] == [False, True, True]
    written = {path: path.stat().st_mtime_ns for path in Path("results").glob("*/*.json")}
    gsa("study", "tiny", "--arms", "se", "--seeds", "1")
    assert {path: path.stat().st_mtime_ns for path in Path("results").glob("*/*.json")} == written
    gsa("results", "--results", "results")
    assert re.search(r"^se .* 1/2$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--multipliers", "3"], r"study tiny has no multipliers \[3\.0\]; it has \[0\.5, 1\.0\]"),
        (["--arms", "gsa"], "study tiny has no arm 'gsa'; it has none, se"),
    ],
)
def test_what_a_study_does_not_have_is_refused(gsa, arguments, message):
    with pytest.raises(SystemExit) as exit:
        gsa("study", "tiny", *arguments)
    assert re.search(message, str(exit.value))


def test_progress_counts_the_planned_runs_that_are_kept(tmp_path, record, monkeypatch):
    monkeypatch.setattr(studies, "STUDIES", {"tiny": STUDY})
    ledger = Ledger(tmp_path)
    finish(ledger, record, STUDY.config("none", 1, 0.5))
    finish(ledger, record, STUDY.config("none", 7, 0.5))
    finish(ledger, record, replace(STUDY.config("se", 1), images=32))
    assert progress(ledger).to_dict() == {"tiny": {"none": "1/2", "se": "0/2"}}


def test_the_plan_has_a_row_for_each_study_that_asks(tmp_path, record, monkeypatch):
    monkeypatch.setattr(studies, "STUDIES", {"tiny": STUDY, "kept": replace(STUDY, question="")})
    ledger = Ledger(tmp_path)
    finish(ledger, record, STUDY.config("none", 1, 0.5))
    assert plan(ledger, sigma=0.001).T.to_dict() == {
        "tiny": {
            "question": "Does it help?",
            "arms": "se",
            "control": "none",
            "seeds": "2",
            "rates tried": "2",
            "verdicts": "exploration",
            "test": "Dunnett",
            "margin": "0.3 points",
            "power": f"{power(0.003, 0.001, 2):.0%}",
            "runs": "1/4",
        }
    }


def test_evidence_shows_what_is_recorded(tmp_path, record, monkeypatch):
    monkeypatch.setattr(studies, "STUDIES", {"tiny": STUDY})
    ledger = Ledger(tmp_path)
    finish(ledger, record, STUDY.config("none", 1))
    finish(ledger, record, STUDY.choices("se")[1], test_accuracy=None)
    finish(ledger, record, replace(TINY, study="another", mechanism="conv"), test_accuracy=0.5)
    finish(ledger, record, replace(TINY, study="another", mechanism="none"), test_accuracy=0.25)
    shown = evidence(ledger, "se", "conv")
    assert list(shown.index) == [("another", "none"), ("another", "conv")]
    assert list(shown["runs"]) == ["1", "1"]
    assert list(shown["test accuracy, %"]) == ["25.00", "50.00"]
    assert list(shown["difference"]) == ["–", "+25.00"]
    assert list(shown["verdict"]) == ["control", "one seed: no verdict"]
    assert list(evidence(ledger, "none")["runs"]) == ["1", "1/2"]
    assert evidence(ledger, "eca") is None


def test_a_study_is_judged_as_planned(tmp_path, record, monkeypatch):
    planned = replace(STUDY, control="se", margin=0.2, pooled=False)
    monkeypatch.setattr(studies, "STUDIES", {"tiny": planned})
    ledger = Ledger(tmp_path)
    for arm, values in {"se": (0.5, 0.51), "none": (0.6, 0.62)}.items():
        for seed, accuracy in enumerate(values):
            finish(ledger, record, planned.config(arm, seed), test_accuracy=accuracy)
    table = judged(ledger, "tiny")
    assert (table.loc["none", "test"], table.loc["se", "verdict"]) == ("Welch, Bonferroni", "control")
    assert table.equals(ledger.table("tiny", "se", margin=0.2, pooled=False))


def test_sentences_say_what_is_known_of_each_planned_arm(tmp_path, record):
    study = replace(STUDY, arms=carrying("none", "se", "conv", "gsa"))
    ledger = Ledger(tmp_path)
    assert study.sentences(ledger) == [f"{arm} − none: not run" for arm in ("se", "conv", "gsa")]
    finish(ledger, record, study.config("conv", 0), test_accuracy=0.5)
    assert study.sentences(ledger)[1] == "conv − none: no control: no verdict"
    values = {("none", 0): 0.5, ("none", 1): 0.51, ("se", 0): 0.6, ("se", 1): 0.62}
    for (arm, seed), accuracy in values.items():
        finish(ledger, record, study.config(arm, seed), test_accuracy=accuracy)
    row = study.table(ledger).loc["se"]
    low, high = 100 * row["difference_low"], 100 * row["difference_high"]
    interval = f"95 % corrected interval {low:+.2f} to {high:+.2f}; 2 of 2 planned runs"
    assert study.sentences(ledger)[0] == f"se − none: +10.50 points ({interval}): {row['verdict']}"
    assert re.search(
        r"^conv − none: -0\.50 points \(95 % expected interval .* 1 of 2 planned runs\): one seed",
        study.sentences(ledger)[1],
    )


@pytest.mark.parametrize("name", STUDIES)
def test_every_planned_arm_can_be_built(name):
    study = STUDIES[name]
    with torch.device("meta"):
        for arm in study.arms:
            build_for(study.config(arm, 0, 1.0), 10, (3, 32, 32))


def dry_run(directory: Path, *targets: str) -> str:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow" / "Snakefile"), "--dry-run"]
    command += ["--cores", "1", "--directory", str(directory), *targets]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


CHOOSING = next(study for study in STUDIES.values() if study.multipliers)
ARM, SEED = [*CHOOSING.arms][-1], CHOOSING.seeds[-1]


def test_the_workflow_plans_every_run_that_the_ledger_lacks_and_makes_none_again(tmp_path):
    chosen = next(iter(CHOOSING.choices(ARM).values()))
    for config in (CHOOSING.config(ARM, SEED), chosen):
        record = tmp_path / "results" / f"{config.name}.json"
        record.parent.mkdir(parents=True)
        record.write_text("{}")
    planned = sum(len(study.arms) * len(study.seeds) for study in STUDIES.values())
    choices = sum(len(study.arms) * len(study.multipliers) for study in STUDIES.values())
    jobs = dry_run(tmp_path)
    assert re.search(rf"^run +{planned - 1}$", jobs, re.MULTILINE)
    assert re.search(rf"^choose +{choices - 1}$", jobs, re.MULTILINE)
    assert f"{CHOOSING.name}/{ARM}-{SEED}.json" not in jobs and f"{chosen.name}.json" not in jobs


def test_a_job_of_the_workflow_trains_the_run_that_it_is_named_after(tmp_path):
    jobs = dry_run(tmp_path, f"results/{CHOOSING.name}/{ARM}-{SEED}.json", "--printshellcmds")
    assert f"-m gsa study {CHOOSING.name} --arms {ARM} --seeds {SEED}\n" in jobs
    tried = re.findall(rf"--arms {re.escape(ARM)} --multipliers (\S+)", jobs)
    assert sorted(map(float, tried)) == sorted(CHOOSING.multipliers)
