"""Many runs: why one failed is said truly, a name given twice is one run, and nothing runs on when all is stopped."""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from gsa.__main__ import main
from gsa.results import STUDIES, Study, run_missing, runner
from gsa.training import Config, TrainingError

TINY = Config(width=4, data="shapes", images=64, batch=32, epochs=1, precision="fp32", study="tiny")


@pytest.fixture
def child(monkeypatch, tmp_path):
    """Every run is this program instead."""
    python = tmp_path / "python"
    monkeypatch.setattr(runner, "sys", SimpleNamespace(executable=str(python)))

    def instead(program: str) -> None:
        (tmp_path / "program.py").write_text(program)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/program.py" "$@"\n')
        python.chmod(0o755)

    return instead


def reason(tmp_path: Path) -> str:
    with pytest.raises(TrainingError) as error:
        run_missing([TINY], tmp_path / "results", tmp_path / "runs", jobs=1)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("print('gsa: the loss is not finite'); print('a warning'); raise SystemExit(1)", "gsa: the loss is not"),
        ("import json; json.loads('{')", "json.decoder.JSONDecodeError: Expecting property name"),
        ("import os; os.kill(os.getpid(), 11)", "ended by SIGSEGV"),
        ("import os; print('gsa: all is well'); os.kill(os.getpid(), 9)", "ended by SIGKILL"),
        ("raise SystemExit(3)", "exit code 3, no output"),
        ("print('what a day'); raise SystemExit(3)", "what a day"),
    ],
)
def test_the_reason_of_a_failure_is_the_error_or_the_signal(tmp_path, child, program, said):
    child(program)
    assert f"1 of 1 runs failed: {tmp_path / 'runs' / 'tiny' / 'none-0.log'} ({said}" in reason(tmp_path)


def test_the_reason_is_that_of_the_last_try(tmp_path, child):
    child("print('gsa: the first'); raise SystemExit(1)")
    assert "gsa: the first" in reason(tmp_path)
    child("raise SystemExit(1)")
    assert "exit code 1, no output" in reason(tmp_path)


def test_a_run_that_fails_stops_no_other(tmp_path, child):
    child(f"import sys; open({str(tmp_path / 'ran')!r}, 'a').write('x'); sys.exit('none-0' in sys.argv[5])")
    with pytest.raises(TrainingError, match="1 of 3 runs failed"):
        run_missing([replace(TINY, seed=seed) for seed in range(3)], tmp_path / "results", tmp_path / "runs", jobs=1)
    assert (tmp_path / "ran").read_text() == "xxx"


def test_a_run_named_twice_is_trained_once(tmp_path, child):
    child(f"open({str(tmp_path / 'ran')!r}, 'a').write('x')")
    run_missing([TINY, TINY], tmp_path / "results", tmp_path / "runs", jobs=2)
    assert (tmp_path / "ran").read_text() == "x"


def test_a_study_that_is_terminated_takes_its_run_along_and_begins_no_other(tmp_path, monkeypatch, child):
    pids = tmp_path / "pids"
    pids.mkdir()
    begin, end = f"open({str(pids)!r} + '/' + str(os.getpid()), 'w')", f"open({str(tmp_path / 'ended')!r}, 'w')"
    child(f"import os, time; {begin}; time.sleep(5); {end}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(STUDIES, "tiny", Study(TINY, {"none": {}}, seeds=range(3)))
    monkeypatch.setattr(sys, "argv", ["gsa", "study", "tiny"])
    before = signal.getsignal(signal.SIGTERM)

    def terminate() -> None:
        while not list(pids.iterdir()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=terminate).start()
    try:
        with pytest.raises(SystemExit, match="gsa: ended by SIGTERM"):
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    (begun,) = pids.iterdir()
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.name), 0)
    assert not (tmp_path / "ended").exists() and len(list(tmp_path.rglob("*.log"))) == 1
