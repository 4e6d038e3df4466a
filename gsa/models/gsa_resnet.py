"""The network whose published 90 % on CIFAR-10 began this book, after its author's code, with its layer or without."""

from collections.abc import Callable, Sequence
from math import gcd

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gsa.layers import FoldedGlobalSparseAttention, GlobalSparseAttention
from gsa.models.resnet import BasicBlock, MixingBlock, check_stages

BLOCKS, PATCHES = (1, 2, 2, 2), (4, 4, 4, 2, 1)
"""Blocks of the four stages, and the side of a patch before the stem and in each stage."""

Size = tuple[int, int]

LAYERS: dict[str, Callable[[int, Size, int], nn.Module]] = {
    "none": lambda channels, size, patch: nn.Identity(),
    "gsa-folded": lambda channels, size, patch: FoldedGlobalSparseAttention(channels, size=size, patch=patch),
    "gsa": lambda channels, size, patch: GlobalSparseAttention(channels, gcd(channels, 4), patch=patch),
}
"""What it can carry: nothing, the layer as its author coded it, and as they described it."""


class GSAResNet(nn.Module):
    r"""The residual network of the source, "Integrating Global Sparse Attention into ResNet".

    Two channels that say where a pixel is are appended to the image,

    .. math:: p_{ij} = \sin\frac{i}{10000^{2i/H}}, \qquad p'_{ij} = \cos\frac{j}{10000^{2j/W}} .

    The mechanism works on all five, a 3×3 convolution leads to ``width`` channels, and seven residual blocks in four
    stages follow, in each of which it stands between the two convolutions; average pooling, a linear layer. What it
    computes is added to what it is given, without normalisation. ``stages`` says where it stands: 0 is before the stem;
    the source has all of 0 to 4.

    Shape:
        (batch, in_channels, height, width) in, for images of ``size``; (batch, classes) out. With ``gsa-folded``
        everywhere and images of 32 × 32 most of its 59.4 M parameters are the D × D projections of the layer's second
        stage.

    Raises:
        ValueError: for a mechanism that is none of ``none``, ``gsa-folded`` and ``gsa``, a stage that there is not, or
            patches that do not tile the maps.

    Differs:
        From the source, as far as that is known, in nothing; its recipe for training is not given.
    """

    def __init__(
        self,
        width: int = 64,
        *,
        mechanism: str = "none",
        stages: Sequence[int] = (),
        classes: int = 10,
        in_channels: int = 3,
        size: Size = (32, 32),
    ) -> None:
        super().__init__()
        if mechanism not in LAYERS:
            raise ValueError(f"the source's network does not carry {mechanism!r}; it takes {', '.join(LAYERS)}")
        check_stages(stages, 0, len(PATCHES) - 1)

        def layer(stage: int, channels: int) -> nn.Module:
            if mechanism == "none" or stage not in stages:
                return nn.Identity()
            shrunk = 2 ** max(stage - 1, 0)
            rows, columns = (-(-side // shrunk) for side in size)
            return MixingBlock(LAYERS[mechanism](channels, (rows, columns), PATCHES[stage]))

        self.register_buffer("positions", positions(*size), persistent=False)
        self.mix = layer(0, in_channels + 2)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels + 2, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        blocks, channels_in = [], width
        for stage, depth in enumerate(BLOCKS, start=1):
            channels = width * 2 ** (stage - 1)
            for number in range(depth):
                stride = 2 if stage > 1 and number == 0 else 1
                blocks.append(MixedBasicBlock(channels_in, channels, stride, layer(stage, channels)))
                channels_in = channels
        self.body = nn.Sequential(*blocks)
        self.head = nn.Linear(channels_in, classes)

    def forward(self, x: Float[Tensor, "batch in_channels height width"]) -> Float[Tensor, "batch classes"]:
        located = torch.cat((x, self.positions.expand(len(x), -1, -1, -1)), dim=1)
        return self.head(self.body(self.stem(self.mix(located))).mean((2, 3)))


class MixedBasicBlock(BasicBlock):
    """A basic block with a layer between its convolutions: y = δ(x + BN(conv(mix(δ(BN(conv x))))))."""

    def __init__(self, channels_in: int, channels: int, stride: int, mix: nn.Module) -> None:
        super().__init__(channels_in, channels, stride)
        self.mix = mix

    def forward(self, x: Float[Tensor, "batch channels_in height width"]) -> Float[Tensor, "batch channels h w"]:
        y = self.mix(F.relu(self.bn1(self.conv1(x))))
        return F.relu(self.shortcut(x) + self.bn2(self.conv2(y)))


def positions(height: int, width: int) -> Float[Tensor, "2 {height} {width}"]:
    """The two channels that say where a pixel is: a sine that depends on the row, a cosine that does on the column."""
    rows, columns = (torch.arange(side, dtype=torch.float32) for side in (height, width))
    sines, cosines = (rows / 10000 ** (2 * rows / height)).sin(), (columns / 10000 ** (2 * columns / width)).cos()
    return torch.stack((sines[:, None].expand(height, width), cosines.expand(height, width)))
