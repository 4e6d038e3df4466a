"""The ledger: one JSON file per finished run, and what the runs of a study say together."""

import json
import math
import os
import re
from dataclasses import asdict, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from gsa.files import whole
from gsa.results.statistics import expected_sigma, points, seeds_to_see, t_interval, wilson
from gsa.training import Config, Record
from gsa.training.weights import Trained, unpack

LEGEND = """\
±        95 % t-interval over seeds: covers the mean accuracy, on these test images, that more seeds would tend to.
TTA      mean test accuracy, %, with test-time augmentation: an image and its mirror image vote together.
images   one run shows no spread over seeds. Given instead is the 95 % Wilson interval over its test images: it covers
         what this one trained network would score on all such images. It cannot tell two arms apart.
σ        standard deviation between seeds; "expected" is that of the formula √(error/2N) for N test images.
seeds    how many runs an arm needs to show half a point, or a true difference as large as the one in the table, with
         80 % power; at the measured σ, or with one run at the expected one.
verdict  what the 95 % t-interval of the paired difference over shared seeds allows to say. Each interval is 95 % by
         itself: of twenty arms that equal the control, expect one to be called better or worse."""

_RECORD = TypeAdapter(Record)


_INSTALLED = Path(__file__).parent / "records"
PUBLISHED = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[2] / "results"
"""The runs that came with the book: inside an installed package, or beside it in the repository."""


class Ledger:
    """Finished runs, one file <path>/<study>/<arm>-<seed>.json each, all checked on opening and never overwritten.

    Nothing is cached: several processes may add to one ledger, and each sees what the others have finished.
    Errors: ValueError naming file and field where a file is not a record, is misnamed, or mixes recipes in one arm.
    """

    def __init__(self, path: str | Path = PUBLISHED):
        self.path = Path(path)
        self.records()

    def records(self, study: str | None = None) -> list[Record]:
        """The runs of a study, or of all, in the order of study, arm and seed."""
        paths = [path for path in self.path.glob("*/*.json") if not any(map(is_hidden, (path, path.parent)))]
        records = [self._read(path) for path in paths if study in (None, path.parent.name)]
        records.sort(key=lambda record: (record.config.study, record.config.arm, record.config.seed))
        first: dict[tuple[str, str], Config] = {}
        for record in records:
            config = record.config
            self._same_recipe(first.setdefault((config.study, config.arm), config), config)
        return records

    def studies(self) -> list[str]:
        """The names of the studies that have runs."""
        return sorted({record.config.study for record in self.records()})

    def has(self, config: Config) -> bool:
        """Whether this very run is kept; ValueError where its arm is kept with another recipe."""
        arm = [record.config for record in self.records(config.study) if record.config.arm == config.arm]
        for kept in arm:
            self._same_recipe(kept, config)
        return config in arm

    def check(self, config: Config) -> None:
        """Raise before hours of training what `add` would raise after them."""
        target = self._file(config)
        if self.has(config):
            raise ValueError(f"{target} keeps this run already; the ledger overwrites nothing")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(target.parent, error.strerror) from error
        if not os.access(target.parent, os.W_OK):
            raise _unwritable(target.parent, "permission denied")

    def add(self, record: Record, weights: bytes | None = None) -> Path:
        """Keep a finished run, whole or not at all, and return its file.

        ``weights``, as :func:`gsa.training.weights.pack` makes them, go beside it, and their SHA-256 into the record.
        """
        self.check(record.config)
        target = self._file(record.config)
        record = replace(record, weights_sha256=weights and sha256(weights).hexdigest())
        text = _RECORD.dump_json(record, indent=1) + b"\n"
        kept = _parse(text, target)
        if lost := [field.name for field in fields(Record) if getattr(kept, field.name) != getattr(record, field.name)]:
            raise ValueError(f"{target} is no finished run: JSON cannot hold its {', '.join(lost)}: is a number NaN?")
        beside = target.with_suffix(".safetensors")
        try:
            if weights:
                with whole(beside) as partial:
                    partial.write_bytes(weights)
            with whole(target) as partial:
                partial.write_bytes(text)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        return target

    def trained(self, study: str, arm: str, seed: int = 0) -> Trained:
        """The network of a run whose weights are kept. ValueError where none are, or others than the record names."""
        record = next((r for r in self.records(study) if (r.config.arm, r.config.seed) == (arm, seed)), None)
        if record is None or record.weights_sha256 is None:
            raise ValueError(
                f"no weights of {study}/{arm}-{seed} in {self.path}; there are {self._weights() or 'none'}"
            )
        path = self._file(record.config).with_suffix(".safetensors")
        if not path.exists() or sha256(path.read_bytes()).hexdigest() != record.weights_sha256:
            raise ValueError(f"{path} is not the file with SHA-256 {record.weights_sha256} that the record names")
        return unpack(path)

    def table(self, study: str, control: str = "none") -> pd.DataFrame:
        """One row an arm, control first: accuracies are fractions, an interval that the data do not give is NaN.

        low, high: 95 % t-interval of the mean over seeds; images_low, images_high: Wilson interval of a single run;
        difference: mean over shared seeds of arm − control, with its paired t-interval, which decides the verdict.
        """
        arms: dict[str, dict[int, Record]] = {}
        for record in self.records(study):
            if record.test_accuracy is not None:
                arms.setdefault(record.config.arm, {})[record.config.seed] = record
        if not arms:
            raise ValueError(f"no runs of study {study!r} in {self.path}; it has {self.studies() or 'no runs at all'}")
        against = arms.get(control, {})
        rows = [_summary([*runs.values()]) | _against(runs, against) for runs in arms.values()]
        for row in rows:
            sigma = row["expected_sigma"] if row["seeds"] == 1 else row["sigma"]
            row["seeds_for_difference"] = seeds_to_see(abs(row["difference"]), sigma)
        table = pd.DataFrame(rows, index=pd.Index(arms, name="arm")).sort_values("accuracy", ascending=False)
        return table.sort_index(key=lambda arms: arms != control, kind="stable")

    def display(self, study: str, control: str = "none") -> pd.DataFrame:
        """The table as text for readers: percent, with the kind of every interval named (see LEGEND)."""
        rows = self.table(study, control).reset_index().to_dict("records")
        return pd.DataFrame([_cells(row, control) for row in rows]).set_index("arm")

    def text(self, study: str, control: str = "none") -> str:
        """The displayed table with its legend, for a terminal."""
        return f"study {study}\n\n{self.display(study, control).reset_index().to_string(index=False)}\n\n{LEGEND}"

    def _weights(self) -> str:
        kept = [record.config for record in self.records() if record.weights_sha256]
        return ", ".join(f"{config.study}/{config.arm}-{config.seed}" for config in kept)

    def _file(self, config: Config) -> Path:
        for name in (config.study, config.arm):
            if not re.fullmatch(r"\w[\w.,=+-]*", name):
                raise ValueError(f"{name!r} cannot name a file: use letters, digits and . , = + - _")
        return self.path / config.study / f"{config.arm}-{config.seed}.json"

    def _read(self, path: Path) -> Record:
        record = _parse(path.read_bytes(), path)
        if path != self._file(record.config):
            raise ValueError(f"{path} holds the run that belongs in {self._file(record.config)}")
        return record

    def _same_recipe(self, kept: Config, other: Config) -> None:
        """All runs of an arm share everything but the seed: otherwise their mean would be the mean of nothing."""
        ours, theirs = (asdict(replace(config, seed=0)) for config in (kept, other))
        if differing := [f"{name}={ours[name]!r}, not {theirs[name]!r}" for name in ours if ours[name] != theirs[name]]:
            raise ValueError(f"{self._file(kept)} was run with {'; '.join(differing)}: give the new run another study")


def speed(path: str | Path = PUBLISHED) -> pd.DataFrame:
    """What `make bench` measured: a row a layer and map size, timed as a ratio to a convolution in the same run."""
    return pd.DataFrame(json.loads((Path(path) / "speed.json").read_text())["rows"])


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is none of ours: what systems and editors leave begins with a dot."""
    return path.name.startswith(".")


def _parse(text: bytes, path: Path) -> Record:
    try:
        record = _RECORD.validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, one['loc'])) or 'file'}: {one['msg']}" for one in error.errors()]
        raise ValueError(f"{path} is no finished run: {'; '.join(wrong)}") from None
    if absent := asdict(record.config).keys() - json.loads(text)["config"].keys():  # pydantic fills in defaults
        raise ValueError(f"{path} is no finished run: config lacks {', '.join(sorted(absent))}")
    if len(record.history) != record.config.epochs:
        done = f"{len(record.history)} of {record.config.epochs} epochs"
        raise ValueError(f"{path} is no finished run: history has {done}")
    for name in ("test_accuracy", "test_accuracy_tta", "holdout_accuracy_tta"):
        accuracy = getattr(record, name)
        if accuracy is not None and not 0 <= accuracy <= 1:
            raise ValueError(f"{path} is no finished run: {name} {accuracy} is no share of 1")
    return record


def _unwritable(path: Path, reason: str | None) -> OSError:
    return OSError(f"cannot keep a run in {path}: {reason}")


def _summary(runs: list[Record]) -> dict[str, Any]:
    """What one arm's runs say by themselves."""
    accuracies = [run.test_accuracy for run in runs]
    mean, low, high = t_interval(accuracies)
    sigma = math.nan if math.isnan(low) else float(np.std(accuracies, ddof=1))
    expected = expected_sigma(mean, runs[0].test_images)
    images_low, images_high = wilson(mean, runs[0].test_images) if len(runs) == 1 else (math.nan, math.nan)
    return {
        "seeds": len(runs),
        "accuracy": mean,
        "low": low,
        "high": high,
        "images_low": images_low,
        "images_high": images_high,
        "accuracy_tta": float(np.mean([run.test_accuracy_tta for run in runs])),
        "sigma": sigma,
        "expected_sigma": expected,
        "seeds_for_half_point": seeds_to_see(0.005, expected if len(runs) == 1 else sigma),
        "epochs": runs[0].config.epochs,
        "parameters": runs[0].parameters,
        "macs": runs[0].macs,
        "epoch_seconds": float(np.mean([run.seconds / run.config.epochs for run in runs])),
        "peak_memory": max((run.peak_memory for run in runs if run.peak_memory is not None), default=math.nan),
        "device": ", ".join(sorted({run.device for run in runs})),
    }


def _against(runs: dict[int, Record], control: dict[int, Record]) -> dict[str, Any]:
    """What one arm's runs say beside the control's, seed by seed."""
    shared = [] if runs is control else sorted(runs.keys() & control.keys())
    pairs = [(runs[seed].test_accuracy, control[seed].test_accuracy) for seed in shared]
    mean, low, high = t_interval([one - other for one, other in pairs if one is not None and other is not None])
    numbers = {"shared": len(shared), "difference": mean, "difference_low": low, "difference_high": high}
    if runs is control:
        verdict = "control"
    elif len(shared) < 2:
        verdict = "one seed: no verdict" if shared else "no shared seed: no verdict"
    elif math.isnan(low):
        verdict = "no spread: no verdict"
    else:
        verdict = "better" if low > 0 else "worse" if high < 0 else "not distinguishable"
    return numbers | {"verdict": verdict}


def _cells(row: dict[str, Any], control: str) -> dict[str, str]:
    """One row of the table as a reader sees it, in percent and points."""
    accuracy = points(row["accuracy"], row["low"], row["high"])
    if row["seeds"] == 1:
        accuracy += f" (images: {points(row['images_low'])} to {points(row['images_high'])})"
    return {
        "arm": row["arm"],
        "seeds": str(row["seeds"]),
        "test accuracy, %": accuracy,
        "TTA": points(row["accuracy_tta"]),
        "σ": points(row["sigma"]),
        "expected σ": points(row["expected_sigma"]),
        "seeds for 0.5": _whole(row["seeds_for_half_point"]),
        "seeds for its difference": _whole(row["seeds_for_difference"]),
        f"− {control}": points(row["difference"], row["difference_low"], row["difference_high"], sign="+"),
        "verdict": row["verdict"],
        "epochs": str(row["epochs"]),
        "parameters": f"{row['parameters']:,}",
        "MACs": f"{row['macs'] / 1e6:,.1f} M",
        "s/epoch": f"{row['epoch_seconds']:,.1f}",
        "GPU memory": "–" if math.isnan(row["peak_memory"]) else f"{row['peak_memory'] / 1e9:.2f} GB",
        "device": row["device"],
    }


def _whole(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.0f}"
