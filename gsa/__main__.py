"""The command line: python -m gsa data | train | study | probe | results."""

import json
import signal
import sys
from dataclasses import fields
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import torch
import tyro
from accelerate import PartialState
from pydantic import TypeAdapter, ValidationError
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional

from gsa.data import DataError, fetch, load
from gsa.layers import MECHANISMS
from gsa.probes import table
from gsa.results import LEGEND, PUBLISHED, STUDIES, Ledger, display, judged, progress, run_missing
from gsa.training import Config, TrainingError, build
from gsa.training import train as train_network
from gsa.training.weights import check_size, pack

app = tyro.extras.SubcommandApp()
RESULTS, CHECKPOINTS = Path("results"), Path("checkpoints")


@app.command
def data(name: Positional[str]) -> None:
    """Fetch and verify a data set.

    Args:
        name: cifar10 or mnist.
    """
    print(f"{name} is verified in {fetch(name)}")


@app.command
def train(
    config: Annotated[OmitArgPrefixes[Config], tyro.conf.arg(name="")] = Config(),  # noqa: B008
    *,
    results: Path = RESULTS,
    checkpoints: Path = CHECKPOINTS,
    weights: bool = False,
) -> None:
    """Train one network and keep its record. With --config FILE, a record or a configuration, run that one again.

    Args:
        results: Where records are kept.
        checkpoints: Where the state of unfinished runs is kept, so that a killed one goes on.
        weights: Keep the trained weights too, rounded to half precision.
    """
    ledger = Ledger(results)
    if ledger.has(config):
        print(f"{config.name} is in {results} already")
        return
    ledger.check(config)
    dataset = load(config.data)
    if weights:
        check_size(build(config, dataset))
    run = train_network(config, dataset=dataset, checkpoints=checkpoints)
    if PartialState().is_main_process:
        path, accuracy = ledger.add(run.record, pack(run) if weights else None), run.record.test_accuracy
        said = "test images not read" if accuracy is None else f"test accuracy {accuracy:.2%}"
        print(f"{path}: {said}, on {run.record.data_source}")


@app.command
def study(
    name: Positional[str],
    *,
    arms: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    multipliers: tuple[float, ...] = (),
    jobs: int = 1,
    results: Path = RESULTS,
    checkpoints: Path = CHECKPOINTS,
) -> None:
    """Train what a study of the book lacks: first the runs that choose learning rates, then one seed after the other.

    Args:
        name: The study.
        arms: These arms only.
        seeds: These seeds only.
        multipliers: Of the runs that choose learning rates those with these multipliers, and no others.
        jobs: Runs side by side on the device.
        results: Where records are kept.
        checkpoints: Where the state of unfinished runs is kept, so that a killed one goes on.
    """
    if name not in STUDIES:
        raise ValueError(f"unknown study {name!r}; there are {', '.join(STUDIES)}")
    planned, places = STUDIES[name], (results, checkpoints, jobs)
    choices = [(multiplier, run) for arm in arms or planned.arms for multiplier, run in planned.choices(arm).items()]
    if unknown := set(multipliers) - set(planned.multipliers):
        raise ValueError(f"study {name} has no multipliers {sorted(unknown)}; it has {[*planned.multipliers]}")
    run_missing([run for multiplier, run in choices if multiplier in (multipliers or planned.multipliers)], *places)
    if not multipliers:
        run_missing(planned.runs(Ledger(results), arms, seeds), *places)


@app.command
def probe() -> None:
    """Measure what every mechanism does and costs."""
    torch.set_num_threads(1)
    print(table(MECHANISMS).reset_index().to_string(index=False, float_format="{:.3g}".format))


@app.command
def results(*, results: Path | None = None, study: str = "") -> None:
    """Print the table of every study, and what is planned.

    Args:
        results: Where the records are; by default ./results, and where that is not, those that came with the book.
        study: This study only.
    """
    ledger = Ledger(results or (RESULTS if RESULTS.is_dir() else PUBLISHED))
    print(f"the runs in {ledger.path}\n")
    named = [study] if study else ledger.studies()
    for name in (name for name in named if study or any(r.test_images for r in ledger.records(name))):
        print(f"study {name}\n\n{display(judged(ledger, name)).reset_index().to_string(index=False)}\n")
    print(LEGEND if ledger.studies() else f"no finished runs in {ledger.path}")
    if not study:
        print(f"\nfinished runs of those planned\n\n{progress(ledger).to_string()}")


def main() -> None:
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Unicode shows a question mark for σ
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("gsa: ended by SIGTERM"))  # clearing up what was begun
    try:
        app.cli(prog="python -m gsa", description=__doc__, config=(FlagCreatePairsOff,), args=expanded(sys.argv[1:]))
    except ValidationError as error:
        sys.exit("gsa: " + "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()))
    except (ValueError, OSError, DataError, TrainingError) as error:
        sys.exit(f"gsa: {error}")
    except KeyboardInterrupt:
        sys.exit("gsa: interrupted")


def expanded(arguments: list[str]) -> list[str]:
    """The command line with --config FILE replaced by the options that it stands for."""
    if "--config" not in arguments:
        return arguments
    place = arguments.index("--config")
    if place + 1 == len(arguments):
        raise ValueError("--config needs a file")
    path = Path(arguments[place + 1])
    return [*arguments[:place], *options(read_config(path)), *arguments[place + 2 :]]


def read_config(path: Path) -> Config:
    """The configuration in a file, which may be a record. ValueError where it is neither."""
    try:
        content = json.loads(path.read_text())
        return TypeAdapter(Config).validate_python(content.get("config", content), extra="forbid")
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"])) or "file"
        raise ValueError(f"{path} holds no configuration: {where}: {wrong['msg']}") from error
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} holds no configuration: {error}") from error


def options(config: Config) -> list[str]:
    """A configuration as options of the command line."""
    given = []
    for item in fields(Config):
        value = getattr(config, item.name)
        if value == item.default:
            continue
        name = item.name.replace("_", "-")
        if isinstance(value, bool):
            given.append(f"--{name}" if value else f"--no-{name}")
        else:
            given += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return given


if __name__ == "__main__":
    main()
