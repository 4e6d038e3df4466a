"""Sampling: reading a map between its pixels, at places that are computed from the map itself."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int32
from torch import Tensor, nn

from gsa.layers.attention import held
from gsa.layers.checks import check_axes, check_kernel_size


def bilinear_sample(
    x: Float[Tensor, "batch channels height width"], points: Float[Tensor, "batch *places 2"]
) -> Float[Tensor, "batch channels *places"]:
    r"""The map at ``points``, (y, x) in pixels: a sum over all pixels, of which at most four have a weight.

    .. math:: x(p) = \sum_q G(q, p)\, x(q), \qquad
              G(q, p) = \max(0, 1 - |q_y - p_y|)\,\max(0, 1 - |q_x - p_x|)

    The map is zero outside. Written as the equation reads (arXiv:1703.06211), to be understood and tested against: n
    points cost HW·C·n multiply-accumulates, and no parameters, where F.grid_sample needs but four pixels a point.

    Differs:
        From F.grid_sample in its units, and in the gradient of a point that is a whole pixel: G has kinks there, at
        which autograd takes the slope 0 and PyTorch's kernels that towards the next pixel.

    Example:
        >>> bilinear_sample(torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]]), torch.tensor([[[0.5, 0.5]]]))
        tensor([[[1.5000]]])
    """
    row, column = points[..., None, :].unbind(-1)
    rows = (1 - (torch.arange(x.shape[2], device=x.device) - row).abs()).relu()
    columns = (1 - (torch.arange(x.shape[3], device=x.device) - column).abs()).relu()
    return torch.einsum("bchw, b...hw -> bc...", x, rows[..., :, None] * columns[..., None, :])


class SpatialTransformer(nn.Module):
    r"""A map looked at through an affine transformation that a small network chooses (arXiv:1506.02025).

    .. math:: y(p) = x(\theta(x)\,[p, 1]^\top), \qquad \theta(x) = [I, 0] + W \operatorname{loc}(x) + b

    p = (horizontal, vertical), in units in which the map reaches from −1 to 1, edge to edge; y(p) is read from where
    θ sends p, bilinearly, and is zero outside of the map. The localisation network is two strided 3×3 convolutions of
    D = ``hidden`` channels with ReLU, averaged over 4×4 cells: an average over all would not know where things are.
    W and b start at zero, so the layer starts as the identity. Through θ every pixel reads all of the map.

    Shape:
        (batch, channels, height, width) in and out.

    Cost:
        9CD·⌈H/2⌉⌈W/2⌉ + 9D²·⌈H/4⌉⌈W/4⌉ + 96D multiply-accumulates besides the sampling, 9CD + 9D² + 98D + 6 parameters.

    Raises:
        ValueError: if ``hidden`` is not positive.

    Differs:
        From the paper's in that θ is the identity plus what is regressed, so that weight decay draws to no change.

    Example:
        >>> SpatialTransformer(64)(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(self, channels: int, *, hidden: int = 32) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"the localisation network needs at least 1 hidden channel, got {hidden}")
        cells = 4
        self.localisation = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(cells),
            nn.Flatten(),
        )
        self.fc = nn.Linear(hidden * cells**2, 6)
        start_at_zero(self.fc)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        check_axes(x)
        height, width = x.shape[-2:]
        return F.grid_sample(x, affine_grid(held(self.theta(x)), height, width), align_corners=False)

    def theta(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 2 3"]:
        """The transformation of each image, [I, 0] when nothing is to change."""
        identity = torch.eye(2, 3, device=x.device, dtype=self.localisation[0].weight.dtype)
        return identity + self.fc(self.localisation(x)).unflatten(1, (2, 3))


def affine_grid(
    theta: Float[Tensor, "batch 2 3"], height: int, width: int
) -> Float[Tensor, "batch {height} {width} 2"]:
    """Where θ sends the middle of every pixel, as (horizontal, vertical) from −1 to 1 between the map's outer edges.

    Equals F.affine_grid with align_corners=False.

    Differs:
        From it in that autocast leaves it alone: rounded to bfloat16, as matrix products are, even the identity of a
        224×224 map is off by .2 pixels.
    """
    row, column = ((2 * torch.arange(n, device=theta.device, dtype=theta.dtype) + 1) / n - 1 for n in (height, width))
    to_right, to_bottom, shift = theta[:, None, None].unbind(-1)
    return to_right * column[:, None] + to_bottom * row[:, None, None] + shift


class DeformableConvolution(nn.Module):
    r"""A convolution that computes for every pixel where its window looks (arXiv:1703.06211).

    .. math:: y(p) = \sum_n w_n\, m_n(p)\; x\big(p + p_n + \Delta p_n(p)\big) + b

    n counts the k² taps of the window, :math:`p_n` is the place of a tap, x is read bilinearly and zero outside. A
    second convolution, ``conv_offset``, computes the :math:`\Delta p_n` from x; it starts at zero, so the layer starts
    as the convolution ``conv``. :math:`m_n` is 1, or if ``modulated`` (arXiv:1811.11168) the sigmoid of k² further
    channels, and so ½ at the start. Of the offsets' 2k² channels the even ones are vertical. A pixel reads its own
    window and the four pixels around each place.

    Shape:
        (batch, channels, height, width) in and out.

    Cost:
        HWCk²(C + 2k²) multiply-accumulates besides the sampling, Ck²(C + 2k²) + C + 2k² parameters; 3k² for 2k² if
        modulated. Under autocast, too, the places are computed in single precision.

    Raises:
        ValueError: if ``kernel_size`` is not odd.

    Differs:
        From torchvision's DeformConv2d in that it computes the offsets itself, and in speed
        (:func:`deform_by_gathering`).

    Example:
        >>> DeformableConvolution(64)(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(self, channels: int, *, kernel_size: int = 3, modulated: bool = False) -> None:
        super().__init__()
        check_kernel_size(kernel_size)
        self.taps, self.padding, self.modulated = kernel_size**2, kernel_size // 2, modulated
        self.conv = nn.Conv2d(channels, channels, kernel_size, padding=self.padding)
        self.conv_offset = nn.Conv2d(channels, (2 + modulated) * self.taps, kernel_size, padding=self.padding)
        start_at_zero(self.conv_offset)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        check_axes(x)
        offset, mask = self.offset_and_mask(x)
        return deform_by_gathering(x.to(offset), offset, self.conv.weight, self.conv.bias, mask=mask)

    def offset_and_mask(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch offsets height width"], Float[Tensor, "batch taps height width"] | None]:
        """Δp as (y, x) of every tap in turn, in pixels, and m, None unless modulated."""
        computed = held(self.conv_offset(x)).to(self.conv.weight)
        offset = computed[:, : 2 * self.taps]
        return offset, computed[:, 2 * self.taps :].sigmoid() if self.modulated else None


def deform_by_gathering(
    x: Float[Tensor, "batch channels height width"],
    offset: Float[Tensor, "batch offsets height width"],
    weight: Float[Tensor, "channels_out channels side side"],
    bias: Float[Tensor, " channels_out"] | None = None,
    *,
    mask: Float[Tensor, "batch taps height width"] | None = None,
) -> Float[Tensor, "batch channels_out height width"]:
    r"""Deformable convolution as a gathering of pixels and one matrix product.

    .. math:: y_o(p) = \sum_{c,n} w_{o,c,n}\, m_n(p) \sum_q G\big(q, p + p_n + \Delta p_n(p)\big)\, x_c(q) + b_o

    q are the four pixels around the place of a tap, and G, as in :func:`bilinear_sample`, weighs them: F.embedding_bag
    adds up such bags. ``offset`` is Δp, (y, x) of every tap in turn; ``mask`` is m, by default 1. A
    place that is no number makes NaN.

    Cost:
        For k² taps and C′ channels out: HWCk²C′ multiply-accumulates besides the gathering.

    Raises:
        ValueError: if the side of ``weight`` is not odd or ``offset`` does not have two channels for each tap.

    Differs:
        From torchvision's deform_conv2d in speed alone, eight times on a CPU: values are the same, and so are
        gradients, at offsets that are whole numbers too. Neither knows second derivatives, for which there is
        :func:`deform_by_sampling`.
    """
    side, (height, width) = check_offsets(offset, weight), x.shape[2:]
    tap = torch.arange(side**2, device=x.device)
    rows = torch.arange(height, device=x.device)[:, None, None] + tap // side - side // 2
    columns = torch.arange(width, device=x.device)[:, None] + tap % side - side // 2
    exact = offset.to(torch.promote_types(offset.dtype, torch.float32))
    down, right = rearrange(exact, "b (tap yx) h w -> yx b h w tap", yx=2)
    (row, below), (column, behind) = corner(rows + down, height), corner(columns + right, width)

    stride = width + 4  # of a map with two pixels of zeros around it, where all that lies outside is read
    image = torch.arange(x.shape[0], dtype=torch.int32, device=x.device)[:, None, None, None]
    first = (image * (height + 4) + row) * stride + column
    corners = torch.stack([first, first + 1, first + stride, first + stride + 1], -1)
    above, before = 1 - below, 1 - behind
    shares = torch.stack([above * before, above * behind, below * before, below * behind], -1)
    shares = shares if mask is None else shares * rearrange(mask, "b tap h w -> b h w tap 1")

    pixels = F.pad(x.permute(0, 2, 3, 1), (0, 0, 2, 2, 2, 2)).flatten(0, 2)
    bags, shares = corners.flatten(0, -2), shares.flatten(0, -2).to(pixels)
    samples = F.embedding_bag(bags, pixels, mode="sum", per_sample_weights=shares)
    samples = samples.view(x.shape[0], height, width, side**2 * x.shape[1])
    return F.conv2d(samples.permute(0, 3, 1, 2), rearrange(weight, "o c y x -> o (y x c) 1 1"), bias)


def corner(
    places: Float[Tensor, "batch height width taps"], length: int
) -> tuple[Int32[Tensor, "batch height width taps"], Float[Tensor, "batch height width taps"]]:
    """The last pixel that is not behind a place, counted from two before a map of ``length``, and how far behind it the
    place is."""
    pixel = places.detach().floor()
    return pixel.nan_to_num().clamp(-2, length).int() + 2, places - pixel


def deform_by_sampling(
    x: Float[Tensor, "batch channels height width"],
    offset: Float[Tensor, "batch offsets height width"],
    weight: Float[Tensor, "channels_out channels side side"],
    bias: Float[Tensor, " channels_out"] | None = None,
    *,
    mask: Float[Tensor, "batch taps height width"] | None = None,
) -> Float[Tensor, "batch channels_out height width"]:
    r"""Deformable convolution as its equation reads: :func:`bilinear_sample`, then one matrix product.

    .. math:: y_o(p) = \sum_{c,n} w_{o,c,n}\, m_n(p)\; x_c\big(p + p_n + \Delta p_n(p)\big) + b_o

    ``offset`` is Δp, (y, x) of every tap in turn; ``mask`` is m, by default 1.

    Cost:
        For k² taps and C′ channels out: HWCk²(HW + C′) multiply-accumulates.

    Raises:
        ValueError: if the side of ``weight`` is not odd or ``offset`` does not have two channels for each tap.

    Differs:
        From torchvision's deform_conv2d in the gradient of offsets that are whole numbers (see
        :func:`bilinear_sample`): here it is zero, so offsets that start at zero stay there.
    """
    side = check_offsets(offset, weight)
    pixels = torch.cartesian_prod(*(torch.arange(n, device=x.device) for n in x.shape[2:])).unflatten(0, x.shape[2:])
    taps = torch.cartesian_prod(*2 * [torch.arange(side, device=x.device) - side // 2])
    moved = rearrange(offset, "b (tap yx) h w -> b h w tap yx", yx=2)
    sampled = bilinear_sample(x, pixels[:, :, None] + taps + moved)
    if mask is not None:
        sampled = sampled * rearrange(mask, "b tap h w -> b 1 h w tap")
    y = torch.einsum("bchwt, oct -> bohw", sampled, weight.flatten(2))
    return y if bias is None else y + bias[:, None, None]


def check_offsets(offset: Tensor, weight: Tensor) -> int:
    """The side of the kernel. ValueError unless it is odd and there are two offsets for each tap."""
    side = weight.shape[-1]
    check_kernel_size(side)
    if offset.shape[1] != 2 * side**2:
        raise ValueError(f"a {side}×{side} kernel needs {2 * side**2} channels of offsets, got {offset.shape[1]}")
    return side


def start_at_zero(layer: nn.Linear | nn.Conv2d) -> None:
    """What ``layer`` computes is zero until it has learned."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
