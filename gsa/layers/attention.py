"""Attention proper: one primitive, a way to look at its weights, self-attention over any partition, non-local."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gsa.layers.checks import check_axes, check_heads
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
    ``scale`` is s, by default 1/√width.

    Cost:
        Queries · keys · (width + width_of_value) multiply-accumulates per head and no parameters. Inside
        :func:`record_weights`, and where :func:`explicit_is_faster`, the softmax is computed explicitly; elsewhere
        PyTorch's fused kernel never stores it. That kernel has no second derivative on the CPU; inside
        :func:`record_weights` there is one.

    Example:
        >>> q, k, v = torch.randn(3, 2, 4, 9, 16)
        >>> attend(q, k, v).shape
        torch.Size([2, 4, 9, 16])
    """
    q, k = held(q), held(k)
    recorded = _recorded.get()
    if recorded is None and not explicit_is_faster(k):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    precision = v.dtype
    if recorded is not None or precision == torch.float16:  # of which logits may be too large
        q, k, v = (t.to(torch.promote_types(precision, torch.float32)) for t in (q, k, v))
    weights, y = explicit(q, k, v, bias, scale)
    if recorded is not None:
        recorded.append(weights)
    return y.to(precision)


def explicit_is_faster(k: Float[Tensor, "batch heads keys width"]) -> bool:
    """Whether products and a softmax are faster than PyTorch's fused kernel, backward pass included.

    They are for short groups: on a CPU up to 32 keys in single precision, packed, and 256 in bfloat16, on CUDA up to 32
    in single precision if there are thousands of them. For more than 65,535 groups CUDA has no fused kernel
    (pytorch#146704). Milliseconds of 64,000 tokens and four heads, fused / explicit (/ :func:`attend_packed`), on one
    thread of x86-64 with AVX-512 and on an H200:

    ===========  ===============  ===============  ===========  ===========
    keys, width  CPU fp32         CPU bf16         CUDA fp32    CUDA bf16
    ===========  ===============  ===============  ===========  ===========
    4, 16        105 / 116 / 103  237 / 85 / 82
    9, 16        106 / 98 / 83    179 / 76 / 84    2.2 / 0.8    1.2 / 0.9
    16, 16       64 / 49 / 43     146 / 77 / 41    1.3 / 0.7    0.7 / 0.9
    16, 64       147 / 176 / 166  804 / 136 / 87   1.6 / 0.8    0.8 / 0.9
    32, 16       66 / 73 / 53     392 / 49 / 45
    49, 16                                         0.6 / 0.6    0.3 / 0.7
    64, 16       83 / 121 / 100   428 / 66 / 65    0.5 / 0.7    0.2 / 0.7
    64, 64       237 / 261 / 220  528 / 116 / 114  0.7 / 0.7    0.3 / 0.9
    128, 16      128 / 190 / 172  469 / 106 / 118  0.8 / 0.8    0.2 / 0.7
    256, 16      213 / 335 / 337  362 / 181 / 224  1.6 / 1.4    0.2 / 0.6
    ===========  ===============  ===============  ===========  ===========
    """
    groups, heads, keys, _ = k.shape
    if k.is_cuda:
        return groups > 65_535 or (k.dtype == torch.float32 and keys <= 32 and groups * heads >= 8192)
    return k.device.type == "cpu" and keys <= {torch.float32: 32, torch.bfloat16: 256}.get(k.dtype, 0)


def explicit(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale: float | None = None
) -> tuple[Float[Tensor, "batch heads queries keys"], Float[Tensor, "batch heads queries width_of_value"]]:
    """The weights, in single precision at least, and their sum over the values, as :func:`attend` describes them."""
    factor = float(q.shape[-1] ** -0.5 if scale is None else scale)
    with torch.autocast("cuda" if q.is_cuda else "cpu", enabled=False):
        logits = (q.to(v) * factor @ k.to(v).mT).to(torch.promote_types(v.dtype, torch.float32))
        if bias is None:
            weights = logits.softmax(-1)
        else:
            hidden = bias == float("-inf") if bias.is_floating_point() else ~bias
            logits = logits + bias if bias.is_floating_point() else logits
            weights = logits.masked_fill(hidden, float("-inf")).softmax(-1).masked_fill(hidden, 0)
        return weights, weights.to(v) @ v


def attend_packed(
    qkv: Float[Tensor, "group tokens three_times_channels"], heads: int
) -> Float[Tensor, "group tokens channels"]:
    """:func:`attend` among tokens that bring query, key and value side by side, each of them ``heads`` side by side."""
    plain = _recorded.get() is not None or _frozen.get() or torch.compiler.is_compiling()
    if not plain and qkv.device.type == "cpu" and explicit_is_faster(qkv[:, None]):
        return _PackedAttention.apply(qkv, heads)[0]
    return unpacked(attend, qkv, heads)


def unpacked(
    attention: Callable[[Tensor, Tensor, Tensor], Tensor], qkv: Float[Tensor, "group n three_times_width"], heads: int
) -> Float[Tensor, "group n width"]:
    """The heads of every token side by side, after ``attention`` to each for itself."""
    q, k, v = (rearrange(part, "group n (h d) -> group h n d", h=heads) for part in qkv.chunk(3, dim=-1))
    return rearrange(attention(q, k, v), "group h n d -> group n (h d)")


class _PackedAttention(torch.autograd.Function):
    """The explicit path of :func:`attend_packed`, some groups at a time, so that what it computes stays in the cache.

    Results and gradients are written where the next product wants them. The weights are kept in the precision of the
    tokens, but the softmax takes single precision at least.
    """

    TOKENS = 4096
    generate_vmap_rule = True

    @staticmethod
    def forward(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
        y, kept = qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3), []
        with torch.autocast("cpu", enabled=False):
            for some, out in zip(pieces(qkv), pieces(y), strict=True):
                q, k, v = apart(some, 3, heads)
                kept.append(softmax_of_products(q, k))
                out.copy_(together([kept[-1] @ v], heads))
        return y, *kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, ...]) -> None:
        (qkv, ctx.heads), (_, *kept) = inputs, output
        ctx.save_for_backward(qkv, *kept)
        ctx.mark_non_differentiable(*kept)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        qkv, *kept = ctx.saved_tensors
        if torch.is_grad_enabled():  # as a second derivative asks for; it also goes through the weights
            q, k = apart(qkv, 3, ctx.heads)[:2]
            return packed_gradient(qkv, softmax_of_products(q, k), dy, ctx.heads), None
        gradient = dy.new_empty(qkv.shape)
        for some, weights, dy_some, out in zip(pieces(qkv), kept, pieces(dy), pieces(gradient), strict=True):
            out.copy_(packed_gradient(some, weights, dy_some, ctx.heads))
        return gradient, None


def packed_gradient(qkv: Tensor, weights: Tensor, dy: Tensor, heads: int) -> Tensor:
    """The gradient with respect to queries, keys and values, side by side as they are."""
    (q, k, v), (dy,) = apart(qkv, 3, heads), apart(dy, 1, heads)
    scale, wide = q.shape[-1] ** -0.5, torch.promote_types(q.dtype, torch.float32)
    d_weights = (dy @ v.mT).to(wide)
    d_logits = torch.ops.aten._softmax_backward_data(d_weights, weights.to(wide), -1, wide).to(q.dtype)
    d_q, d_k = scaled_product(scale, d_logits, k), scaled_product(scale, d_logits.mT, q)
    return together([d_q, d_k, weights.mT @ dy], heads)


def softmax_of_products(q: Float[Tensor, "group n d"], k: Float[Tensor, "group m d"]) -> Float[Tensor, "group n m"]:
    wide = torch.promote_types(q.dtype, torch.float32)
    return scaled_product(q.shape[-1] ** -0.5, q, k.mT).softmax(-1, dtype=wide).to(q.dtype)


def scaled_product(
    scale: float, one: Float[Tensor, "group n m"], other: Float[Tensor, "group m d"]
) -> Float[Tensor, "group n d"]:
    """scale · one · other, in one step."""
    return torch.baddbmm(one.new_empty(()), one, other, beta=0, alpha=scale)


def pieces(tokens: Float[Tensor, "group n width"]) -> tuple[Float[Tensor, "some n width"], ...]:
    return tokens.split(max(1, _PackedAttention.TOKENS // tokens.shape[1]))


def apart(x: Float[Tensor, "group n width"], parts: int, heads: int) -> Float[Tensor, "parts head_group n d"]:
    """The parts of tokens, every head of every group for itself."""
    return rearrange(x, "group n (part h d) -> part (h group) n d", part=parts, h=heads)


def together(parts: Sequence[Float[Tensor, "head_group n d"]], heads: int) -> Float[Tensor, "group n width"]:
    """The tokens that :func:`apart` took apart."""
    return torch.cat([head for part in parts for head in part.chunk(heads)], -1)


class Projection(nn.Linear):
    """A linear layer whose gradients and results are those of ``nn.Linear``, in half the time for groups of tokens.

    On a CPU the tokens become the pixels of an image, and the layer the 1×1 convolution that it is.
    """

    def forward(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width_out"]:
        if x.ndim != 3 or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16):
            return super().forward(x)
        images = x[:, None] if x.dtype == torch.float32 else x[None]
        y = F.conv2d(images.permute(0, 3, 1, 2), self.weight[:, :, None, None], self.bias)
        return y.permute(0, 2, 3, 1).contiguous().view(*x.shape[:2], self.out_features)


class SelfAttention(nn.Module):
    r"""Multi-head self-attention among the tokens of each group of a partition (arXiv:1706.03762).

    .. math:: Y = \big[\operatorname{softmax}(Q_h K_h^\top/\sqrt d)\, V_h\big]_{h} W_o + b_o, \qquad
              [Q, K, V] = X W_{qkv} + b_{qkv}

    ``channels`` is the width C of a token: the map's channels for every partition that leaves them whole.

    Shape:
        (batch, channels, height, width) in and out.

    Cost:
        For G groups of n tokens: G·(4nC² + 2n²C) multiply-accumulates; 4C² + 4C parameters.

    Raises:
        ValueError: if ``heads`` does not divide ``channels``, if the partition does not fit the map, or if its tokens
            are not ``channels`` wide.

    Example:
        >>> SelfAttention(64, partition=window(4))(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(self, channels: int, heads: int = 4, *, partition: Partition = GLOBAL) -> None:
        super().__init__()
        check_heads(channels, heads)
        self.channels, self.heads, self.partition = int(channels), int(heads), partition
        self.qkv = Projection(channels, 3 * channels)
        self.proj = Projection(channels, channels)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        qkv = self.qkv(self.partition.split(x, self.channels))
        return self.partition.merge(self.proj(attend_packed(qkv, self.heads)), x.shape[-2:])

    def extra_repr(self) -> str:
        return f"channels={self.channels}, heads={self.heads}, partition={self.partition.name}"


class TemporalAttention(SelfAttention):
    r"""Self-attention over the time of a clip, at every pixel by itself (arXiv:2102.05095).

    .. math:: Y_{\cdot p} = \operatorname{Attention}(X_{\cdot p}), \qquad X_{\cdot p} \in \mathbb R^{T \times C}
              \text{ the history of pixel } p

    with :class:`SelfAttention`; time has no order and no direction. A clip of one moment has nothing to choose from:
    the result is the projected values.

    Shape:
        (batch, time, channels, height, width) in and out.

    Cost:
        For T moments of H × W: HW(4TC² + 2T²C) multiply-accumulates; 4C² + 4C parameters.

    Raises:
        ValueError: if ``heads`` does not divide ``channels`` or the clip has another number of channels.

    Differs:
        From its paper in being the attention alone: no embedding of time, normalization or residual.

    Example:
        >>> TemporalAttention(64)(torch.randn(2, 5, 64, 8, 8)).shape
        torch.Size([2, 5, 64, 8, 8])
    """

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__(channels, heads)

    def forward(
        self, x: Float[Tensor, "batch time channels height width"]
    ) -> Float[Tensor, "batch time channels height width"]:
        check_axes(x, "batch time channels height width")
        batch, _, _, height, _ = x.shape
        histories = rearrange(x, "b t c height width -> (b height width) c t 1")
        pattern = "(b height width) c t 1 -> b t c height width"
        return rearrange(super().forward(histories), pattern, b=batch, height=height)


class NonLocal(nn.Module):
    r"""The non-local block: one head of attention between all pixels, added to the map (arXiv:1711.07971).

    .. math:: y_i = x_i + \operatorname{BN}\Big(W_z \sum_j \operatorname{softmax}_j(\theta_i^\top \phi_j)\, g_j\Big)

    θ, φ and g are 1×1 convolutions of x to C′ = ⌊C/reduction⌋ channels, here ``t``, ``p`` and ``g`` as in timm; the
    logits are not divided by √C′. The gain γ of the norm starts at zero, and the block as the identity.

    Shape:
        (batch, channels, height, width) in and out.

    Cost:
        For N pixels: 4NCC′ + 2N²C′ multiply-accumulates; 4CC′ + 3C′ + 3C parameters. In training the norm lets the
        images of a batch meet.

    Raises:
        ValueError: if ``reduction`` leaves no channel.

    Differs:
        From the paper in that keys and values are never pooled; of its forms this is the embedded Gaussian.

    Example:
        >>> NonLocal(64)(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
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
        check_axes(x)
        q, k, v = (rearrange(part(x), "b c h w -> b 1 (h w) c").contiguous() for part in (self.t, self.p, self.g))
        mixed = GLOBAL.merge(attend(q, k, v, scale=1.0).squeeze(1), x.shape[-2:])
        return x + self.norm(self.z(mixed))


def guidance_mask(weights: Float[Tensor, "batch heads queries keys"]) -> Bool[Tensor, "batch keys"]:
    r"""The tokens that draw more than their share of self-attention: what its guidance blurs (arXiv:2210.00939).

    .. math:: m_j = \Big[\sum_i \frac1H \sum_{h=1}^H W_{hij} > 1\Big]

    ``weights`` is what :func:`record_weights` has kept of a self-attention. Its rows sum to one, so the mean of the
    score over the n keys is exactly one: the share of a token to which all are equal.

    Cost:
        No multiply-accumulates.

    Raises:
        ValueError: if there are not as many queries as keys, for then the mean is not one.
    """
    queries, keys = weights.shape[-2:]
    if queries != keys:
        raise ValueError(f"{queries} queries attend to {keys} keys: that is no self-attention, whose scores average 1")
    return weights.mean(1).sum(1) > 1
