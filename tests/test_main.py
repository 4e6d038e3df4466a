"""The command line: it trains, follows studies, prints tables, skips what is done, says in one line what is wrong."""

import sys
from dataclasses import replace
from io import BytesIO, TextIOWrapper

import pytest

from gsa.__main__ import main
from gsa.results import PUBLISHED, STUDIES, Ledger, Study
from gsa.results.studies import carrying
from gsa.training import Config

TINY = "--width 4 --data shapes --images 64 --batch 32 --epochs 1".split()
STUDY = Study(
    Config(width=4, data="shapes", images=64, batch=32, epochs=1, study="tiny"),
    carrying("none", "gsa") | {"none-macs-of-gsa": {"mechanism": "gsa", "match": "macs"}},
    seeds=[0],
)


@pytest.fixture
def gsa(tmp_path, monkeypatch):
    """Runs ``python -m gsa`` with these arguments in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["gsa", *arguments])
        main()

    return run


def test_train_keeps_a_record_and_does_nothing_twice(gsa, capsys):
    gsa("train", *TINY, "--mechanism", "gsa")
    (record,) = Ledger("results").records()
    assert (record.config.arm, record.config.width, record.train_images) == ("gsa", 4, 64)
    capsys.readouterr()
    gsa("train", *TINY, "--mechanism", "gsa")
    assert "in results already" in capsys.readouterr().out


@pytest.fixture
def study(monkeypatch):
    """Plans this study as "tiny"."""
    return lambda planned: monkeypatch.setitem(STUDIES, "tiny", planned)


def test_a_study_trains_what_the_ledger_lacks_and_results_shows_it(gsa, study, capsys):
    study(STUDY)
    gsa("train", *TINY, "--study", "tiny")
    kept = Ledger("results").records()
    gsa("study", "tiny", "--arms", "none", "none-macs-of-gsa", "--jobs", "2")
    records = Ledger("results").records()
    assert [record.config.arm for record in records] == ["none", "none-macs-of-gsa"]
    assert records[0] == kept[0]
    gsa("results", "--results", "results")
    assert "none-macs-of-gsa" in capsys.readouterr().out


def test_a_run_of_a_study_that_diverges_is_named_with_its_reason(gsa, study):
    study(replace(STUDY, arms={"gsa": {"mechanism": "gsa", "mechanism_lr": 1e30}}))
    with pytest.raises(
        SystemExit, match=r"1 of 1 runs failed: checkpoints/tiny/gsa-0\.log \(gsa: the loss is not finite"
    ):
        gsa("study", "tiny")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", *TINY, "--batch", "65"], "a batch of 65 is larger than the 64 training images"),
        (["train", *TINY, "--lr", "1e30"], "the loss is not finite at step"),
        (["train", *TINY, "--mechanism", "gssa"], "unknown mechanism 'gssa'; there are none, conv"),
        (["study", "none-such"], "unknown study 'none-such'; there are "),
        (["results", "--results", "results", "--study", "none-such"], "none-such"),
    ],
)
def test_what_is_wrong_takes_one_line(gsa, arguments, message):
    with pytest.raises(SystemExit) as exit:
        gsa(*arguments)
    assert message in str(exit.value)
    assert "\n" not in str(exit.value)


def test_results_reads_what_train_wrote_and_says_what_it_reads(gsa, capsys):
    gsa("results")
    assert f"the runs in {PUBLISHED}\n" in capsys.readouterr().out
    gsa("train", *TINY)
    gsa("results")
    shown = capsys.readouterr().out
    assert "the runs in results\n" in shown and "study own" in shown


def test_an_option_that_is_no_number_is_named(gsa, capsys):
    with pytest.raises(SystemExit):
        gsa("train", "--lr", "fast")
    assert "Error parsing --lr: could not convert string to float: 'fast'" in capsys.readouterr().err


def test_an_unwritable_ledger_is_refused_before_training(gsa, tmp_path):
    (tmp_path / "results").write_text("in the way")
    with pytest.raises(SystemExit, match="cannot keep a run in results"):
        gsa("train", *TINY)


def test_a_terminal_without_unicode_shows_what_it_can(gsa, monkeypatch):
    terminal = TextIOWrapper(BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", terminal)
    gsa("results")
    terminal.seek(0)
    shown = terminal.read()
    assert "±" in shown and "expected ?" in shown
