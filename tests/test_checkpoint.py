"""A checkpoint is there whole or not at all, brings everything back, and never runs code."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import gsa
from gsa.files import whole
from gsa.training import checkpoint


def trained(steps: int) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    """A small network after some steps of two optimizers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    sgd = torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9)
    optimizers = [sgd, torch.optim.AdamW(model[1].parameters(), lr=0.01)]
    step(model, optimizers, steps)
    return model, optimizers


def step(model: nn.Module, optimizers: list[torch.optim.Optimizer], steps: int) -> None:
    for _ in range(steps):
        model(torch.randn(2, 3, 5, 5)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def test_everything_comes_back(tmp_path):
    path, state = tmp_path / "deep" / "run.safetensors", {"epoch": 3, "history": [0.1, 1e-300]}
    model, optimizers = trained(steps=3)
    checkpoint.save(path, model, optimizers, state)
    assert checkpoint.load_state(path) == state
    other, others = trained(steps=0)
    checkpoint.load_tensors(path, other, others)
    for m, o in ((model, optimizers), (other, others)):
        torch.manual_seed(1)
        step(m, o, 2)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_an_interrupted_save_leaves_the_last_one(tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    checkpoint.save(path, *trained(steps=1), {"epoch": 1})

    def half(tensors: dict, file: Path, metadata: dict) -> None:
        Path(file).write_bytes(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", half)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, *trained(steps=2), {"epoch": 2})
    assert checkpoint.load_state(path) == {"epoch": 1}
    monkeypatch.undo()
    checkpoint.save(path, *trained(steps=2), {"epoch": 2})
    assert checkpoint.load_state(path) == {"epoch": 2}
    assert [file.name for file in tmp_path.iterdir()] == ["run.safetensors"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"<html>not found</html>",
        lambda content: content[:100] + b"\xff" * 40 + content[140:],
    ],
    ids=["half", "nothing", "a page", "a broken header"],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, damage):
    path = tmp_path / "run.safetensors"
    checkpoint.save(path, *trained(steps=1), {"epoch": 1})
    path.write_bytes(damage(path.read_bytes()))
    for load in (checkpoint.load_state, lambda path: checkpoint.load_tensors(path, *trained(steps=0))):
        with pytest.raises(ValueError, match=r"run\.safetensors is no checkpoint, or damaged .*: delete it") as error:
            load(path)
        assert "\n" not in str(error.value)


def test_a_file_of_something_else_is_named_in_one_line(tmp_path):
    path = tmp_path / "run.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"run\.safetensors is no checkpoint"):
        checkpoint.load_state(path)
    checkpoint.save(path, nn.Linear(2, 2), [], {"epoch": 1})
    with pytest.raises(ValueError, match=r"run\.safetensors is of another network: delete it") as error:
        checkpoint.load_tensors(path, *trained(steps=0))
    assert "\n" not in str(error.value)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file grows beyond 1,000 bytes."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_where_the_disk_is_full_the_file_is_named_and_the_last_one_stays(tmp_path, request):
    path = tmp_path / "run.safetensors"
    checkpoint.save(path, *trained(steps=1), {"epoch": 1})
    request.getfixturevalue("full_disk")
    with pytest.raises(OSError, match=r"cannot write .*run\.safetensors: .*[Ff]ile too large") as error:
        checkpoint.save(path, *trained(steps=2), {"epoch": 2})
    assert "\n" not in str(error.value)
    assert checkpoint.load_state(path) == {"epoch": 1}
    with (
        pytest.raises(OSError, match=r"cannot write .*log\.json: File too large"),
        whole(tmp_path / "log.json") as partial,
    ):
        partial.write_bytes(bytes(2000))
    assert [file.name for file in tmp_path.iterdir()] == ["run.safetensors"]


def test_a_place_that_is_no_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write .*file/run: File exists"), whole(tmp_path / "file" / "run"):
        pytest.fail("there is nothing to write to")


def test_the_package_never_unpickles():
    for file in Path(gsa.__file__).parent.rglob("*.py"):
        assert not re.search(r"torch\.(load|save)\(|import pickle|allow_pickle=True", file.read_text()), file
