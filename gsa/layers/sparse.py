"""Global Sparse Attention: everyone reaches everyone in two hops, as its source describes it and as it coded it."""

from collections.abc import Sequence
from math import gcd, prod
from numbers import Integral

from jaxtyping import Float
from torch import Tensor, nn

from gsa.layers.attention import SelfAttention
from gsa.layers.checks import divisors
from gsa.layers.partition import folded_channels, grid, patches, window


class GlobalSparseAttention(nn.Module):
    r"""Attention among the pixels at the same place of every patch, then among the pixels of each patch.

    .. math:: Y = A_{\text{within}}\big(A_{\text{across}}(X)\big)

    ``across`` is self-attention over the k² sub-images that :func:`~gsa.layers.partition.grid` gathers (L = HW/k²
    tokens each), ``within`` over the patches (k² tokens each). Any two pixels are connected in two hops. A sequence of
    patches nests: ``patch=(k₁, k₂)`` folds every sub-image again, which adds one hop and leaves HW/(k₁k₂)² tokens to
    the first. Patch sides are then the digits of a mixed-radix number, and each hop changes one digit of the position.

    Shape:
        (batch, channels, height, width) in and out.

    Cost:
        With one patch: 2·4·HWC² + 2HWC(L + k²) multiply-accumulates, least at k² = √(HW); 2(4C² + 4C) parameters. Each
        further patch adds 4HWC² + 2HWC·k².

    Raises:
        ValueError: if ``heads`` does not divide ``channels`` or the patches do not tile the map.

    References:
        Interlaced sparse self-attention (arXiv:1907.12273), CrossFormer (arXiv:2108.00154), MaxViT (arXiv:2204.01697),
        which has the two hops in the other order, each with its own residual branch.

    Example:
        >>> GlobalSparseAttention(64, patch=4)(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(self, channels: int, heads: int = 4, *, patch: int | Sequence[int]) -> None:
        super().__init__()
        sides = (patch,) if isinstance(patch, Integral) else tuple(patch)
        if not sides:
            raise ValueError("patch needs at least one side, got an empty sequence")
        hops = [
            SelfAttention(channels, heads, partition=window(side, dilation=prod(sides[:level])))
            for level, side in enumerate(sides)
        ]
        self.across = SelfAttention(channels, heads, partition=grid(prod(sides)))
        self.within = nn.Sequential(*reversed(hops))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        return self.within(self.across(x))


class FoldedGlobalSparseAttention(nn.Module):
    r"""Global Sparse Attention as its source coded it: attention among the rows, then the columns, of the folded map.

    Folding k × k patches turns the map into :math:`X \in \mathbb R^{D \times L}`, D = C·k², L = HW/k².

    .. math:: Y^\top = A_{\text{within}}\big(A_{\text{across}}(X)^\top\big)

    ``across`` takes the D folded channels as tokens, with projections along position (L × L matrices);
    ``within`` takes the L patches as tokens, with projections along the folded channels (D × D matrices). So the first
    is channel attention on the folded map, the second is ViT's attention between patches; nothing in it is sparse.
    The L × L matrices tie the layer to the map ``size`` = (height, width) that it is built for.

    Shape:
        (batch, channels, height, width) in and out.

    Cost:
        6·HWC·(HW/k² + Ck²) multiply-accumulates, least at k⁴ = HW/C; 4L² + 4D² + 4(L + D) parameters.

    Raises:
        ValueError: if the patch does not tile ``size``, if ``heads`` does not divide L and D, or if a map of another
            size comes in.

    Example:
        >>> FoldedGlobalSparseAttention(64, size=(16, 16), patch=2)(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(self, channels: int, heads: int = 4, *, size: tuple[int, int], patch: int) -> None:
        super().__init__()
        folded_channels(patch).check(*size)
        positions = size[0] * size[1] // patch**2
        self.size = (int(size[0]), int(size[1]))
        self.across = SelfAttention(positions, heads, partition=folded_channels(patch))
        self.within = SelfAttention(channels * patch**2, heads, partition=patches(patch))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        if tuple(x.shape[-2:]) != self.size:
            raise ValueError(f"built for {self.size[0]}×{self.size[1]} maps, got one of {x.shape[-2]}×{x.shape[-1]}")
        return self.within(self.across(x))


def cheapest_patch(height: int, width: int) -> int:
    """The patch side k, of those that tile the map, with the least L + k² (arg min of GSA's cost); larger on ties."""
    return min(divisors(gcd(height, width)), key=lambda k: (height * width / k**2 + k**2, -k))


def cheapest_folded_patch(channels: int, height: int, width: int, heads: int = 4) -> int:
    """The patch side k ≥ 2 with the least HW/k² + Ck² (arg min of the folded cost) whose L and D ``heads`` divides."""
    fit = [
        k
        for k in divisors(gcd(height, width))[1:]
        if (height * width // k**2) % heads == 0 and (channels * k**2) % heads == 0
    ]
    if not fit:
        raise ValueError(f"no patch of at least 2×2 tiles a {height}×{width} map into a multiple of {heads} patches")
    return min(fit, key=lambda k: height * width / k**2 + channels * k**2)
