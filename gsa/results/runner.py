"""Many runs: each in a process of its own, side by side on one device, and kept by the ledger as it ends."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm.auto import tqdm

from gsa.files import whole
from gsa.results.ledger import Ledger
from gsa.training import Config, TrainingError, to_json


def run_missing(configs: Sequence[Config], results: Path, checkpoints: Path, jobs: int) -> None:
    """Train what the ledger lacks, ``jobs`` runs at a time; what each prints goes to a log beside its checkpoint.

    A run that fails does not stop the others; TrainingError names the failed ones and their logs at the end.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    ledger, wanted = Ledger(results), list(dict.fromkeys(configs))
    missing = [config for config in wanted if not ledger.has(config)]
    for config in missing:
        ledger.check(config)
    failed = []
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(wanted), initial=len(wanted) - len(missing)) as bar:
        running = [pool.submit(_train, config, results, checkpoints, jobs) for config in missing]
        for log, code in (future.result() for future in as_completed(running)):
            bar.update()
            if code:
                failed.append(f"{log} ({_reason(log, code)})")
    if failed:
        raise TrainingError(f"{len(failed)} of {len(missing)} runs failed: {'; '.join(failed)}")


def _train(config: Config, results: Path, checkpoints: Path, jobs: int) -> tuple[Path, int]:
    """One run in a process of its own, so that a crash or a kill takes nothing else with it."""
    recipe, log = (checkpoints / f"{config.name}.{kind}" for kind in ("json", "log"))
    with whole(recipe) as partial:
        partial.write_text(json.dumps(to_json(config)))
    command = [sys.executable, "-m", "gsa", "train", "--config", str(recipe)]
    places = ["--results", str(results), "--checkpoints", str(checkpoints)]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    with log.open("ab") as output:
        output.write(b"\n")
        finished = subprocess.run(
            command + places, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=threads | os.environ
        )
    return log, finished.returncode


def _reason(log: Path, code: int) -> str:
    """Why a run failed: what it said last, or the signal that ended it."""
    if code < 0:
        return f"ended by signal {-code}"
    return (log.read_text(errors="replace").strip().splitlines() or ["no output"])[-1]
