"""The ledger: one JSON file per finished run, kept whole, checked and never overwritten."""

import json
import os
from dataclasses import asdict, fields, replace
from hashlib import sha256
from pathlib import Path

import pandas as pd
from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from gsa.files import whole
from gsa.results.statistics import MARGIN
from gsa.results.tables import summarize
from gsa.training import Config, Record
from gsa.training.weights import Trained, unpack

_RECORD = TypeAdapter(Record)


_INSTALLED = Path(__file__).parent / "records"
PUBLISHED = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[2] / "results"
"""The runs that came with the book: inside an installed package, or beside it in the repository."""


class Ledger:
    """Finished runs, one file <path>/<study>/<arm>-<seed>.json each, all checked on opening and never overwritten.

    Nothing is cached: several processes may add to one ledger, and each sees what the others have finished.

    Raises:
        ValueError: naming file and field where a file is not a record, is misnamed, or mixes recipes in one arm.
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
        with FileLock(self.path / ".lock"):
            self.check(record.config)  # another process may have kept it since
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

    def table(self, study: str, control: str = "none", *, margin: float = MARGIN, pooled: bool = True) -> pd.DataFrame:
        """What the runs of a study say, a row an arm: :func:`gsa.results.tables.summarize`. ValueError without runs."""
        arms: dict[str, list[Record]] = {}
        for record in self.records(study):
            if record.test_accuracy is not None:
                arms.setdefault(record.config.arm, []).append(record)
        if not arms:
            raise ValueError(f"no runs of study {study!r} in {self.path}; it has {self.studies() or 'no runs at all'}")
        return summarize(arms, control, margin=margin, pooled=pooled)

    def _weights(self) -> str:
        kept = [record.config for record in self.records() if record.weights_sha256]
        return ", ".join(f"{config.study}/{config.arm}-{config.seed}" for config in kept)

    def _file(self, config: Config) -> Path:
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
    """What `make bench` measured: a row a layer and map size, timed as a ratio to a convolution in the same run.

    Rows of bf16 are beside a convolution in bf16. ``attrs["training_step"]`` has what GSA adds to a step of the host.
    """
    content = json.loads((Path(path) / "speed.json").read_text())
    table = pd.DataFrame(content["rows"])
    table.attrs["training_step"] = content["training_step"]
    return table


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
