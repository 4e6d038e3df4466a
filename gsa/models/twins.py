"""Twins: vision transformers that attend in windows and to subsampled maps, in the two forms of their paper."""

from collections.abc import Sequence
from functools import partial
from math import lcm

from jaxtyping import Float
from torch import Tensor, nn

from gsa.layers.partition import patches
from gsa.layers.twins import GlobalSubsampledAttention, LocallyGroupedAttention, PositionEncodingGenerator


def each_pixel(layer: nn.Module, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch c h w"]:
    """``layer``, which works on the last axis, at every pixel of a map."""
    return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MLP(nn.Sequential):
    """Two linear layers with a GELU in between, ``expansion`` times as wide inside, on the last axis."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, expansion * channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(expansion * channels, channels)


class TransformerBlock(nn.Module):
    """A mechanism and an MLP, each normalised before and added to what came in (arXiv:2010.11929), on a map."""

    def __init__(self, mechanism: nn.Module, channels: int, expansion: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = mechanism
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = MLP(channels, expansion)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        x = x + self.attn(each_pixel(self.norm1, x))
        return x + each_pixel(self.mlp, each_pixel(self.norm2, x))


class PatchEmbedding(nn.Module):
    """Every patch × patch patch projected to one pixel of ``channels``, then normalised."""

    def __init__(self, channels_in: int, channels: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels_in, channels, patch, patch)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Float[Tensor, "batch channels_in height width"]) -> Float[Tensor, "batch channels h w"]:
        return each_pixel(self.norm, self.proj(x))


class Twins(nn.Module):
    """Four stages at 1/4, 1/8, 1/16 and 1/32 of the image, average pooling, a linear layer (arXiv:2104.13840).

    Each stage embeds patches and goes through its blocks, with a position encoding generator after the first. With a
    ``window`` its blocks attend in turn inside windows and to the subsampled map; without one, always to the latter.
    The sequences hold one number a stage. Keys of the state dict are timm's.

    Shape:
        (batch, in_channels, height, width) in, (batch, classes) out.

    Raises:
        ValueError: if the sequences differ in length or have more than four numbers, or if the sides of the image are
            no multiples of the patches times the reductions (32 for the two published here). Windows may be partial.

    Differs:
        From timm's in having neither dropout nor an initialisation of its own.
    """

    def __init__(
        self,
        widths: Sequence[int],
        heads: Sequence[int],
        depths: Sequence[int],
        expansions: Sequence[int],
        *,
        reductions: Sequence[int] = (8, 4, 2, 1),
        window: int | None = None,
        classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        stages = {"widths": widths, "heads": heads, "depths": depths, "expansions": expansions}
        counts = {name: len(numbers) for name, numbers in (stages | {"reductions": reductions}).items()}
        if len(set(counts.values())) > 1 or not 1 <= len(widths) <= 4:
            raise ValueError(f"one to four stages need a number each in every sequence, got {counts}")
        strides = zip((4, 8, 16, 32)[: len(widths)], reductions, strict=True)
        self.patches = patches(lcm(*(stride * reduction for stride, reduction in strides)))

        def block(stage: int, index: int) -> TransformerBlock:
            channels = widths[stage]
            if window is not None and index % 2 == 0:
                attention = LocallyGroupedAttention(channels, heads[stage], window=window)
            else:
                attention = GlobalSubsampledAttention(channels, heads[stage], reduction=reductions[stage])
            return TransformerBlock(attention, channels, expansions[stage])

        embeddings = zip([in_channels, *widths[:-1]], widths, [4, 2, 2, 2][: len(widths)], strict=True)
        self.patch_embeds = nn.ModuleList(PatchEmbedding(*sizes) for sizes in embeddings)
        self.blocks = nn.ModuleList(nn.ModuleList(block(s, i) for i in range(n)) for s, n in enumerate(depths))
        self.pos_block = nn.ModuleList(PositionEncodingGenerator(channels) for channels in widths)
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Float[Tensor, "batch in_channels height width"]) -> Float[Tensor, "batch classes"]:
        self.patches.check(*x.shape[-2:])
        for embed, blocks, encode in zip(self.patch_embeds, self.blocks, self.pos_block, strict=True):
            first, *others = blocks.children()
            x = encode(first(embed(x)))
            for block in others:
                x = block(x)
        return self.head(each_pixel(self.norm, x).mean((2, 3)))


twins_svt = partial(Twins, (64, 128, 256, 512), (2, 4, 8, 16), (2, 2, 10, 4), (4, 4, 4, 4), window=7)
"""Twins-SVT-S, with windows of 7 × 7 and subsampled maps in turn; 2.9 G multiply-accumulates at 224 × 224, 24.1 M
parameters."""

twins_pcpvt = partial(Twins, (64, 128, 320, 512), (1, 2, 5, 8), (3, 4, 6, 3), (8, 8, 4, 4))
"""Twins-PCPVT-S, the pyramid of PVT with generated positions; 3.8 G multiply-accumulates, 24.1 M parameters."""
