"""Sweeps: many runs in processes of their own, side by side on one device, each kept by the ledger as it ends."""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import fields
from pathlib import Path

from tqdm.auto import tqdm

from gsa.ledger import Ledger
from gsa.training import Config, TrainingError


def run(configs: Sequence[Config], results: Path, checkpoints: Path, jobs: int) -> None:
    """Train what the ledger lacks, ``jobs`` runs at a time; what each prints goes to a log beside its checkpoint.

    A run that fails does not stop the others; TrainingError names the failed ones and their logs at the end.
    """
    ledger = Ledger(results)
    missing = [config for config in configs if not ledger.has(config)]
    for config in missing:
        ledger.check(config)
    failed = []
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(configs), initial=len(configs) - len(missing)) as bar:
        running = [pool.submit(_train, config, results, checkpoints) for config in missing]
        for log, code in (future.result() for future in as_completed(running)):
            bar.update()
            if code:
                failed.append(f"{log} ({_last_line(log)})")
    if failed:
        raise TrainingError(f"{len(failed)} of {len(missing)} runs failed: {'; '.join(failed)}")


def _train(config: Config, results: Path, checkpoints: Path) -> tuple[Path, int]:
    """One run in a process of its own, so that a crash or a kill takes nothing else with it."""
    log = checkpoints / config.study / f"{config.arm}-{config.seed}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "gsa", "train", "--results", str(results), "--checkpoints", str(checkpoints)]
    with log.open("ab") as output:
        finished = subprocess.run(
            command + _options(config), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=os.environ
        )
    return log, finished.returncode


def _options(config: Config) -> list[str]:
    """The configuration as options of ``python -m gsa train``."""
    options = []
    for item in fields(Config):
        value = getattr(config, item.name)
        if value != item.default:
            values = value if isinstance(value, tuple) else (value,)
            options += ["--" + item.name.replace("_", "-"), *map(str, values)]
    return options


def _last_line(log: Path) -> str:
    return (log.read_text(errors="replace").strip().splitlines() or ["no output"])[-1]
