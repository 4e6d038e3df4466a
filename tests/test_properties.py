"""What each mechanism states about itself, on any map: what it sees, keeps, follows and refuses."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gsa.layers import MECHANISMS, build_mechanism, cheapest_folded_patch, cheapest_patch
from gsa.probes import influence, translation_error

every_mechanism = pytest.mark.parametrize("name", MECHANISMS)
sides = st.sampled_from([4, 8, 12])
sizes = st.tuples(sides, sides)
seeds = st.integers(0, 2**31)

Sight = Callable[[np.ndarray, np.ndarray, int, int, int], np.ndarray]


def square(radius: int) -> Sight:
    return lambda rows, columns, row, column, _: (abs(rows - row) <= radius) & (abs(columns - column) <= radius)


def same_window(rows, columns, row, column, patch):
    return (rows // patch == row // patch) & (columns // patch == column // patch)


def same_place(rows, columns, row, column, patch):
    return (rows % patch == row % patch) & (columns % patch == column % patch)


SIGHTS: dict[str, Sight] = {
    "none": square(0),
    "conv": square(1),
    "separable": square(1),
    "spatial": square(3),
    "lka": square(11),
    "sasa": square(3),
    "window": same_window,
    "grid": same_place,
    "peg": square(1),
    "gsa-projections": square(0),
}
EVERYTHING = ["se", "channel", "cbam", "sk", "self", "non-local", "twins-gsa", "twins", "gsa", "gsa-folded"]
EVERYTHING += ["gsa-folded-across", "gsa-folded-within", "gsa-folded-projections"]
SIGHTS |= dict.fromkeys(EVERYTHING, square(99))
CONTENT_DECIDES = {"stn", "deformable", "deformable-modulated", "hashed"}

KEEP_CONSTANTS = {
    "none",
    "se",
    "channel",
    "self",
    "non-local",
    "sasa",
    "window",
    "grid",
    "twins-gsa",
    "twins",
    "hashed",
}
KEEP_CONSTANTS |= {"gsa", "gsa-projections"}

FOLLOW_SHUFFLES = {"none", "se", "channel", "self", "non-local", "gsa-projections"}
FOLLOW_SHIFTS = FOLLOW_SHUFFLES | {"grid"}
FOLLOW_SHIFTS_BY_PATCHES = FOLLOW_SHIFTS | {"window", "twins-gsa", "twins", "gsa", "gsa-folded-within"}
FOLLOW_SHIFTS_INSIDE = {"conv", "separable", "spatial", "cbam", "lka", "sasa", "peg"}


def awake(name: str, channels: int, size: tuple[int, int], seed: int) -> nn.Module:
    """The layer in float64 with random parameters, so that none starts as the identity."""
    torch.manual_seed(seed)
    layer = build_mechanism(name, channels, size).double().eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer


def follows(layer: nn.Module, x: Tensor, move: Callable[[Tensor], Tensor]) -> bool:
    with torch.no_grad():
        return torch.allclose(layer(move(x)), move(layer(x)))


def test_every_mechanism_states_what_it_sees():
    assert SIGHTS.keys() | CONTENT_DECIDES == MECHANISMS.keys()


@pytest.mark.parametrize("name", SIGHTS)
@given(size=sizes, seed=seeds, data=st.data())
@settings(max_examples=4)
def test_the_support_of_the_jacobian_is_the_receptive_field(name, size, seed, data):
    row, column = (data.draw(st.integers(0, side - 1)) for side in size)
    x = torch.randn(1, 8, *size).double()
    drawn = (influence(awake(name, 8, size, seed + draw), x, row, column) for draw in range(6))
    expected = SIGHTS[name](*np.indices(size), row, column, cheapest_patch(*size))
    np.testing.assert_array_equal(sum(drawn).numpy() > 0, expected)  # of six draws some leave a ReLU open


def test_the_receptive_field_of_large_kernel_attention_ends_after_eleven_pixels():
    layer, x = awake("lka", 4, (32, 32), 0), torch.randn(1, 4, 32, 32).double()
    expected = square(11)(*np.indices((32, 32)), 15, 16, 0)
    np.testing.assert_array_equal(influence(layer, x, 15, 16).numpy() > 0, expected)


@pytest.mark.parametrize("name", sorted(SIGHTS))
@given(size=sizes, seed=seeds)
@settings(max_examples=4)
def test_a_constant_map_stays_constant_where_the_equation_says_so(name, size, seed):
    layer, channels = awake(name, 8, size, seed), torch.randn(1, 8, 1, 1).double()
    with torch.no_grad():
        y = layer(channels.expand(1, 8, *size))
    assert torch.allclose(y, y[..., :1, :1].expand_as(y)) == (name in KEEP_CONSTANTS)


@pytest.mark.parametrize("name", sorted(FOLLOW_SHUFFLES))
@given(size=sizes, seed=seeds)
@settings(max_examples=4)
def test_shuffled_pixels_are_followed(name, size, seed):
    layer, x, order = awake(name, 8, size, seed), torch.randn(1, 8, *size).double(), torch.randperm(math.prod(size))
    assert follows(layer, x, lambda y: y.flatten(2)[..., order].view_as(y))


@pytest.mark.parametrize("name", sorted(FOLLOW_SHIFTS_BY_PATCHES))
@given(size=sizes, seed=seeds, steps=st.tuples(st.integers(0, 7), st.integers(0, 7)))
@settings(max_examples=4)
def test_shifts_in_a_circle_are_followed_in_the_stated_steps(name, size, seed, steps):
    layer, x = awake(name, 8, size, seed), torch.randn(1, 8, *size).double()
    cheapest = cheapest_folded_patch(8, *size) if "folded" in name else cheapest_patch(*size)
    step = 1 if name in FOLLOW_SHIFTS else cheapest
    assert follows(layer, x, lambda y: y.roll((steps[0] * step, steps[1] * step), (2, 3)))


@pytest.mark.parametrize("name", sorted(MECHANISMS.keys() - FOLLOW_SHIFTS - {"hashed", "stn"}))
def test_the_others_do_not_follow_a_shift_by_a_pixel(name):
    layer, x = awake(name, 8, (8, 8), 0), torch.randn(1, 8, 8, 8).double()
    assert not follows(layer, x, lambda y: y.roll((1, 1), (2, 3)))


@pytest.mark.parametrize("name", sorted(FOLLOW_SHIFTS_INSIDE))
@given(seed=seeds)
@settings(max_examples=2)
def test_away_from_the_border_local_layers_follow_shifts(name, seed):
    assert translation_error(awake(name, 8, (52, 52), seed), torch.randn(1, 8, 52, 52).double()) < 1e-12


@every_mechanism
@given(built=sizes, given=st.tuples(st.integers(1, 9), st.integers(1, 9)))
@settings(max_examples=8)
def test_any_other_size_is_handled_whole_or_refused_by_name(name, built, given):
    layer, x = awake(name, 8, built, 0), torch.randn(2, 8, *given).double()
    try:
        y = layer(x)
    except ValueError as error:
        assert f"{given[0]}×{given[1]}" in str(error)
    else:
        assert y.shape == x.shape and y.isfinite().all()
