"""Which optimizer trains which parameter, at what rate, and how the rates move."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from gsa.layers import AttentionStem, MatrixConvolution, StandAloneSelfAttention
from gsa.models import MixingBlock
from gsa.training.config import Config

ATTENTION = (MixingBlock, StandAloneSelfAttention, AttentionStem)
"""Mechanisms, and attention that is part of a host."""


def make_optimizers(model: nn.Module, config: Config) -> list[torch.optim.Optimizer]:
    """AdamW for the mechanism and for a host's own attention; for the host what ``config.optimizer`` says.

    "muon": Muon (https://kellerjordan.github.io/posts/muon) for every :class:`~gsa.layers.MatrixConvolution`, in a
    mechanism too, and AdamW for the head, the biases and the norms. "sgd": SGD with Nesterov momentum for all of it.
    Nothing decays but matrices.

    Raises:
        ValueError: for "muon" on a host that has no such convolutions, or with a torch that has no Muon.
    """
    kernels = [m.weight for m in model.modules() if isinstance(m, MatrixConvolution)]
    attention = inside(model, ATTENTION)
    if config.optimizer == "sgd":
        host = without(trainable(model), attention)
        sgd = torch.optim.SGD(
            groups(host, config.lr, config.weight_decay), lr=config.lr, momentum=config.momentum, nesterov=True
        )
        mine = groups(attention, config.mechanism_lr, config.mechanism_weight_decay)
        # SGD stands first: under fp16 accelerate revises the loss scale after each step, which Adam's does not need.
        return [sgd, torch.optim.AdamW(mine, lr=config.mechanism_lr)] if mine else [sgd]
    if not kernels:
        raise ValueError(f"muon trains the kernels of MatrixConvolution, and {config.model} has none: use sgd")
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(f"optimizer muon needs torch 2.9 or newer; this is {torch.__version__}")
    muon = torch.optim.Muon(groups(kernels, config.lr, config.weight_decay), momentum=config.momentum, ns_steps=3)
    rest = without(trainable(model), [*kernels, *attention])
    matrices, vectors = [p for p in rest if p.ndim > 1], [p for p in rest if p.ndim <= 1]
    adamw = [
        *groups(without(attention, kernels), config.mechanism_lr, config.mechanism_weight_decay),
        *groups(matrices, config.head_lr, config.weight_decay),
        *groups(vectors, config.bias_lr, 0.0),
    ]
    return [muon, torch.optim.AdamW(adamw)]


def groups(parameters: list[nn.Parameter], lr: float, decay: float) -> list[dict]:
    """Parameter groups at one peak rate: matrices and kernels decay, vectors do not."""
    matrices, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    both = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group | {"peak_lr": lr} for group in both if group["params"]]


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def inside(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[nn.Parameter]:
    """The trainable parameters of all layers of these kinds; of a mixing block those of the mechanism, not its norm."""
    layers = [m.mechanism if isinstance(m, MixingBlock) else m for m in model.modules() if isinstance(m, kinds)]
    return list({id(p): p for layer in layers for p in trainable(layer)}.values())


def without(parameters: list[nn.Parameter], left_out: list[nn.Parameter]) -> list[nn.Parameter]:
    known = {id(parameter) for parameter in left_out}
    return [parameter for parameter in parameters if id(parameter) not in known]


def schedule(step: int, steps: int, warmup: float) -> float:
    """The learning rate as a share of its peak: up in a line over the first ``warmup`` of all steps, then down to 0."""
    done = (step + 1) / (steps + 1)
    return done / warmup if done < warmup else (1 - done) / (1 - warmup)


@contextmanager
def ascended(parameters: Iterable[nn.Parameter], radius: float) -> Iterator[None]:
    """Inside, the parameters stand ``radius`` up the gradient: w + ρ g/‖g‖ (SAM, arXiv:2010.01412)."""
    gradients = {parameter: parameter.grad for parameter in parameters if parameter.grad is not None}
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    steps = {parameter: gradient * (radius / (norm + 1e-12)) for parameter, gradient in gradients.items()}
    with torch.no_grad():
        for parameter, step in steps.items():
            parameter += step
    yield
    with torch.no_grad():
        for parameter, step in steps.items():
            parameter -= step
