"""Gates: weights per channel, pixel, branch, moment or neighbourhood, computed from the map that they act upon."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from gsa.layers.attention import attend, held
from gsa.layers.checks import check_axes, check_kernel_size, divisors


class SqueezeExcitation(nn.Module):
    r"""One weight per channel, computed from the average of every channel (arXiv:1709.01507).

    .. math:: y = \sigma\big(W_2\,\delta(W_1 \operatorname{GAP} x)\big) \odot x

    δ is ReLU, W₁ reduces the C channels by ``reduction``.

    Shape:
        (batch, channels, height, width) in and out.

    Cost:
        2C²/r multiply-accumulates (besides one product per pixel), 2C²/r + C/r + C parameters.

    Raises:
        ValueError: if ``reduction`` leaves no channel.

    Example:
        >>> SqueezeExcitation(64, reduction=4)(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        reduced = _reduced_channels(channels, reduction)
        self.fc1 = nn.Conv2d(channels, reduced, 1)
        self.fc2 = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        check_axes(x)
        squeezed = x.mean((2, 3), keepdim=True)
        return held(self.fc2(self.fc1(squeezed).relu()).sigmoid()) * x


class ChannelGate(nn.Module):
    r"""One weight per channel, from the average and the maximum of every channel: CBAM's first half (arXiv:1807.06521).

    .. math:: y = \sigma\big(W_2\,[\delta(W_1 \operatorname{GAP} x) + \delta(W_1 \operatorname{GMP} x)]\big) \odot x

    GAP and GMP average and maximise over all pixels; both pass through the same W₁ and W₂ and meet before σ. W₂ is
    linear, so that one product serves both.

    Shape:
        (batch, channels, height, width) in and out.

    Cost:
        3C²/r multiply-accumulates (besides one product per pixel), 2C²/r parameters.

    Raises:
        ValueError: if ``reduction`` leaves no channel.

    Differs:
        From the authors' code in W₁ and W₂ having no biases, as in the paper.

    Example:
        >>> ChannelGate(64, reduction=4)(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        reduced = _reduced_channels(channels, reduction)
        self.fc1 = nn.Conv2d(channels, reduced, 1, bias=False)
        self.fc2 = nn.Conv2d(reduced, channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        check_axes(x)
        average, largest = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        return held(self.fc2(self.fc1(average).relu() + self.fc1(largest).relu()).sigmoid()) * x


class SpatialGate(nn.Module):
    r"""One weight per pixel, from the average and the maximum over the channels around it: CBAM's second half.

    .. math:: y = \sigma\big(\operatorname{BN}(K * [\operatorname{mean}_c x;\ \max_c x])\big) \odot x

    K is a convolution of ``kernel_size`` k from two channels to one.

    Shape:
        (batch, channels, height, width) in and out, for any number of channels, so that the constructor takes none.

    Cost:
        For a map of H × W: 2k²HW multiply-accumulates (besides one product per pixel and channel), 2k² + 2 parameters.

    Raises:
        ValueError: if ``kernel_size`` is not odd.

    References:
        ArXiv:1807.06521.

    Differs:
        From the paper in the batch normalization, which it leaves out and its authors' code has; from that code in the
        order [mean; max], which is the paper's.

    Example:
        >>> SpatialGate()(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(self, *, kernel_size: int = 7) -> None:
        super().__init__()
        check_kernel_size(kernel_size)
        self.conv = _normalized_convolution(2, 1, kernel_size)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        check_axes(x)
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return held(self.conv(pooled).sigmoid()) * x


class CBAM(nn.Module):
    r"""Convolutional block attention: first a weight per channel, then, of what is left, one per pixel.

    .. math:: y = G_{\text{spatial}}\big(G_{\text{channel}}(x)\big)

    with :class:`ChannelGate` and :class:`SpatialGate`.

    Shape:
        (batch, channels, height, width) in and out.

    Cost:
        For a map of H × W: 3C²/r + 2k²HW multiply-accumulates, 2C²/r + 2k² + 2 parameters.

    Raises:
        ValueError: if ``reduction`` leaves no channel or ``kernel_size`` is not odd.

    References:
        ArXiv:1807.06521.

    Example:
        >>> CBAM(64)(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(self, channels: int, *, reduction: int = 16, kernel_size: int = 7) -> None:
        super().__init__()
        self.channel = ChannelGate(channels, reduction=reduction)
        self.spatial = SpatialGate(kernel_size=kernel_size)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        return self.spatial(self.channel(x))


class SelectiveKernel(nn.Module):
    r"""Branches of several extents, mixed by weights per channel that are computed from all of them (arXiv:1903.06586).

    .. math:: y = \sum_m \operatorname{softmax}_m(W_m z) \odot u_m, \qquad
              z = \delta\big(\operatorname{BN}(W \operatorname{GAP} \textstyle\sum_m u_m)\big), \qquad
              u_m = \delta\big(\operatorname{BN}(K_m * x)\big)

    K_m is a 3 × 3 convolution whose pixels are ``dilations[m]`` apart, so that two branches see 3 × 3 and 5 × 5; z is d
    = max(C/r, 32) wide, with r = ``reduction``. In the words of :func:`~gsa.layers.attention.attend` every channel is a
    head with one query, which is 1, and with the branches for keys.

    Shape:
        (batch, channels, height, width) in and out.

    Cost:
        For M branches, g = ``groups`` and a map of H × W: MHWC(9C/g + 1) + MC + (M + 1)Cd multiply-accumulates, 9MC²/g
        + (M + 1)Cd + 2MC + 2d parameters.

    Raises:
        ValueError: if there is no dilation, one below 1, ``groups`` that do not divide ``channels`` or a ``reduction``
            below 1; in training, PyTorch's for a batch of one image, as z has no pixels to be normalized over.

    Differs:
        From the paper in the default of ``groups``, which is 32 there.

    Example:
        >>> SelectiveKernel(64)(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(
        self, channels: int, *, dilations: Sequence[int] = (1, 2), groups: int = 1, reduction: int = 16
    ) -> None:
        super().__init__()
        if not dilations or min(dilations) < 1:
            raise ValueError(f"dilations {tuple(dilations)} must name at least one branch, each at least 1")
        if reduction < 1:
            raise ValueError(f"reduction {reduction} is no reduction; it must be at least 1")
        if groups < 1 or channels % groups:
            raise ValueError(f"{groups} groups do not divide {channels} channels; groups that do: {divisors(channels)}")
        width = max(channels // reduction, 32)
        self.paths = nn.ModuleList(
            _normalized_convolution(channels, channels, 3, dilation=dilation, groups=groups) for dilation in dilations
        )
        self.attn = nn.Sequential(
            OrderedDict(
                fc_reduce=nn.Conv2d(channels, width, 1, bias=False),
                bn=nn.BatchNorm2d(width),
                act=nn.ReLU(),
                fc_select=nn.Conv2d(width, len(dilations) * channels, 1, bias=False),
            )
        )

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        check_axes(x)
        branches = torch.stack([path(x).relu() for path in self.paths], dim=2)
        logits = self.attn(branches.sum(2).mean((2, 3), keepdim=True))
        keys = rearrange(logits, "b (m c) 1 1 -> b c m 1", m=len(self.paths))
        mixed = attend(torch.ones_like(keys[:, :, :1]), keys, branches.flatten(3), scale=1.0)
        return rearrange(mixed, "b c 1 (height width) -> b c height width", height=x.shape[2])


class LargeKernelAttention(nn.Module):
    r"""One weight per pixel and channel, from a neighbourhood of 23 × 23 pixels: VAN's attention (arXiv:2202.09741).

    .. math:: y = W\,\big(K_{7,3} * (K_5 * x)\big) \odot x

    K₅ and K₇,₃ are depthwise convolutions, the second with pixels 3 apart; W mixes the channels. There is no σ: weights
    may be negative or large.

    Shape:
        (batch, channels, height, width) in and out.

    Cost:
        For a map of H × W: HWC(C + 25) + 49C·3⌈H/3⌉·3⌈W/3⌉ multiply-accumulates (besides one product per pixel and
        channel), C² + 77C parameters. The paper calls this a 21 × 21 kernel, after the one that it decomposes; 5 + 3·(7
        − 1) is 23.

    Differs:
        From the authors' code in speed: every third pixel is gathered into a map of its own, where the dilated
        convolution is a plain one. That takes half the time and, for these copies, more memory.

    Example:
        >>> LargeKernelAttention(64)(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, channels, 5, padding="same", groups=channels)
        self.conv_spatial = _InterlacedConvolution(channels, channels, 7, padding="same", dilation=3, groups=channels)
        self.conv1 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        check_axes(x)
        return held(self.conv1(self.conv_spatial(self.conv0(x)))) * x


class _InterlacedConvolution(nn.Conv2d):
    """A dilated convolution that keeps the size of the map, as a dense one on each of its interlaced sub-images.

    Pixels ``dilation`` apart are neighbours in the sub-images of a grid partition. The result is ``nn.Conv2d``'s; a
    depthwise one takes half the time on the CPU. Rows and columns that complete the last blocks are zeros, as is the
    border, and are cut off again.
    """

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch filters height width"]:
        step, (height, width) = self.dilation[0], x.shape[-2:]
        padded = F.pad(x, (0, -width % step, 0, -height % step))
        split = "b c (rows i) (columns j) -> (b i j) rows columns c"
        images = rearrange(padded, split, i=step, j=step).permute(0, 3, 1, 2)
        mixed = F.conv2d(images, self.weight, self.bias, padding="same", groups=self.groups)
        merge = "(b i j) c rows columns -> b c (rows i) (columns j)"
        return rearrange(mixed, merge, i=step, j=step)[..., :height, :width]


def _reduced_channels(channels: int, reduction: int) -> int:
    """How many of ``channels`` a ``reduction`` leaves. ValueError if none."""
    if not 1 <= reduction <= channels:
        raise ValueError(f"reduction {reduction} leaves no channel of {channels}; it must be in 1…{channels}")
    return channels // reduction


def _normalized_convolution(
    channels: int, filters: int, kernel_size: int, *, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution without bias that keeps the size of the map, then batch normalization."""
    conv = nn.Conv2d(channels, filters, kernel_size, padding="same", dilation=dilation, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(filters)))
