"""Attention proper: one primitive, a way to look at its weights, self-attention over any partition, non-local."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gsa.layers.checks import check_heads
from gsa.layers.partition import GLOBAL, Partition

_recorded: ContextVar[list[Tensor] | None] = ContextVar("recorded", default=None)
_frozen: ContextVar[bool] = ContextVar("frozen", default=False)


@contextmanager
def record_weights() -> Iterator[list[Tensor]]:
    """Collect every softmax matrix that :func:`attend` computes inside the block, in the order of the calls.

    Each is (batch, heads, queries, keys) and stays attached to the graph. Blocks nest: the innermost one records.
    Only the thread (or asyncio task) that opened the block is recorded.
    """
    weights: list[Tensor] = []
    outer = _recorded.set(weights)
    try:
        yield weights
    finally:
        _recorded.reset(outer)


@contextmanager
def frozen_weights() -> Iterator[None]:
    """Inside, what weights are computed from counts as constant: a layer y = A(x)·x is differentiated as A·x.

    It holds in the thread (or asyncio task) that opened the block.
    """
    outer = _frozen.set(True)
    try:
        yield
    finally:
        _frozen.reset(outer)


def held(x: Tensor) -> Tensor:
    """``x``, of which weights are made: itself, but a constant inside :func:`frozen_weights`."""
    return x.detach() if _frozen.get() else x


def attend(
    q: Float[Tensor, "batch heads queries width"],
    k: Float[Tensor, "batch heads keys width"],
    v: Float[Tensor, "batch heads keys width_of_value"],
    *,
    bias: Float[Tensor, "..."] | Bool[Tensor, "..."] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "batch heads queries width_of_value"]:
    r"""Scaled dot-product attention, the one primitive of this package (arXiv:1706.03762).

    .. math:: y_i = \sum_j \operatorname{softmax}_j(s\, q_i^\top k_j + b_{ij})\, v_j

    ``bias`` is added to the logits (or, if boolean, says which pairs may meet: a query that may meet none gets zeros,
    as does one whose biases are all −∞). It has two dimensions or more and broadcasts to (batch, heads, queries, keys).
    ``scale`` is s, by default 1/√width. Costs queries · keys · (width + width_of_value) multiply-accumulates per head
    and no parameters. Inside :func:`record_weights`, and where :func:`explicit_is_faster`, the softmax is computed
    explicitly; elsewhere PyTorch's fused kernel never stores it. That kernel has no second derivative on the CPU;
    inside :func:`record_weights` there is one.
    """
    q, k = held(q), held(k)
    recorded = _recorded.get()
    if recorded is None and not explicit_is_faster(k):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    weights, y = explicit(q, k, v, bias, q.shape[-1] ** -0.5 if scale is None else scale)
    if recorded is not None:
        recorded.append(weights)
    return y


FEW, MANY = 32, 128
"""Keys of a group: below the first, half precision takes longer than single on a CPU; up to the second, fused attention
in half precision takes longer than the explicit one."""


def explicit_is_faster(k: Float[Tensor, "batch heads keys width"]) -> bool:
    """Whether products and a softmax are faster for these keys than PyTorch's fused kernel, backward pass included."""
    return k.device.type == "cpu" and k.dtype == torch.bfloat16 and k.shape[-2] <= MANY


def explicit(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float
) -> tuple[Float[Tensor, "batch heads queries keys"], Float[Tensor, "batch heads queries width_of_value"]]:
    """The weights and their sum over the values, as :func:`attend` describes them.

    Half precision turns to single precision where that is faster (``FEW``) and where logits could overflow (float16).
    """
    half = v.dtype
    single = half == torch.float16 or (half == torch.bfloat16 and k.shape[-2] < FEW)
    q, k, v = (t.to(torch.float32 if single else half) for t in (q, k, v))
    with torch.autocast("cuda" if q.is_cuda else "cpu", enabled=False):
        logits = q * scale @ k.mT
        if bias is None:
            weights = logits.softmax(-1)
        else:
            hidden = bias == float("-inf") if bias.is_floating_point() else ~bias
            logits = logits + bias if bias.is_floating_point() else logits
            weights = logits.masked_fill(hidden, float("-inf")).softmax(-1).masked_fill(hidden, 0)
        return weights, (weights @ v).to(half)


class Projection(nn.Linear):
    """A linear layer whose gradients and results are those of ``nn.Linear``, in half the time for groups of tokens.

    On a CPU the tokens become the pixels of an image, and the layer the 1×1 convolution that it is.
    """

    def forward(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width_out"]:
        if x.ndim != 3 or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16):
            return super().forward(x)
        images = x[:, None] if x.dtype == torch.float32 else x[None]
        y = F.conv2d(images.permute(0, 3, 1, 2), self.weight[:, :, None, None], self.bias)
        return y.permute(0, 2, 3, 1).contiguous().view(*x.shape[:2], -1)


class SelfAttention(nn.Module):
    r"""Multi-head self-attention among the tokens of each group of a partition (arXiv:1706.03762).

    .. math:: Y = \big[\operatorname{softmax}(Q_h K_h^\top/\sqrt d)\, V_h\big]_{h} W_o + b_o, \qquad
              [Q, K, V] = X W_{qkv} + b_{qkv}

    ``channels`` is the width C of a token: the map's channels for every partition that leaves them whole.
    Shape: (batch, channels, height, width) in and out. Cost for G groups of n tokens: G·(4nC² + 2n²C)
    multiply-accumulates; 4C² + 4C parameters.
    Errors: ValueError if ``heads`` does not divide ``channels``, if the partition does not fit the map, or if its
    tokens are not ``channels`` wide.
    """

    def __init__(self, channels: int, heads: int = 4, *, partition: Partition = GLOBAL) -> None:
        super().__init__()
        check_heads(channels, heads)
        self.channels, self.heads, self.partition = channels, heads, partition
        self.qkv = Projection(channels, 3 * channels)
        self.proj = Projection(channels, channels)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        parts = self.qkv(self.partition.split(x, self.channels)).chunk(3, dim=-1)
        q, k, v = (rearrange(part, "group n (h d) -> group h n d", h=self.heads) for part in parts)
        mixed = self.proj(rearrange(attend(q, k, v), "group h n d -> group n (h d)"))
        return self.partition.merge(mixed, x.shape[-2:])

    def extra_repr(self) -> str:
        return f"channels={self.channels}, heads={self.heads}, partition={self.partition.name}"


class TemporalAttention(SelfAttention):
    r"""Self-attention over the time of a clip, at every pixel by itself (arXiv:2102.05095).

    .. math:: Y_{\cdot p} = \operatorname{Attention}(X_{\cdot p}), \qquad X_{\cdot p} \in \mathbb R^{T \times C}
              \text{ the history of pixel } p

    with :class:`SelfAttention`; time has no order and no direction. A clip of one moment has
    nothing to choose from: the result is the projected values. Shape: (batch, time, channels, height, width) in and
    out. Cost for T moments of H × W: HW(4TC² + 2T²C) multiply-accumulates; 4C² + 4C parameters.
    Errors: ValueError if ``heads`` does not divide ``channels`` or the clip has another number of channels.
    Differs from its paper in being the attention alone: no embedding of time, normalization or residual.
    """

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__(channels, heads)

    def forward(
        self, x: Float[Tensor, "batch time channels height width"]
    ) -> Float[Tensor, "batch time channels height width"]:
        batch, _, _, height, _ = x.shape
        histories = rearrange(x, "b t c height width -> (b height width) c t 1")
        pattern = "(b height width) c t 1 -> b t c height width"
        return rearrange(super().forward(histories), pattern, b=batch, height=height)


class NonLocal(nn.Module):
    r"""The non-local block: one head of attention between all pixels, added to the map (arXiv:1711.07971).

    .. math:: y_i = x_i + \operatorname{BN}\Big(W_z \sum_j \operatorname{softmax}_j(\theta_i^\top \phi_j)\, g_j\Big)

    θ, φ and g are 1×1 convolutions of x to C′ = ⌊C/reduction⌋ channels, here ``t``, ``p`` and ``g`` as in timm; the
    logits are not divided by √C′. The gain γ of the norm starts at zero, and the block as the identity.

    Shape: (batch, channels, height, width) in and out. Cost for N pixels: 4NCC′ + 2N²C′ multiply-accumulates;
    4CC′ + 3C′ + 3C parameters. In training the norm lets the images of a batch meet.
    Errors: ValueError if ``reduction`` leaves no channel.
    Differs from the paper in that keys and values are never pooled; of its forms this is the embedded Gaussian.
    """

    def __init__(self, channels: int, *, reduction: int = 2) -> None:
        super().__init__()
        if not 1 <= reduction <= channels:
            raise ValueError(f"reduction {reduction} leaves no channel of {channels}; it must be in 1…{channels}")
        self.t, self.p, self.g = (nn.Conv2d(channels, channels // reduction, 1) for _ in range(3))
        self.z = nn.Conv2d(channels // reduction, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        q, k, v = (rearrange(part(x), "b c h w -> b 1 (h w) c").contiguous() for part in (self.t, self.p, self.g))
        mixed = GLOBAL.merge(attend(q, k, v, scale=1.0).squeeze(1), x.shape[-2:])
        return x + self.norm(self.z(mixed))


def guidance_mask(weights: Float[Tensor, "batch heads queries keys"]) -> Bool[Tensor, "batch keys"]:
    r"""The tokens that draw more than their share of self-attention: what its guidance blurs (arXiv:2210.00939).

    .. math:: m_j = \Big[\sum_i \frac1H \sum_{h=1}^H W_{hij} > 1\Big]

    ``weights`` is what :func:`record_weights` has kept of a self-attention. Its rows sum to one, so the mean of the
    score over the n keys is exactly one: the share of a token to which all are equal. Costs no multiply-accumulates.
    Errors: ValueError if there are not as many queries as keys, for then the mean is not one.
    """
    queries, keys = weights.shape[-2:]
    if queries != keys:
        raise ValueError(f"{queries} queries attend to {keys} keys: that is no self-attention, whose scores average 1")
    return weights.mean(1).sum(1) > 1
