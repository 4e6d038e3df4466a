"""Steps that need no training: what layers compute on the device, how fast, and which path of attention is faster."""

import copy
from collections.abc import Callable
from functools import cache, lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gsa.layers import MECHANISMS, attend, build_mechanism, record_weights
from tools.equivalents import HEADS, equivalents
from tools.gpu.job import PRECISIONS, Cases, Job, Row, milliseconds, rounded

FLOORS = {"fp32": 1e-4, "bf16": 3e-2, "fp16": 4e-3}
FACTOR = 8
"""A layer may be off by FACTOR times what rounding its input and its parameters alone would change, or by the floor."""

BESIDE_CONVOLUTION = 2
"""The gradient of parameters may be off by this times that of PyTorch's convolution: over hundreds of thousands of
pixels a device may add in half precision."""


def agreement(job: Job) -> Cases:
    """Every layer, forward and gradients, in every precision, against the CPU in double precision."""
    for size in job.sizes.compared:
        for name in MECHANISMS:
            for precision in PRECISIONS:
                images, channels, side = size
                case = {"layer": name, "images": images, "channels": channels, "side": side, "precision": precision}
                yield case, partial(deviation, job, name, size, precision)


def deviation(job: Job, name: str, size: tuple[int, int, int], precision: str) -> Row:
    """How far the layer is from double precision: of each result the norm of the difference over the norm."""
    limits, errors = allowed(name, size, precision), computed(job, name, size, precision)
    if "parameters" in limits:
        convolution = convolved(job, size, precision)["parameters"]
        limits["parameters"] = max(limits["parameters"], BESIDE_CONVOLUTION * convolution)
    wrong = [
        f"{part} by {error}, more than {limits[part]}" for part, error in errors.items() if not error <= limits[part]
    ]
    return errors | ({"error": f"{name} in {precision} differs: {'; '.join(wrong)}"} if wrong else {})


def computed(job: Job, name: str, size: tuple[int, int, int], precision: str) -> dict[str, float]:
    """The distances of what the device makes of the layer."""
    layer, x, pull = drawn(name, size)
    ours = copy.deepcopy(layer).to(job.device, torch.float32)
    with job.autocast(precision), torch.backends.cudnn.flags(allow_tf32=False):
        actual = forward_and_gradients(ours, *(tensor.to(job.device, torch.float32) for tensor in (x, pull)))
    return distances(actual, reference(name, size))


@cache
def convolved(job: Job, size: tuple[int, int, int], precision: str) -> dict[str, float]:
    """How far PyTorch's 3×3 convolution is on the device."""
    return computed(job, "conv", size, precision)


@lru_cache(1)
def drawn(name: str, size: tuple[int, int, int]) -> tuple[nn.Module, Tensor, Tensor]:
    """The layer, its input and what is pulled back through it, in double precision."""
    torch.manual_seed(0)
    images, channels, side = size
    layer = build_mechanism(name, channels, (side, side)).double()
    for parameter in layer.parameters():  # none stays at a zero that would hide a mistake
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return layer, *torch.randn(2, images, channels, side, side, dtype=torch.float64)


@lru_cache(1)
def reference(name: str, size: tuple[int, int, int]) -> dict[str, Tensor]:
    layer, x, pull = drawn(name, size)
    return forward_and_gradients(copy.deepcopy(layer), x, pull)


def allowed(name: str, size: tuple[int, int, int], precision: str) -> dict[str, float]:
    """The limits of a layer, by what it does in double precision to inputs and parameters that are rounded."""
    layer, x, pull = drawn(name, size)
    rounded_layer = copy.deepcopy(layer).to(PRECISIONS[precision]).double()
    rounded_x, rounded_pull = (tensor.to(PRECISIONS[precision]).double() for tensor in (x, pull))
    changes = distances(forward_and_gradients(rounded_layer, rounded_x, rounded_pull), reference(name, size))
    return {part: max(FACTOR * change, FLOORS[precision]) for part, change in changes.items()}


def forward_and_gradients(layer: nn.Module, x: Tensor, pull: Tensor) -> dict[str, Tensor]:
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    y = layer(x)
    gradient, *gradients = torch.autograd.grad(y, (x, *layer.parameters()), pull.to(y.dtype))
    parameters = {"parameters": torch.cat([each.flatten() for each in gradients])} if gradients else {}
    return {"output": y.detach(), "input": gradient, **parameters}


def distances(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Of each part the norm of the difference over the norm, in double precision on the CPU."""
    return {
        part: rounded(((actual[part].cpu().double() - wanted).norm() / wanted.norm()).item())
        for part, wanted in expected.items()
    }


def speed(job: Job) -> Cases:
    """Every layer and what other libraries call the same: time and memory of forward and backward."""
    for side in job.sizes.sides:
        for name, build in beside_each_other(job.sizes.channels, side).items():
            for precision in ("fp32", "bf16"):
                case = {"layer": name, "channels": job.sizes.channels, "side": side, "precision": precision}
                yield case, partial(cost, job, build, side, precision)


def beside_each_other(channels: int, side: int) -> dict[str, Callable[[], nn.Module]]:
    """Our layers by name, and those of other libraries as "name, library"."""
    ours = {n: partial(build_mechanism, n, channels, (side, side)) for n in MECHANISMS if n != "none"}
    theirs = equivalents(channels, side).items()
    return ours | {f"{name}, {library}": build for name, (library, build) in theirs}


def cost(job: Job, build: Callable[[], nn.Module], side: int, precision: str) -> Row:
    images = job.sizes.pixels // side**2
    layer = build().to(job.device, memory_format=torch.channels_last)
    x, pull = torch.randn(2, images, job.sizes.channels, side, side, device=job.device)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()

    def run() -> None:
        with job.autocast(precision):
            y = layer(x)
        torch.autograd.grad(y, (x, *layer.parameters()), pull.to(y.dtype), allow_unused=True)

    return {"images": images, "milliseconds": milliseconds(job, run), "megabytes": megabytes(job, run)}


def megabytes(job: Job, run: Callable[[], object]) -> float | None:
    """What a call takes of the GPU's memory at most, beyond what is taken already."""
    if job.device == "cpu":
        return None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return rounded((torch.cuda.max_memory_allocated() - before) / 1e6)


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with record_weights():
        return attend(q, k, v)


def paths(job: Job) -> Cases:
    """The fused kernel and the explicit softmax, over the number and size of groups: where `attend` should turn."""
    for pixels in (job.sizes.pixels // 16, job.sizes.pixels):
        for tokens in job.sizes.tokens:
            for width in job.sizes.widths:
                for precision in ("fp32", "bf16"):
                    for path in (fused, explicit):
                        shape = (max(1, pixels // tokens), HEADS, tokens, width)
                        case = dict(zip(("groups", "heads", "tokens", "width"), shape, strict=True))
                        case |= {"precision": precision, "path": path.__name__}
                        yield case, partial(attention_cost, job, path, shape, precision)


def attention_cost(job: Job, path: Callable, shape: tuple[int, ...], precision: str) -> Row:
    q, k, v, pull = torch.randn(4, *shape, device=job.device, dtype=PRECISIONS[precision])
    inputs = [tensor.requires_grad_() for tensor in (q, k, v)]

    def run() -> None:
        torch.autograd.grad(path(*inputs), inputs, pull)

    return {"milliseconds": milliseconds(job, run), "megabytes": megabytes(job, run)}
