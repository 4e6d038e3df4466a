"""Attention that answers with a place: its values are positions, so the weighted sum is where the query looks."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from gsa.layers.attention import attend
from gsa.layers.partition import GLOBAL


def positions(height: int, width: int) -> Float[Tensor, "{height}*{width} 2"]:
    """(row, column) of every pixel, in the order in which a map is split into tokens."""
    return torch.cartesian_prod(torch.arange(float(height)), torch.arange(float(width)))


def centres(weights: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch 2"]:
    """The mean position of each map of weights, which need not sum to one: (row, column)."""
    shares = weights.flatten(1) / weights.sum((1, 2))[:, None]
    return shares @ positions(*weights.shape[1:]).to(weights)


def point(
    q: Float[Tensor, "batch queries width"],
    k: Float[Tensor, "batch pixels width"],
    size: tuple[int, int],
    *,
    scale: float | None = None,
) -> Float[Tensor, "batch queries 2"]:
    r"""Where each query finds its keys, which are the pixels of a map of ``size``: attention as a soft argmax.

    .. math:: y_i = \sum_j \operatorname{softmax}_j(s\, q_i^\top k_j)\, p_j

    p_j is the (row, column) of pixel j. Where two places fit, the answer lies between them.
    """
    v = positions(*size).to(k).expand(len(k), 1, -1, -1)
    return attend(q[:, None], k[:, None], v, scale=scale)[:, 0]


class Finder(nn.Module):
    """Finds in an image what a sentence names: the sentence asks, the pixels answer with their positions.

    The query is the sum of the words' embeddings, so words have no order; the keys are a map at half the resolution
    that three convolutions make of the image. Images are (batch, 3, height, width), sentences (batch, words) of
    indices, of which 0 says nothing; returns the (row, column) in pixels of the image.
    """

    def __init__(self, words: int, width: int = 32) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=0)
        self.eye = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], sentences: Int[Tensor, "batch words"]
    ) -> Float[Tensor, "batch 2"]:
        seen = self.eye(images)
        q = self.words(sentences).sum(1, keepdim=True)
        return 2 * point(q, GLOBAL.split(seen), seen.shape[-2:])[:, 0] + 0.5


def patch_tokens(x: Float[Tensor, "batch channels height width"], patch: int) -> Float[Tensor, "batch pixels token"]:
    """The patch × patch pixels around every pixel as one token, its mean taken off, of length one.

    The product of two such tokens is their correlation. Beyond the border the image goes on as it ends.
    """
    padded = F.pad(x, 4 * [patch // 2], mode="replicate")
    tokens = F.unfold(padded, patch).mT
    return F.normalize(tokens - tokens.mean(-1, keepdim=True), dim=-1)


def estimate_flow(
    first: Float[Tensor, "batch channels height width"],
    second: Float[Tensor, "batch channels height width"],
    *,
    patch: int = 7,
    scale: float = 40.0,
) -> Float[Tensor, "batch 2 height width"]:
    r"""How far each pixel of the first image has gone in the second, rows before columns (after arXiv:2111.13680).

    .. math:: f_i = \sum_j \operatorname{softmax}_j(s\, t_i^\top t'_j)\, p_j - p_i

    t are :func:`patch_tokens` of the first image and t′ of the second. Nothing is learned; what is odd is ``patch``.

    Cost:
        N²(D + 2) multiply-accumulates for N pixels and tokens D wide.

    Differs:
        From the paper in its features, which are learned there, and in that nothing refines the flow.
    """
    size = first.shape[-2:]
    q, k = patch_tokens(first, patch), patch_tokens(second, patch)
    gone = point(q, k, size, scale=scale) - positions(*size).to(first)
    return rearrange(gone, "batch (h w) two -> batch two h w", h=size[0])


def endpoint_error(found: Float[Tensor, "batch 2 height width"], flow: Float[Tensor, "batch 2 height width"]) -> float:
    r"""The mean distance in pixels between where pixels are found and where they went by ``flow``.

    .. math:: \frac{1}{|S|} \sum_{i \in S} \lVert \hat f_i - f_i \rVert

    S are the pixels that end two pixels or more from the border of the second image. By this error matching is judged
    in GMFlow (arXiv:2111.13680) and elsewhere.
    """
    height, width = flow.shape[-2:]
    ends = positions(height, width).to(flow) + rearrange(flow, "batch two h w -> batch (h w) two")
    last = torch.tensor([height - 3, width - 3]).to(flow)
    seen = ((ends >= 2) & (ends <= last)).all(2).view(-1, height, width)
    return (found - flow).norm(dim=1)[seen].mean().item()
