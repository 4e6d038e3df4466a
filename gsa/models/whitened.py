"""A small convolutional network for fast training: a frozen whitening stem, then groups of two convolutions."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gsa.layers import MatrixConvolution, build_mechanism
from gsa.models.resnet import MixingBlock, check_stages

PATCH = 2
"""The side of the patches that the stem whitens."""


class ConvolutionGroup(nn.Module):
    """Convolution, 2×2 max pooling, norm, GELU; convolution, norm, GELU. The norms have a bias and no scale."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = MatrixConvolution(channels_in, channels), _norm(channels)
        self.conv2, self.norm2 = MatrixConvolution(channels, channels), _norm(channels)

    def forward(self, x: Float[Tensor, "batch channels_in height width"]) -> Float[Tensor, "batch channels h w"]:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


def _norm(channels: int) -> nn.BatchNorm2d:
    """Statistics that follow a short training quickly; the scale stays 1, as the next kernel can have any."""
    norm = nn.BatchNorm2d(channels, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


class WhitenedNet(nn.Module):
    r"""The fast host: what short trainings on CIFAR-10 use (arXiv:2404.00498), with any mechanism after any group.

    The stem convolves with :func:`whitening_kernels` W and −W, which are computed once, not trained:

    .. math:: y = \delta\big([W; -W] * x + b\big)

    Then come three groups of two 3×3 convolutions that halve the map, with ``width`` channels times ``growth``, the
    maximum over the map and a linear layer. After each of ``stages`` (counted from 1) follows one
    :class:`~gsa.models.resnet.MixingBlock` with ``mechanism``.

    Shape:
        (batch, in_channels, height, width) in, for images of ``size`` (height, width); (batch, classes) out. One row
        and one column of zeros before the image keep the map of the stem as large as the image, so that the groups
        leave a half, a quarter and an eighth of each side, rounded down; without ``padded`` the stem loses a row and a
        column, as the published one does, and 32×32 images leave maps of 15, 7 and 3 pixels a side.

    Raises:
        ValueError: for images too small, for a stage that there is not, or a mechanism that does not fit its map.

    Differs:
        From the published network in the mechanism, in ``padded``, in its widths, in its last layer (a bias, and no
        factor of 1/9), in the ε of its norms and in how the bias of the stem begins.
    """

    def __init__(
        self,
        width: int,
        *,
        growth: Sequence[int] = (1, 2, 4),
        padded: bool = True,
        mechanism: str = "none",
        stages: Sequence[int] = (1,),
        classes: int = 10,
        in_channels: int = 3,
        size: tuple[int, int] = (32, 32),
    ) -> None:
        super().__init__()
        check_stages(stages, 1, len(growth))
        channels_in, body = 2 * in_channels * PATCH**2, []
        rows, columns = (side if padded else side - PATCH + 1 for side in size)
        if min(rows, columns) < 2 ** len(growth):
            raise ValueError(f"images of {size[0]}×{size[1]} pixels leave nothing after {len(growth)} halvings")
        self.margin = PATCH - 1 if padded else 0
        self.stem = nn.Conv2d(in_channels, channels_in, PATCH)
        self.stem.weight.requires_grad_(False)
        for stage, factor in enumerate(growth, 1):
            channels, rows, columns = factor * width, rows // 2, columns // 2
            body.append(ConvolutionGroup(channels_in, channels))
            channels_in = channels
            if mechanism != "none" and stage in stages:
                body.append(MixingBlock(build_mechanism(mechanism, channels, (rows, columns)), channels))
        self.body = nn.Sequential(*body)
        self.head = nn.Linear(channels_in, classes)

    def forward(self, x: Float[Tensor, "batch in_channels height width"]) -> Float[Tensor, "batch classes"]:
        x = F.pad(x, (self.margin, 0, self.margin, 0)) if self.margin else x
        return self.head(self.body(F.gelu(self.stem(x))).amax((2, 3)))

    @torch.no_grad()
    def whiten(self, x: Float[Tensor, "batch in_channels height width"]) -> None:
        """Set the stem by the patches of these images."""
        kernels = whitening_kernels(x)
        self.stem.weight.copy_(torch.cat([kernels, -kernels]))


def whitening_kernels(
    x: Float[Tensor, "batch channels height width"], epsilon: float = 5e-4
) -> Float[Tensor, "kernels channels 2 2"]:
    r"""Kernels whose responses to 2×2 patches of ``x`` are uncorrelated and of nearly equal variance.

    .. math:: W = (\Lambda + \epsilon)^{-1/2} V^\top, \qquad \operatorname{cov}(\text{patches}) = V \Lambda V^\top

    A direction of variance λ among the patches gets λ/(λ + ε), so that ones that hold only noise are not blown up.
    """
    patches = F.unfold(x, PATCH).movedim(1, 0).flatten(1)
    variances, directions = torch.linalg.eigh(torch.cov(patches.double()))
    kernels = (directions / (variances + epsilon).sqrt()).T
    return kernels.to(x).unflatten(1, (x.shape[1], PATCH, PATCH))
