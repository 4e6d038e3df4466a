"""make gpu, tried on a CPU with tiny sizes: every step measures, says what differs, and stops no other."""

import json
import math
import os
import shlex
import shutil
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from torch import Tensor, nn

from gsa.data.download import CIFAR10, fingerprint
from gsa.layers import MECHANISMS
from gsa.results import Ledger
from tools.gpu import __main__ as program
from tools.gpu import chapters, layers, travel
from tools.gpu.collect import collect
from tools.gpu.job import Cases, Job, Row, take
from tools.gpu.training import study, synchronisation

RECORD = json.loads(Path("results/resnet20-cpu/none-0.json").read_text())
STEPS = {step.name: step.cases for part in program.PARTS.values() for step in part}


@pytest.fixture
def job(tmp_path) -> Job:
    return Job("cpu", tmp_path / "archive.jsonl", ("resnet20-cpu",))


@pytest.fixture
def book(tmp_path, monkeypatch) -> Path:
    """One chapter in the place of all."""
    monkeypatch.setattr(chapters, "BOOK", tmp_path)
    cells = ["%pip install gsa", "def train(x):\n    return 2 * x", "print(train(3))"]
    notebook = new_notebook(cells=[new_markdown_cell("# One"), *map(new_code_cell, cells)])
    nbformat.write(notebook, tmp_path / "01_one.ipynb")
    return tmp_path / "01_one.ipynb"


def kept(job: Job, step: str) -> list[Row]:
    """What a step has left in the archive, but for its time."""
    rows = [json.loads(line) for line in job.archive.read_text().splitlines()]
    return [row for row in rows if row.pop("step") == step and row.keys() != {"seconds"}]


@pytest.mark.parametrize("name", [name for name in STEPS if name not in ("study", "synchronisation")])
def test_every_step_measures(name, job, book, unchecked):
    take(job, STEPS[name])
    rows = kept(job, name)
    assert rows
    assert [row for row in rows if "error" in row] == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU can be waited for")
def test_no_epoch_waits_for_the_gpu(tmp_path, unchecked):
    job = Job("cuda", tmp_path / "archive.jsonl", ("resnet20-cpu",))
    take(job, synchronisation)
    assert [row for row in kept(job, "synchronisation") if "error" in row] == []


class Skewed(nn.Module):
    """A layer that a device computes otherwise: its output, or its gradient alone."""

    def __init__(self, forward: float, backward: float) -> None:
        super().__init__()
        self.factors = forward, backward

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            return x
        forward, backward = self.factors
        return backward * x + (forward - backward) * x.detach()


@pytest.mark.parametrize(("factors", "parts"), [((1.1, 1), "output by 0.1, "), ((1, 1.1), "input by 0.1, ")])
def test_a_layer_that_differs_is_named(factors, parts, job, monkeypatch):
    monkeypatch.setitem(MECHANISMS, "gsa", lambda channels, size: Skewed(*factors))
    monkeypatch.setattr(layers, "MECHANISMS", ["conv", "gsa"])
    take(job, layers.agreement)
    wrong = [row for row in kept(job, "agreement") if "error" in row]
    assert [(row["layer"], row["precision"]) for row in wrong] == [("gsa", name) for name in ("fp32", "bf16", "fp16")]
    assert all(parts in row["error"] and row["error"].count(" by ") == 1 for row in wrong)


class Stretched(nn.Module):
    """A layer of one parameter whose gradient a device computes otherwise."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.weight, self.factor = nn.Parameter(torch.ones(1)), factor

    def forward(self, x: Tensor) -> Tensor:
        factor = 1 if self.weight.dtype == torch.float64 else self.factor
        return x * (factor * self.weight + (1 - factor) * self.weight.detach())


@pytest.mark.parametrize(("factor", "named"), [(1.3, False), (1.5, True)])
def test_the_gradient_of_parameters_is_judged_beside_that_of_a_convolution(factor, named, job, monkeypatch):
    monkeypatch.setitem(MECHANISMS, "gsa", lambda channels, size: Stretched(factor))
    monkeypatch.setattr(layers, "MECHANISMS", ["conv", "gsa"])
    monkeypatch.setattr(layers, "convolved", lambda *case: {"parameters": 0.2})
    take(job, layers.agreement)
    errors = [row["error"] for row in kept(job, "agreement") if "error" in row]
    assert len(errors) == 3 * named and all("parameters by 0.5, more than 0.4" in error for error in errors)


def test_a_case_that_fails_stops_no_other(job):
    def fail() -> Row:
        raise ValueError("first line\nsecond line")

    def failing(job: Job) -> Cases:
        yield {"case": 1}, fail
        yield {"case": 2}, lambda: {"value": 3}
        raise KeyError("nothing more")

    take(job, failing)
    first, second, last = kept(job, "failing")
    assert first["case"] == 1
    assert first["error"].startswith("ValueError: first line (test_gpu.py:")
    assert second == {"case": 2, "value": 3}
    assert last["error"].startswith("KeyError: 'nothing more'")


def dying(job: Job) -> Cases:
    yield {}, lambda: os._exit(3)


def endless(job: Job) -> Cases:
    yield {"case": 1}, dict
    yield {"case": 2}, lambda: time.sleep(600)


def test_steps_that_die_or_never_end_leave_the_others_theirs(job):
    steps = [program.Step(dying, math.inf), program.Step(endless, 20), program.Step(study, math.inf)]
    program.in_turn(job, steps, time.monotonic() + 600)
    assert kept(job, "dying") == [{"error": "its process ended with 3"}]
    assert kept(job, "endless") == [{"case": 1}, {"stopped": 20}]
    side_by_side, *runs = kept(job, "study")
    assert side_by_side["runs_per_second"] > 0
    assert sorted(row["run"] for row in runs) == ["resnet20-cpu-tiny/gsa-0", "resnet20-cpu-tiny/none-0"]
    assert all(row["record"]["config"]["study"] == "resnet20-cpu-tiny" for row in runs)


def test_a_chapter_that_fails_is_named_with_its_cell(book):
    assert chapters.execute(book) == ["6\n"]
    notebook = nbformat.read(book, as_version=4)
    notebook.cells[2].source = "def train(x):\n    return x / 0"
    nbformat.write(notebook, book)
    with pytest.raises(RuntimeError, match="cell 3: ZeroDivisionError"):
        chapters.execute(book)


def test_an_unknown_study_is_refused_with_those_there_are(job):
    take(replace(job, studies=("none such",)), study)
    (row,) = kept(job, "study")
    assert "unknown study 'none such'; there are " in row["error"]


def test_records_and_measurements_are_taken_into_the_results_once(tmp_path, capsys):
    archive, results = tmp_path / "archive.jsonl", tmp_path / "results"
    rows = [{"step": "machine", "device": "H"}, {"step": "study", "run": "a run", "record": RECORD}]
    rows += [{"step": "paths", "milliseconds": 1.5}, {"step": "study", "record": RECORD | {"test_accuracy": "high"}}]
    archive.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": "stu')
    results.mkdir()
    (results / "gpu.json").write_text('{"paths": {}, "speed": {"rows": [1]}}')

    collect(archive, results)
    said = capsys.readouterr().out
    assert "new: " in said
    assert "test_accuracy" in said.partition("left out, no record")[2]
    assert "cut off" in said
    (record,) = Ledger(results).records()
    assert record.finished == RECORD["finished"]
    assert json.loads((results / "gpu.json").read_text()) == {
        "paths": {"measured_on": {"device": "H"}, "rows": [{"milliseconds": 1.5}]},
        "speed": {"rows": [1]},
    }

    collect(archive, results)
    assert "keeps this run already" in capsys.readouterr().out
    assert len(Ledger(results).records()) == 1


def test_images_travel_bit_by_bit_in_two_halves(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    counts = {"train": 600, "test": 200}
    arrays = {f"x_{name}": random.integers(256, size=(n, 32, 32, 3), dtype=np.uint8) for name, n in counts.items()}
    arrays |= {f"y_{name}": random.integers(10, size=n, dtype=np.uint8) for name, n in counts.items()}
    monkeypatch.setattr(travel, "CIFAR10", replace(CIFAR10, images=counts, fingerprint=fingerprint(arrays)))
    monkeypatch.setattr(travel, "cifar10", lambda folder: (arrays, "drawn"))
    monkeypatch.setattr(travel, "SHEET", 200)

    travel.pack(tmp_path)
    halves = [sorted(path.name for path in (tmp_path / half).iterdir()) for half in travel.HALVES]
    assert halves == [["labels.npz", "train-00000.webp", "train-00200.webp"], ["test-00000.webp", "train-00400.webp"]]
    there = shutil.copytree(tmp_path / "first", tmp_path / "there")
    with pytest.raises(ValueError, match=r"x_train is uint8 \(400, 32, 32, 3\), not uint8 \(600, 32, 32, 3\)"):
        travel.unpack(there)
    shutil.copytree(tmp_path / "second", there, dirs_exist_ok=True)
    with np.load(travel.unpack(there)) as unpacked:
        assert [*unpacked] == ["x_train", "y_train", "x_test", "y_test"]
        assert all(np.array_equal(unpacked[name], arrays[name]) for name in unpacked)


def test_what_a_machine_for_torch_has_does_not_travel():
    assert {"pydantic", "pydantic-core", "tyro", "platformdirs"} <= travel.lacking()
    assert not {"torch", "numpy", "pillow", "triton", "scikit-image", "tifffile"} & travel.lacking()


@pytest.mark.parametrize(("half", "part"), [*zip(travel.HALVES, program.PARTS)])
def test_the_printed_command_runs_its_part(half, part, tmp_path, monkeypatch):
    command = travel.command(tmp_path, half, part, 250)
    (ours,) = (line for line in command.split(" && ") if "tools.gpu run" in line)
    taken = []
    monkeypatch.setattr(program, "in_turn", lambda job, steps, ends: taken.append((job.device, steps)))
    arguments = shlex.split(ours.replace(f"${{OUT:-{tmp_path}}}", str(tmp_path)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    with pytest.raises(SystemExit) as ended:
        program.app.cli(args=[*arguments[3:], "--device", "cpu"])
    assert ended.value.code == 0
    assert taken == [("cpu", [*program.PARTS[part]])]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_the_program_says_so(tmp_path):
    with pytest.raises(ValueError, match="no GPU is found here"):
        program.run(out=tmp_path)
