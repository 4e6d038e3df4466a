"""Steps that train: what an epoch waits for and what compiling saves, the speedruns, and a study, runs side by side."""

import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from multiprocessing.pool import Pool
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier
from unittest.mock import patch

import torch

from gsa.data import Dataset, load
from gsa.data.pipeline import Images, batches
from gsa.layers import MECHANISMS
from gsa.results import PUBLISHED, STUDIES, Ledger, Study
from gsa.training import Config, Record, to_json, train
from tools.gpu.job import Cases, Job, Row, rounded

RACE = "race"
"""The study whose recipes are raced."""


def planned(job: Job, name: str) -> Study:
    """The study of that name; on a CPU two of its arms, for two steps on drawn images. ValueError if there is none."""
    if name not in STUDIES:
        raise ValueError(f"unknown study {name!r}; there are {', '.join(STUDIES)}")
    study = STUDIES[name]
    if job.device != "cpu":
        return study
    small = {"data": "shapes", "images": job.sizes.images, "width": 16, "batch": job.sizes.images // 2}
    recipe = replace(study.recipe, **small, precision="fp32", study=f"{name}-tiny")
    arms = {arm: {**changes, "epochs": 1} for arm, changes in [*study.arms.items()][:2]}
    return replace(study, recipe=recipe, arms=arms, seeds=study.seeds[:1], multipliers=study.multipliers[:1])


def noise(job: Job) -> Dataset:
    """Random images of CIFAR-10's size: an epoch of them takes as long."""
    random = torch.Generator().manual_seed(0)
    x = torch.randint(256, (job.sizes.images, 3, 32, 32), generator=random, dtype=torch.uint8)
    y = torch.randint(10, (job.sizes.images,), generator=random)
    return Dataset("noise", "random bytes", tuple("0123456789"), x, y, x[:10], y[:10])


def synchronisation(job: Job) -> Cases:
    """Every mechanism in the fast host: an epoch neither waits for the GPU nor moves anything to or from it."""
    if job.device == "cpu":
        return
    images = noise(job)
    for mechanism in MECHANISMS:
        config = Config(mechanism=mechanism, data="noise", images=2000, epochs=1, test=False)
        yield {"mechanism": mechanism}, partial(watched, config, images)


def watched(config: Config, images: Dataset) -> Row:
    """Train; after the first step of an epoch and until its last one a call that waits for the GPU is an error."""

    def watching(*arguments: object) -> Iterator[Images]:
        for batch in batches(*arguments):
            yield batch
            torch.cuda.set_sync_debug_mode("error")
        torch.cuda.set_sync_debug_mode("default")

    try:
        with patch("gsa.training.loop.batches", watching):
            train(config, dataset=images)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"waits": 0}


def epochs(job: Job) -> Cases:
    """An epoch of each network that is raced, as it is and compiled."""
    images, study = noise(job), planned(job, RACE)
    short = {"data": "noise", "images": 0, "epochs": 2, "test": False, "named": ""}
    configs = dict.fromkeys(replace(study.config(arm, 0), **short) for arm in study.arms)
    for config in configs:
        for compiled in job.sizes.compiled:
            case = {"model": config.model, "mechanism": config.mechanism, "compiled": compiled}
            yield case, partial(epoch, replace(config, compile=compiled), images)


def epoch(config: Config, images: Dataset) -> Row:
    """Seconds of training in the second of two epochs, and of all that surrounds the two."""
    started = time.perf_counter()
    record = train(config, dataset=images).record
    around = time.perf_counter() - started - record.seconds
    return {"seconds": rounded(record.history[-1].seconds), "around": rounded(around)}


def speedrun(job: Job) -> Cases:
    """The recipes of the speedrun, as they are and compiled, one after the other: nothing else on the device."""
    study = planned(job, RACE)
    for compiled in job.sizes.compiled:
        for config in study.runs(Ledger()):
            named = f"{config.arm}-compiled" if compiled else config.named
            raced = replace(config, study=f"{config.study}-gpu", compile=compiled, named=named)
            yield {"run": raced.name}, partial(race, raced)


def race(config: Config) -> Row:
    """A run, after a short one that calls every kernel for the first time."""
    run(replace(config, images=2 * config.batch, epochs=1, test=False))
    return {"record": to_json(run(config))}


def run(config: Config) -> Record:
    return train(config, dataset=kept(config.data)).record


@cache
def kept(name: str) -> Dataset:
    return load(name)


def study(job: Job) -> Cases:
    """What the ledger lacks of the studies, as many runs side by side as finish most in a second, until stopped."""
    plans, most = [planned(job, name) for name in job.studies], max(job.sizes.jobs)
    short = replace(plans[0].config(next(iter(plans[0].arms)), seed=0), epochs=1, test=False)
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(most + 1)
    rates: dict[int, float] = {}
    with TemporaryDirectory() as folder, spawn.Pool(most, begin, (short, together, most)) as pool:
        together.wait()
        for jobs in job.sizes.jobs:
            yield {"jobs": jobs}, partial(side_by_side, pool, short, jobs, rates)
        best = max(rates, key=rates.get)
        ledger = Ledger(shutil.copytree(PUBLISHED, Path(folder) / "results"))
        for plan in plans:
            yield from missing(pool, best, ledger, [run for arm in plan.arms for run in plan.choices(arm).values()])
            yield from missing(pool, best, ledger, plan.runs(ledger))


def begin(config: Config, together: Barrier, workers: int) -> None:
    """Make a worker ready: a first run in each, and nobody goes on before all have had theirs."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    with suppress(Exception):  # whatever it is, it comes again where it is kept
        run(config)
    together.wait()


def side_by_side(pool: Pool, config: Config, jobs: int, rates: dict[int, float]) -> Row:
    """How many short runs end in a second, ``jobs`` at a time."""
    started = time.perf_counter()
    pool.map(run, [config] * jobs, chunksize=1)
    rates[jobs] = rounded(jobs / (time.perf_counter() - started))
    return {"runs_per_second": rates[jobs]}


def missing(pool: Pool, jobs: int, ledger: Ledger, configs: Sequence[Config]) -> Cases:
    """The runs that the ledger lacks, ``jobs`` at a time, each as it ends."""
    with ThreadPoolExecutor(jobs) as threads:
        running = {threads.submit(pool.apply, run, (config,)): config for config in configs if not ledger.has(config)}
        for future in as_completed(running):
            yield {"run": running[future].name}, partial(added, ledger, future)


def added(ledger: Ledger, future: Future[Record]) -> Row:
    ledger.add(future.result())
    return {"record": to_json(future.result())}
