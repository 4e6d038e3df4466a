"""Gates: weights per channel or pixel, computed from the input, that scale a map and move nothing."""

from jaxtyping import Float
from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    r"""One weight per channel, computed from the average of every channel (arXiv:1709.01507).

    .. math:: y = \sigma\big(W_2\,\delta(W_1 \operatorname{GAP} x)\big) \odot x

    δ is ReLU, W₁ reduces the C channels by ``reduction``. Shape: (batch, channels, height, width) in and out. Cost:
    2C²/r multiply-accumulates (besides one product per pixel), 2C²/r + C/r + C parameters.
    Errors: ValueError if ``reduction`` leaves no channel.
    """

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        if not 1 <= reduction <= channels:
            raise ValueError(f"reduction {reduction} leaves no channel of {channels}; it must be in 1…{channels}")
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        squeezed = x.mean((2, 3), keepdim=True)
        return self.fc2(self.fc1(squeezed).relu()).sigmoid() * x
