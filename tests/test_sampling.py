"""Sampling between pixels is that of PyTorch, and what is built on it starts as the identity or as a convolution."""

from math import ceil, floor

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_same, assert_same_with_gradients, laid_out
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import DeformConv2d, deform_conv2d

from gsa.layers.sampling import (
    DeformableConvolution,
    SpatialTransformer,
    affine_grid,
    bilinear_sample,
    deform_by_gathering,
    deform_by_sampling,
)
from gsa.probes import count_macs, count_parameters

sizes = st.integers(1, 4)


def looped_value(plane: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """One channel read at (y, x): the sum of G(q, p) over every pixel q."""
    total = torch.zeros((), dtype=torch.float64)
    for row, column in torch.cartesian_prod(*map(torch.arange, plane.shape)).tolist():
        near = (1 - (row - y).abs()).clamp(min=0) * (1 - (column - x).abs()).clamp(min=0)
        total = total + near * plane[row, column]
    return total


def looped_deformable(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """Deformable convolution of one image, one channel out, pixel, tap and channel in at a time."""
    channels_out, channels, side, _ = weight.shape
    y = bias[:, None, None].repeat(1, *x.shape[1:])
    for i, j, n in torch.cartesian_prod(*map(torch.arange, (*x.shape[1:], side**2))).tolist():
        row = i + n // side - side // 2 + offset[2 * n, i, j]
        column = j + n % side - side // 2 + offset[2 * n + 1, i, j]
        for c in range(channels):
            value = mask[n, i, j] * looped_value(x[c], row, column)
            for o in range(channels_out):
                y[o, i, j] += weight[o, c, n // side, n % side] * value
    return y


def random_map(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def random_deformable(side: int = 3, channels: int = 2, channels_out: int = 2, spread: float = 2.0) -> list[Tensor]:
    """A map, offsets, weights, biases and a mask; ``spread`` is how far the offsets reach, in pixels."""
    x, weight, bias = random_map(2, channels, 3, 4), random_map(channels_out, channels, side, side), random_map(2)
    offset = spread * torch.randn(2, 2 * side**2, 3, 4, dtype=torch.float64)
    mask = torch.rand(2, side**2, 3, 4, dtype=torch.float64)
    return [x, offset.requires_grad_(), weight, bias[:channels_out], mask.requires_grad_()]


def trained(layer: nn.Module, spread: float = 0.1) -> nn.Module:
    """The layer in float64 with every parameter moved, so that nothing is zero any more."""
    for parameter in layer.double().parameters():
        nn.init.normal_(parameter, std=spread)
    return layer


# Between the pixels


@given(shape=st.tuples(sizes, sizes, st.integers(2, 5), st.integers(2, 5)), count=sizes, corners=st.booleans())
def test_bilinear_sampling_is_that_of_pytorch_in_pixels(shape, count, corners):
    x, sides = random_map(*shape), torch.tensor(shape[2:])
    points = (torch.rand(shape[0], count, 3, 2).double() * (sides + 4) - 2.5).requires_grad_()
    normalised = 2 * points / (sides - 1) - 1 if corners else (2 * points + 1) / sides - 1
    expected = F.grid_sample(x, normalised.flip(-1), padding_mode="zeros", align_corners=corners)
    assert_same_with_gradients(bilinear_sample(x, points), expected, [x, points])


def test_bilinear_sampling_is_the_loop():
    x, points = random_map(2, 3, 4, 5), (torch.rand(2, 7, 2).double() * 8 - 2).requires_grad_()
    values = [looped_value(x[b, c], *points[b, n]) for b in range(2) for c in range(3) for n in range(7)]
    assert_same_with_gradients(bilinear_sample(x, points), torch.stack(values).reshape(2, 3, 7), [x, points])


def test_a_whole_pixel_is_read_as_it_is_and_the_middle_of_four_is_their_mean():
    x = random_map(1, 2, 3, 3)
    read = bilinear_sample(x, torch.tensor([[[2.0, 1.0], [0.5, 1.5]]]).double())
    assert torch.equal(read[..., 0], x[:, :, 2, 1])
    assert_same(read[..., 1], x[:, :, :2, 1:].mean((2, 3)))


def test_the_map_fades_to_zero_within_one_pixel_outside():
    points = torch.tensor([[[0.0, 0.0], [-0.25, 0.0], [0.0, 3.75], [-1.0, 0.0], [9.0, 9.0]]])
    assert_same(bilinear_sample(torch.ones(1, 1, 4, 4), points)[0, 0], torch.tensor([1, 0.75, 0.25, 0, 0]))


def test_gradients_of_bilinear_sampling_are_those_of_finite_differences():
    inputs = random_map(1, 2, 3, 3), (torch.rand(1, 4, 2).double() * 4 - 1).requires_grad_()
    assert torch.autograd.gradcheck(bilinear_sample, inputs)


def test_at_a_whole_pixel_this_has_slope_zero_and_pytorch_that_towards_the_next():
    x, points = random_map(1, 1, 4, 4), torch.tensor([[[[1.0, 2.0]]]]).double().requires_grad_()
    (slope,) = torch.autograd.grad(bilinear_sample(x, points).sum(), points)
    assert slope.abs().max() == 0
    exact = (2 * points + 1) / 4 - 1
    (slope,) = torch.autograd.grad(F.grid_sample(x, exact.flip(-1), align_corners=False).sum(), points)
    here, below, right = x[0, 0, 1, 2], x[0, 0, 2, 2], x[0, 0, 1, 3]
    assert_same(slope.flatten(), torch.stack([below - here, right - here]))


def test_what_it_is_made_of_is_made_on_the_device_of_the_map():
    x, points = torch.empty(2, 3, 4, 5, device="meta"), torch.empty(2, 7, 2, device="meta")
    assert bilinear_sample(x, points).is_meta
    offset, weight = torch.empty(2, 18, 4, 5, device="meta"), torch.empty(6, 3, 3, 3, device="meta")
    assert deform_by_sampling(x, offset, weight).is_meta


def test_cost_of_bilinear_sampling_is_what_the_docstring_says():
    with FlopCounterMode(display=False) as counter:
        bilinear_sample(random_map(1, 3, 4, 5), torch.rand(1, 6, 7, 2).double())
    assert counter.get_total_flops() // 2 == 4 * 5 * 3 * 6 * 7


# Spatial transformer


def turned(theta: list[list[float]], channels: int = 3) -> SpatialTransformer:
    """A transformer that has learned the same ``theta`` for every image."""
    layer = SpatialTransformer(channels).double()
    layer.fc.bias.data = (torch.tensor(theta) - torch.eye(2, 3)).double().flatten()
    return layer


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (7, 10), (32, 32)])
def test_a_transformer_starts_as_the_identity(size):
    x = random_map(2, 3, *size)
    assert_same(SpatialTransformer(3).double()(x), x)


def test_mismatched_corners_would_put_the_identity_off_by_more_than_two():
    x, identity = torch.randn(2, 3, 32, 32).double(), torch.eye(2, 3).double().expand(2, 2, 3)
    for theirs in (False, True):
        off = F.grid_sample(x, F.affine_grid(identity, x.shape, align_corners=not theirs), align_corners=theirs) - x
        assert off.abs().max() > 2
    assert_same(SpatialTransformer(3).double()(x), x)


def test_a_quarter_turn_is_rot90():
    x = random_map(2, 3, 6, 6)
    assert_same(turned([[0, -1, 0], [1, 0, 0]])(x), x.rot90(1, (2, 3)))
    assert_same(turned([[0, 1, 0], [-1, 0, 0]])(x), x.rot90(-1, (2, 3)))


def test_the_first_row_of_theta_is_horizontal_and_moves_by_half_widths():
    x = random_map(2, 3, 4, 8)
    assert_same(turned([[1, 0, 2 / 8], [0, 1, 0]])(x), F.pad(x, (-1, 1)))
    assert_same(turned([[1, 0, 0], [0, 1, 2 / 4]])(x), F.pad(x, (0, 0, -1, 1)))
    assert_same(turned([[-1, 0, 0], [0, 1, 0]])(x), x.flip(3))


def test_a_transformer_is_affine_grid_and_grid_sample():
    layer, x = trained(SpatialTransformer(3, hidden=5)), random_map(2, 3, 21, 18)
    conv1, conv2, fc = layer.localisation[0], layer.localisation[2], layer.fc
    hidden = F.conv2d(x, conv1.weight, conv1.bias, stride=2, padding=1).relu()
    hidden = F.conv2d(hidden, conv2.weight, conv2.bias, stride=2, padding=1).relu()
    regressed = F.linear(F.adaptive_avg_pool2d(hidden, 4).flatten(1), fc.weight, fc.bias)
    grid = F.affine_grid(torch.eye(2, 3).double() + regressed.unflatten(1, (2, 3)), x.shape, align_corners=False)
    assert_same_with_gradients(layer(x), F.grid_sample(x, grid, align_corners=False), [x, *layer.parameters()])


def test_a_transformer_is_the_loop():
    layer, x = trained(SpatialTransformer(2)), torch.randn(2, 2, 3, 4).double()
    theta, expected = layer.theta(x), torch.empty(2, 2, 3, 4).double()
    for b, i, j in torch.cartesian_prod(*map(torch.arange, (2, 3, 4))).tolist():
        place = torch.tensor([(2 * j + 1) / 4 - 1, (2 * i + 1) / 3 - 1, 1]).double()
        horizontal, vertical = theta[b] @ place
        row, column = ((vertical + 1) * 3 - 1) / 2, ((horizontal + 1) * 4 - 1) / 2
        expected[b, :, i, j] = torch.stack([looped_value(plane, row, column) for plane in x[b]])
    torch.testing.assert_close(layer(x), expected, rtol=1e-6, atol=1e-6)


def test_gradients_of_a_transformer_are_those_of_finite_differences():
    layer = trained(SpatialTransformer(2, hidden=3), spread=0.3)
    names, parameters = zip(*layer.named_parameters())

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters)), (x,))

    assert torch.autograd.gradcheck(run, (random_map(1, 2, 4, 4), *parameters), fast_mode=True)


def test_through_theta_a_pixel_reads_all_of_the_map():
    layer, x = SpatialTransformer(3).double(), random_map(1, 3, 9, 9)
    (influence,) = torch.autograd.grad(layer(x)[0, 0, 4, 4], x)
    assert influence.nonzero().tolist()[0] == [0, 0, 4, 4]
    (influence,) = torch.autograd.grad(trained(layer)(x)[0, 0, 4, 4], x)
    assert (influence != 0).all()


def test_a_transformer_learns_to_centre_what_it_sees():
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    at = 7.5 + 3 * (2 * torch.rand(64, 2, 1, 1) - 1)
    blobs = (-((rows - at[:, 0]) ** 2 + (columns - at[:, 1]) ** 2) / 8).exp()[:, None]
    middle = (-((rows - 7.5) ** 2 + (columns - 7.5) ** 2) / 8).exp().expand_as(blobs)
    layer = SpatialTransformer(1, hidden=8)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.01)
    before = F.mse_loss(layer(blobs), middle)
    for _ in range(100):
        optimiser.zero_grad()
        loss = F.mse_loss(layer(blobs), middle)
        loss.backward()
        optimiser.step()
    assert loss < before / 10


@given(theta=st.lists(st.floats(-2, 2), min_size=6, max_size=6), height=sizes, width=sizes)
def test_the_grid_is_that_of_pytorch(theta, height, width):
    theta = torch.tensor(theta).double().reshape(1, 2, 3)
    expected = F.affine_grid(theta, (1, 1, height, width), align_corners=False)
    assert_same(affine_grid(theta, height, width), expected)


def test_autocast_would_put_the_grid_of_pytorch_off_by_a_fifth_of_a_pixel():
    theta = torch.eye(2, 3)[None]
    exact = F.affine_grid(theta, (1, 1, 224, 224), align_corners=False)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = F.affine_grid(theta, (1, 1, 224, 224), align_corners=False)
        found = affine_grid(theta, 224, 224)
    assert (rounded - exact).abs().max() * 224 / 2 > 0.18
    assert (found - exact).abs().max() * 224 / 2 < 1e-4


@settings(max_examples=25)
@given(channels=sizes, hidden=sizes, height=st.integers(1, 9), width=st.integers(1, 9))
def test_cost_of_a_transformer_is_what_the_docstring_says(channels, hidden, height, width):
    layer = SpatialTransformer(channels, hidden=hidden)
    first, second = (ceil(height / n) * ceil(width / n) for n in (2, 4))
    macs = 9 * channels * hidden * first + 9 * hidden**2 * second + 96 * hidden
    assert count_macs(layer, (1, channels, height, width)) == macs
    assert count_parameters(layer) == 9 * channels * hidden + 9 * hidden**2 + 98 * hidden + 6


def test_a_localisation_network_without_channels_is_refused():
    with pytest.raises(ValueError, match="at least 1 hidden channel, got 0"):
        SpatialTransformer(8, hidden=0)


# Deformable convolution


every_deformable = pytest.mark.parametrize("modulated", [False, True], ids=["plain", "modulated"])


@pytest.mark.parametrize("side", [1, 3, 5])
@every_deformable
def test_deforming_by_sampling_is_deforming_by_torchvision(side, modulated):
    x, offset, weight, bias, mask = random_deformable(side, channels=3)
    inputs = [x, offset, weight, bias, mask] if modulated else [x, offset, weight, bias]
    mask = mask if modulated else None
    found = deform_by_sampling(x, offset, weight, bias, mask=mask)
    expected = deform_conv2d(x, offset, weight, bias, padding=side // 2, mask=mask)
    assert_same_with_gradients(found, expected, inputs)
    assert_same(deform_by_sampling(x, offset, weight, mask=mask), found - bias[:, None, None])


@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("spread", [0.0, 2.0, 9.0])
@every_deformable
def test_deforming_by_gathering_is_torchvision_also_where_offsets_are_whole_or_lead_outside(
    side, whole, spread, modulated
):
    x, offset, weight, bias, mask = random_deformable(side, channels=3, spread=spread)
    offset = (offset.detach().round() if whole else offset.detach()).requires_grad_()
    inputs = [x, offset, weight, bias, mask] if modulated else [x, offset, weight, bias]
    mask = mask if modulated else None
    found = deform_by_gathering(x, offset, weight, bias, mask=mask)
    assert_same_with_gradients(found, deform_conv2d(x, offset, weight, bias, padding=side // 2, mask=mask), inputs)


def test_places_keep_single_precision_when_the_map_has_half():
    x, offset = (torch.zeros(1, channels, 1, 300).bfloat16() for channels in (1, 2))
    x[..., 201] = 1
    offset[:, 1] = 0.25
    assert deform_by_gathering(x, offset, torch.ones(1, 1, 1, 1).bfloat16())[0, 0, 0, 200] == 0.25


def test_deforming_by_sampling_is_the_loop():
    x, offset, weight, bias, mask = inputs = random_deformable()
    expected = looped_deformable(x[0], offset[0], weight, bias, mask[0])
    assert_same_with_gradients(deform_by_sampling(x, offset, weight, bias, mask=mask)[0], expected, inputs)


@every_deformable
def test_a_deformable_convolution_is_that_of_torchvision_with_offsets_from_a_convolution(modulated):
    layer, x = trained(DeformableConvolution(4, modulated=modulated), spread=0.5), random_map(2, 4, 5, 6)
    oracle = DeformConv2d(4, 4, 3, padding=1).double()
    oracle.load_state_dict(layer.conv.state_dict())
    computed = F.conv2d(x, layer.conv_offset.weight, layer.conv_offset.bias, padding=1)
    expected = oracle(x, computed[:, :18], computed[:, 18:].sigmoid() if modulated else None)
    found, cotangent = layer(x), torch.randn(2, 4, 5, 6).double()
    assert_same(found, expected)
    mine = torch.autograd.grad(found, [x, *layer.parameters()], cotangent)
    theirs = torch.autograd.grad(expected, [x, *oracle.parameters(), *layer.conv_offset.parameters()], cotangent)
    for one, other in zip(mine, theirs, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@every_deformable
def test_a_deformable_convolution_is_its_sampling_form(kernel_size, modulated):
    layer = trained(DeformableConvolution(3, kernel_size=kernel_size, modulated=modulated), spread=0.5)
    x = random_map(2, 3, 5, 4)
    offset, mask = layer.offset_and_mask(x)
    expected = deform_by_sampling(x, offset, layer.conv.weight, layer.conv.bias, mask=mask)
    assert_same_with_gradients(layer(x), expected, [x, *layer.parameters()])


def test_gradients_of_deformable_convolutions_are_those_of_finite_differences():
    layer, x = trained(DeformableConvolution(2, modulated=True), spread=0.3), random_map(1, 2, 3, 3)
    names, parameters = zip(*layer.named_parameters())

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters)), (x,))

    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)


def test_without_offsets_it_is_a_convolution():
    layer, x = DeformableConvolution(4).double(), random_map(2, 4, 5, 6)
    assert_same_with_gradients(layer(x), layer.conv(x), [x, *layer.conv.parameters()])


def test_a_mask_of_one_half_halves():
    layer, x = DeformableConvolution(4, modulated=True).double(), random_map(2, 4, 5, 6)
    expected = 0.5 * F.conv2d(x, layer.conv.weight, padding=1) + layer.conv.bias[:, None, None]
    assert_same(layer(x), expected)


@pytest.mark.parametrize(("dy", "dx"), [(1, 0), (0, 1), (-1, 2), (2, -2)])
def test_even_channels_of_the_offsets_are_vertical_and_whole_offsets_shift(dy, dx):
    layer, x = DeformableConvolution(4).double(), random_map(2, 4, 6, 7)
    layer.conv_offset.bias.data[0::2] = dy
    layer.conv_offset.bias.data[1::2] = dx
    shifted = F.pad(x, (1 - dx, 1 + dx, 1 - dy, 1 + dy))
    assert_same(layer(x), F.conv2d(shifted, layer.conv.weight, layer.conv.bias))


def test_each_tap_has_its_own_offset_and_mask():
    layer, x = DeformableConvolution(2, modulated=True).double(), random_map(1, 2, 5, 5)
    layer.conv_offset.bias.data[18:] = -1000.0
    layer.conv_offset.bias.data[18 + 2] = 1000.0
    layer.conv_offset.bias.data[2 * 2] = 1.0
    top_right_moved_down = F.conv2d(F.pad(x, (-1, 1)), layer.conv.weight[:, :, :1, 2:], layer.conv.bias)
    assert_same(layer(x), top_right_moved_down)


def test_offsets_that_start_at_zero_learn_from_the_kernel_and_not_from_the_sampling_form():
    layer, x = DeformableConvolution(2).double(), random_map(1, 2, 5, 5)
    layer(x).sum().backward()
    assert layer.conv_offset.weight.grad.abs().max() > 0
    offset = torch.zeros(1, 18, 5, 5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(deform_by_sampling(x, offset, layer.conv.weight).sum(), offset)
    assert slope.abs().max() == 0


def test_a_pixel_reads_its_window_and_the_four_pixels_around_each_place():
    layer, x = trained(DeformableConvolution(2)), random_map(1, 2, 9, 9)
    layer.conv_offset.bias.data.uniform_(-2.5, 2.5)
    (influence,) = torch.autograd.grad(layer(x)[0, 0, 4, 4], x)
    expected = torch.zeros(9, 9, dtype=torch.bool)
    expected[3:6, 3:6] = True
    offset, _ = layer.offset_and_mask(x)
    for n, (dy, dx) in enumerate(offset[0, :, 4, 4].reshape(9, 2).tolist()):
        row, column = floor(3 + n // 3 + dy), floor(3 + n % 3 + dx)
        expected[max(row, 0) : row + 2, max(column, 0) : column + 2] = True
    assert 9 < expected.sum() < 81
    assert torch.equal(influence[0] != 0, expected.expand(2, 9, 9))


def test_torchvisions_kernel_knows_no_second_derivatives_and_no_functional_transforms_but_sampling_does():
    x, offset, weight, _, _ = inputs = random_deformable(side=1, channels=1, channels_out=1)
    with pytest.raises(RuntimeError, match="double backwards"):
        torch.autograd.gradgradcheck(deform_conv2d, inputs[:3])
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.jacrev(deform_conv2d)(x, offset, weight)
    assert torch.autograd.gradgradcheck(deform_by_sampling, inputs[:3])
    assert torch.func.jacrev(deform_by_sampling)(x, offset, weight).shape == (*x.shape, *x.shape)


@given(channels=sizes, k=st.sampled_from([1, 3, 5]), modulated=st.booleans(), height=sizes, width=sizes)
def test_cost_of_deformable_convolution_is_what_the_docstring_says(channels, k, modulated, height, width):
    layer, computed = DeformableConvolution(channels, kernel_size=k, modulated=modulated), (2 + modulated) * k**2
    macs = height * width * channels * k**2 * (channels + computed)
    assert count_macs(layer, (1, channels, height, width)) == macs
    assert count_parameters(layer) == channels * k**2 * (channels + computed) + channels + computed


def test_cost_of_deforming_by_sampling_is_what_the_docstring_says():
    x, offset, weight, _, _ = random_deformable(channels=3, channels_out=2)
    with FlopCounterMode(display=False) as counter:
        deform_by_sampling(x, offset, weight)
    assert counter.get_total_flops() // 2 == 2 * (3 * 4 * 3 * 9 * (3 * 4 + 2))


def test_a_kernel_without_a_middle_is_refused():
    with pytest.raises(ValueError, match="side 4 has no middle; odd sides do, such as 3 or 5"):
        DeformableConvolution(8, kernel_size=4)
    with pytest.raises(ValueError, match="side 2 has no middle"):
        deform_by_sampling(torch.zeros(1, 1, 4, 4), torch.zeros(1, 8, 4, 4), torch.zeros(1, 1, 2, 2))


def test_offsets_for_another_kernel_are_refused():
    with pytest.raises(ValueError, match="a 3×3 kernel needs 18 channels of offsets, got 9"):
        deform_by_sampling(torch.zeros(1, 1, 4, 4), torch.zeros(1, 9, 4, 4), torch.zeros(1, 1, 3, 3))


# Whatever the layer


every_layer = pytest.mark.parametrize(
    "build",
    [
        lambda: SpatialTransformer(4, hidden=6),
        lambda: DeformableConvolution(4),
        lambda: DeformableConvolution(4, modulated=True),
    ],
    ids=["transformer", "deformable", "modulated"],
)


@every_layer
def test_it_compiles_and_exports_whole_and_its_gradients_too(build, unchecked):
    layer, x = trained(build()), random_map(2, 4, 5, 6)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_same_with_gradients(compiled(x), layer(x), [x, *layer.parameters()])
    assert_same(torch.export.export(layer, (x,)).module()(x), layer(x))


@every_layer
def test_layout_in_memory_does_not_matter(build):
    layer, x = trained(build()), random_map(2, 4, 5, 6)
    for same in laid_out(x):
        assert_same(layer(same), layer(x))


@every_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_keeps_it_near_full_precision_forward_and_backward(build, dtype):
    layer, x = trained(build()).float(), torch.randn(2, 4, 8, 8).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
    full = layer(x.float())
    torch.testing.assert_close(half.float(), full, rtol=0.05, atol=0.05)
    half, full = (torch.autograd.grad(y.float().square().sum(), layer.parameters()) for y in (half, full))
    for one, other in zip(half, full):
        assert F.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.95


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_what_is_no_number_ends_in_no_number_and_kills_nobody(modulated, bad):
    layer, x = DeformableConvolution(4, modulated=modulated), torch.randn(1, 4, 8, 8)
    nn.init.normal_(layer.conv_offset.weight)
    x[0, 0, 4, 4] = bad
    y = layer(x)
    assert not y[..., 3:6, 3:6].isfinite().all() or bad == 1e30
    assert y[..., 0, 0].isfinite().all()
    y.sum().backward()


def test_places_far_outside_read_zeros():
    layer, x = DeformableConvolution(4), torch.randn(1, 4, 8, 8)
    nn.init.constant_(layer.conv_offset.bias, 1e6)
    torch.testing.assert_close(layer(x), layer.conv.bias[:, None, None].expand(1, 4, 8, 8))
