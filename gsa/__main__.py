"""The command line: python -m gsa data | train | sweep | study | speedrun | probe | results."""

import argparse
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args

import torch
from accelerate import PartialState
from pydantic import TypeAdapter, ValidationError

from gsa import speedrun, sweep
from gsa.data import PUBLISHED, DataError, fetch, load
from gsa.layers import MECHANISMS
from gsa.ledger import Ledger
from gsa.models import MODELS
from gsa.probes import table
from gsa.speedrun import Speedrun
from gsa.studies import STUDIES, progress
from gsa.training import Config, TrainingError, arm_options, build, train
from gsa.weights import check_size, pack


def main() -> None:
    arguments = parser().parse_args()
    try:
        arguments.run(arguments)
    except ValidationError as error:
        sys.exit("gsa: " + "; ".join(map(describe, error.errors())))
    except (ValueError, OSError, DataError, TrainingError) as error:
        sys.exit(f"gsa: {error}")


def describe(error: dict) -> str:
    """What pydantic found wrong: with an option, or with the configuration as a whole."""
    message = error["msg"].removeprefix("Value error, ")
    return f"--{error['loc'][0]} {error['input']!r}: {message}" if error["loc"] else message


def parser() -> argparse.ArgumentParser:
    commands = argparse.ArgumentParser(prog="python -m gsa", description=__doc__)
    subparsers = commands.add_subparsers(required=True, metavar="command")

    data = subparsers.add_parser("data", help="fetch and verify a data set")
    data.add_argument("name", choices=PUBLISHED)
    data.set_defaults(run=lambda arguments: print(f"{arguments.name} is verified in {fetch(arguments.name)}"))

    one = subparsers.add_parser("train", help="train one network and keep its record")
    add_config_options(one)
    add_directories(one)
    one.add_argument("--weights", action="store_true", help="keep the trained weights too, rounded to half precision")
    one.set_defaults(run=run_train)

    several = subparsers.add_parser("sweep", help="train every arm with every seed that the ledger lacks")
    several.add_argument("--arms", nargs="+", required=True, help="mechanisms, or controls as none-macs-of-gsa")
    several.add_argument("--seeds", nargs="+", type=int, default=[0], help="default: 0")
    several.add_argument("--jobs", type=int, default=1, help="runs side by side on the device; default: 1")
    add_config_options(several, without=("mechanism", "match", "seed"))
    add_directories(several)
    several.set_defaults(run=run_sweep)

    study = subparsers.add_parser("study", help="train what a study of the book lacks, learning rates first")
    study.add_argument("name", choices=STUDIES)
    study.add_argument("--arms", nargs="+", help="default: all of the study")
    study.add_argument("--seeds", nargs="+", type=int, help="default: all of the study")
    study.add_argument("--rate", type=float, help="train only the run of the grid with this rate")
    study.add_argument("--jobs", type=int, default=1, help="runs side by side on the device; default: 1")
    add_directories(study)
    study.set_defaults(run=run_study)

    race = subparsers.add_parser("speedrun", help="train a small network fast, with and without a mechanism")
    race.add_argument("--mechanisms", nargs="+", choices=MECHANISMS, default=["none", "gsa"], help="default: none gsa")
    race.add_argument("--seeds", nargs="+", type=int, default=[0], help="default: 0")
    add_config_options(race, Speedrun, without=("mechanism", "seed"))
    race.add_argument("--results", type=Path, default=Path("results"), help="default: results")
    race.set_defaults(run=run_speedrun)

    probe = subparsers.add_parser("probe", help="measure what every mechanism does and costs")
    probe.set_defaults(run=run_probe)

    results = subparsers.add_parser("results", help="print the table of every study, and what is planned")
    results.add_argument("--results", type=Path, help="default: the runs that came with the book")
    results.add_argument("--study", help="this study only")
    results.set_defaults(run=run_results)
    return commands


def add_config_options(command: argparse.ArgumentParser, of: type = Config, without: tuple[str, ...] = ()) -> None:
    """One option for each field of ``of``; their values stay strings, which pydantic turns into the field's type."""
    choices = {"model": list(MODELS), "mechanism": list(MECHANISMS)}
    for item in (item for item in fields(of) if item.name not in without):
        assert item.default is not MISSING
        literals = [value for value in get_args(item.type) if isinstance(value, str)]
        command.add_argument(
            "--" + item.name.replace("_", "-"),
            default=item.default,
            nargs="+" if isinstance(item.default, tuple) else None,
            choices=choices.get(item.name) or literals or None,
            help=f"default: {item.default}",
        )


def add_directories(command: argparse.ArgumentParser) -> None:
    for directory in ("results", "checkpoints"):
        command.add_argument(f"--{directory}", type=Path, default=Path(directory), help=f"default: {directory}")


def config_from(arguments: argparse.Namespace, of: type = Config, **options) -> Any:
    given = {item.name: getattr(arguments, item.name) for item in fields(of) if hasattr(arguments, item.name)}
    return TypeAdapter(of).validate_python(given | options)


def run_train(arguments: argparse.Namespace) -> None:
    config, ledger = config_from(arguments), Ledger(arguments.results)
    if ledger.has(config):
        print(f"{config.study}/{config.arm}-{config.seed} is in {arguments.results} already")
        return
    ledger.check(config)
    dataset = load(config.data)
    if arguments.weights:
        check_size(build(config, dataset))
    run = train(config, dataset=dataset, checkpoints=arguments.checkpoints)
    if PartialState().is_main_process:
        path = ledger.add(run.record, pack(run) if arguments.weights else None)
        print(f"{path}: test accuracy {run.record.test_accuracy:.2%}, on {run.record.data_source}")


def run_sweep(arguments: argparse.Namespace) -> None:
    configs = [config_from(arguments, **arm_options(arm), seed=s) for arm in arguments.arms for s in arguments.seeds]
    sweep.run(configs, arguments.results, arguments.checkpoints, arguments.jobs)


def run_study(arguments: argparse.Namespace) -> None:
    study, ledger = STUDIES[arguments.name], Ledger(arguments.results)
    arms, places = arguments.arms or study.arms, (arguments.results, arguments.checkpoints, arguments.jobs)
    grids = [study.grid(arm) for arm in arms]
    if arguments.rate is not None:
        if arguments.rate not in study.rates:
            raise ValueError(f"study {study.name} has no rate {arguments.rate:g}; it has {[*study.rates]}")
        sweep.run([grid[arguments.rate] for grid in grids], *places)
        return
    sweep.run([config for grid in grids for config in grid.values()], *places)
    seeds = study.seeds if arguments.seeds is None else arguments.seeds
    sweep.run([study.config(arm, seed, study.rate(arm, ledger)) for arm in arms for seed in seeds], *places)


def run_speedrun(arguments: argparse.Namespace) -> None:
    seeds, mechanisms = arguments.seeds, arguments.mechanisms
    runs = [config_from(arguments, Speedrun, mechanism=m, seed=seed) for seed in seeds for m in mechanisms]
    speedrun.train_missing(runs, arguments.results)
    print(speedrun.display(arguments.results).to_string(index=False))


def run_probe(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    print(table(MECHANISMS).reset_index().to_string(index=False, float_format="{:.3g}".format))


def run_results(arguments: argparse.Namespace) -> None:
    ledger = Ledger(arguments.results) if arguments.results else Ledger()
    studies = [arguments.study] if arguments.study else ledger.studies()
    print("\n\n".join(ledger.text(study) for study in studies) or f"no finished runs in {ledger.path}")
    if not arguments.study:
        print(f"\nfinished runs of those planned\n\n{progress(ledger).to_string()}")


if __name__ == "__main__":
    main()
