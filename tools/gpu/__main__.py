"""All that a GPU is needed for: python -m tools.gpu run | pack | unpack | results."""

import math
import multiprocessing
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import tyro
from tyro.conf import Positional

from gsa.training.devices import device_name
from gsa.training.record import commit, versions
from tools.gpu import travel
from tools.gpu.chapters import demo_chapters, drawn_chapters
from tools.gpu.collect import collect, rows
from tools.gpu.job import Cases, Job, Row, wait_and_take
from tools.gpu.layers import agreement, paths, speed
from tools.gpu.training import epochs, speedrun, study, synchronisation


class Step(NamedTuple):
    """A function that yields what is to be measured, and the seconds after which it is stopped."""

    cases: Callable[[Job], Cases]
    limit: float

    @property
    def name(self) -> str:
        return self.cases.__name__


PARTS = {
    "one": (  # without images
        Step(agreement, 90),
        Step(synchronisation, 40),
        Step(paths, 60),
        Step(speed, 60),
        Step(epochs, 150),
        Step(drawn_chapters, 90),
    ),
    "two": (  # with CIFAR-10
        Step(speedrun, 120),
        Step(study, math.inf),
        Step(demo_chapters, 120),
    ),
}

app = tyro.extras.SubcommandApp()


@app.command
def run(
    parts: Positional[tuple[Literal["one", "two"], ...]] = ("one", "two"),
    *,
    device: Literal["cuda", "cpu"] = "cuda",
    until: float = 540,
    studies: tuple[str, ...] = ("primary", "exploration"),
    out: Path = travel.PLACE,
) -> None:
    """Take every step of these parts, each in a process of its own, and write one archive.

    Args:
        parts: "one" needs no images, "two" needs CIFAR-10.
        device: On cpu everything is tiny: that only tries the program.
        until: Seconds after which whatever still runs is stopped.
        studies: The studies that part two trains, in this order.
        out: Where the archive is written.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("no GPU is found here; device cpu tries the program with tiny sizes")
    os.environ |= {"TQDM_DISABLE": "1"} | ({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})
    job = Job(device, new_file(out, parts), studies)
    job.keep("machine", machine(device))
    in_turn(job, [step for part in parts for step in PARTS[part]], time.monotonic() + until)
    failed = [row for row in rows(job.archive) if "error" in row]
    print(f"\n{len(failed)} failed\nmake gpu-results ARCHIVE={job.archive}")
    sys.exit(bool(failed))


def new_file(out: Path, parts: Sequence[str]) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    return out / f"gpu-{'-'.join(parts)}-{datetime.now(UTC):%Y%m%dT%H%M%S}.jsonl"


def machine(device: str) -> Row:
    """What everything is measured on."""
    named = {"device": device_name(torch.device(device)), "processors": os.cpu_count(), "commit": commit()}
    return named | {"versions": versions(), "system": platform.platform()}


def in_turn(job: Job, steps: Sequence[Step], ends: float) -> None:
    """Take one step after the other, each in a process of its own that gets ready while others run.

    So whatever happens to a process, its rows and the other steps are safe. A step that takes longer than its limit, or
    than until ``ends``, is stopped with all that it started.
    """
    spawn = multiprocessing.get_context("spawn")
    turns = [spawn.Pipe(duplex=False) for _ in steps]
    processes = [
        spawn.Process(target=wait_and_take, args=(job, step.cases, its_turn))
        for step, (its_turn, _) in zip(steps, turns, strict=True)
    ]
    try:
        for process in processes:
            process.start()
        for step, (_, turn), process in zip(steps, turns, processes, strict=True):
            started = time.monotonic()
            turn.send("go")
            process.join(max(0, min(step.limit, ends - started)))
            seconds = round(time.monotonic() - started)
            if process.exitcode is None:
                job.keep(step.name, {"stopped": seconds})
            elif process.exitcode:
                job.keep(step.name, {"error": f"its process ended with {process.exitcode}"})
            end(process)
            print(f"{step.name}: {seconds} s", flush=True)
    finally:
        for process in processes:
            end(process)


def end(process: SpawnProcess) -> None:
    """Kill a process, and what it started and left behind."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()


@app.command
def pack(*, python: str = "3.12", place: Path = travel.PLACE) -> None:
    """Put together what must travel to a machine without a network, and print what to run there.

    Args:
        python: The version of Python there.
        place: The folder for it.
    """
    travel.wheels(place / "wheels", python)
    travel.pack(place)
    for half, part, until in zip(travel.HALVES, PARTS, (250, 290), strict=True):
        print(f"\nWith {place / 'wheels'} and {place / half} there:\n{travel.command(place, half, part, until)}")


@app.command
def unpack(place: Positional[Path]) -> None:
    """Join both halves of the images, which lie in one folder, and verify them."""
    print(travel.unpack(place))


@app.command
def results(archives: Positional[tuple[Path, ...]], *, results: Path = Path("results")) -> None:
    """Take the records of archives into the ledger and their measurements into gpu.json.

    Args:
        archives: What `run` wrote.
        results: Where the records are kept.
    """
    for path in archives:
        collect(path, results)


if __name__ == "__main__":
    try:
        app.cli(prog="python -m tools.gpu", description=__doc__)
    except (ValueError, OSError) as error:
        sys.exit(f"gpu: {error}")
