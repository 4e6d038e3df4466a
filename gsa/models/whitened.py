"""A small convolutional network for fast training: a frozen whitening stem, then groups of two convolutions."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gsa.layers import build_mechanism
from gsa.models.resnet import MixingBlock

PATCH = 2
"""The side of the patches that the stem whitens."""


class MatrixConvolution(nn.Module):
    """A 3×3 convolution without bias whose kernels are the rows of one matrix, which is what Muon orthogonalises.

    The first kernels begin as the identity, one for each channel that comes in, so that a deep stack passes the image
    on from the start.
    """

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        kernels = torch.empty(channels, channels_in, 3, 3)
        nn.init.kaiming_uniform_(kernels, a=5**0.5)
        nn.init.dirac_(kernels[:channels_in])
        self.weight = nn.Parameter(kernels.flatten(1))

    def forward(
        self, x: Float[Tensor, "batch channels_in height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        return F.conv2d(x, self.weight.unflatten(1, (-1, 3, 3)), padding=1)


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
    r"""What short trainings on CIFAR-10 use (arXiv:2404.00498), with any mechanism after any of its groups.

    The stem convolves with :func:`whitening_kernels` W and −W, which are computed once, not trained:

    .. math:: y = \delta\big([W; -W] * x + b\big)

    Then come groups of two 3×3 convolutions that halve the map, the maximum over it and a linear layer. After each of
    ``stages`` (counted from 1) follows one :class:`~gsa.models.resnet.MixingBlock` with ``mechanism``.

    Shape: (batch, in_channels, size, size) in, (batch, classes) out; the maps have (size − 1)/2, /4 and /8 pixels a
    side, rounded down. Errors: ValueError for a stage that there is not, or a mechanism that does not fit its map.
    Differs from the published network in the mechanism, in its last layer (a bias, and no factor of 1/9), in the ε of
    its norms, in how the bias of the stem begins, and in that the patches are centred.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 256, 256),
        *,
        mechanism: str = "none",
        stages: Sequence[int] = (1,),
        classes: int = 10,
        in_channels: int = 3,
        size: int = 32,
    ) -> None:
        super().__init__()
        if unknown := set(stages) - set(range(1, len(widths) + 1)):
            raise ValueError(f"stages {sorted(unknown)} do not exist; this network has stages 1…{len(widths)}")
        channels_in, side, body = 2 * in_channels * PATCH**2, size - PATCH + 1, []
        self.stem = nn.Conv2d(in_channels, channels_in, PATCH)
        self.stem.weight.requires_grad_(False)
        for stage, channels in enumerate(widths, 1):
            body.append(ConvolutionGroup(channels_in, channels))
            channels_in, side = channels, side // 2
            if mechanism != "none" and stage in stages:
                body.append(MixingBlock(build_mechanism(mechanism, channels, (side, side)), channels))
        self.body = nn.Sequential(*body)
        self.head = nn.Linear(channels_in, classes)

    def forward(self, x: Float[Tensor, "batch in_channels height width"]) -> Float[Tensor, "batch classes"]:
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
