"""The command line: it trains, sweeps and prints tables, skips what is done, and says in one line what is wrong."""

import sys

import pytest

from gsa.__main__ import main
from gsa.results import Ledger

TINY = "--model resnet8 --width 4 --data shapes --images 64 --batch 32 --epochs 1".split()


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


def test_sweep_trains_what_the_ledger_lacks_and_results_shows_it(gsa, capsys):
    gsa("train", *TINY)
    kept = Ledger("results").records()
    gsa("sweep", *TINY, "--arms", "none", "none-macs-of-gsa", "--seeds", "0", "--jobs", "2")
    records = Ledger("results").records()
    assert [record.config.arm for record in records] == ["none", "none-macs-of-gsa"]
    assert records[0] == kept[0]
    gsa("results", "--results", "results")
    assert "none-macs-of-gsa" in capsys.readouterr().out


def test_a_failed_run_of_a_sweep_is_named_and_stops_no_other(gsa):
    with pytest.raises(SystemExit) as exit:
        gsa("sweep", *TINY, "--arms", "gsa", "none", "--mechanism-lr", "1e30")
    assert "1 of 2 runs failed" in str(exit.value)
    assert "not finite" in str(exit.value)
    assert [record.config.arm for record in Ledger("results").records()] == ["none"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "--lr", "fast"], "--lr 'fast'"),
        (["train", *TINY, "--batch", "65"], "a batch of 65 is larger than the 64 training images"),
        (["train", *TINY, "--lr", "1e30"], "the loss is not finite at step"),
        (["sweep", *TINY, "--arms", "gssa"], "unknown mechanism 'gssa'; there are none, conv"),
        (["results", "--results", "results", "--study", "none-such"], "none-such"),
    ],
)
def test_what_is_wrong_takes_one_line(gsa, arguments, message):
    with pytest.raises(SystemExit) as exit:
        gsa(*arguments)
    assert message in str(exit.value)
    assert "\n" not in str(exit.value)


def test_an_unwritable_ledger_is_refused_before_training(gsa, tmp_path):
    (tmp_path / "results").write_text("in the way")
    with pytest.raises(SystemExit, match="cannot keep a run in results"):
        gsa("train", *TINY)
