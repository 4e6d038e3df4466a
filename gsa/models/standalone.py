"""The block of the stand-alone network: a residual block in which attention stands where convolutions stood."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gsa.layers import StandAloneSelfAttention
from gsa.models.resnet import shortcut


class StandAloneBlock(nn.Module):
    r"""Two layers of stand-alone attention and a shortcut: y = δ(x + BN(A₂ δ(BN(P A₁ x)))) (arXiv:1906.05909).

    A₁ works at the resolution and with the C′ channels that come in. Where the convolution had a ``stride``, P averages
    over squares of that side, and where the C ``channels`` that go out differ, a 1×1 convolution follows; otherwise P
    is the identity. At odd sides the last squares are smaller. The shortcut is that of
    :class:`~gsa.models.resnet.BasicBlock`.

    Shape:
        (batch, channels_in, height, width) in, (batch, channels, ⌈height/stride⌉, ⌈width/stride⌉) out.

    Cost:
        That of StandAloneSelfAttention with C′ channels on the map that comes in and with C on the map that goes out,
        and 2C′C multiply-accumulates per pixel that goes out if the shape changes. Parameters: 3(C′² + C²) + k(C′ +
        C)/h of attention with h heads and k × k neighbours, 4C of norms, and C′C + 2C of the shortcut if the shape
        changes, C′C of P if the channels do.

    Raises:
        ValueError: if ``heads`` does not divide ``channels_in`` and ``channels`` into even widths, or if
            ``kernel_size`` is not odd.

    Differs:
        From the paper, which has bottlenecks, whose 1×1 convolutions change the channels, in all that follows from the
        basic block.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, *, heads: int = 4, kernel_size: int = 7) -> None:
        super().__init__()
        self.attention1 = StandAloneSelfAttention(channels_in, heads, kernel_size=kernel_size)
        pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        widen = nn.Conv2d(channels_in, channels, 1, bias=False) if channels != channels_in else nn.Identity()
        self.change = nn.Sequential(pool, widen)
        self.bn1 = nn.BatchNorm2d(channels)
        self.attention2 = StandAloneSelfAttention(channels, heads, kernel_size=kernel_size)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = shortcut(channels_in, channels, stride)

    def forward(self, x: Float[Tensor, "batch channels_in height width"]) -> Float[Tensor, "batch channels h w"]:
        y = F.relu(self.bn1(self.change(self.attention1(x))))
        return F.relu(self.shortcut(x) + self.bn2(self.attention2(y)))
