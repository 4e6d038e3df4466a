"""Controls: what an attention layer is without its attention, to tell what the attention itself is worth."""

from jaxtyping import Float
from torch import Tensor, nn

from gsa.layers.partition import Partition


class ProjectedValues(nn.Module):
    r"""The projections of :class:`~gsa.layers.attention.SelfAttention` without softmax: every token keeps to itself.

    .. math:: Y = (X W_v + b_v) W_o + b_o

    Shape: (batch, channels, height, width) in and out. Cost for G groups of n tokens: 2GnC² multiply-accumulates;
    2C² + 2C parameters. Errors: as the layer that it stands in for.
    """

    def __init__(self, channels: int, *, partition: Partition) -> None:
        super().__init__()
        self.partition = partition
        self.v = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        return self.partition.merge(self.proj(self.v(self.partition.split(x, self.v.in_features))), x.shape[-2:])
