"""Convolution as one matrix product is that of PyTorch, and so is the one factored into depth and points."""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_same, assert_same_with_gradients
from hypothesis import given
from hypothesis import strategies as st
from timm.models._efficientnet_blocks import DepthwiseSeparableConv
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gsa.layers.convolution import DepthwiseSeparableConvolution, unfold_convolution
from gsa.probes import count_macs, count_parameters

sizes = st.integers(1, 4)


def looped(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    """Convolution one image, channel, pixel and tap at a time."""
    x = F.pad(x, 4 * [padding])
    (_, channels, rows, columns), (batch, _, height, width) = weight.shape, x.shape
    y = bias[:, None, None].repeat(batch, 1, (height - rows) // stride + 1, (width - columns) // stride + 1)
    for b, o, i, j in torch.cartesian_prod(*map(torch.arange, y.shape)).tolist():
        for c, di, dj in torch.cartesian_prod(*map(torch.arange, (channels, rows, columns))).reshape(-1, 3).tolist():
            y[b, o, i, j] += weight[o, c, di, dj] * x[b, c, stride * i + di, stride * j + dj]
    return y


def random_convolution(channels: int = 3, channels_out: int = 2, rows: int = 3, columns: int = 2) -> list[Tensor]:
    """A map, weights and biases."""
    shapes = (2, channels, 5, 6), (channels_out, channels, rows, columns), (channels_out,)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


# As one matrix product


@given(st.tuples(sizes, sizes, sizes, sizes), sizes, st.integers(0, 3))
def test_the_matrix_product_is_the_convolution_of_pytorch(shape, stride, padding):
    x, weight, bias = random_convolution(*shape)
    found = unfold_convolution(x, weight, bias, stride=stride, padding=padding)
    assert_same_with_gradients(found, F.conv2d(x, weight, bias, stride, padding), [x, weight, bias])
    assert_same(unfold_convolution(x, weight, stride=stride, padding=padding), found - bias[:, None, None])


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (3, 2)])
def test_the_matrix_product_is_the_loop(stride, padding):
    x, weight, bias = random_convolution()
    expected = looped(x, weight, bias, stride, padding)
    found = unfold_convolution(x, weight, bias, stride=stride, padding=padding)
    assert_same_with_gradients(found, expected, [x, weight, bias])


def test_gradients_of_the_matrix_product_are_those_of_finite_differences():
    assert torch.autograd.gradcheck(lambda *inputs: unfold_convolution(*inputs, padding=1), random_convolution())


def test_cost_of_the_matrix_product_is_what_the_docstring_says():
    x, weight, bias = random_convolution(channels=4, channels_out=5)
    with FlopCounterMode(display=False) as counter:
        y = unfold_convolution(x[:1], weight, bias, stride=2)
    assert y.shape[2:] == (2, 3)
    assert counter.get_total_flops() // 2 == 2 * 3 * 5 * 4 * 3 * 2


def test_the_matrix_product_compiles_exports_and_takes_any_layout(unchecked):
    class Unfolded(nn.Module):
        def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return unfold_convolution(x, weight, bias, stride=2, padding=1)

    layer, (x, *weights) = Unfolded(), (t.detach() for t in random_convolution())
    expected = layer(x, *weights)
    assert_same(torch.compile(layer, fullgraph=True, backend="eager")(x, *weights), expected)
    assert_same(torch.export.export(layer, (x, *weights)).module()(x, *weights), expected)
    assert_same(layer(x.contiguous(memory_format=torch.channels_last), *weights), expected)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(*(t.float() for t in (x, *weights)))
    torch.testing.assert_close(half.double(), expected, rtol=0.05, atol=0.05)


def test_weights_for_other_channels_are_refused():
    with pytest.raises(ValueError, match="weights that read 4 channels do not fit a map of 8"):
        unfold_convolution(torch.zeros(1, 8, 4, 4), torch.zeros(8, 4, 3, 3))


@pytest.mark.parametrize(("height", "width", "fit"), [(4, 9, 2), (9, 4, 2), (5, 3, 2)])
def test_a_kernel_larger_than_the_map_is_refused_with_the_padding_that_fits(height, width, fit):
    x, weight = torch.zeros(1, 1, height, width), torch.zeros(1, 1, 7, 7)
    with pytest.raises(ValueError, match=rf"7×7 kernel .* {height}×{width} map padded by 0; .* fit: {fit}"):
        unfold_convolution(x, weight)
    with pytest.raises(ValueError, match=f"padded by {fit - 1}"):
        unfold_convolution(x, weight, padding=fit - 1)
    unfold_convolution(x, weight, padding=fit)


# Depthwise, then pointwise


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_separable_convolution_is_two_calls_of_pytorch(kernel_size):
    layer = DepthwiseSeparableConvolution(6, kernel_size=kernel_size).double()
    x = torch.randn(2, 6, 5, 4).double().requires_grad_()
    spread = F.conv2d(x, layer.conv_dw.weight, padding=kernel_size // 2, groups=6)
    expected = F.conv2d(spread, layer.conv_pw.weight, layer.conv_pw.bias)
    assert_same_with_gradients(layer(x), expected, [x, *layer.parameters()])


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_separable_convolution_is_the_convolution_whose_weights_factor(kernel_size):
    layer = DepthwiseSeparableConvolution(4, kernel_size=kernel_size).double()
    x = torch.randn(2, 4, 5, 3).double().requires_grad_()
    weight = layer.conv_pw.weight * layer.conv_dw.weight.transpose(0, 1)
    expected = looped(x, weight, layer.conv_pw.bias, 1, kernel_size // 2)
    assert_same_with_gradients(layer(x), expected, [x, *layer.parameters()])


def test_separable_convolution_is_that_of_timm_without_norm_and_activation():
    layer = DepthwiseSeparableConvolution(6).double()
    nn.init.zeros_(layer.conv_pw.bias)
    oracle = DepthwiseSeparableConv(6, 6, noskip=True, act_layer=nn.Identity).double().eval()
    oracle.bn1, oracle.bn2 = nn.Identity(), nn.Identity()
    oracle.load_state_dict({name: weight for name, weight in layer.state_dict().items() if "bias" not in name})
    x = torch.randn(2, 6, 5, 4).double()
    assert_same(layer(x), oracle(x))


def test_gradients_of_separable_convolution_are_those_of_finite_differences():
    layer = DepthwiseSeparableConvolution(2).double()
    assert torch.autograd.gradcheck(layer, torch.randn(1, 2, 3, 4).double().requires_grad_())


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_separable_convolution_sees_its_window_and_every_channel(kernel_size):
    layer, x = DepthwiseSeparableConvolution(3, kernel_size=kernel_size), torch.randn(1, 3, 9, 9, requires_grad=True)
    (influence,) = torch.autograd.grad(layer(x)[0, 0, 4, 4], x)
    inside = (torch.arange(9) - 4).abs() <= kernel_size // 2
    assert torch.equal(influence[0] != 0, (inside[:, None] & inside).expand(3, 9, 9))


@given(channels=sizes, k=st.sampled_from([1, 3, 5]), height=sizes, width=sizes)
def test_cost_of_separable_convolution_is_what_the_docstring_says(channels, k, height, width):
    layer = DepthwiseSeparableConvolution(channels, kernel_size=k)
    assert count_macs(layer, (1, channels, height, width)) == height * width * channels * (k**2 + channels)
    assert count_parameters(layer) == channels * (k**2 + channels) + channels


def test_separable_convolution_costs_a_small_share_of_the_full_one():
    shape, full = (1, 64, 8, 8), nn.Conv2d(64, 64, 3, padding=1)
    share = count_macs(DepthwiseSeparableConvolution(64), shape) / count_macs(full, shape)
    assert share == pytest.approx(1 / 64 + 1 / 9)


@pytest.mark.parametrize(("kernel_size", "near"), [(0, "1 or 3"), (2, "1 or 3"), (4, "3 or 5"), (-3, "1 or 3")])
def test_a_window_without_a_middle_is_refused_with_those_near(kernel_size, near):
    with pytest.raises(ValueError, match=f"side {kernel_size} has no middle; odd sides do, such as {near}"):
        DepthwiseSeparableConvolution(8, kernel_size=kernel_size)
