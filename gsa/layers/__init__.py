"""The layers of the book, and a registry that builds every shape-preserving one from (channels, (height, width))."""

from collections.abc import Callable

from torch import nn

from gsa.layers.attention import SelfAttention, attend, record_weights
from gsa.layers.controls import ProjectedValues
from gsa.layers.gates import SqueezeExcitation
from gsa.layers.partition import GLOBAL, Partition, folded_channels, grid, patches, window
from gsa.layers.sparse import (
    FoldedGlobalSparseAttention,
    GlobalSparseAttention,
    cheapest_folded_patch,
    cheapest_patch,
)

Size = tuple[int, int]


def _conv(channels: int, size: Size) -> nn.Module:
    return nn.Conv2d(channels, channels, 3, padding=1)


def _squeeze_excitation(channels: int, size: Size) -> nn.Module:
    return SqueezeExcitation(channels, reduction=4)


def _self_attention(channels: int, size: Size) -> nn.Module:
    return SelfAttention(channels)


def _window(channels: int, size: Size) -> nn.Module:
    return SelfAttention(channels, partition=window(cheapest_patch(*size)))


def _grid(channels: int, size: Size) -> nn.Module:
    return SelfAttention(channels, partition=grid(cheapest_patch(*size)))


def _gsa(channels: int, size: Size) -> nn.Module:
    return GlobalSparseAttention(channels, patch=cheapest_patch(*size))


def _gsa_projections(channels: int, size: Size) -> nn.Module:
    patch = cheapest_patch(*size)
    return nn.Sequential(
        ProjectedValues(channels, partition=grid(patch)), ProjectedValues(channels, partition=window(patch))
    )


def _folded(channels: int, size: Size) -> FoldedGlobalSparseAttention:
    return FoldedGlobalSparseAttention(channels, size=size, patch=cheapest_folded_patch(channels, *size))


def _folded_across(channels: int, size: Size) -> nn.Module:
    return _folded(channels, size).across


def _folded_within(channels: int, size: Size) -> nn.Module:
    return _folded(channels, size).within


def _folded_projections(channels: int, size: Size) -> nn.Module:
    stages = _folded(channels, size)
    return nn.Sequential(
        *(ProjectedValues(stage.channels, partition=stage.partition) for stage in (stages.across, stages.within))
    )


MECHANISMS: dict[str, Callable[[int, Size], nn.Module]] = {
    "none": lambda channels, size: nn.Identity(),
    "conv": _conv,
    "se": _squeeze_excitation,
    "self": _self_attention,
    "window": _window,
    "grid": _grid,
    "gsa": _gsa,
    "gsa-projections": _gsa_projections,
    "gsa-folded": _folded,
    "gsa-folded-across": _folded_across,
    "gsa-folded-within": _folded_within,
    "gsa-folded-projections": _folded_projections,
}
"""Every shape-preserving layer by its short name. ``window`` and ``grid`` use gsa's patch: each is one of its stages
alone. ``none`` and ``conv`` and the ``-projections`` are controls."""


def build_mechanism(name: str, channels: int, size: Size) -> nn.Module:
    """The layer ``name`` for maps of ``channels`` × ``size``. ValueError if there is none of that name."""
    if name not in MECHANISMS:
        raise ValueError(f"unknown mechanism {name!r}; there are {', '.join(MECHANISMS)}")
    return MECHANISMS[name](channels, size)


__all__ = [
    "GLOBAL",
    "MECHANISMS",
    "FoldedGlobalSparseAttention",
    "GlobalSparseAttention",
    "Partition",
    "ProjectedValues",
    "SelfAttention",
    "SqueezeExcitation",
    "attend",
    "build_mechanism",
    "cheapest_folded_patch",
    "cheapest_patch",
    "folded_channels",
    "grid",
    "patches",
    "record_weights",
    "window",
]
