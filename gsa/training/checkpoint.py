"""Checkpoints: one safetensors file with tensors and JSON, replaced whole, so that a killed run can go on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from gsa.files import whole


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
    """What :func:`save` was given as ``state``. ValueError where the file is damaged or something else."""
    return _read(path)[0]


def load_tensors(path: Path, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Put the tensors of a checkpoint back into the model and the optimizers that it was made from."""
    tensors = _read(path)[1]
    model.load_state_dict({name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")})
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
