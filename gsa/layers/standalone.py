"""Stand-alone self-attention: the softmax over a neighbourhood that takes the place of a convolution, and its stem."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gsa.layers.attention import attend
from gsa.layers.checks import check_axes, check_heads, check_kernel_size
from gsa.layers.partition import window as windows

BLOCK = 8
"""Queries come in squares of this side, which share the keys gathered for them: fewer copies, some pairs in vain."""


class StandAloneSelfAttention(nn.Module):
    r"""Multi-head self-attention over the k × k neighbourhood of each pixel (SASA, arXiv:1906.05909).

    .. math:: y_{ij} = \sum_{ab} \operatorname{softmax}_{ab}(q_{ij}^\top k_{ab} + q_{ij}^\top r_{a-i,\,b-j})\, v_{ab},
              \qquad r_{a-i,\,b-j} = [\rho_{a-i};\, \kappa_{b-j}]

    There is no 1/√d. ρ and κ, learned for the k offsets along rows and columns, each fill half of a head's width and
    serve all heads. Neighbours outside the map take no part in the softmax. A ``stride`` s keeps every s-th query in
    both directions; keys and values stay whole.

    Shape:
        (batch, channels, height, width) in, (batch, channels, ⌈height/s⌉, ⌈width/s⌉) out.

    Cost:
        For N pixels and M queries that squares of b × b tile (b = 8, or the whole side of a smaller output), with p the
        least period ≥ k for which C/h + 2p is a multiple of 8: 2NC² + M(C² + pC + 2(s(b − 1) + k)²(C + 2ph))
        multiply-accumulates with h heads, of which the pairs that meet need 2Mk²C; 3C² + kC/h parameters. Recorded
        weights are (blocks, batch · heads, queries, gathered keys).

    Raises:
        ValueError: if ``heads`` does not divide ``channels`` into even widths, if ``kernel_size`` is not odd or if
            ``stride`` is not positive.

    Differs:
        From the paper in that the projections of a head see all channels, not the head's own.

    Example:
        >>> StandAloneSelfAttention(64)(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(self, channels: int, heads: int = 4, *, kernel_size: int = 7, stride: int = 1) -> None:
        super().__init__()
        check_heads(channels, heads)
        width = channels // heads
        if width % 2:
            fit = [h for h in range(1, channels + 1) if channels % (2 * h) == 0]
            raise ValueError(f"{heads} heads of {channels} channels are {width} wide: odd; heads of even width: {fit}")
        check_kernel_size(kernel_size)
        if stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride}")
        self.heads, self.kernel_size, self.stride = int(heads), int(kernel_size), int(stride)
        self.period = kernel_size + -(width // 2 + kernel_size) % 4
        self.q = nn.Conv2d(channels, channels, 1, bias=False)
        self.kv = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.height_rel = nn.Parameter(torch.randn(kernel_size, width // 2) * width**-0.5)
        self.width_rel = nn.Parameter(torch.randn(kernel_size, width // 2) * width**-0.5)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels rows columns"]:
        check_axes(x)
        rows, near_rows = self.neighbourhoods(x.shape[-2], x.device)
        columns, near_columns = self.neighbourhoods(x.shape[-1], x.device)
        meet = rearrange(near_rows, "r i m -> r 1 i 1 m 1") & rearrange(near_columns, "c j n -> 1 c 1 j 1 n")
        gathered = (rows[:, None, :, None] * x.shape[-1] + columns[:, None, :]).flatten()

        q = self.queries(x)
        (high, wide), (r, i), (c, j) = q.shape[2:4], near_rows.shape[:2], near_columns.shape[:2]
        q = F.pad(q, (0, 0, 0, c * j - wide, 0, r * i - high))
        q = rearrange(q, "b h (r i) (c j) w -> (r c) (b h) (i j) w", r=r, c=c)
        k, v = (
            rearrange(t.index_select(0, gathered), "(block m) b h w -> block (b h) m w", block=r * c)
            for t in self.keys_and_values(x)
        )
        # A finite penalty in place of the boolean one would leak: without 1/√d, logits have no bound to stay clear of.
        mixed = attend(q, k, v, bias=rearrange(meet, "r c i j m n -> (r c) 1 (i j) (m n)"), scale=1.0)
        mixed = mixed[..., : x.shape[1] // self.heads]
        return rearrange(mixed, "(r c) (b h) (i j) d -> b (h d) (r i) (c j)", r=r, i=i, h=self.heads)[..., :high, :wide]

    def neighbourhoods(
        self, length: int, device: torch.device
    ) -> tuple[Int[Tensor, "blocks keys"], Bool[Tensor, "blocks side keys"]]:
        """Along an axis of ``length``: the pixels that each block of queries gathers, and which each query may see."""
        queries = torch.arange(0, length, self.stride, device=device)
        side = min(BLOCK, len(queries))
        blocks, reach = -(-len(queries) // side), self.kernel_size // 2
        last = queries[-1:].expand(blocks * side - len(queries))  # fills the last block; cropped from the output
        queries = torch.cat([queries, last]).view(blocks, side, 1)
        span = torch.arange(self.stride * (side - 1) + self.kernel_size, device=device)
        keys = queries[:, :1] - reach + span
        near = ((keys - queries).abs() <= reach) & (keys >= 0) & (keys < length)
        return keys.squeeze(1).clamp(0, length - 1), near

    # Logits are one product: q is followed by its relative logits, k by the one-hot residues of its row and column
    # modulo the period. Rows of a neighbourhood differ in residue, so each key selects the logit of its own offset.

    def queries(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch heads rows columns w"]:
        q = self.q(x[..., :: self.stride, :: self.stride])
        q = rearrange(q, "b (h d) y x -> b h y x d", h=self.heads)
        vertical, horizontal = q.chunk(2, dim=-1)
        vertical = torch.einsum("bhyxd, yod -> bhyxo", vertical, self.by_residue(self.height_rel, x.shape[-2]))
        horizontal = torch.einsum("bhyxd, xod -> bhyxo", horizontal, self.by_residue(self.width_rel, x.shape[-1]))
        return torch.cat([q, vertical, horizontal], -1)

    def by_residue(self, rel: Float[Tensor, "k d"], length: int) -> Float[Tensor, "queries period d"]:
        """For each query along an axis of ``length``, the embeddings of its offsets, sorted by the key's residue."""
        queries = torch.arange(0, length, self.stride, device=rel.device)
        residues = torch.arange(self.period, device=rel.device)
        offsets = (residues - queries[:, None] + self.kernel_size // 2) % self.period
        return F.pad(rel, (0, 0, 0, self.period - self.kernel_size))[offsets]

    def keys_and_values(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "pixels batch heads w"], Float[Tensor, "pixels batch heads w"]]:
        k, v = rearrange(self.kv(x), "b (t h d) y x -> t (y x) b h d", t=2, h=self.heads)
        one_hot = torch.eye(self.period, dtype=k.dtype, device=k.device)
        rows, columns = (one_hot[torch.arange(side, device=k.device) % self.period] for side in x.shape[-2:])
        residues = torch.cat([rows.repeat_interleave(len(columns), 0), columns.repeat(len(rows), 1)], -1)
        k = torch.cat([k, residues[:, None, None].expand(-1, *k.shape[1:3], -1)], -1)
        return k, F.pad(v, (0, 2 * self.period))  # fused kernels want values as wide as keys, and a multiple of 8

    def extra_repr(self) -> str:
        return f"heads={self.heads}, kernel_size={self.kernel_size}, stride={self.stride}"


class AttentionStem(nn.Module):
    r"""The stem of the stand-alone network: attention in blocks whose values know their place, then pooling.

    .. math:: y_{ij} = \sum_{ab} \operatorname{softmax}_{ab}(q_{ij}^\top k_{ab})\, \tilde v_{ab}, \qquad
              \tilde v_{ab} = \Big(\sum_m p(a,b,m)\, W_V^m\Big) x_{ab}, \qquad
              p(a,b,m) = \operatorname{softmax}_m\big((\rho_a + \kappa_b)^\top \nu^m\big)

    All pairs (ij), (ab) share a block of ``window`` × ``window`` pixels, a and b are the row and the column inside it,
    and every head uses the same mixture of the M = ``mixtures`` matrices. One pixel's colour says little; values
    that depend on place let the layer learn filters, as a convolution does. Position enters through them alone. Batch
    normalisation and the maximum over each block follow (arXiv:1906.05909).

    Shape:
        (batch, in_channels, height, width) in, (batch, channels, height / window, width / window) out.

    Cost:
        For N pixels, C channels, c of them in the image, and window w: 3NcC + 2Nw²C + w²M(cC + C/h)
        multiply-accumulates with h heads; (2 + M)cC + (2w + M)C/h + 2C parameters.

    Raises:
        ValueError: if ``heads`` does not divide ``channels``, if there is no mixture or if blocks do not tile the map.

    Example:
        >>> AttentionStem(64)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 64, 8, 8])
    """

    def __init__(
        self, channels: int, heads: int = 4, *, in_channels: int = 3, window: int = 4, mixtures: int = 4
    ) -> None:
        super().__init__()
        check_heads(channels, heads)
        if mixtures < 1:
            raise ValueError(f"mixtures must be at least 1, got {mixtures}")
        width = channels // heads
        self.heads, self.window, self.partition = int(heads), int(window), windows(window)
        self.qk = nn.Linear(in_channels, 2 * channels, bias=False)
        self.v = nn.Parameter(torch.empty(mixtures, channels, in_channels).uniform_(-1, 1) * in_channels**-0.5)
        self.row_embed = nn.Parameter(torch.randn(window, width) * width**-0.5)
        self.column_embed = nn.Parameter(torch.randn(window, width) * width**-0.5)
        self.mixture_embed = nn.Parameter(torch.randn(mixtures, width))
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Float[Tensor, "batch colours height width"]) -> Float[Tensor, "batch channels rows columns"]:
        tokens = self.partition.split(x)
        q, k = rearrange(self.qk(tokens), "group n (t h d) -> t group h n d", t=2, h=self.heads)
        matrices = torch.einsum("nm, mdc -> ndc", self.mixture(), self.v)
        v = rearrange(torch.einsum("gnc, ndc -> gnd", tokens, matrices), "group n (h d) -> group h n d", h=self.heads)
        mixed = rearrange(attend(q, k, v, scale=1.0), "group h n d -> group n (h d)")
        return F.max_pool2d(self.norm(self.partition.merge(mixed, x.shape[-2:])), self.window)

    def mixture(self) -> Float[Tensor, "places mixtures"]:
        """p(a, b, m): the share of each value matrix at every place of a block, row by row."""
        places = rearrange(self.row_embed, "a d -> a 1 d") + self.column_embed
        return (places.flatten(0, 1) @ self.mixture_embed.mT).softmax(-1)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, window={self.window}"
