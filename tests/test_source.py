"""The network of the source: its parts, its size, and what may stand in the place of its layer."""

from math import cos, sin

import pytest
import torch
from torch import nn

from gsa.layers import FoldedGlobalSparseAttention, GlobalSparseAttention
from gsa.models import MixingBlock, build_model
from gsa.models.gsa_resnet import MixedBasicBlock, positions
from gsa.probes import count_parameters
from gsa.training import Config, make_optimizers

EVERYWHERE = (0, 1, 2, 3, 4)


def source(mechanism: str, width: int = 8, **options) -> nn.Module:
    return build_model("source", width, mechanism=mechanism, stages=EVERYWHERE, **options)


def layers(model: nn.Module) -> list[nn.Module]:
    return [module.mechanism for module in model.modules() if isinstance(module, MixingBlock)]


def test_its_layer_stands_before_the_stem_and_between_the_convolutions_of_every_block():
    with torch.device("meta"):
        built = layers(source("gsa-folded", 64))
    assert all(isinstance(layer, FoldedGlobalSparseAttention) for layer in built)
    sizes = [(layer.across.channels, layer.within.channels) for layer in built]
    assert sizes == [(64, 80), (64, 1024), *[(16, 2048)] * 2, *[(16, 1024)] * 2, *[(16, 512)] * 2]


def test_the_projections_of_the_second_stage_are_most_of_its_parameters():
    with torch.device("meta"):
        model = source("gsa-folded", 64)
        plain = source("none", 64)
    inside = sum(count_parameters(layer.within) for layer in layers(model))
    assert inside == 4 * (80**2 + 80) + 48_267_264
    assert count_parameters(model) == inside + count_parameters(plain) + sum(
        4 * n * n + 4 * n for n in [64] * 2 + [16] * 6
    )
    assert round(count_parameters(model) / 1e6, 1) == 59.4


def test_a_block_is_its_equation_with_the_layer_between_its_convolutions():
    block, x = MixedBasicBlock(4, 6, 2, nn.Conv2d(6, 6, 1)), torch.randn(2, 4, 8, 6)
    y = block.mix(block.bn1(block.conv1(x)).clamp(min=0))
    expected = (block.shortcut(x) + block.bn2(block.conv2(y))).clamp(min=0)
    torch.testing.assert_close(block(x), expected)


def test_the_network_is_its_equation():
    model, x = source("gsa", size=(16, 24)).eval(), torch.randn(2, 3, 16, 24)
    y = model.mix(torch.cat([x, positions(16, 24).expand(2, -1, -1, -1)], dim=1))
    y = model.stem[1](model.stem[0](y)).clamp(min=0)
    for block in model.body:
        y = block(y)
    torch.testing.assert_close(model(x), y.flatten(2).mean(2) @ model.head.weight.T + model.head.bias)


def test_positions_follow_the_formula():
    rows, columns = positions(32, 32)
    for place in (0, 1, 7, 31):
        assert rows[place, 5].item() == pytest.approx(sin(place / 10000 ** (2 * place / 32)), abs=1e-6)
        assert columns[5, place].item() == pytest.approx(cos(place / 10000 ** (2 * place / 32)), abs=1e-6)


@pytest.mark.parametrize("mechanism", ["none", "gsa-folded", "gsa"])
def test_it_classifies_and_learns_with_each_layer(mechanism):
    model = source(mechanism)
    model(torch.randn(2, 3, 32, 32)).square().mean().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert len(layers(model)) == (0 if mechanism == "none" else 8)


def test_the_described_form_takes_the_place_of_the_coded_one():
    built = layers(source("gsa"))
    assert all(isinstance(layer, GlobalSparseAttention) for layer in built)
    assert [layer.across.partition.step for layer in built] == [4, 4, 4, 4, 2, 2, 1, 1]


def test_its_layers_are_trained_as_mechanisms():
    model = source("gsa")
    _, adam = make_optimizers(model, Config(model="source", mechanism="gsa", optimizer="sgd"))
    trained = {id(parameter) for group in adam.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for layer in layers(model) for parameter in layer.parameters()}


def test_what_it_cannot_carry_is_refused():
    with pytest.raises(ValueError, match="does not carry 'se'; it takes none, gsa-folded, gsa"):
        build_model("source", mechanism="se")
    with pytest.raises(ValueError, match=r"stages \[5\] do not exist; this network has stages 0…4"):
        build_model("source", mechanism="gsa", stages=(5,))
