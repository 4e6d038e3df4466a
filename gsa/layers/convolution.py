"""Convolution: weights that depend on relative position only, as one matrix product, and factored in two."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gsa.layers.checks import check_axes, check_kernel_size


def unfold_convolution(
    x: Float[Tensor, "batch channels height width"],
    weight: Float[Tensor, "channels_out channels_of_weight rows columns"],
    bias: Float[Tensor, " channels_out"] | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
) -> Float[Tensor, "batch channels_out height_out width_out"]:
    r"""Convolution as one matrix product: every window of the map, unfolded into a column, times the flat weights.

    .. math:: y_{o,p} = \sum_{c,\delta} w_{o,c,\delta}\, x_{c,\,sp+\delta} + b_o, \qquad Y = W\,\operatorname{unfold}(X)

    s is ``stride``; x is zero for ``padding`` pixels around the map. For a k₁×k₂ kernel the columns are C·k₁k₂ long and
    there are H′W′ of them, H′ = ⌊(H + 2·padding − k₁)/s⌋ + 1 and W′ alike: as for any convolution, s windows that do
    not fill the map leave its last pixels unread.

    Cost:
        H′W′·C′C·k₁k₂ multiply-accumulates for C′ channels out.

    Raises:
        ValueError: if the weights are for other channels or the kernel is larger than the padded map.

    Differs:
        From F.conv2d in memory, where each pixel stands k₁k₂/s² times.

    Example:
        >>> unfold_convolution(torch.randn(2, 3, 8, 8), torch.randn(16, 3, 3, 3), padding=1).shape
        torch.Size([2, 16, 8, 8])
    """
    (channels, height, width), (_, reads, rows, columns) = x.shape[1:], weight.shape
    if reads != channels:
        raise ValueError(f"weights that read {reads} channels do not fit a map of {channels}")
    if rows > height + 2 * padding or columns > width + 2 * padding:
        raise ValueError(
            f"a {rows}×{columns} kernel is larger than a {height}×{width} map padded by {padding}; "
            f"padding that would fit: {max(rows - height + 1, columns - width + 1) // 2}"
        )
    windows = F.unfold(x, (rows, columns), stride=stride, padding=padding)
    y = weight.flatten(1) @ windows
    y = y if bias is None else y + bias[:, None]
    return y.unflatten(2, ((height + 2 * padding - rows) // stride + 1, -1))


class DepthwiseSeparableConvolution(nn.Module):
    r"""A convolution of each channel for itself, then one among the channels of each pixel (arXiv:1704.04861).

    .. math:: y_{o,p} = \sum_c P_{o,c} \sum_\delta D_{c,\delta}\, x_{c,\,p+\delta} + b_o

    It is the convolution whose weights factor, :math:`w_{o,c,\delta} = P_{o,c} D_{c,\delta}`.

    Shape:
        (batch, channels, height, width) in and out.

    Cost:
        For a k×k kernel: HWC(k² + C) multiply-accumulates, C(k² + C) + C parameters: about 1/C + 1/k² of the full
        convolution's.

    Raises:
        ValueError: if ``kernel_size`` is not odd.

    Differs:
        From MobileNet in that no normalisation and no ReLU stand between or after; so one bias is enough.

    Example:
        >>> DepthwiseSeparableConvolution(64)(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(self, channels: int, *, kernel_size: int = 3) -> None:
        super().__init__()
        check_kernel_size(kernel_size)
        padding = kernel_size // 2
        self.conv_dw = nn.Conv2d(channels, channels, kernel_size, padding=padding, groups=channels, bias=False)
        self.conv_pw = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        check_axes(x)
        return self.conv_pw(self.conv_dw(x))


class MatrixConvolution(nn.Module):
    r"""A 3×3 convolution without bias whose kernels are the rows of one matrix, as Muon wants to have them.

    .. math:: y_{o,p} = \sum_{c,\delta} w_{o,c,\delta}\, x_{c,\,p+\delta}

    The first kernels begin as the identity, one for each channel that comes in, so that a deep stack passes the image
    on from the start.

    Shape:
        (batch, channels_in, height, width) in, (batch, channels, height, width) out.

    Cost:
        For N pixels: 9NC′C multiply-accumulates, 9C′C parameters.

    Differs:
        From ``nn.Conv2d`` in the shape of its weight, (channels, 9·channels_in), and in how it begins.

    Example:
        >>> MatrixConvolution(64, 64)(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
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
        check_axes(x)
        return F.conv2d(x, self.weight.unflatten(1, (-1, 3, 3)), padding=1)
