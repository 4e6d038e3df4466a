"""The registry: every shape-preserving layer of the book by its short name, built from (channels, (height, width))."""

from collections.abc import Callable
from functools import partial

from torch import nn

from gsa.layers.attention import NonLocal, SelfAttention
from gsa.layers.controls import FixedAttention, Placed, ProjectedValues, ShuffledAttention, UniformAttention
from gsa.layers.convolution import DepthwiseSeparableConvolution, MatrixConvolution
from gsa.layers.gates import (
    CBAM,
    ChannelGate,
    LargeKernelAttention,
    SelectiveKernel,
    SpatialGate,
    SqueezeExcitation,
)
from gsa.layers.hashing import LSHAttention
from gsa.layers.partition import Partition, grid, window
from gsa.layers.sampling import DeformableConvolution, SpatialTransformer
from gsa.layers.sparse import (
    FoldedGlobalSparseAttention,
    GlobalSparseAttention,
    cheapest_folded_patch,
    cheapest_patch,
)
from gsa.layers.standalone import StandAloneSelfAttention
from gsa.layers.twins import GlobalSubsampledAttention, LocallyGroupedAttention, PositionEncodingGenerator

Size = tuple[int, int]


def _twins(channels: int, size: Size) -> nn.Module:
    side = cheapest_patch(*size)
    return nn.Sequential(
        LocallyGroupedAttention(channels, window=side), GlobalSubsampledAttention(channels, reduction=side)
    )


def _gsa(channels: int, size: Size, *, heads: int = 4, patch: int | None = None) -> GlobalSparseAttention:
    return GlobalSparseAttention(channels, heads, patch=patch or cheapest_patch(*size))


def _two_hops(layer: Callable[[Partition], nn.Module], size: Size) -> nn.Sequential:
    """A layer over GSA's sub-images, then over its patches."""
    patch = cheapest_patch(*size)
    return nn.Sequential(layer(grid(patch)), layer(window(patch)))


def _window_first(channels: int, size: Size) -> nn.Sequential:
    patch = cheapest_patch(*size)
    return nn.Sequential(
        SelfAttention(channels, partition=window(patch)), SelfAttention(channels, partition=grid(patch))
    )


def _shuffled(channels: int, size: Size) -> nn.Sequential:
    """GSA with pixels drawn at random in the place of each group, anew for the second hop."""
    patch = cheapest_patch(*size)
    tokens = size[0] * size[1] // patch**2, patch**2
    return nn.Sequential(*(ShuffledAttention(channels, size=size, tokens=n, seed=hop) for hop, n in enumerate(tokens)))


def _fixed(channels: int, size: Size) -> nn.Sequential:
    patch = cheapest_patch(*size)
    return nn.Sequential(
        FixedAttention(channels, partition=grid(patch), tokens=size[0] * size[1] // patch**2),
        FixedAttention(channels, partition=window(patch), tokens=patch**2),
    )


def _nested(channels: int, size: Size) -> GlobalSparseAttention:
    """Three hops: the cheapest patch in two digits, of which 2 is the first."""
    return GlobalSparseAttention(channels, patch=(2, max(1, cheapest_patch(*size) // 2)))


def _folded(channels: int, size: Size) -> FoldedGlobalSparseAttention:
    return FoldedGlobalSparseAttention(channels, size=size, patch=cheapest_folded_patch(channels, *size))


def _folded_projections(channels: int, size: Size) -> nn.Module:
    stages = _folded(channels, size)
    return nn.Sequential(
        *(ProjectedValues(stage.channels, partition=stage.partition) for stage in (stages.across, stages.within))
    )


MECHANISMS: dict[str, Callable[[int, Size], nn.Module]] = {
    "none": lambda channels, size: nn.Identity(),
    "conv": lambda channels, size: nn.Conv2d(channels, channels, 3, padding=1),
    "separable": lambda channels, size: DepthwiseSeparableConvolution(channels),
    "se": lambda channels, size: SqueezeExcitation(channels, reduction=4),
    "channel": lambda channels, size: ChannelGate(channels, reduction=4),
    "spatial": lambda channels, size: SpatialGate(),
    "cbam": lambda channels, size: CBAM(channels, reduction=4),
    "sk": lambda channels, size: SelectiveKernel(channels),
    "lka": lambda channels, size: LargeKernelAttention(channels),
    "stn": lambda channels, size: SpatialTransformer(channels),
    "deformable": lambda channels, size: DeformableConvolution(channels),
    "deformable-modulated": lambda channels, size: DeformableConvolution(channels, modulated=True),
    "self": lambda channels, size: SelfAttention(channels),
    "non-local": lambda channels, size: NonLocal(channels),
    "sasa": lambda channels, size: StandAloneSelfAttention(channels),
    "window": lambda channels, size: SelfAttention(channels, partition=window(cheapest_patch(*size))),
    "grid": lambda channels, size: SelfAttention(channels, partition=grid(cheapest_patch(*size))),
    "twins-gsa": lambda channels, size: GlobalSubsampledAttention(channels, reduction=cheapest_patch(*size)),
    "twins": _twins,
    "peg": lambda channels, size: PositionEncodingGenerator(channels),
    "hashed": lambda channels, size: LSHAttention(channels, bucket=cheapest_patch(*size) ** 2),
    "gsa": _gsa,
    "gsa-projections": lambda channels, size: _two_hops(lambda p: ProjectedValues(channels, partition=p), size),
    "gsa-folded": _folded,
    "gsa-folded-across": lambda channels, size: _folded(channels, size).across,
    "gsa-folded-within": lambda channels, size: _folded(channels, size).within,
    "gsa-folded-projections": _folded_projections,
}
"""Every shape-preserving layer by its short name, in the order of the chapters. ``window`` and ``grid`` use gsa's
patch: each is one of its stages alone. ``window`` is also the local half of ``twins``, and ``twins-gsa`` the other.
``none``, ``conv`` and the ``-projections`` are controls."""

VARIANTS: dict[str, Callable[[int, Size], nn.Module]] = {
    "host-conv": lambda channels, size: MatrixConvolution(channels, channels),
    **{f"gsa-{heads}-heads": partial(_gsa, heads=heads) for heads in (1, 2)},
    **{f"gsa-patch{patch}": partial(_gsa, patch=patch) for patch in (1, 2, 8)},
    "gsa-nested": _nested,
    "gsa-window-first": _window_first,
    "gsa-shuffled": _shuffled,
    "gsa-placed": lambda channels, size: Placed(_gsa(channels, size), channels, size),
    "gsa-fixed": _fixed,
    "gsa-uniform": lambda channels, size: _two_hops(lambda p: UniformAttention(channels, partition=p), size),
}
"""What only studies use is GSA with one thing changed, and ``host-conv``, a convolution of the kind that the fast host
is made of and that its optimizer trains with its own. On maps of 64 channels and 16 × 16 pixels it costs as many
multiply-accumulates as ``gsa``."""


def build_mechanism(name: str, channels: int, size: Size) -> nn.Module:
    """The layer ``name`` for maps of ``channels`` × ``size``. ValueError if there is none of that name."""
    known = MECHANISMS | VARIANTS
    if name not in known:
        raise ValueError(f"unknown mechanism {name!r}; there are {', '.join(known)}")
    return known[name](channels, size)
