"""Probes measure what is known by other means: receptive fields, symmetries, weights, costs."""

import inspect
from copy import deepcopy
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


def used() -> nn.Sequential:
    """A network in the middle of its training: a norm with running statistics, one part frozen, gradients there."""
    network = nn.Sequential(
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
        nn.BatchNorm2d(CHANNELS),
        nn.Dropout(0.5),
        SelfAttention(CHANNELS),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(inplace=True),
    )
    network(torch.randn(4, CHANNELS, 8, 8)).square().sum().backward()
    network[1].eval()
    network[0].weight.requires_grad_(False)
    return network


PROBES = {
    "count_parameters": probes.count_parameters,
    "count_macs": lambda network: probes.count_macs(network, (1, CHANNELS, 8, 8)),
    "count_training_flops": lambda network: probes.count_training_flops(network, (1, CHANNELS, 8, 8)),
    "cost_exponent": lambda network: probes.cost_exponent(
        lambda _: nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), network), CHANNELS, (8, 16)
    ),
    "influence": lambda network: probes.influence(network, image(), 1, 2),
    "reach": lambda network: probes.reach(network, image()),
    "translation_error": lambda network: probes.translation_error(network, image()),
    "permutation_error": lambda network: probes.permutation_error(network, image()),
    "mixing": lambda network: probes.mixing(network, image(4)),
    "spatial_adaptivity": lambda network: probes.spatial_adaptivity(network, image(4), image(4, seed=1)),
    "channel_adaptivity": lambda network: probes.channel_adaptivity(network, image(4), image(4, seed=1)),
    "kept_bytes": lambda network: probes.kept_bytes(network, image()),
    "latency": lambda network: probes.latency(network, image()),
    "table": lambda network: probes.table({"conv": lambda *_: deepcopy(network)}, CHANNELS),
    "untouched": lambda network: run_in(probes.untouched(network, training=True), network),
}


def run_in(block, network: nn.Module) -> None:
    with pytest.raises(KeyError), block:
        network(image()).sum().backward()
        network[4].running_mean = torch.rand(CHANNELS)
        raise KeyError


def test_there_is_no_probe_but_those():
    public = {name for name, f in inspect.getmembers(probes, inspect.isfunction) if f.__module__ == probes.__name__}
    assert {name for name in public if not name.startswith("_")} == PROBES.keys()


@pytest.mark.parametrize("name", PROBES)
def test_measuring_leaves_no_trace(name):
    network = used()
    answers = network(image()).square().sum()  # a graph that has kept the buffers
    before = deepcopy(network.state_dict()), {key: p.grad for key, p in network.named_parameters()}
    objects, modes = list(network.buffers()), [part.training for part in network.modules()]
    gradients, numbers = deepcopy(before[1]), torch.get_rng_state()
    PROBES[name](network)
    torch.testing.assert_close(network.state_dict(), before[0], rtol=0, atol=0)
    assert all(now is then for now, then in zip(network.buffers(), objects, strict=True))
    assert modes == [part.training for part in network.modules()]
    for key, parameter in network.named_parameters():
        assert parameter.grad is before[1][key] and torch.equal(parameter.grad, gradients[key])
    assert torch.equal(torch.get_rng_state(), numbers)
    answers.backward()


def test_measuring_does_not_write_to_the_image():
    x, network = image(), nn.ReLU(inplace=True)
    probes.translation_error(network, x), probes.permutation_error(network, x)
    assert torch.equal(x, image())


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


OFFSET_FROM_THE_MAP = {"sk", "twins-gsa", "twins", "gsa-folded"}  # a norm, or a bias that attention then weighs


@pytest.mark.parametrize("name", sorted(MECHANISMS.keys() - OFFSET_FROM_THE_MAP))
def test_a_layer_is_its_mixing_and_an_offset_that_no_map_changes(name):
    layer = MECHANISMS[name](CHANNELS, (8, 8)).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.05)
    first, second = (
        layer.eval()(x).view(CHANNELS, 64) - einsum(probes.mixing(layer, x), x[0].flatten(1), "o p c q, c q -> o p")
        for x in (image(seed=1).double(), image(seed=2).double())
    )
    torch.testing.assert_close(first, second)


class Rolled(nn.Module):
    """Pixels move by one, or channels do, or nothing, as the first pixel says."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.roll(1, int(x[0, 0, 0, 0]))


def test_adaptivity_is_one_where_two_inputs_have_no_weight_in_common_and_zero_where_all():
    inputs = [image(4) for _ in range(3)]
    for x, axis in zip(inputs, (0, 1, 3)):
        x[0, 0, 0, 0] = axis
    still, channels, pixels = inputs
    assert probes.spatial_adaptivity(Rolled(), still, pixels) == pytest.approx(1)
    assert probes.spatial_adaptivity(Rolled(), still, channels) == 0
    assert probes.channel_adaptivity(Rolled(), still, channels) == pytest.approx(1)
    assert probes.channel_adaptivity(Rolled(), still, pixels) == 0


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


def test_the_table_counts_bytes_for_one_pixel_of_one_image():
    table = probes.table({name: MECHANISMS[name] for name in ("conv", "gsa-projections")}, CHANNELS)
    layer = MECHANISMS["gsa-projections"](CHANNELS, (32, 32))
    assert table["kept bytes per pixel"]["gsa-projections"] == probes.kept_bytes(layer, image(32)) / 32**2 > 0


def test_parameters_that_are_not_trained_do_not_count():
    layer = nn.Linear(3, 4)
    layer.bias.requires_grad_(False)
    assert probes.count_parameters(layer) == 12
