"""Attention in buckets: queries and keys are hashed, sorted and cut into equal buckets; only a bucket's own meet."""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from gsa.layers.attention import attend, held
from gsa.layers.checks import check_heads, divisors
from gsa.layers.partition import GLOBAL

SORTED, BUCKETS = "rounds b h (buckets m) d", "(rounds b h buckets) 1 m d"


class LSHAttention(nn.Module):
    r"""Self-attention inside buckets of similar queries and keys (arXiv:2203.04845, arXiv:2010.05315).

    .. math:: y_i = \sum_r \frac{e^{\ell_{ri}}}{\sum_s e^{\ell_{si}}} \sum_{j \in \mathcal B_r(i)}
              e^{q_i^\top k_j - \ell_{ri}}\, v_j, \qquad \ell_{ri} = \log \sum_{j \in \mathcal B_r(i)} e^{q_i^\top k_j}

    per head, then ``proj``. In round r the queries are sorted by :math:`a_r^\top (q, 0, \sqrt{R - |q|^2})` and the
    keys by :math:`a_r^\top (k, \sqrt{R - |k|^2}, 0)`, where a_r is a random direction and R = max|q|² + max|k|²: so
    extended, a query is the nearer to a key the larger their product. The first ``bucket`` queries meet the first
    ``bucket`` keys, and so on; :math:`\mathcal B_r(i)` are the keys that query i meets. The merge makes it one softmax
    over the keys of all rounds, repeated ones counted again.
    Heads sort for themselves, so every bucket of every head is a group of its own in ``record_weights``.
    No gradient goes through the sorting. The directions are a buffer, the same in training and evaluation;
    :meth:`resample` draws new ones.

    Shape:
        (batch, channels, height, width) in and out.

    Cost:
        For N = height · width: 4NC² + ``rounds`` · NC·(3·bucket + 2) multiply-accumulates (2·bucket to attend, bucket
        for ℓ, 2 to hash); 4C² + 4C parameters.

    Raises:
        ValueError: if ``heads`` does not divide ``channels``, ``bucket`` or ``rounds`` is less than 1, or buckets do
            not divide the positions of the map.

    Differs:
        From the authors' code, which hashes the layer's input, draws directions anew in evaluation too and triples the
        width of a head. Its shift b in a·x + b is left out: it moves all alike, so it changes no order.

    Example:
        >>> LSHAttention(64, bucket=16)(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    directions: Tensor

    def __init__(
        self,
        channels: int,
        heads: int = 4,
        *,
        bucket: int,
        rounds: int = 2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_heads(channels, heads)
        if bucket < 1 or rounds < 1:
            raise ValueError(f"bucket and rounds must be at least 1, got bucket {bucket} and {rounds} rounds")
        self.heads, self.bucket = int(heads), int(bucket)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.register_buffer("directions", torch.empty(channels // heads + 2, rounds))
        self.resample(generator)

    def resample(self, generator: torch.Generator | None = None) -> None:
        """Draw the directions of all rounds anew."""
        self.directions.normal_(generator=generator)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        self.check(*x.shape[-2:])
        parts = self.qkv(GLOBAL.split(x)).chunk(3, dim=-1)
        q, k, v = (rearrange(part, "b n (h d) -> b h n d", h=self.heads) for part in parts)
        by_query, by_key = self.orders(q.detach(), k.detach())
        ordered = (arrange(t[None], order) for t, order in ((q, by_query), (k, by_key), (v, by_key)))
        q, k, v = (rearrange(t, f"{SORTED} -> {BUCKETS}", m=self.bucket) for t in ordered)
        results = attend(q, k, v, scale=1.0), held((q @ k.mT).logsumexp(-1, keepdim=True))
        rounds, b, h, n = by_query.shape
        lengths = {"rounds": rounds, "b": b, "h": h, "buckets": n // self.bucket}
        ordered = (rearrange(t, f"{BUCKETS} -> {SORTED}", **lengths) for t in results)
        mixed, logsumexp = (arrange(t, by_query.argsort()) for t in ordered)
        merged = (logsumexp.softmax(0) * mixed).sum(0)
        return GLOBAL.merge(self.proj(rearrange(merged, "b h n d -> b n (h d)")), x.shape[-2:])

    def orders(
        self, q: Float[Tensor, "batch heads n width"], k: Float[Tensor, "batch heads n width"]
    ) -> tuple[Int[Tensor, "rounds batch heads n"], Int[Tensor, "rounds batch heads n"]]:
        """Which query comes first, second, … in each round, and which key."""
        inside, of_queries, of_keys = self.directions.split((q.shape[-1], 1, 1))
        q_square, k_square = (t.square().sum(-1, keepdim=True) for t in (q, k))
        radius = q_square.amax(-2, keepdim=True) + k_square.amax(-2, keepdim=True)
        q_hash = q @ inside + (radius - q_square).sqrt() * of_queries
        k_hash = k @ inside + (radius - k_square).sqrt() * of_keys
        stable = {} if torch.onnx.is_in_onnx_export() else {"stable": True}  # ONNX has one sort, and it is stable
        by_query, by_key = (rearrange(t, "b h n rounds -> rounds b h n").sort(**stable)[1] for t in (q_hash, k_hash))
        return by_query, by_key

    def check(self, height: int, width: int) -> None:
        if height * width % self.bucket:
            raise ValueError(
                f"buckets of {self.bucket} do not divide the {height * width} positions of a {height}×{width} map; "
                f"buckets that do: {divisors(height * width)}"
            )


def arrange(
    tokens: Float[Tensor, "#rounds batch heads n width"], order: Int[Tensor, "rounds batch heads n"]
) -> Float[Tensor, "rounds batch heads n width"]:
    """The tokens in the order of each round, copied row by row, which is several times faster than ``gather``."""
    rows = tokens.flatten(0, -2)
    starts = torch.arange(0, rows.shape[0], tokens.shape[-2], device=rows.device).view(*tokens.shape[:-2], 1)
    return rows.index_select(0, (starts + order).flatten()).view(*order.shape, tokens.shape[-1])
