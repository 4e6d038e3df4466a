"""Attention proper: one primitive, a way to look at its weights, and self-attention over any partition of a map."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gsa.layers.partition import GLOBAL, Partition

_recorded: list[Tensor] | None = None


@contextmanager
def record_weights() -> Iterator[list[Tensor]]:
    """Collect every softmax matrix that :func:`attend` computes inside the block, in the order of the calls.

    Each is (batch, heads, queries, keys) and stays attached to the graph. Blocks nest: the innermost one records.
    """
    global _recorded
    outer, _recorded = _recorded, []
    try:
        yield _recorded
    finally:
        _recorded = outer


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

    ``bias`` is added to the logits (or, if boolean, says which pairs may meet) and broadcasts to (batch, heads,
    queries, keys); ``scale`` is s, by default 1/√width. Costs queries · keys · (width + width_of_value)
    multiply-accumulates per head and no parameters. Inside :func:`record_weights` the softmax is computed explicitly
    and kept; elsewhere PyTorch's fused kernel never stores it.
    """
    if _recorded is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    logits = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        logits = logits.masked_fill(~bias, float("-inf")) if bias.dtype.is_floating_point is False else logits + bias
    weights = logits.softmax(-1)
    _recorded.append(weights)
    return weights @ v


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
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        tokens = self.partition.split(x)
        self.check_width(tokens.shape[-1], x.shape)
        parts = self.qkv(tokens).chunk(3, dim=-1)
        q, k, v = (rearrange(part, "group n (h d) -> group h n d", h=self.heads) for part in parts)
        mixed = self.proj(rearrange(attend(q, k, v), "group h n d -> group n (h d)"))
        return self.partition.merge(mixed, x.shape[-2:])

    def check_width(self, width: int, shape: tuple[int, ...]) -> None:
        if width != self.channels:
            raise ValueError(
                f"partition {self.partition.name} makes tokens {width} wide of a {tuple(shape)} map, "
                f"but this layer was built for tokens {self.channels} wide"
            )

    def extra_repr(self) -> str:
        return f"channels={self.channels}, heads={self.heads}, partition={self.partition.name}"


def check_heads(channels: int, heads: int) -> None:
    """ValueError unless ``heads`` divides ``channels``."""
    if heads < 1 or channels % heads:
        fit = [h for h in range(1, channels + 1) if channels % h == 0]
        raise ValueError(f"{heads} heads do not divide {channels} channels; heads that do: {fit}")
