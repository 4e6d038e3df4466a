"""Many runs: each in a process of its own, side by side on one device, and kept by the ledger as it ends."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event

from tqdm import tqdm

from gsa.files import whole
from gsa.results.ledger import Ledger
from gsa.training import Config, TrainingError, to_json


def run_missing(configs: Sequence[Config], results: Path, checkpoints: Path, jobs: int) -> None:
    """Train what the ledger lacks, ``jobs`` runs at a time; what each prints goes to a log beside its checkpoint.

    A run that fails does not stop the others; TrainingError names the failed ones, their logs and the reasons at the
    end. When this process is interrupted its runs end too, and go on from their checkpoints another time.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    ledger, wanted = Ledger(results), list(dict.fromkeys(configs))
    missing = [config for config in wanted if not ledger.has(config)]
    for config in missing:
        ledger.check(config)
    failed, stop = [], Event()
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(wanted), initial=len(wanted) - len(missing)) as bar:
        running = [pool.submit(_train, config, results, checkpoints, jobs, stop) for config in missing]
        try:
            for reason in (future.result() for future in as_completed(running)):
                bar.update()
                failed += [reason] if reason else []
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        raise TrainingError(f"{len(failed)} of {len(missing)} runs failed: {'; '.join(failed)}")


def _train(config: Config, results: Path, checkpoints: Path, jobs: int, stop: Event) -> str:
    """One run in a process of its own, so that a crash takes nothing else with it: why it failed, or nothing."""
    recipe, log = (checkpoints / f"{config.name}.{kind}" for kind in ("json", "log"))
    with whole(recipe) as partial:
        partial.write_text(json.dumps(to_json(config)))
    command = [sys.executable, "-m", "gsa", "train", "--config", str(recipe)]
    places = ["--results", str(results), "--checkpoints", str(checkpoints)]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    with log.open("ab") as output:
        output.write(b"\n")
        output.flush()
        start = output.tell()
        child = subprocess.Popen(
            command + places, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=threads | os.environ
        )
        while child.poll() is None:
            if stop.wait(0.2):
                child.terminate()
                child.wait()
    said = log.read_bytes()[start:].decode(errors="replace")
    return f"{log} ({_reason(said, child.returncode)})" if child.returncode else ""


def _reason(said: str, code: int) -> str:
    """Why a run failed: the signal that ended it, or the last thing it said that looks like an error."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    lines = said.strip().splitlines() or [f"exit code {code}, no output"]
    errors = [line for line in lines if re.match(r"gsa: |[\w.]+(Error|Exception|Interrupt)\b", line)]
    return (errors or lines)[-1]
