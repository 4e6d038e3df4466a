"""What other libraries call the same layers: the company in which `make bench` measures ours.

Each takes and returns maps of shape (batch, channels, height, width), like ours, with the same number of heads, the
same windows and the same parameters; where a library wants tokens, turning the map into tokens is part of its time.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from timm.layers import NonLocalAttn, SelectiveKernel
from timm.layers.cbam import CbamModule
from timm.layers.halo_attn import HaloAttn
from timm.models.maxxvit import AttentionCl, grid_partition, grid_reverse
from timm.models.twins import GlobalSubSampleAttn, LocallyGroupedAttn
from torch import Tensor, nn
from torchvision.ops import DeformConv2d, SqueezeExcitation

from gsa.layers import cheapest_folded_patch, cheapest_patch

HEADS = 4


class OnTokens(nn.Module):
    """Layers of timm's Twins, which take tokens and the size of the map that they come from."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        tokens = x.flatten(2).mT
        for layer in self.layers:
            tokens = layer(tokens, size)
        return tokens.mT.unflatten(2, size)


class GridAttention(nn.Module):
    """MaxViT's grid attention, without its norms and its MLP."""

    def __init__(self, channels: int, side: int, patch: int) -> None:
        super().__init__()
        self.grid = [side // patch] * 2
        self.attention = AttentionCl(channels, dim_head=channels // HEADS)

    def forward(self, x: Tensor) -> Tensor:
        groups = grid_partition(x.permute(0, 2, 3, 1), self.grid)
        return grid_reverse(self.attention(groups), self.grid, list(x.shape[-2:])).permute(0, 3, 1, 2)


class FullAttention(nn.Module):
    """``nn.MultiheadAttention`` between all pixels, weights not returned."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].mT.unflatten(2, x.shape[-2:])


class FoldedThroughMultiheadAttention(nn.Module):
    """What ``gsa-folded`` computes, through ``nn.MultiheadAttention`` as its source did, weights not returned."""

    def __init__(self, channels: int, side: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.across = nn.MultiheadAttention((side // patch) ** 2, HEADS, batch_first=True)
        self.within = nn.MultiheadAttention(channels * patch**2, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        folded = nn.functional.pixel_unshuffle(x, self.patch)
        rows = folded.flatten(2)
        columns = self.across(rows, rows, rows, need_weights=False)[0].mT
        mixed = self.within(columns, columns, columns, need_weights=False)[0].mT
        return nn.functional.pixel_shuffle(mixed.unflatten(2, folded.shape[2:]), self.patch)


class LargeKernel(nn.Module):
    """Large kernel attention as its authors wrote it, the dilated convolution left to PyTorch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weights = nn.Sequential(
            nn.Conv2d(channels, channels, 5, padding=2, groups=channels),
            nn.Conv2d(channels, channels, 7, padding=9, groups=channels, dilation=3),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.weights(x) * x


class Deformable(nn.Module):
    """torchvision's deformable convolution with the convolution that computes its offsets."""

    def __init__(self, channels: int, *, modulated: bool) -> None:
        super().__init__()
        self.modulated = modulated
        self.conv_offset = nn.Conv2d(channels, 27 if modulated else 18, 3, padding=1)
        self.conv = DeformConv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        offset = self.conv_offset(x).to(x.dtype)  # under autocast the library takes no other
        if not self.modulated:
            return self.conv(x, offset)
        offset, mask = torch.tensor_split(offset, [18], dim=1)
        return self.conv(x, offset, mask.sigmoid())


def equivalents(channels: int, side: int) -> dict[str, tuple[str, Callable[[], nn.Module]]]:
    """By the name of our mechanism: who else has it, and how theirs is built for square maps."""
    patch = cheapest_patch(side, side)
    windows = partial(LocallyGroupedAttn, channels, HEADS, ws=patch)
    subsampled = partial(GlobalSubSampleAttn, channels, HEADS, sr_ratio=patch)
    folded = cheapest_folded_patch(channels, side, side)
    return {
        "se": ("torchvision", lambda: SqueezeExcitation(channels, channels // 4)),
        "cbam": ("timm", lambda: CbamModule(channels, rd_channels=channels // 4)),
        "sk": ("timm", lambda: SelectiveKernel(channels, split_input=False, rd_channels=32)),
        "lka": ("plain PyTorch", lambda: LargeKernel(channels)),
        "deformable": ("torchvision", lambda: Deformable(channels, modulated=False)),
        "deformable-modulated": ("torchvision", lambda: Deformable(channels, modulated=True)),
        "self": ("PyTorch", lambda: FullAttention(channels)),
        "non-local": ("timm", lambda: NonLocalAttn(channels, rd_ratio=0.5, use_scale=False)),
        "sasa": ("timm (HaloNet)", lambda: HaloAttn(channels, num_heads=HEADS, block_size=8, halo_size=3)),
        "window": ("timm", lambda: OnTokens([windows()])),
        "grid": ("timm (MaxViT)", lambda: GridAttention(channels, side, patch)),
        "twins-gsa": ("timm", lambda: OnTokens([subsampled()])),
        "twins": ("timm", lambda: OnTokens([windows(), subsampled()])),
        "gsa-folded": ("PyTorch", lambda: FoldedThroughMultiheadAttention(channels, side, folded)),
    }
