"""Residual networks for small images, with any mechanism of the registry after any of their stages."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gsa.layers import AttentionStem, build_mechanism


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: y = δ(x + BN(conv(δ(BN(conv x))))) (arXiv:1512.03385)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = shortcut(channels_in, channels, stride)

    def forward(self, x: Float[Tensor, "batch channels_in height width"]) -> Float[Tensor, "batch channels h w"]:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.bn2(self.conv2(y)))


def shortcut(channels_in: int, channels: int, stride: int) -> nn.Module:
    """The identity, or where the shape changes a 1×1 convolution and its norm."""
    if stride == 1 and channels_in == channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


class MixingBlock(nn.Module):
    """A residual branch around a mechanism, the same for all of them: y = x + mechanism(BN(x)), or without ``channels``
    y = x + mechanism(x)."""

    def __init__(self, mechanism: nn.Module, channels: int | None = None) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels) if channels else nn.Identity()
        self.mechanism = mechanism

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        return x + self.mechanism(self.norm(x))


class ResNet(nn.Module):
    """A 3×3 stem, stages of basic blocks that halve the map and double the channels, average pooling, a linear layer.

    ``blocks`` counts the blocks of each stage, ``width`` is the channels of the first. After each of ``stages``
    (counted from 1) comes one :class:`MixingBlock` with ``mechanism``; ``"none"`` adds nothing at all. ``block`` builds
    the blocks from (channels in, channels, stride). A ``stem_window`` above 0 puts an AttentionStem of such windows in
    the place of the 3×3 stem, and the first stage gets a map as many times smaller.

    Shape:
        (batch, in_channels, height, width) in, for images of ``size`` (height, width); (batch, classes) out.

    Raises:
        ValueError: for an unknown mechanism, a stage that the network does not have, a mechanism that does not fit the
            map of its stage, or a stem that does not tile the image.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        width: int,
        *,
        mechanism: str = "none",
        stages: Sequence[int] = (),
        block: Callable[[int, int, int], nn.Module] = BasicBlock,
        stem_window: int = 0,
        classes: int = 10,
        in_channels: int = 3,
        size: tuple[int, int] = (32, 32),
    ) -> None:
        super().__init__()
        check_stages(stages, 1, len(blocks))
        rows, columns = size
        if stem_window:
            stem = [AttentionStem(width, in_channels=in_channels, window=stem_window)]
            rows, columns = rows // stem_window, columns // stem_window
        else:
            stem = [nn.Conv2d(in_channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)]
        self.stem = nn.Sequential(*stem, nn.ReLU(inplace=True))
        layers, channels_in = [], width
        for stage, depth in enumerate(blocks, start=1):
            channels, shrunk = width * 2 ** (stage - 1), 2 ** (stage - 1)
            for number in range(depth):
                layers.append(block(channels_in, channels, 2 if stage > 1 and number == 0 else 1))
                channels_in = channels
            if mechanism != "none" and stage in stages:
                layers.append(
                    MixingBlock(
                        build_mechanism(mechanism, channels, (-(-rows // shrunk), -(-columns // shrunk))), channels
                    )
                )
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels_in, classes)

    def forward(self, x: Float[Tensor, "batch in_channels height width"]) -> Float[Tensor, "batch classes"]:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


def check_stages(stages: Sequence[int], first: int, last: int) -> None:
    """ValueError for stages that a network does not have."""
    if unknown := sorted(set(stages) - set(range(first, last + 1))):
        raise ValueError(f"stages {unknown} do not exist; this network has stages {first}…{last}")
