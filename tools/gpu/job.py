"""What every step is given: the device, how large everything is on it, and the archive that keeps each row."""

import json
import os
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import torch
from torch.utils.benchmark import Timer

Row = dict[str, object]
Cases = Iterator[tuple[Row, Callable[[], Row]]]
"""What a step yields: what is to be measured, and the function that measures it, called before the next one."""

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


CALLS = 20
"""So often a call is timed on a GPU."""


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    compared: tuple[tuple[int, int, int], ...]
    """Maps on which layers are compared with the CPU: (images, channels, side)."""
    sides: tuple[int, ...]
    """Sides of the maps on which layers are timed."""
    channels: int
    pixels: int
    """Pixels of a batch of maps, and tokens of a batch of groups, when they are timed."""
    tokens: tuple[int, ...]
    widths: tuple[int, ...]
    images: int
    """Images of an epoch that is only timed."""
    compiled: tuple[bool, ...]
    jobs: tuple[int, ...]
    """Numbers of runs side by side that are tried."""


SIZES = {
    "cuda": Sizes(
        compared=((16, 64, 16), (16_500, 8, 4)),
        sides=(32, 64),
        channels=64,
        pixels=2**16,
        tokens=(9, 16, 25, 49, 64, 128, 256, 512, 1024),
        widths=(16, 32, 64),
        images=50_000,
        compiled=(False, True),
        jobs=(1, 4, 8, 12),
    ),
    "cpu": Sizes(
        compared=((2, 16, 4),),
        sides=(8,),
        channels=16,
        pixels=2**7,
        tokens=(9, 16),
        widths=(4,),
        images=100,
        compiled=(False,),
        jobs=(1,),
    ),
}
"""By device. 16,500 maps of 4×4 pixels make 66,000 groups, more than the 65,535 of a CUDA grid's second and
third direction. On a CPU all is tiny: there the program is tried, and nothing measured."""


@dataclass(frozen=True)
class Job:
    """One call of the program."""

    device: str
    archive: Path
    studies: tuple[str, ...]

    @property
    def sizes(self) -> Sizes:
        return SIZES[self.device]

    def autocast(self, precision: str) -> torch.autocast:
        return torch.autocast(self.device, PRECISIONS[precision], enabled=precision != "fp32")

    def keep(self, step: str, row: Row) -> None:
        """Add one line of JSON to the archive, for good."""
        with self.archive.open("a") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")
        if "error" in row:
            print(f"{step}: {row}", flush=True)


def wait_and_take(job: Job, step: Callable[[Job], Cases], its_turn: Connection) -> None:
    """What the process of a step does."""
    os.setpgid(0, 0)
    its_turn.recv()
    take(job, step)


def take(job: Job, step: Callable[[Job], Cases]) -> None:
    """Measure every case of a step and keep each as it ends; one that fails is kept with its error."""
    started = time.perf_counter()
    try:
        for case, measure in step(job):
            job.keep(step.__name__, case | attempt(measure))
    except Exception as error:
        job.keep(step.__name__, {"error": one_line(error)})
    job.keep(step.__name__, {"seconds": time.perf_counter() - started})


def attempt(measure: Callable[[], Row]) -> Row:
    try:
        return measure()
    except Exception as error:
        return {"error": one_line(error)}


def one_line(error: Exception) -> str:
    """What went wrong, and where in the code of this repository."""
    root = str(Path(__file__).parents[2])
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(root)]
    where = f" ({Path(ours[-1].filename).name}:{ours[-1].lineno})" if ours else ""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}{where}"


def milliseconds(job: Job, run: Callable[[], object]) -> float:
    """The median time of a call on the device: on a GPU between events, which the calls do not wait for."""
    run()
    if job.device == "cpu":
        return rounded(1e3 * Timer("run()", globals={"run": run}).timeit(1).median)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(CALLS + 1)]
    for event in events:
        event.record()
        run()
    torch.cuda.synchronize()
    return rounded(median(before.elapsed_time(after) for before, after in pairwise(events)))


def rounded(value: float) -> float:
    """Four digits: more are noise."""
    return float(f"{value:.4g}")
