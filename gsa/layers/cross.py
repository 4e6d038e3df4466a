"""Cross-attention: the pixels of a map ask, the tokens of a context answer (the words of a sentence, another image)."""

from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gsa.layers.attention import attend
from gsa.layers.checks import check_heads
from gsa.layers.partition import GLOBAL


class CrossAttention(nn.Module):
    r"""Multi-head attention in which every pixel of a map asks the tokens of a context (arXiv:1706.03762).

    .. math:: Y = \big[\operatorname{softmax}(Q_h K_h^\top/\sqrt d)\, V_h\big]_{h} W_o + b_o, \qquad
              Q = X W_q + b_q, \quad [K, V] = T W_{kv} + b_{kv}

    Shape:
        x is (batch, channels, height, width), and so is the output; the context T is (batch, tokens, context_channels).
        The boolean ``mask``, (batch, tokens), is True at the tokens that may answer: padded words never do. An image
        with no such token gets b_o alone, for the sum over nothing is zero. Each output pixel depends on that pixel and
        the context, on no other pixel.

    Cost:
        For N pixels of C channels and n tokens of D: 2NC² + 2nDC + 2NnC multiply-accumulates; 2C² + 2DC + 4C
        parameters.

    Raises:
        ValueError: if ``heads`` does not divide ``channels``, or if map, context and mask do not fit each other and the
            widths that the layer was built for.

    Differs:
        From ``nn.MultiheadAttention`` in the mask: its ``key_padding_mask`` is True at what is left out.

    Example:
        >>> words = torch.randn(2, 7, 32)
        >>> CrossAttention(64, context_channels=32)(torch.randn(2, 64, 8, 8), words).shape
        torch.Size([2, 64, 8, 8])
    """

    def __init__(self, channels: int, heads: int = 4, *, context_channels: int) -> None:
        super().__init__()
        check_heads(channels, heads)
        self.heads = int(heads)
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(context_channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        context: Float[Tensor, "batch tokens context_channels"],
        mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        self.check_fit(self.kv, x, context, mask)
        answer = ask(self.q(GLOBAL.split(x)), self.kv(context), mask, heads=self.heads)
        return GLOBAL.merge(self.proj(answer), x.shape[-2:])

    def check_fit(self, kv: nn.Linear, x: Tensor, context: Tensor, mask: Tensor | None) -> None:
        batch, channels = x.shape[:2]
        if channels != self.q.in_features:
            raise ValueError(f"a map of {channels} channels came to a layer built for {self.q.in_features}")
        if context.ndim != 3 or context.shape[0] != batch or context.shape[2] != kv.in_features:
            raise ValueError(
                f"a context of shape {tuple(context.shape)} does not fit a batch of {batch} and a layer built for "
                f"tokens {kv.in_features} wide: it must be ({batch}, tokens, {kv.in_features})"
            )
        if mask is not None and mask.shape != context.shape[:2]:
            raise ValueError(
                f"a mask of shape {tuple(mask.shape)} does not fit a context of shape {tuple(context.shape)}: "
                f"it must be {tuple(context.shape[:2])}"
            )

    def extra_repr(self) -> str:
        return f"heads={self.heads}"


class DecoupledCrossAttention(CrossAttention):
    r"""Cross-attention to two contexts with a softmax each, as IP-Adapter adds an image to a text (arXiv:2308.06721).

    .. math:: Y = \big(\operatorname{Attn}(Q, K, V) + \lambda \operatorname{Attn}(Q, K', V')\big) W_o + b_o

    λ is ``strength``, an attribute that may be changed at any time; at λ = 0 this is :class:`CrossAttention`, whose
    weights it shares by name. The second context adds [K′, V′] = T′W′ + b′ as ``kv_second`` and nothing else. One
    softmax over both contexts would instead share out the attention: σ(l − l′) of it to the first and the rest to the
    second, where l and l′ are the logsumexp of the query's logits over each.

    Shape:
        As there; the second context is (batch, tokens′, second_channels), with a mask of its own.

    Cost:
        That of cross-attention to the first and 2n′D′C + 2Nn′C multiply-accumulates more; 2D′C + 2C parameters more.

    Raises:
        ValueError: as there, for either context.

    Differs:
        From the authors' code in that q, kv and kv_second have biases, and kv_second does not start as a copy of kv.

    Example:
        >>> layer = DecoupledCrossAttention(64, context_channels=32, second_channels=16)
        >>> layer(torch.randn(2, 64, 8, 8), torch.randn(2, 7, 32), torch.randn(2, 5, 16)).shape
        torch.Size([2, 64, 8, 8])
    """

    def __init__(
        self, channels: int, heads: int = 4, *, context_channels: int, second_channels: int, strength: float = 1.0
    ) -> None:
        super().__init__(channels, heads, context_channels=context_channels)
        self.kv_second = nn.Linear(second_channels, 2 * channels)
        self.strength = strength

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        context: Float[Tensor, "batch tokens context_channels"],
        second: Float[Tensor, "batch tokens_of_second second_channels"],
        mask: Bool[Tensor, "batch tokens"] | None = None,
        second_mask: Bool[Tensor, "batch tokens_of_second"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        self.check_fit(self.kv, x, context, mask)
        self.check_fit(self.kv_second, x, second, second_mask)
        q = self.q(GLOBAL.split(x))
        answer = ask(q, self.kv(context), mask, heads=self.heads)
        added = ask(q, self.kv_second(second), second_mask, heads=self.heads)
        return GLOBAL.merge(self.proj(answer + self.strength * added), x.shape[-2:])

    def extra_repr(self) -> str:
        return f"heads={self.heads}, strength={self.strength}"


def ask(
    q: Float[Tensor, "batch pixels channels"],
    kv: Float[Tensor, "batch tokens keys_and_values"],
    mask: Bool[Tensor, "batch tokens"] | None,
    *,
    heads: int,
) -> Float[Tensor, "batch pixels channels"]:
    """What the tokens that ``mask`` lets speak answer to each query, head by head; zero where it lets none."""
    parts = (q, *kv.chunk(2, dim=-1))
    q, k, v = (rearrange(part, "batch n (h d) -> batch h n d", h=heads) for part in parts)
    if mask is not None:
        mask = rearrange(mask, "batch tokens -> batch 1 1 tokens")
        k, v = (part.masked_fill(~mask.mT, 0) for part in (k, v))  # whatever a masked word holds, it says nothing
        mask = mask | ~mask.any(-1, keepdim=True)  # a softmax needs a token: where none may speak, all say zero
    return rearrange(attend(q, k, v, bias=mask), "batch h n d -> batch n (h d)")
