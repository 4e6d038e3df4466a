"""Studies choose rates on held-out images, train what the ledger lacks, and run anywhere through Snakemake."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gsa.__main__ import main
from gsa.data import Dataset
from gsa.results import Ledger, studies
from gsa.results.studies import STUDIES, Study, evidence, progress
from gsa.training import Config, build, train

ROOT = Path(__file__).parents[1]
TINY = Config(model="resnet8", width=4, data="shapes", images=64, batch=32, epochs=1, study="tiny")
STUDY = Study(TINY, ("none", "se"), seeds=(0, 1), rates=(0.5, 1.0))


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


def finish(ledger: Ledger, record, config: Config, holdout_accuracy: float) -> None:
    history = [replace(record.history[0], holdout_accuracy=holdout_accuracy)]
    ledger.add(replace(record, config=config, history=history))


def test_an_arm_gets_the_rate_that_is_best_on_held_out_images(tmp_path, record):
    ledger = Ledger(tmp_path)
    for rate, accuracy in {0.5: 0.4, 1: 0.3}.items():
        finish(ledger, replace(record, test_accuracy=1 - accuracy), STUDY.grid("se")[rate], accuracy)
    assert STUDY.rate("se", ledger) == 0.5
    run = STUDY.config("se", 3, 0.5)
    assert (run.lr, run.mechanism_lr, run.seed, run.study) == (TINY.lr / 2, TINY.mechanism_lr / 2, 3, "tiny")


def test_no_rate_is_chosen_before_its_grid_is_complete(tmp_path, record):
    ledger = Ledger(tmp_path)
    finish(ledger, record, STUDY.grid("se")[1], 0.3)
    with pytest.raises(ValueError, match=r"no rate can be chosen for se before its runs in tiny-rate0\.5"):
        STUDY.rate("se", ledger)


def test_a_study_trains_its_grid_and_then_its_runs_and_nothing_twice(gsa, capsys):
    gsa("study", "tiny", "--arms", "se", "--rate", "0.5")
    assert Ledger("results").studies() == ["tiny-rate0.5"]
    gsa("study", "tiny", "--arms", "se", "--seeds", "1", "--jobs", "2")
    kept = [(r.config.study, r.config.arm, r.config.seed) for r in Ledger("results").records()]
    assert kept == [("tiny", "se", 1), ("tiny-rate0.5", "se", 0), ("tiny-rate1", "se", 0)]
    written = {path: path.stat().st_mtime_ns for path in Path("results").glob("*/*.json")}
    gsa("study", "tiny", "--arms", "se", "--seeds", "1")
    assert {path: path.stat().st_mtime_ns for path in Path("results").glob("*/*.json")} == written
    gsa("results", "--results", "results")
    assert re.search(r"se +0/5 +0/5 +1/2", capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--rate", "3"], r"study tiny has no rate 3; it has \[0\.5, 1\.0\]"),
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
    finish(ledger, record, STUDY.config("none", 1, 1.0), 0.3)
    assert progress(ledger).to_dict() == {"tiny": {"none": "1/2", "se": "0/2"}}


def test_evidence_shows_what_is_recorded_and_what_is_not_run(tmp_path, record, monkeypatch):
    monkeypatch.setattr(studies, "STUDIES", {"tiny": STUDY})
    ledger = Ledger(tmp_path)
    finish(ledger, record, STUDY.config("none", 1, 1.0), 0.3)
    finish(ledger, record, STUDY.grid("se")[1], 0.3)
    finish(ledger, record, replace(TINY, study="another", mechanism="conv"), 0.3)
    shown = evidence(ledger, "se", "conv")
    assert list(shown.index) == [("another", "none"), ("another", "conv"), ("tiny", "none"), ("tiny", "se")]
    assert list(shown["runs"]) == ["0", "1", "1/2", "0/2"]
    assert list(shown["verdict"]) == ["not run", "no shared seed: no verdict", "control", "not run"]
    accuracy = ledger.display("tiny").loc["none", "test accuracy, %"]
    assert list(shown.loc["tiny", "test accuracy, %"]) == [accuracy, "–"]
    with pytest.raises(ValueError, match="no study records or plans eca, gsa"):
        evidence(ledger, "se", "gsa", "eca")


@pytest.mark.parametrize("name", STUDIES)
def test_every_planned_arm_can_be_built(name):
    study = STUDIES[name]
    images = torch.empty(0, 3, 32, 32, dtype=torch.uint8)
    labels = torch.empty(0, dtype=torch.int64)
    dataset = Dataset("cifar10", "", tuple("abcdefghij"), images, labels, images, labels)
    with torch.device("meta"):
        for arm in study.arms:
            build(study.config(arm, 0, 1.0), dataset)


def dry_run(directory: Path, *targets: str) -> str:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow" / "Snakefile"), "--dry-run"]
    command += ["--cores", "1", "--directory", str(directory), *targets]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_workflow_plans_every_run_that_the_ledger_lacks(tmp_path):
    done = tmp_path / "results" / "sources" / "gsa-3.json"
    done.parent.mkdir(parents=True)
    done.write_text("{}")
    plan = dry_run(tmp_path)
    planned = sum(len(study.arms) * len(study.seeds) for study in STUDIES.values())
    grids = sum(len(study.arms) * len(study.rates) for study in STUDIES.values())
    assert re.search(rf"^run +{planned - 1}$", plan, re.MULTILINE)
    assert re.search(rf"^rate +{grids}$", plan, re.MULTILINE)
    assert "sources/gsa-3.json" not in plan


def test_a_job_of_the_workflow_trains_the_run_that_it_is_named_after(tmp_path):
    plan = dry_run(tmp_path, "results/resnet20/none-macs-of-gsa-4.json", "--printshellcmds")
    assert "-m gsa study resnet20 --arms none-macs-of-gsa --seeds 4\n" in plan
    assert sorted(re.findall(r"--arms none-macs-of-gsa --rate (\S+)", plan)) == ["0.5", "1", "2"]
