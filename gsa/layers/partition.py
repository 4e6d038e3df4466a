"""Partitions: how a map is cut into groups of tokens that may talk to each other, each a pair of einops patterns."""

from dataclasses import dataclass
from math import gcd, prod

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from gsa.layers.checks import check_axes, divisors


@dataclass(frozen=True)
class Partition:
    """A reversible rearrangement of a map into groups of tokens.

    It is a pair of einops patterns over the same axes, ``b {map} c`` and ``tokens``. In ``tokens`` the first axis
    counts the groups, the second the tokens of a group and the last the width of a token: only tokens of one group
    meet in attention. ``lengths`` fixes the axes that the size of the map does not determine.
    """

    name: str
    map: str
    tokens: str
    lengths: tuple[tuple[str, int], ...] = ()

    def split(
        self, x: Float[Tensor, "batch channels height width"], width: int | None = None
    ) -> Float[Tensor, "groups tokens width_of_token"]:
        """The map as groups of tokens, each ``width`` wide. Its gradient comes in channels_last memory, as does the map
        of :meth:`merge`.

        Raises:
            ValueError: if the map's sides are not multiples of the partition's step, or the tokens of another width
                than the one asked for.
        """
        check_axes(x)
        self.check(*x.shape[-2:])
        pixels = x.permute(0, 2, 3, 1)
        tokens = rearrange(pixels, f"b {self.map} c -> {self.tokens}", **dict(self.lengths))
        if width not in (None, tokens.shape[-1]):
            raise ValueError(
                f"{self.name} makes tokens {tokens.shape[-1]} wide of a {x.shape[-2]}×{x.shape[-1]} map of "
                f"{x.shape[1]} channels, but this layer was built for tokens {width} wide"
            )
        return tokens

    def merge(
        self, tokens: Float[Tensor, "groups tokens width_of_token"], size: tuple[int, int]
    ) -> Float[Tensor, "batch channels height width"]:
        """The map of ``size`` (height, width) that :meth:`split` took apart: its exact inverse, bit for bit.

        The map comes in channels_last memory: the channels of a pixel, which a token keeps together, move as one.
        """
        self.check(*size)
        rows, columns = (side // self.step for side in size)
        pattern = f"{self.tokens} -> b {self.map} c"
        return rearrange(tokens, pattern, rows=rows, columns=columns, **dict(self.lengths)).permute(0, 3, 1, 2)

    @property
    def step(self) -> int:
        """What each side of a map has to be a multiple of."""
        return prod([length for axis, length in self.lengths if axis.startswith("i")])

    def check(self, height: int, width: int) -> None:
        if height % self.step or width % self.step:
            raise ValueError(
                f"{self.name}: a {height}×{width} map is not a whole number of {self.step}×{self.step} blocks; "
                f"both sides must be multiples of {self.step} (steps that fit this map: {divisors(gcd(height, width))})"
            )


MAP = "(rows i) (columns j)"

GLOBAL = Partition("global", "rows columns", "b (rows columns) c")
"""One group, in which every pixel is a token and meets all others."""


def window(side: int, *, dilation: int = 1) -> Partition:
    """Windows of side × side pixels; with a dilation d, pixels d apart (the windows of every d-th-pixel sub-image)."""
    if dilation < 1:
        raise ValueError(f"the dilation of a window must be at least 1, got {dilation}")
    if dilation == 1:
        return Partition(f"window({side})", MAP, "(b rows columns) (i j) c", _square(side))
    dilated = "(rows i i_step) (columns j j_step)"
    lengths = (*_square(side), ("i_step", int(dilation)), ("j_step", int(dilation)))
    return Partition(f"window({side}, dilation={dilation})", dilated, "(b rows columns i_step j_step) (i j) c", lengths)


def grid(patch: int) -> Partition:
    """Sub-images: the pixels at the same place (i, j) of every patch × patch patch form a group."""
    return Partition(f"grid({patch})", MAP, "(b i j) (rows columns) c", _square(patch))


def patches(patch: int) -> Partition:
    """One group; its tokens are whole patches, c·patch² wide, as in ViT."""
    return Partition(f"patches({patch})", MAP, "b (rows columns) (c i j)", _square(patch))


def folded_channels(patch: int) -> Partition:
    """One group; its tokens are the c·patch² channels of the folded map, each as wide as there are patches."""
    return Partition(f"folded_channels({patch})", MAP, "b (c i j) (rows columns)", _square(patch))


def _square(side: int) -> tuple[tuple[str, int], ...]:
    if side < 1:
        raise ValueError(f"the side of a block must be at least 1, got {side}")
    return (("i", int(side)), ("j", int(side)))
