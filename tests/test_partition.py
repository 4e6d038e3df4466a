"""Partitions move pixels and change none: what is split comes back bit for bit, and each group is the one it says."""

import pytest
import torch
import torch.nn.functional as F
from helpers import laid_out
from hypothesis import given
from hypothesis import strategies as st
from timm.models.maxxvit import grid_partition_nchw, window_partition_nchw
from torch import Tensor

from gsa.layers import GLOBAL, Partition, folded_channels, grid, patches, window

PARTITIONS = [GLOBAL] + [make(side) for make in (window, grid, patches, folded_channels) for side in range(1, 5)]
PARTITIONS += [window(side, dilation=dilation) for side in range(1, 5) for dilation in range(2, 4)]


@st.composite
def shapes_with_partition(draw: st.DrawFn) -> tuple[tuple[int, ...], Partition]:
    partition = draw(st.sampled_from(PARTITIONS))
    batch, channels, rows, columns = (draw(st.integers(1, 4)) for _ in range(4))
    return (batch, channels, rows * partition.step, columns * partition.step), partition


def numbered(height: int, width: int, batch: int = 2, channels: int = 3) -> Tensor:
    """A map whose every value is another number."""
    return torch.arange(batch * channels * height * width).view(batch, channels, height, width).float()


@given(shapes_with_partition())
def test_merge_undoes_split_bit_for_bit(drawn):
    shape, partition = drawn
    x = torch.randn(shape)
    assert torch.equal(partition.merge(partition.split(x), shape[-2:]), x)


@given(shapes_with_partition())
def test_split_undoes_merge_bit_for_bit(drawn):
    shape, partition = drawn
    tokens = torch.randn(partition.split(torch.empty(shape)).shape)
    assert torch.equal(partition.split(partition.merge(tokens, shape[-2:])), tokens)


@given(shapes_with_partition())
def test_layout_in_memory_does_not_matter(drawn):
    shape, partition = drawn
    x = torch.randn(shape)
    for same in laid_out(x):
        assert torch.equal(partition.split(same), partition.split(x))


def test_global_is_one_group_of_all_pixels_row_by_row():
    x = numbered(2, 3)
    tokens = GLOBAL.split(x)
    assert tokens.shape == (2, 6, 3)
    for b in range(2):
        for n in range(6):
            assert torch.equal(tokens[b, n], x[b, :, n // 3, n % 3])


def test_a_window_is_a_block():
    x, side = numbered(4, 6), 2
    groups = iter(window(side).split(x))
    for b in range(2):
        for row in range(0, 4, side):
            for column in range(0, 6, side):
                block = x[b, :, row : row + side, column : column + side]
                assert torch.equal(next(groups), block.flatten(1).T)
    assert next(groups, None) is None


def test_a_dilated_window_is_a_window_of_every_dth_pixel():
    x, side, dilation = numbered(12, 6, batch=1), 2, 3
    found = {tuple(group[:, 0].tolist()) for group in window(side, dilation=dilation).split(x)}
    expected = set()
    for row in range(dilation):
        for column in range(dilation):
            every = x[:, :, row::dilation, column::dilation]
            expected |= {tuple(group[:, 0].tolist()) for group in window(side).split(every)}
    assert found == expected and len(found) == 12 * 6 // side**2


def test_a_grid_is_every_kth_pixel():
    x, patch = numbered(4, 6), 2
    groups = iter(grid(patch).split(x))
    for b in range(2):
        for i in range(patch):
            for j in range(patch):
                assert torch.equal(next(groups), x[b, :, i::patch, j::patch].flatten(1).T)
    assert next(groups, None) is None


@pytest.mark.parametrize("patch", [1, 2])
def test_patches_and_folded_channels_are_the_columns_and_rows_of_the_unfolded_map(patch):
    x = numbered(4, 6)
    columns = F.unfold(x, patch, stride=patch)
    assert torch.equal(columns, torch.pixel_unshuffle(x, patch).flatten(2))
    assert torch.equal(patches(patch).split(x), columns.mT)
    assert torch.equal(folded_channels(patch).split(x), columns)


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_window_and_grid_are_those_of_maxvit(k):
    x, blocks, sides = numbered(6, 6), (k, k), (6 // k, 6 // k)
    assert torch.equal(window(k).split(x), window_partition_nchw(x, blocks).flatten(2).mT)
    assert torch.equal(grid(k).split(x), grid_partition_nchw(x, sides).flatten(2).mT)


@given(shapes_with_partition())
def test_only_tokens_of_one_image_share_a_group(drawn):
    shape, partition = drawn
    image = torch.arange(shape[0]).float()[:, None, None, None].expand(shape)
    groups = partition.split(image).flatten(1)
    assert (groups == groups[:, :1]).all()


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        (window(3), r"window\(3\): a 8×12 map is not a whole number of 3×3 blocks; .*multiples of 3"),
        (grid(5), r"grid\(5\): a 8×12 map .*multiples of 5 \(steps that fit this map: \[1, 2, 4\]\)"),
        (patches(8), r"patches\(8\): a 8×12 map .*8×8"),
        (folded_channels(12), r"folded_channels\(12\): a 8×12 map .*12×12"),
        (window(2, dilation=4), r"window\(2, dilation=4\): a 8×12 map .*multiples of 8"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_with_what_would_fit(partition, message):
    with pytest.raises(ValueError, match=message):
        partition.split(numbered(8, 12))
    with pytest.raises(ValueError, match=message):
        partition.merge(torch.zeros(1, 1, 1), (8, 12))


@pytest.mark.parametrize("make", [window, grid, patches, folded_channels])
@pytest.mark.parametrize("side", [0, -2])
def test_a_block_has_at_least_one_pixel(make, side):
    with pytest.raises(ValueError, match=f"at least 1, got {side}"):
        make(side)


@pytest.mark.parametrize("dilation", [0, -1])
def test_a_dilation_is_at_least_one(dilation):
    with pytest.raises(ValueError, match=f"at least 1, got {dilation}"):
        window(2, dilation=dilation)


@pytest.mark.parametrize("side", [1, 2, 4])
def test_equal_arguments_make_equal_partitions(side):
    assert window(side) == window(side, dilation=1) != grid(side)
