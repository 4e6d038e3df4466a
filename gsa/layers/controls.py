"""Controls: an attention layer without its attention, or with other groups, to tell what each part of it is worth."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gsa.layers.attention import SelfAttention
from gsa.layers.partition import Partition


class ProjectedValues(nn.Module):
    r"""The projections of :class:`~gsa.layers.attention.SelfAttention` without softmax: every token keeps to itself.

    .. math:: Y = (X W_v + b_v) W_o + b_o

    Shape:
        (batch, channels, height, width) in and out.

    Cost:
        For G groups of n tokens: 2GnC² multiply-accumulates; 2C² + 2C parameters.

    Raises:
        ValueError: as the layer that it stands in for.

    Example:
        >>> ProjectedValues(64, partition=window(4))(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(self, channels: int, *, partition: Partition) -> None:
        super().__init__()
        self.partition = partition
        self.v = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        tokens = self.v(self.partition.split(x, self.v.in_features))
        return self.partition.merge(self.proj(self.mix(tokens)), x.shape[-2:])

    def mix(self, values: Float[Tensor, "groups tokens channels"]) -> Float[Tensor, "groups tokens channels"]:
        """What each token makes of the values of its group: here, its own."""
        return values


class UniformAttention(ProjectedValues):
    r"""Attention whose weights are all the same: without queries and keys, every token gets the mean of its group.

    .. math:: y_i = W_o\, \frac1n \sum_j (W_v x_j + b_v) + b_o

    Shape:
        (batch, channels, height, width) in and out.

    Cost:
        As :class:`ProjectedValues`.

    Example:
        >>> UniformAttention(64, partition=window(4))(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    def mix(self, values: Float[Tensor, "groups tokens channels"]) -> Float[Tensor, "groups tokens channels"]:
        return values.mean(1, keepdim=True).expand_as(values)


class FixedAttention(ProjectedValues):
    r"""Attention whose weights are learned once for all maps, as MLP-Mixer's are (arXiv:2105.01601).

    .. math:: y_i = W_o \sum_j \operatorname{softmax}_j(B_{ij})\, (W_v x_j + b_v) + b_o

    with one n × n matrix B for all groups, which starts at zero: as :class:`UniformAttention`.

    Shape:
        (batch, channels, height, width) in and out.

    Cost:
        For G groups of n ``tokens``: 2GnC² + Gn²C multiply-accumulates; 2C² + 2C + n² parameters.

    Raises:
        ValueError: as :class:`ProjectedValues`, and torch's for groups of another size.

    Differs:
        From MLP-Mixer in the softmax, and in that there is one matrix and no hidden layer.

    Example:
        >>> FixedAttention(64, partition=window(4), tokens=16)(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(self, channels: int, *, partition: Partition, tokens: int) -> None:
        super().__init__(channels, partition=partition)
        self.logits = nn.Parameter(torch.zeros(tokens, tokens))

    def mix(self, values: Float[Tensor, "groups tokens channels"]) -> Float[Tensor, "groups tokens channels"]:
        return self.logits.softmax(-1).to(values.dtype) @ values


class ShuffledAttention(SelfAttention):
    """Self-attention in groups of ``tokens`` pixels that were drawn at random, once for all maps of ``size``.

    The order is a buffer, drawn from ``seed``.

    Shape:
        (batch, channels, height, width) in and out.

    Cost:
        As :class:`~gsa.layers.attention.SelfAttention` with groups of as many tokens.

    Example:
        >>> ShuffledAttention(64, size=(16, 16), tokens=16)(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    order: Tensor

    def __init__(self, channels: int, heads: int = 4, *, size: tuple[int, int], tokens: int, seed: int = 0) -> None:
        super().__init__(channels, heads, partition=Partition("rows", "rows columns", "(b rows) columns c"))
        order = torch.randperm(size[0] * size[1], generator=torch.Generator().manual_seed(seed))
        self.tokens = tokens
        self.register_buffer("order", order)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        shuffled = x.flatten(2)[..., self.order].unflatten(2, (-1, self.tokens))
        mixed = super().forward(shuffled.contiguous(memory_format=torch.channels_last))
        return mixed.flatten(2)[..., self.order.argsort()].view_as(x)


class Placed(nn.Module):
    r"""A layer that is told where each pixel is, by a vector learned for every place: y = layer(x + p).

    Shape:
        As the layer's, for maps of ``size``; C·height·width parameters more.
    """

    def __init__(self, layer: nn.Module, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.layer = layer
        self.places = nn.Parameter(0.02 * torch.randn(channels, *size))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        return self.layer(x + self.places)
