"""The registry: every shape-preserving layer of the book by its short name, built from (channels, (height, width))."""

from collections.abc import Callable

from torch import nn

from gsa.layers.attention import NonLocal, SelfAttention
from gsa.layers.controls import ProjectedValues
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
from gsa.layers.partition import grid, window
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


def _gsa_projections(channels: int, size: Size) -> nn.Module:
    patch = cheapest_patch(*size)
    return nn.Sequential(
        ProjectedValues(channels, partition=grid(patch)), ProjectedValues(channels, partition=window(patch))
    )


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
    "host-conv": lambda channels, size: MatrixConvolution(channels, channels),
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
    "gsa": lambda channels, size: GlobalSparseAttention(channels, patch=cheapest_patch(*size)),
    "gsa-projections": _gsa_projections,
    "gsa-folded": _folded,
    "gsa-folded-across": lambda channels, size: _folded(channels, size).across,
    "gsa-folded-within": lambda channels, size: _folded(channels, size).within,
    "gsa-folded-projections": _folded_projections,
}
"""Every shape-preserving layer by its short name, in the order of the chapters. ``window`` and ``grid`` use gsa's
patch: each is one of its stages alone. ``window`` is also the local half of ``twins``, and ``twins-gsa`` the other.
``none``, ``conv`` and the ``-projections`` are controls, and so is ``host-conv``: a convolution of the kind of which
the fast host is made, which its optimizer trains with its own."""


def build_mechanism(name: str, channels: int, size: Size) -> nn.Module:
    """The layer ``name`` for maps of ``channels`` × ``size``. ValueError if there is none of that name."""
    if name not in MECHANISMS:
        raise ValueError(f"unknown mechanism {name!r}; there are {', '.join(MECHANISMS)}")
    return MECHANISMS[name](channels, size)
