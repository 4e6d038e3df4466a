"""Global Sparse Attention is the loops that its equations say, reaches everyone in two hops and costs what it says."""

from math import prod

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_same, assert_same_with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gsa.layers import (
    FoldedGlobalSparseAttention,
    GlobalSparseAttention,
    ProjectedValues,
    SelfAttention,
    cheapest_folded_patch,
    cheapest_patch,
    grid,
)
from gsa.probes import count_macs, count_parameters

sides = st.integers(1, 4)
tilings = st.tuples(sides, sides)


def among(layer: SelfAttention, pixels: Tensor) -> Tensor:
    """Self-attention among all pixels of one (channels, height, width) piece of a map, a head at a time."""
    tokens = pixels.flatten(1).T
    q, k, v = F.linear(tokens, layer.qkv.weight, layer.qkv.bias).chunk(3, 1)
    d = layer.channels // layer.heads
    heads = [slice(h * d, (h + 1) * d) for h in range(layer.heads)]
    mixed = torch.cat([(q[:, h] @ k[:, h].T / d**0.5).softmax(1) @ v[:, h] for h in heads], 1)
    return F.linear(mixed, layer.proj.weight, layer.proj.bias).T.view_as(pixels)


def by_recursion(layer: GlobalSparseAttention, x: Tensor, patches: tuple[int, ...]) -> Tensor:
    """Cut a (channels, height, width) map into sub-images, do the rest in each, then attend inside the patches."""
    if not patches:
        return among(layer.across, x)
    k, *rest = patches
    gathered, mixed = torch.empty_like(x), torch.empty_like(x)
    for i in range(k):
        for j in range(k):
            gathered[:, i::k, j::k] = by_recursion(layer, x[:, i::k, j::k], tuple(rest))
    hop = layer.within[len(rest)]
    for row in range(0, x.shape[1], k):
        for column in range(0, x.shape[2], k):
            patch = (slice(None), slice(row, row + k), slice(column, column + k))
            mixed[patch] = among(hop, gathered[patch])
    return mixed


def connected(layer: nn.Module, channels: int, height: int, width: int) -> Tensor:
    """Which output pixel depends on which input pixel: boolean (height·width, height·width)."""
    x = torch.randn(1, channels, height, width).double()
    jacobian = torch.autograd.functional.jacobian(layer.double(), x, vectorize=True)
    return jacobian.reshape(channels, height * width, channels, height * width).abs().amax((0, 2)) > 1e-12


# As described


@pytest.mark.parametrize(
    ("patch", "size"), [(1, (2, 3)), (2, (4, 6)), (4, (4, 4)), ((2, 3), (6, 12)), ((3, 2), (6, 6)), ((2, 1, 2), (4, 8))]
)
def test_it_is_the_loops_over_sub_images_and_patches(patch, size):
    layer = GlobalSparseAttention(4, 2, patch=patch).double()
    x = torch.randn(2, 4, *size).double().requires_grad_()
    patches = (patch,) if isinstance(patch, int) else patch
    found, expected = layer(x), torch.stack([by_recursion(layer, image, patches) for image in x])
    assert_same_with_gradients(found, expected, [x, *layer.parameters()])


@pytest.mark.parametrize(("patch", "size"), [(2, (4, 6)), ((2, 2), (8, 4))])
def test_any_two_pixels_are_connected_though_no_hop_connects_all(patch, size):
    layer = GlobalSparseAttention(4, 2, patch=patch)
    assert connected(layer, 4, *size).all()
    hops = [layer.across, *layer.within]
    reaches = [connected(hop, 4, *size) for hop in hops]
    assert not any(reach.all() for reach in reaches)
    for hop, reach in zip(hops, reaches):
        tokens = hop.partition.split(torch.zeros(1, 4, *size)).shape[1]
        assert (reach.sum(1) == tokens).all()


def test_the_first_hop_stays_at_its_place_in_the_patch_and_the_second_stays_in_the_patch():
    layer, k, height, width = GlobalSparseAttention(4, 2, patch=2), 2, 4, 6
    row, column = torch.arange(height * width) // width, torch.arange(height * width) % width
    place, patch = row % k * k + column % k, row // k * width + column // k
    assert torch.equal(connected(layer.across, 4, height, width), place[:, None] == place)
    assert torch.equal(connected(layer.within, 4, height, width), patch[:, None] == patch)


def test_one_pixel_patches_are_full_attention_then_projections():
    layer, x = GlobalSparseAttention(4, 2, patch=1).double(), torch.randn(2, 4, 3, 5).double()
    assert_same(layer(x), projections_of(layer.within[0])(torch.stack([among(layer.across, image) for image in x])))


def test_one_patch_is_projections_then_full_attention():
    layer, x = GlobalSparseAttention(4, 2, patch=4).double(), torch.randn(2, 4, 4, 4).double()
    projected = projections_of(layer.across)(x)
    assert_same(layer(x), torch.stack([among(layer.within[0], image) for image in projected]))


def projections_of(layer: SelfAttention) -> ProjectedValues:
    """What is left of ``layer`` where every pixel attends to itself only."""
    alone = ProjectedValues(layer.channels, partition=layer.partition).double()
    values = {"weight": layer.qkv.weight[-layer.channels :], "bias": layer.qkv.bias[-layer.channels :]}
    alone.v.load_state_dict(values)
    alone.proj.load_state_dict(layer.proj.state_dict())
    return alone


@pytest.mark.parametrize("patch", [2, (2, 2)])
def test_shifts_by_whole_patches_commute_with_it_and_others_do_not(patch):
    layer, x = GlobalSparseAttention(4, 2, patch=patch).double(), torch.randn(1, 4, 8, 12).double()
    k = prod(patch) if isinstance(patch, tuple) else patch
    for shift in ((k, 0), (0, k), (k, 2 * k)):
        assert_same(layer(x.roll(shift, (2, 3))), layer(x).roll(shift, (2, 3)))
    assert (layer(x.roll(1, 2)) - layer(x).roll(1, 2)).abs().max() > 1e-3


def test_patches_have_no_order_and_nor_have_the_places_in_them():
    layer, x = GlobalSparseAttention(4, 2, patch=2).double(), torch.randn(1, 4, 4, 6).double()
    patches, places = torch.randperm(6), torch.randperm(4)

    def reorder(x: Tensor) -> Tensor:
        columns = F.unfold(x, 2, stride=2).view(1, 4, 4, 6)[:, :, places][..., patches]
        return F.fold(columns.flatten(1, 2), (4, 6), 2, stride=2)

    assert_same(layer(reorder(x)), reorder(layer(x)))


@settings(max_examples=40)
@given(heads=sides, width=sides, patches=st.lists(st.integers(1, 3), min_size=1, max_size=3), tiles=tilings)
def test_cost_is_what_the_docstring_says(heads, width, patches, tiles):
    c, fold = heads * width, prod(patches)
    height, breadth = (fold * tile for tile in tiles)
    layer = GlobalSparseAttention(c, heads, patch=patches[0] if len(patches) == 1 else tuple(patches))
    pixels, tokens = height * breadth, height * breadth // fold**2
    cost = 2 * 4 * pixels * c**2 + 2 * pixels * c * (tokens + patches[0] ** 2)
    cost += sum(4 * pixels * c**2 + 2 * pixels * c * k**2 for k in patches[1:])
    assert count_macs(layer, (1, c, height, breadth)) == cost
    assert count_parameters(layer) == (1 + len(patches)) * (4 * c**2 + 4 * c)


@given(height=st.integers(1, 100), width=st.integers(1, 100))
def test_the_cheapest_patch_costs_least(height, width):
    fit = [k for k in range(1, min(height, width) + 1) if height % k == width % k == 0]
    cost = {k: (height * width / k**2) + k**2 for k in fit}
    assert cheapest_patch(height, width) == max(k for k in fit if cost[k] == min(cost.values()))


@pytest.mark.parametrize("root", [1, 2, 3, 4, 8])
def test_the_cheapest_patch_has_as_many_pixels_as_there_are_patches(root):
    assert cheapest_patch(root**2, root**2) == root


def test_the_cheapest_patch_is_the_cheapest_layer():
    def cost(k: int) -> int:
        return count_macs(GlobalSparseAttention(8, patch=k), (1, 8, 24, 36))

    assert cost(cheapest_patch(24, 36)) == min(cost(k) for k in (1, 2, 3, 4, 6, 12))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": ()}, "patch needs at least one side"),
        ({"patch": 0}, "at least 1, got 0"),
        ({"patch": (2, 0)}, "at least 1, got 0"),
        ({"patch": 2, "heads": 3}, r"3 heads do not divide 8 channels; .*\[1, 2, 4, 8\]"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GlobalSparseAttention(8, **options)


@pytest.mark.parametrize(("patch", "fold"), [(3, 3), ((2, 3), 6)])
def test_maps_that_patches_do_not_tile_are_refused(patch, fold):
    with pytest.raises(ValueError, match=f"8×8 map .*multiples of {fold} .*fit this map: .1, 2, 4, 8."):
        GlobalSparseAttention(8, patch=patch)(torch.zeros(1, 8, 8, 8))


# As coded


def as_multihead(layer: SelfAttention) -> nn.MultiheadAttention:
    oracle = nn.MultiheadAttention(layer.channels, layer.heads, batch_first=True, dtype=torch.float64)
    oracle.in_proj_weight, oracle.in_proj_bias = layer.qkv.weight, layer.qkv.bias
    oracle.out_proj.weight, oracle.out_proj.bias = layer.proj.weight, layer.proj.bias
    return oracle


@pytest.mark.parametrize(("size", "patch", "heads"), [((4, 4), 2, 4), ((4, 8), 2, 1), ((6, 6), 3, 2), ((4, 2), 1, 2)])
def test_the_folded_layer_is_two_multihead_attentions_on_the_unfolded_map(size, patch, heads):
    layer = FoldedGlobalSparseAttention(4, heads, size=size, patch=patch).double()
    x = torch.randn(2, 4, *size).double().requires_grad_()
    across, within = as_multihead(layer.across), as_multihead(layer.within)
    rows = F.unfold(x, patch, stride=patch)
    assert_same(rows, F.pixel_unshuffle(x, patch).flatten(2))
    columns = across(rows, rows, rows, need_weights=False)[0].mT
    folded = within(columns, columns, columns, need_weights=False)[0].mT
    expected = F.fold(folded, size, patch, stride=patch)
    found = layer(x)
    assert_same_with_gradients(found, expected, [x, *layer.parameters()])


@settings(max_examples=40)
@given(heads=st.integers(1, 2), channels=st.integers(1, 3), patch=st.integers(1, 3), tiles=tilings)
def test_the_folded_cost_is_what_the_docstring_says(heads, channels, patch, tiles):
    channels, tiles = channels * heads, (tiles[0] * heads, tiles[1])
    height, width = (patch * tile for tile in tiles)
    layer = FoldedGlobalSparseAttention(channels, heads, size=(height, width), patch=patch)
    pixels, positions, rows = height * width, prod(tiles), channels * patch**2
    cost = 6 * pixels * channels * (positions + channels * patch**2)
    assert count_macs(layer, (1, channels, height, width)) == cost
    assert count_parameters(layer) == 4 * positions**2 + 4 * rows**2 + 4 * (positions + rows)


def test_kronecker_weights_make_stage_two_grid_attention_with_its_matrices_tied():
    channels, heads, k, x = 4, 2, 2, torch.randn(2, 4, 4, 6).double()
    untied = SelfAttention(channels, heads, partition=grid(k)).double()
    within = FoldedGlobalSparseAttention(channels, heads, size=(4, 6), patch=k).double().within
    eye, ones = torch.eye(k * k).double(), torch.ones(k * k).double()
    stretched = [torch.kron(weight, eye) for weight in untied.qkv.weight.chunk(3)]
    within.qkv.weight.data = torch.cat(stretched)
    within.qkv.bias.data = torch.kron(untied.qkv.bias, ones)
    within.proj.weight.data = torch.kron(untied.proj.weight, eye)
    within.proj.bias.data = torch.kron(untied.proj.bias, ones)

    tokens = untied.partition.split(x)
    q, k_, v = untied.qkv(tokens).view(2, k * k, 6, 3, heads, channels // heads).permute(3, 0, 4, 1, 2, 5)
    logits = q @ k_.mT * (channels // heads) ** -0.5
    tied = (logits.sum(2, keepdim=True) / k).softmax(-1)  # one matrix for all k² places: width of a token is C·k²
    mixed = untied.proj((tied @ v).permute(0, 2, 3, 1, 4).reshape(tokens.shape))
    assert_same(within(x), untied.partition.merge(mixed, (4, 6)))
    assert (within(x) - untied(x)).abs().max() > 1e-3


def test_the_folded_layer_is_not_sparse():
    layer = FoldedGlobalSparseAttention(4, 2, size=(4, 4), patch=2)
    assert connected(layer.across, 4, 4, 4).all()


@pytest.mark.parametrize("size", [(8, 4), (4, 8), (2, 8)])
def test_the_folded_layer_refuses_maps_of_another_size(size):
    layer = FoldedGlobalSparseAttention(4, size=(4, 4), patch=2)
    with pytest.raises(ValueError, match=f"built for 4×4 maps, got one of {size[0]}×{size[1]}"):
        layer(torch.zeros(1, 4, *size))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (4, 6), "patch": 4}, "4×6 map is not a whole number of 4×4 blocks"),
        ({"size": (6, 6), "patch": 2}, r"4 heads do not divide 9 channels"),
        ({"size": (4, 4), "patch": 1, "heads": 8}, r"8 heads do not divide 4 channels"),
    ],
)
def test_a_folded_layer_that_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FoldedGlobalSparseAttention(4, **options)


@given(channels=st.integers(1, 64), height=st.integers(1, 64), width=st.integers(1, 64))
def test_the_cheapest_folded_patch_costs_least_of_those_that_fit(channels, height, width):
    costs = {}
    for k in range(2, min(height, width) + 1):
        if height % k == width % k == 0:
            positions, rows = height * width // k**2, channels * k**2
            if positions % 4 == rows % 4 == 0:
                costs[k] = positions + rows
    if costs:
        assert costs[cheapest_folded_patch(channels, height, width)] == min(costs.values())
    else:
        with pytest.raises(ValueError, match=f"{height}×{width} map"):
            cheapest_folded_patch(channels, height, width)
