"""Twins: attention inside windows, attention to a subsampled map, and positions from a convolution."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from gsa.layers.attention import SelfAttention, attend
from gsa.layers.checks import check_axes, check_heads
from gsa.layers.partition import GLOBAL, patches
from gsa.layers.partition import window as windows


class LocallyGroupedAttention(SelfAttention):
    r"""Self-attention inside windows that tile a map of any size; those at its end may be partial (arXiv:2104.13840).

    .. math:: y_i = W_o \sum_{j \in \mathcal W(i)}
              \operatorname{softmax}_{j \in \mathcal W(i)}(q_i^\top k_j/\sqrt d)\, v_j + b_o

    with :math:`\mathcal W(i)` the pixels in the window of pixel i, per head. A partial window is padded, but its
    padding is no key: it is masked out of the softmax. Where the window divides the map there is no padding, no mask.

    Shape:
        (batch, channels, height, width) in and out.

    Cost:
        For G = ⌈height/window⌉·⌈width/window⌉ windows of n = window² places: G·(4nC² + 2n²C) multiply-accumulates; 4C²
        + 4C parameters.

    Raises:
        ValueError: if ``heads`` does not divide ``channels`` or ``window`` is less than 1.

    Differs:
        From ``timm.models.twins.LocallyGroupedAttn`` in partial windows, where timm's padding attends as zeros.

    Example:
        >>> LocallyGroupedAttention(64, window=4)(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(self, channels: int, heads: int = 4, *, window: int) -> None:
        super().__init__(channels, heads, partition=windows(window))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        height, width = x.shape[-2:]
        margin = (0, -width % self.partition.step, 0, -height % self.partition.step)
        if not any(margin):
            return super().forward(x)
        padded, real = F.pad(x, margin), F.pad(torch.ones_like(x[:, :1]), margin)
        parts = self.qkv(self.partition.split(padded)).chunk(3, dim=-1)
        q, k, v = (rearrange(part, "group n (h d) -> group h n d", h=self.heads) for part in parts)
        keys = rearrange(self.partition.split(real) > 0, "group n 1 -> group 1 1 n")
        mixed = self.proj(rearrange(attend(q, k, v, bias=keys), "group h n d -> group n (h d)"))
        return self.partition.merge(mixed, padded.shape[-2:])[..., :height, :width]


class GlobalSubsampledAttention(nn.Module):
    r"""Attention of every pixel to a map subsampled by a strided convolution (arXiv:2104.13840; PVT, arXiv:2102.12122).

    .. math:: Y = \big[\operatorname{softmax}(Q_h K_h^\top/\sqrt d)\, V_h\big]_{h} W_o + b_o, \qquad
              Q = X W_q + b_q, \quad [K, V] = \operatorname{LN}(\operatorname{sr} X)\, W_{kv} + b_{kv}

    ``sr`` is a convolution whose kernel and stride are the ``reduction`` r: it projects every r × r patch to one key
    and value. With r = 1 there is neither ``sr`` nor LN: plain self-attention. Where one key is left, its weight is 1
    for every query, so the output is the same at every position.

    Shape:
        (batch, channels, height, width) in and out.

    Cost:
        For N = height · width: NC²(3 + 2/r²) + 2N²C/r² multiply-accumulates, (r² + 4)C² + 7C parameters; for r = 1,
        4NC² + 2N²C and 4C² + 4C.

    Raises:
        ValueError: if ``heads`` does not divide ``channels`` or the reduction does not divide the map's sides (others
            drop the remaining rows and columns).

    Example:
        >>> GlobalSubsampledAttention(64, reduction=4)(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(self, channels: int, heads: int = 4, *, reduction: int) -> None:
        super().__init__()
        check_heads(channels, heads)
        self.heads, self.patches = int(heads), patches(reduction)
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.sr = nn.Conv2d(channels, channels, reduction, reduction) if reduction > 1 else nn.Identity()
        self.norm = nn.LayerNorm(channels) if reduction > 1 else nn.Identity()
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        check_axes(x)
        self.patches.check(*x.shape[-2:])
        queries, keys = GLOBAL.split(x), self.norm(GLOBAL.split(self.sr(x)))
        parts = (self.q(queries), *self.kv(keys).chunk(2, dim=-1))
        q, k, v = (rearrange(part, "b n (h d) -> b h n d", h=self.heads) for part in parts)
        return GLOBAL.merge(self.proj(rearrange(attend(q, k, v), "b h n d -> b n (h d)")), x.shape[-2:])


class PositionEncodingGenerator(nn.Module):
    r"""Each pixel plus a 3×3 depthwise convolution around it, whose zero border tells where it is (arXiv:2102.10882).

    .. math:: y_{c,i} = x_{c,i} + b_c + \sum_{\delta \in \{-1,0,1\}^2} w_{c,\delta}\, x_{c,i+\delta}

    Shape:
        (batch, channels, height, width) in and out.

    Cost:
        9C · height · width multiply-accumulates; 10C parameters, called ``proj.0`` as in timm.

    Example:
        >>> PositionEncodingGenerator(64)(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, groups=channels))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        check_axes(x)
        return x + self.proj(x)
