"""What a module costs and does, measured on the module itself, which is left as it was."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from gsa.layers.attention import frozen_weights, record_weights

Size = tuple[int, int]


@contextmanager
def untouched(module: nn.Module, *, training: bool = False) -> Iterator[None]:
    """A block that sees the module in evaluation or training mode and leaves no trace, whether it fails or not.

    Afterwards modes, gradients and random numbers are as before; inside, buffers are copies.
    """
    parts = list(module.modules())
    modes, buffers = [part.training for part in parts], [dict(part.named_buffers(recurse=False)) for part in parts]
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    try:
        for part, own in zip(parts, buffers, strict=True):
            for name, buffer in own.items():
                setattr(part, name, buffer.clone())
        for parameter, _ in gradients:
            parameter.grad = None
        module.train(training)
        with torch.random.fork_rng():
            yield
    finally:
        for part, mode, own in zip(parts, modes, buffers, strict=True):
            part.training = mode
            for name, buffer in own.items():
                setattr(part, name, buffer)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def count_parameters(module: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def count_macs(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one forward pass on an input of ``shape``, counted, not computed: nothing is allocated.

    Counts matrix products and convolutions; norms, activations and softmax are left out, as is customary.
    """
    return _count_flops(module, shape) // 2


def count_training_flops(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Floating-point operations of one training step on a batch of ``shape``, forward and backward, counted."""
    return _count_flops(module, shape, training=True)


def _count_flops(module: nn.Module, shape: tuple[int, ...], *, training: bool = False) -> int:
    tensors = (*module.named_parameters(), *module.named_buffers())
    hollow = {name: tensor.detach().to("meta").requires_grad_(tensor.requires_grad) for name, tensor in tensors}
    with (
        untouched(module, training=training),
        torch.set_grad_enabled(training),
        record_weights(),
        FlopCounterMode(display=False) as counter,
    ):
        y = functional_call(module, hollow, torch.empty(shape, device="meta"))
        if training:
            y.sum().backward()
    return counter.get_total_flops()


@torch.random.fork_rng()
def cost_exponent(build: Callable[[Size], nn.Module], channels: int, sides: tuple[int, int] = (64, 256)) -> float:
    """The power of the number N of pixels that the cost of a layer grows with, between maps of two sides.

    ``build`` makes the layer for maps of a size; multiply-accumulates are counted. A layer that is linear in N has 1.
    """
    small, large = (count_macs(build((side, side)), (1, channels, side, side)) for side in sides)
    return math.log(large / small) / math.log(sides[1] ** 2 / sides[0] ** 2) if small else math.nan


def influence(
    module: nn.Module, x: Float[Tensor, "1 channels height width"], row: int, column: int
) -> Float[Tensor, "height width"]:
    r"""How strongly each pixel of ``x`` moves the pixel (row, column) of the output: a map of its receptive field.

    .. math:: I_p = \big\| \partial y_{\text{row}, \text{column}} / \partial x_p \big\|_F

    The norm is over all pairs of an output and an input channel.
    """
    x = x.detach().requires_grad_()
    with untouched(module):
        y = module(x)[0, :, row, column]
        (jacobian,) = torch.autograd.grad(y, x, torch.eye(len(y)).to(y), is_grads_batched=True)
    return jacobian.square().sum((0, 1, 2)).sqrt()


def reach(module: nn.Module, x: Float[Tensor, "1 channels height width"]) -> float:
    """The share of the pixels of ``x`` that move the pixel in the middle of the output."""
    height, width = x.shape[-2:]
    return (influence(module, x, height // 2, width // 2) > 0).float().mean().item()


@torch.no_grad()
def translation_error(module: nn.Module, x: Float[Tensor, "1 channels height width"]) -> float:
    """How far the output is from moving along when the input moves by a pixel, relative to the output.

    The map is shifted in a circle, down and to the right, and the outer quarter at each border is left out, where
    padding interferes.
    """
    height, width = (side // 4 for side in x.shape[-2:])

    def middle(y: Tensor) -> Tensor:
        return y[..., height:-height, width:-width]

    with untouched(module):
        moved, expected = module(x.roll((1, 1), (2, 3))), module(x.clone()).roll((1, 1), (2, 3))
    return _relative(middle(moved), middle(expected))


@torch.no_grad()
def permutation_error(module: nn.Module, x: Float[Tensor, "1 channels height width"]) -> float:
    """How far the output is from being shuffled along when the pixels are shuffled, relative to the output."""
    order = torch.randperm(x.shape[-2] * x.shape[-1], generator=torch.Generator().manual_seed(0))

    def shuffled(y: Tensor) -> Tensor:
        return y.flatten(2)[..., order].view_as(y)

    with untouched(module):
        return _relative(module(shuffled(x)), shuffled(module(x.clone())))


def mixing(
    module: nn.Module, x: Float[Tensor, "1 channels height width"]
) -> Float[Tensor, "channels pixels channels pixels"]:
    """The weights by which a layer sums over channels and positions, as it computes them for ``x``.

    It is the Jacobian with the computed weights held fixed (:func:`~gsa.layers.attention.frozen_weights`): of
    y = A(x)·x + b it is A(x), without what comes from A itself moving with x.
    """
    x = x.detach().requires_grad_()
    with untouched(module), frozen_weights(), record_weights():
        y = module(x)
        (jacobian,) = torch.autograd.grad(
            y.flatten(), x, torch.eye(y.numel()).view(-1, y.numel()).to(y), is_grads_batched=True
        )
    return jacobian.view(x.shape[1], -1, x.shape[1], x.shape[-2] * x.shape[-1])


def spatial_adaptivity(module: nn.Module, *inputs: Float[Tensor, "1 channels height width"]) -> float:
    r"""How much the weights over positions change from one input to another, from 0 (fixed) to 1 (nothing in common).

    .. math:: \tfrac12 \sum_{p,p'} \big|S_{pp'}(x_1) - S_{pp'}(x_2)\big|, \qquad
              S_{pp'} \propto \Big(\sum_{c,c'} A_{cp,c'p'}^2\Big)^{1/2}, \quad \sum_{p,p'} S_{pp'} = 1

    with the weights A of :func:`mixing`.
    """
    return _distance(*(mixing(module, x).square().sum((0, 2)).sqrt() for x in inputs))


def channel_adaptivity(module: nn.Module, *inputs: Float[Tensor, "1 channels height width"]) -> float:
    r"""How much the weights over channels change from one input to another, from 0 (fixed) to 1 (nothing in common).

    As :func:`spatial_adaptivity`, of :math:`K_{cc'} \propto |\sum_{p,p'} A_{cp,c'p'}|`: what a layer makes of a channel
    that is the same everywhere. The rows of a softmax sum to one, so attention among positions has K = W_v W_o for
    every input.
    """
    return _distance(*(mixing(module, x).sum((1, 3)).abs() for x in inputs))


def kept_bytes(module: nn.Module, x: Float[Tensor, "batch channels height width"]) -> int:
    """Bytes that a forward pass keeps for the backward pass, besides the parameters and the input."""
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with untouched(module, training=True), saved_tensors_hooks(keep, lambda tensor: tensor):
        y = module(x.detach().requires_grad_())
        known = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers(), x, y)}
    return sum(size for pointer, size in kept.items() if pointer not in known)


def latency(module: nn.Module, x: Float[Tensor, "batch channels height width"]) -> float:
    """Seconds of a forward and backward pass: the median of what fits into a fifth of a second, one thread."""
    x = x.detach().requires_grad_()
    timer = Timer("module(x).sum().backward()", globals={"module": module, "x": x}, num_threads=1)
    with untouched(module, training=True):
        return timer.blocked_autorange(min_run_time=0.2).median


@torch.random.fork_rng()
def table(mechanisms: Mapping[str, Callable[[int, Size], nn.Module]], channels: int = 16) -> pd.DataFrame:
    """Every probe on every mechanism, a row each: on maps of 32×32 pixels, the two adaptivities on 8×8.

    Parameters that start at zero are drawn anew, as a layer that starts as the identity would show nothing. Latency is
    a multiple of that of the mechanism "conv", measured beside it.
    """
    generator = torch.Generator().manual_seed(0)
    x, *small = (torch.randn(1, channels, side, side, generator=generator) for side in (32, 8, 8))
    batch, rows = x.expand(8, -1, -1, -1).contiguous(), {}
    for name, build in mechanisms.items():
        torch.manual_seed(0)
        layer, small_layer = (_awake(build(channels, (side, side))) for side in (32, 8))
        rows[name] = {
            "reach": reach(layer, x),
            "translation error": translation_error(layer, x),
            "permutation error": permutation_error(layer, x),
            "spatial adaptivity": spatial_adaptivity(small_layer, *small),
            "channel adaptivity": channel_adaptivity(small_layer, *small),
            "cost exponent": cost_exponent(partial(build, channels), channels),
            "MACs per pixel": count_macs(layer, x.shape) / 32**2,
            "parameters": count_parameters(layer),
            "kept bytes per pixel": kept_bytes(layer, batch) / len(batch) / 32**2,
            "latency / conv": latency(layer, batch) / latency(mechanisms["conv"](channels, (32, 32)), batch),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("mechanism")


def _awake(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return layer


def _relative(y: Tensor, expected: Tensor) -> float:
    return ((y - expected).norm() / expected.norm()).item()


def _distance(first: Tensor, second: Tensor) -> float:
    """Total variation between two arrays of weights, each divided by its sum."""
    return (first / first.sum() - second / second.sum()).abs().sum().item() / 2
