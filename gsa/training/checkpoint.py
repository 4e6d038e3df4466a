"""Checkpoints: one safetensors file with tensors and JSON, replaced whole, so that a killed run can go on."""

import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from gsa.files import whole
from gsa.training.record import TrainingError


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Inside, no other process works on the checkpoint at ``path``.

    Raises:
        TrainingError: that names the process that does
        OSError: where the folder cannot be written.
    """
    lock, holder = (path.with_name(f".{path.stem}.{kind}") for kind in ("lock", "holder"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock).acquire(timeout=0)
        holder.write_text(f"process {os.getpid()} on {platform.node()}")
    except Timeout:
        who = holder.read_text() if holder.exists() else "another process"
        raise TrainingError(f"{path} is at work: {who} trains this run") from None
    except OSError as error:
        raise OSError(f"cannot keep checkpoints in {path.parent}: {error.strerror or error}") from error
    with held:
        yield
        holder.unlink()


def save(path: Path, model: nn.Module, optimizers: Sequence[Optimizer], state: dict[str, Any]) -> None:
    """Write the model, the optimizers' tensors and ``state`` (anything JSON can hold) to ``path``, all or nothing."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, slots in optimizer.state_dict()["state"].items():
            held = {slot: value for slot, value in slots.items() if value is not None}
            tensors |= {f"optimizer/{number}/{index}/{slot}": value for slot, value in held.items()}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with whole(path) as partial:
        try:
            save_file(contiguous, partial, {"state": json.dumps(state)})
        except SafetensorError as error:  # how safetensors says that a disk is full
            raise OSError(str(error)) from error


def load_state(path: Path) -> dict[str, Any]:
    """What :func:`save` was given as ``state``. ValueError that names the file where it is damaged or another."""
    return _read(path)[0]


def load_tensors(path: Path, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Put the tensors of a checkpoint back into the model and the optimizers that it was made from.

    Raises:
        ValueError: that names the file where it is damaged or of another network.
    """
    tensors = _read(path)[1]
    weights = {name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} is of another network: delete it to start anew") from error
    for number, optimizer in enumerate(optimizers):
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, *rest = name.split("/")
            if kind == "optimizer" and rest[0] == str(number):
                slots.setdefault(int(rest[1]), {})[rest[2]] = tensor
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return json.loads(file.metadata()["state"]), tensors
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no checkpoint, or damaged ({error}): delete it to start anew") from error
