"""Probes measure what is known by other means: receptive fields, symmetries, weights, costs."""

from functools import partial

import pytest
import torch
from einops import einsum, rearrange
from torch import nn

from gsa import probes
from gsa.layers import GLOBAL, MECHANISMS, SelfAttention, record_weights, window
from gsa.layers.controls import ProjectedValues

CHANNELS = 8


def image(side: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, CHANNELS, side, side, generator=torch.Generator().manual_seed(seed))


def test_the_influence_on_a_convolution_is_the_norm_of_its_kernel():
    layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
    seen = probes.influence(layer, image(), 2, 5)
    expected = torch.zeros(8, 8)
    expected[1:4, 4:7] = layer.weight.detach().square().sum((0, 1)).sqrt()
    torch.testing.assert_close(seen, expected)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("none", 1 / 1024),
        ("conv", 9 / 1024),
        ("lka", 529 / 1024),
        ("sasa", 49 / 1024),
        ("window", 64 / 1024),
        ("gsa", 1),
    ],
)
def test_reach_is_the_share_of_the_map_that_is_seen(name, share):
    assert probes.reach(MECHANISMS[name](CHANNELS, (32, 32)), image(32)) == share


def test_a_convolution_follows_shifts_and_no_shuffles_and_attention_follows_both():
    conv, attention = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), SelfAttention(CHANNELS)
    assert probes.translation_error(conv, image()) < 1e-6 < 0.1 < probes.permutation_error(conv, image())
    assert probes.translation_error(attention, image()) < 1e-5
    assert probes.permutation_error(attention, image()) < 1e-5


def test_windows_follow_no_shift_by_a_pixel():
    assert probes.translation_error(SelfAttention(CHANNELS, partition=window(4)), image(16)) > 0.01


def test_the_mixing_of_attention_is_its_recorded_weights_times_its_matrices():
    layer, x = SelfAttention(CHANNELS, heads=2), image(4)
    with torch.no_grad(), record_weights() as recorded:
        layer(x)
    values = rearrange(layer.qkv.weight[2 * CHANNELS :], "(h d) c -> h d c", h=2)
    output = rearrange(layer.proj.weight, "o (h d) -> o h d", h=2)
    expected = einsum(recorded[0][0], output, values, "h p q, o h d, h d c -> o p c q")
    torch.testing.assert_close(probes.mixing(layer, x), expected.detach())


def test_without_freezing_the_jacobian_of_attention_is_another_matrix():
    layer, x = SelfAttention(CHANNELS), image(4)
    jacobian = torch.autograd.functional.jacobian(layer, x).reshape(CHANNELS, 16, CHANNELS, 16)
    assert (probes.mixing(layer, x) - jacobian).norm() > 0.01 * jacobian.norm()


@pytest.mark.parametrize(
    ("name", "spatial", "channel"),
    [
        ("conv", False, False),
        ("gsa-projections", False, False),
        ("separable", False, False),
        ("se", False, True),
        ("spatial", True, False),
        ("cbam", True, True),
        ("lka", True, True),
        ("self", True, False),
        ("sasa", True, False),
        ("hashed", True, False),
        ("window", True, False),
        ("gsa", True, False),
        ("gsa-folded-across", True, True),
        ("gsa-folded-within", True, False),
    ],
)
def test_who_adapts_over_positions_and_who_over_channels(name, spatial, channel):
    layer, inputs = MECHANISMS[name](CHANNELS, (8, 8)), (image(seed=1), image(seed=2))
    assert (probes.spatial_adaptivity(layer, *inputs) > 1e-3) == spatial
    assert (probes.channel_adaptivity(layer, *inputs) > 1e-3) == channel


def test_cost_exponents_are_one_for_windows_two_for_full_attention_and_between_for_gsa():
    def exponent(build) -> float:
        return probes.cost_exponent(build, CHANNELS, sides=(256, 1024))

    assert exponent(lambda size: SelfAttention(CHANNELS, partition=window(8))) == pytest.approx(1)
    assert exponent(lambda size: SelfAttention(CHANNELS)) == pytest.approx(2, abs=0.01)
    assert 1.4 < exponent(partial(MECHANISMS["gsa"], CHANNELS)) < 1.5


def test_kept_bytes_are_the_maps_that_the_backward_pass_reads():
    layer = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.Sigmoid(), nn.Conv2d(CHANNELS, CHANNELS, 1))
    assert probes.kept_bytes(layer, image()) == image().nbytes
    fused, explicit = SelfAttention(CHANNELS, heads=1), SelfAttention(CHANNELS, heads=1)
    with record_weights():
        stored = probes.kept_bytes(explicit, image(16))
    assert stored - probes.kept_bytes(fused, image(16)) > 0.9 * 4 * 256**2


def test_latency_is_seconds():
    values = ProjectedValues(CHANNELS, partition=GLOBAL)
    assert 0 < probes.latency(values, image()) < 10


def test_the_table_has_every_probe_and_wakes_layers_that_start_as_the_identity():
    table = probes.table({name: MECHANISMS[name] for name in ("conv", "sk", "non-local")}, CHANNELS)
    assert table.reach["non-local"] == 1 and table["spatial adaptivity"]["non-local"] > 1e-3
    assert table["channel adaptivity"]["sk"] > 1e-3
    assert table.notna().all(axis=None)
