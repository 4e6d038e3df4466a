"""Squeeze-and-excitation is that of timm and of torchvision, and costs what it says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import SqueezeExcite
from torch import nn
from torchvision import ops

from gsa.layers import SqueezeExcitation
from gsa.probes import count_macs, count_parameters


def timms(channels: int, reduction: int) -> nn.Module:
    # Without rd_channels timm rounds the reduced width to a multiple of 8.
    return SqueezeExcite(channels, rd_channels=channels // reduction)


def torchvisions(channels: int, reduction: int) -> nn.Module:
    return ops.SqueezeExcitation(channels, channels // reduction)


@pytest.mark.parametrize("reference", [timms, torchvisions])
@pytest.mark.parametrize(("channels", "reduction"), [(8, 1), (8, 4), (12, 5), (6, 6)])
def test_squeeze_excitation_is_that_of_others(reference, channels, reduction):
    layer, oracle = SqueezeExcitation(channels, reduction=reduction).double(), reference(channels, reduction).double()
    oracle.load_state_dict(layer.state_dict())
    x = torch.randn(2, channels, 5, 3).double().requires_grad_()
    found, expected = layer(x), oracle(x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn_like(found)
    mine = torch.autograd.grad(found, [x, *layer.parameters()], cotangent)
    for one, other in zip(mine, torch.autograd.grad(expected, [x, *oracle.parameters()], cotangent), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_one_weight_a_channel_wherever_the_pixels_are():
    layer, x = SqueezeExcitation(8, reduction=2).double(), torch.rand(2, 8, 3, 4).double() + 1
    gate = layer(x) / x
    torch.testing.assert_close(gate, gate[:, :, :1, :1].expand_as(gate))
    assert ((gate > 0) & (gate < 1)).all()
    order = torch.randperm(12)
    shuffled = x.flatten(2)[..., order].unflatten(2, (3, 4))
    torch.testing.assert_close(layer(shuffled), layer(x).flatten(2)[..., order].unflatten(2, (3, 4)))


@given(width=st.integers(1, 6), reduction=st.integers(1, 6), side=st.integers(1, 6))
def test_cost_is_what_the_docstring_says(width, reduction, side):
    channels = width * reduction
    layer = SqueezeExcitation(channels, reduction=reduction)
    assert count_macs(layer, (1, channels, side, side)) == 2 * channels * width
    assert count_parameters(layer) == 2 * channels * width + width + channels


@pytest.mark.parametrize("reduction", [0, 9])
def test_a_reduction_that_leaves_no_channel_is_refused(reduction):
    with pytest.raises(ValueError, match=f"reduction {reduction} leaves no channel of 8; it must be in 1…8"):
        SqueezeExcitation(8, reduction=reduction)
