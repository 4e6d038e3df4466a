"""make bench: the speed of every layer as a ratio to a 3×3 convolution in the same run, and its peak memory.

Beside each layer stands what another library offers for the same; then what GSA adds to a training step of the fast
host. Writes results/speed.json and _build/speed.png. Times are of one forward and backward pass on one CPU thread;
every round runs all layers of a size once, and a ratio is the median over rounds, so that a busy machine disturbs all
alike.
"""

import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from tqdm import tqdm

from gsa import figures
from gsa.data import load
from gsa.data.pipeline import Normalizer, split
from gsa.layers import MECHANISMS, GlobalSparseAttention, cheapest_patch
from gsa.probes import count_macs
from gsa.results import ledger
from gsa.training import Config
from gsa.training.devices import accelerated, keep_freed_memory
from gsa.training.loop import Loop, build
from gsa.training.optimizers import make_optimizers
from tools.equivalents import equivalents

CHANNELS, SIZES, ROUNDS = 64, (16, 32, 64, 128), 9
COMPARED = (32, 64)
"""Sizes at which every mechanism is measured, and its equivalents; the others show how time grows."""

GROWING = ("conv", "gsa", "self")
"""What is measured at every size, and in bf16 too."""

PIXELS = 8 * 64 * 64
"""Pixels of a batch, so that all sizes cost a convolution the same; no batch is larger than 8."""

RESULTS, PLOT = Path("results/speed.json"), Path("_build/speed.png")
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000"}
"""Keeps freed memory in the process: page faults would be timed otherwise."""

HEAP = 2**31
"""Bytes that are touched once before anything is timed, for the same reason."""


def layers(size: int) -> dict[str, Callable[[], nn.Module]]:
    """What is measured on maps of ``size`` × ``size``; four heads, the layers' default, where nothing else is said."""
    names = [name for name in MECHANISMS if name != "none"] if size in COMPARED else GROWING
    cases: dict[str, Callable[[], nn.Module]] = {n: partial(MECHANISMS[n], CHANNELS, (size, size)) for n in names}
    for heads, words in ((2, "2 heads"), (1, "1 head")):
        cases[f"gsa, {words}"] = partial(GlobalSparseAttention, CHANNELS, heads, patch=cheapest_patch(size, size))
    halves = {f"{name}, bf16": partial(InHalfPrecision, cases[name]()) for name in GROWING}
    return cases | halves | others(size)


class InHalfPrecision(nn.Module):
    """A layer as training runs it on a CPU that has bf16 matrix units."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.layer(x.bfloat16())


def others(size: int) -> dict[str, Callable[[], nn.Module]]:
    """The equivalents of other libraries, as "mechanism, library"."""
    if size not in COMPARED:
        return {}
    return {f"{name}, {library}": build for name, (library, build) in equivalents(CHANNELS, size).items()}


def images(size: int) -> Tensor:
    batch = min(8, PIXELS // size**2)
    return torch.randn(batch, CHANNELS, size, size, requires_grad=True)


def times(size: int) -> dict[str, list[float]]:
    """Seconds of one forward and backward pass, a value a round, by layer."""
    torch.ones(HEAP, dtype=torch.uint8)
    x = images(size)
    timers = {
        name: Timer("layer(x).sum().backward()", globals={"layer": build(), "x": x}, num_threads=1)
        for name, build in layers(size).items()
    }
    rounds: dict[str, list[float]] = {name: [] for name in timers}
    for number in tqdm(range(ROUNDS + 1), desc=f"{size}×{size}", unit="round"):
        for name, timer in timers.items():
            x.grad = None
            seconds = timer.timeit(1).mean
            if number:
                rounds[name].append(seconds)
    return rounds


def peak_memories(size: int) -> dict[str, int]:
    """:func:`peak_memory` of each layer; bytes do not mind company, so all cores are used."""
    names = list(layers(size))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = tqdm(pool.map(partial(peak_memory, size), names), f"{size}×{size} memory", len(names))
        return dict(zip(names, found, strict=True))


def peak_memory(size: int, name: str) -> int:
    """Bytes that one forward and backward pass adds to a process of its own.

    Linux hands a process's peak on to its children, so this has to come before :func:`times`.
    """
    return int(apart(["memory", str(size), name], os.environ | {"OMP_NUM_THREADS": "1"}))


def apart(arguments: list[str], environment: Mapping[str, str]) -> str:
    """What this program prints in a process of its own."""
    command = [sys.executable, "-m", "tools.bench", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout


def grow(size: int, name: str) -> int:
    layer, x = layers(size)[name](), images(size)
    before = resident_peak()
    layer(x).sum().backward()
    return resident_peak() - before


def resident_peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(size: int, memory: dict[str, int]) -> list[dict]:
    """One row a layer at one size."""
    rounds = times(size)
    rows = []
    for name, seconds in rounds.items():
        convolution = rounds["conv, bf16" if name.endswith("bf16") else "conv"]
        ratio = statistics.median(mine / conv for mine, conv in zip(seconds, convolution, strict=True))
        rows.append(
            {
                "layer": name,
                "size": size,
                "batch": len(images(size)),
                "ratio": ratio,
                "milliseconds": 1e3 * min(seconds),
                "peak_megabytes": memory[name] / 1e6,
                "macs": count_macs(layers(size)[name.removesuffix(", bf16")](), (1, CHANNELS, size, size)),
            }
        )
    return rows


def training_step() -> dict[str, float]:
    """A step of the fast host with GSA beside one without, by turns, in bf16, and the page faults of the former."""
    keep_freed_memory()
    with accelerated("bf16") as accelerator:
        loops = [training_loop(Config(mechanism=name, data="shapes"), accelerator) for name in ("none", "gsa")]
        seconds, faults = [], []
        for _ in tqdm(range(2 * ROUNDS), desc="training", unit="step"):
            seconds.append([])
            for loop in loops:
                before, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, loop.now()
                loop.step(loop.normalize(loop.images.x), loop.images.y)
                seconds[-1].append(loop.now() - start)
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    warm = seconds[ROUNDS:]
    return {
        "ratio": statistics.median(gsa / none for none, gsa in warm),
        "milliseconds": 1e3 * min(gsa for _, gsa in warm),
        "page_faults": statistics.median(faults[ROUNDS:]),
        "batch": loops[0].config.batch,
    }


def training_loop(config: Config, accelerator: Accelerator) -> Loop:
    dataset = load(config.data)
    images, *_ = split(dataset, 0.0, config.batch, accelerator.device)
    model = build(config, dataset).to(memory_format=torch.channels_last)
    return Loop.of(config, accelerator, model, make_optimizers(model, config), images, Normalizer.of(images))


def exponent(rows: list[dict], layer: str, cost: str) -> float:
    """The slope of log cost against log N, N = pixels, between the two largest maps of a layer."""
    small, large = sorted((row for row in rows if row["layer"] == layer), key=lambda row: row["size"])[-2:]
    growth = (large[cost] / large["batch"]) / (small[cost] / small["batch"])
    return math.log(growth) / math.log(large["size"] ** 2 / small["size"] ** 2)


def plot() -> None:
    """Time per image over the size of the map, beside growth with N, N^1.5 and N^2."""
    figures.use_style()
    figure, axes = plt.subplots(figsize=(7.2, 4))
    figures.draw_growth(axes, ledger.speed(RESULTS.parent), {"conv": 1, "gsa": 1.5, "self": 2})
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, dpi=150)


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["step"]:
        print(json.dumps(training_step()))
        return
    if not ENVIRONMENT.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, "-m", "tools.bench", *sys.argv[1:]], os.environ | ENVIRONMENT)
    if sys.argv[1:2] == ["memory"]:
        print(grow(int(sys.argv[2]), sys.argv[3]))
        return
    memory = {size: peak_memories(size) for size in SIZES}
    rows = [row for size in SIZES for row in measure(size, memory[size])]
    machine = {"torch": torch.__version__, "machine": f"{platform.machine()}, 1 thread"}
    step = json.loads(apart(["step"], {name: os.environ[name] for name in os.environ.keys() - ENVIRONMENT.keys()}))
    content = {"measured_on": machine, "channels": CHANNELS, "training_step": step, "rows": rows}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    plot()
    line = "{size:>4}²  {layer:<34} {ratio:6.2f} × conv {milliseconds:8.1f} ms {peak_megabytes:7.1f} MB"
    print(*(line.format(**row) for row in rows), sep="\n")
    for layer in ("gsa", "self"):
        print(f"{layer}: time grows with N^{exponent(rows, layer, 'milliseconds'):.2f}")
    print("a training step with gsa: {ratio:.2f} × one without, {page_faults:.0f} page faults".format(**step))
    print(f"{RESULTS}, {PLOT}")


if __name__ == "__main__":
    main()
