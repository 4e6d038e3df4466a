"""Controls compute what their equations say, and differ from the layer in one thing only."""

import pytest
import torch
from torch import nn

from gsa.layers import (
    MECHANISMS,
    VARIANTS,
    FixedAttention,
    GlobalSparseAttention,
    MatrixConvolution,
    Placed,
    SelfAttention,
    ShuffledAttention,
    UniformAttention,
    build_mechanism,
    grid,
    window,
)
from gsa.probes import count_macs, count_parameters

SIZE = (16, 16)


def x(channels: int = 8) -> torch.Tensor:
    return torch.randn(2, channels, *SIZE)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_keeps_the_shape_and_learns(name):
    layer, maps = build_mechanism(name, 8, SIZE), x()
    y = layer(maps)
    assert y.shape == maps.shape
    y.square().mean().backward()
    assert [n for n, p in layer.named_parameters() if p.grad is None] == []


def test_no_name_stands_twice():
    assert not MECHANISMS.keys() & VARIANTS.keys()


@pytest.mark.parametrize("partition", [grid(4), window(4)])
def test_uniform_attention_is_attention_that_cannot_tell_keys_apart(partition):
    layer, attention = UniformAttention(8, partition=partition), SelfAttention(8, partition=partition)
    with torch.no_grad():
        attention.qkv.weight[:16], attention.qkv.bias[:16] = 0, 0
        attention.qkv.weight[16:], attention.qkv.bias[16:] = layer.v.weight, layer.v.bias
        attention.proj.load_state_dict(layer.proj.state_dict())
    maps = x()
    torch.testing.assert_close(layer(maps), attention(maps))


def test_fixed_attention_begins_uniform_and_then_weighs_by_place():
    uniform, fixed = UniformAttention(8, partition=window(4)), FixedAttention(8, partition=window(4), tokens=16)
    fixed.load_state_dict(uniform.state_dict(), strict=False)
    maps = x()
    torch.testing.assert_close(fixed(maps), uniform(maps))
    nn.init.normal_(fixed.logits)
    values = fixed.v(fixed.partition.split(maps))
    expected = torch.einsum("ij, gjc -> gic", fixed.logits.softmax(-1), values)
    torch.testing.assert_close(fixed(maps), fixed.partition.merge(fixed.proj(expected), SIZE))
    assert count_macs(fixed, (1, 8, *SIZE)) == 16 * (2 * 16 * 8**2 + 16**2 * 8)


def test_shuffled_attention_is_attention_among_drawn_pixels():
    layer, maps = ShuffledAttention(8, size=SIZE, tokens=16, seed=3), x()
    whole = SelfAttention(8)
    whole.load_state_dict({name: tensor for name, tensor in layer.state_dict().items() if name != "order"})
    y = layer(maps).flatten(2)
    for drawn in layer.order.view(-1, 16)[:3]:
        group = maps.flatten(2)[..., drawn].unflatten(2, (4, 4))
        torch.testing.assert_close(y[..., drawn], whole(group).flatten(2))
    assert not torch.equal(layer.order, ShuffledAttention(8, size=SIZE, tokens=16, seed=4).order)


def test_a_placed_layer_sees_its_input_and_where_it_is():
    layer, maps = Placed(nn.Identity(), 8, SIZE), x()
    torch.testing.assert_close(layer(maps) - maps, layer.places.expand_as(maps))


def test_the_variants_of_gsa_cost_what_their_names_say():
    def build(name: str) -> nn.Module:
        return build_mechanism(name, 64, SIZE)

    gsa, shape = build("gsa"), (1, 64, *SIZE)
    assert isinstance(gsa, GlobalSparseAttention) and isinstance(build("host-conv"), MatrixConvolution)
    assert count_macs(build("host-conv"), shape) == count_macs(gsa, shape)
    for name in ("gsa-1-heads", "gsa-2-heads", "gsa-window-first", "gsa-shuffled"):
        assert count_parameters(build(name)) == count_parameters(gsa), name
        assert count_macs(build(name), shape) == count_macs(gsa, shape), name
    assert [build(f"gsa-{heads}-heads").across.heads for heads in (1, 2)] == [1, 2]
    patches = [build(name).across.partition.step for name in ("gsa-patch1", "gsa-patch2", "gsa", "gsa-patch8")]
    assert patches == [1, 2, 4, 8]
    assert [layer.partition for layer in build("gsa-window-first")] == [window(4), grid(4)]
    assert len(build("gsa-nested").within) == 2
