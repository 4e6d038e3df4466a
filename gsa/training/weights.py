"""Trained weights: small files in half precision that hold all it takes to look at images with a network again."""

import json
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter
from safetensors.torch import load_file, save
from torch import nn

from gsa.data.pipeline import Normalizer
from gsa.training.checkpoint import load_state
from gsa.training.config import Config
from gsa.training.loop import build_for
from gsa.training.record import Run, to_json

LIMIT = 900_000
"""The bytes that the numbers of a file may take: weights travel with the book, and the book stays small."""


class Trained(NamedTuple):
    """A trained network in evaluation mode, the normalizer of the images that it was trained on, and their classes.

    ``model(normalize(x))`` are the logits of images ``x`` of bytes.
    """

    model: nn.Module
    normalize: Normalizer
    classes: tuple[str, ...]


def pack(run: Run) -> bytes:
    """The network of a run as a safetensors file; numbers are rounded to half precision.

    Raises:
        ValueError: as :func:`check_size`.
    """
    check_size(run.model)
    tensors = {f"model/{name}": tensor for name, tensor in run.model.state_dict().items()}
    tensors |= {"mean": run.normalize.mean, "std": run.normalize.std}
    halves = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    state = {"config": to_json(run.record.config), "classes": run.classes, "image": run.image}
    return save({name: tensor.cpu().contiguous() for name, tensor in halves.items()}, {"state": json.dumps(state)})


def check_size(model: nn.Module) -> None:
    """Raise before hours of training what :func:`pack` would raise after them: ValueError for more than LIMIT bytes."""
    size = sum(t.numel() * (2 if t.is_floating_point() else t.element_size()) for t in model.state_dict().values())
    if size > LIMIT:
        raise ValueError(f"the weights take {size:,} bytes, more than the {LIMIT:,} that a ledger keeps of a run")


def unpack(path: Path) -> Trained:
    """The network that :func:`pack` wrote to this file, built anew. Its numbers are single precision again."""
    state, tensors = load_state(path), load_file(path)
    config = TypeAdapter(Config).validate_python(state["config"])
    mean, std = tensors.pop("mean").float(), tensors.pop("std").float()
    model = build_for(config, len(state["classes"]), tuple(state["image"])).eval()
    model.load_state_dict({name.removeprefix("model/"): tensor for name, tensor in tensors.items()})
    return Trained(model, Normalizer(mean, std), tuple(state["classes"]))
