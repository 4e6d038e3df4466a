"""The layers of Twins against loops, timm and PVT; the networks made of them with all of timm's weights."""

from functools import partial
from itertools import product

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers import assert_same, assert_same_with_gradients, laid_out
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models import pvt_v2
from timm.models.twins import GlobalSubSampleAttn, LocallyGroupedAttn, PosConv
from torch import Tensor, nn

from gsa.layers.attention import SelfAttention, record_weights
from gsa.layers.twins import GlobalSubsampledAttention, LocallyGroupedAttention, PositionEncodingGenerator
from gsa.models.twins import Twins, twins_pcpvt, twins_svt
from gsa.probes import count_macs, count_parameters

LAYERS = {
    "lsa": partial(LocallyGroupedAttention, heads=2, window=2),
    "lsa-partial": partial(LocallyGroupedAttention, heads=2, window=3),
    "gsa": partial(GlobalSubsampledAttention, heads=2, reduction=2),
    "gsa-full": partial(GlobalSubsampledAttention, heads=2, reduction=1),
    "peg": PositionEncodingGenerator,
}
every_layer = pytest.mark.parametrize("name", LAYERS)
sides = st.integers(1, 5)


def tiny(name: str, channels: int = 4) -> tuple[nn.Module, Tensor]:
    """The layer and a 4 × 4 map for it, in float64."""
    return LAYERS[name](channels).double(), torch.randn(2, channels, 4, 4).double()


def assert_same_layer(layer: nn.Module, oracle: nn.Module, x: Tensor) -> None:
    """With the same weights, which have the same names: outputs and gradients of the input and every parameter."""
    oracle.load_state_dict(layer.state_dict())
    x.requires_grad_()
    found = layer(x)
    expected = oracle(x.flatten(2).mT, x.shape[2:]).mT.unflatten(2, x.shape[2:])
    ours, theirs = (dict(module.named_parameters()) for module in (layer, oracle))
    assert ours.keys() == theirs.keys()
    assert_same_with_gradients(found, expected, [x, *ours.values()], [x, *(theirs[name] for name in ours)])


def looped(q: Tensor, k: Tensor, v: Tensor, heads: int, keys_of: list[list[int]]) -> Tensor:
    """Attention of each query of one image, head by head, to the keys at the places ``keys_of`` names for it."""
    results = []
    for q_h, k_h, v_h in zip(*(t.chunk(heads, dim=-1) for t in (q, k, v))):
        rows = []
        for query, keys in zip(q_h, keys_of):
            exponentials = [(torch.dot(query, k_h[j]) / len(query) ** 0.5).exp() for j in keys]
            rows.append(sum(e * v_h[j] for e, j in zip(exponentials, keys)) / sum(exponentials))
        results.append(torch.stack(rows))
    return torch.cat(results, dim=-1)


# Locally grouped attention


@pytest.mark.parametrize(("side", "size"), [(2, (4, 6)), (3, (3, 6)), (7, (7, 7))])
def test_where_the_window_divides_the_map_it_is_timms(side, size):
    layer, oracle = LocallyGroupedAttention(8, 2, window=side), LocallyGroupedAttn(8, 2, ws=side)
    assert_same_layer(layer.double(), oracle.double(), torch.randn(2, 8, *size).double())


@settings(max_examples=30)
@given(height=sides, width=sides, window=sides)
def test_each_pixel_attends_to_those_of_its_window_on_maps_of_any_size(height, width, window):
    layer, x = LocallyGroupedAttention(4, 2, window=window).double(), torch.randn(1, 4, height, width).double()
    windows = [(i // window, j // window) for i in range(height) for j in range(width)]
    keys_of = [[j for j, other in enumerate(windows) if other == mine] for mine in windows]
    q, k, v = layer.qkv(x[0].flatten(1).mT).chunk(3, dim=-1)
    expected = layer.proj(looped(q, k, v, 2, keys_of)).mT.unflatten(1, (height, width))
    assert_same(layer(x)[0], expected)


def test_a_partial_window_is_attended_as_if_it_were_cut_out():
    layer, whole = LocallyGroupedAttention(8, 2, window=4).double(), SelfAttention(8, 2).double()
    whole.load_state_dict(layer.state_dict())
    x = torch.randn(2, 8, 6, 9).double()
    for rows in (slice(0, 4), slice(4, 6)):
        for columns in (slice(0, 4), slice(4, 8), slice(8, 9)):
            assert_same(layer(x)[..., rows, columns], whole(x[..., rows, columns]))


def test_padding_unmasked_as_timm_has_it_is_the_mistake():
    layer, oracle = LocallyGroupedAttention(8, 2, window=4).double(), LocallyGroupedAttn(8, 2, ws=4).double()
    oracle.load_state_dict(layer.state_dict())
    x = torch.randn(2, 8, 5, 4).double()
    theirs = oracle(x.flatten(2).mT, (5, 4)).mT.unflatten(2, (5, 4))
    assert_same(theirs, layer(F.pad(x, (0, 0, 0, 3)))[..., :5, :])
    assert_same(theirs[..., :4, :], layer(x)[..., :4, :])
    off = (theirs - layer(x))[..., 4:, :].norm() / layer(x)[..., 4:, :].norm()
    assert off > 0.1


@pytest.mark.parametrize("size", [(4, 4), (3, 4), (5, 7), (1, 1)])
def test_no_weight_falls_on_padding_and_rows_sum_to_one(size):
    layer, x = LocallyGroupedAttention(4, 2, window=4), torch.randn(1, 4, *size)
    with record_weights() as weights:
        recorded = layer(x)
    torch.testing.assert_close(recorded, layer(x))
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(weights[0].shape[:-1]))
    attended = (weights[0].amax((1, 2)) > 0).sum(-1)
    assert attended.sum() == size[0] * size[1]


@pytest.mark.parametrize(("size", "masked"), [((4, 8), False), ((4, 7), True), ((5, 8), True)])
def test_a_mask_is_built_only_where_a_window_is_partial(size, masked, monkeypatch):
    masks, fused = [], F.scaled_dot_product_attention

    def watched(*args, attn_mask, **options):
        masks.append(attn_mask)
        return fused(*args, attn_mask=attn_mask, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    LocallyGroupedAttention(8, window=4).double()(torch.randn(2, 8, *size).double())
    assert [mask is not None for mask in masks] == [masked]


@settings(max_examples=30)
@given(heads=st.integers(1, 3), width=st.integers(1, 3), size=st.tuples(sides, sides), window=sides)
def test_the_cost_of_windows_is_what_the_docstring_says(heads, width, size, window):
    channels, n = heads * width, window**2
    layer = LocallyGroupedAttention(channels, heads, window=window)
    count = -(-size[0] // window) * -(-size[1] // window)
    assert count_macs(layer, (1, channels, *size)) == count * (4 * n * channels**2 + 2 * n**2 * channels)
    assert count_parameters(layer) == 4 * channels**2 + 4 * channels


def test_a_window_sees_itself_and_nothing_else():
    layer, x = LocallyGroupedAttention(4, 2, window=3).double(), torch.randn(1, 4, 5, 5).double().requires_grad_()
    for pixel, seen in (((1, 1), 9), ((4, 1), 6), ((4, 4), 4)):
        (gradient,) = torch.autograd.grad(layer(x)[(..., *pixel)].square().sum(), x)
        assert (gradient.abs().amax((0, 1)) > 0).sum() == seen


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_of_no_side_is_refused(window):
    with pytest.raises(ValueError, match=f"the side of a block must be at least 1, got {window}"):
        LocallyGroupedAttention(8, window=window)


# Global subsampled attention


@pytest.mark.parametrize("oracle", [GlobalSubSampleAttn, pvt_v2.Attention])
@pytest.mark.parametrize(("reduction", "size"), [(1, (3, 4)), (2, (4, 6)), (3, (3, 3))])
def test_attention_to_the_subsampled_map_is_that_of_twins_and_of_pvt(oracle, reduction, size):
    layer = GlobalSubsampledAttention(8, 2, reduction=reduction).double()
    assert_same_layer(layer, oracle(8, 2, sr_ratio=reduction).double(), torch.randn(2, 8, *size).double())


@settings(max_examples=30)
@given(rows=st.integers(1, 2), columns=st.integers(1, 3), reduction=st.integers(1, 3))
def test_every_pixel_attends_to_one_key_a_patch(rows, columns, reduction):
    layer = GlobalSubsampledAttention(4, 2, reduction=reduction).double()
    x = torch.randn(1, 4, rows * reduction, columns * reduction).double()
    corners = product(*(range(0, side, reduction) for side in x.shape[2:]))
    cells = [x[0, :, i : i + reduction, j : j + reduction] for i, j in corners]
    if reduction == 1:
        few = torch.stack([cell.flatten() for cell in cells])
    else:
        few = torch.stack([(layer.sr.weight * cell).sum((1, 2, 3)) + layer.sr.bias for cell in cells])
        spread = few.var(-1, correction=0, keepdim=True).add(1e-5).sqrt()
        few = (few - few.mean(-1, keepdim=True)) / spread
    k, v = layer.kv(few).chunk(2, dim=-1)
    q = layer.q(x[0].flatten(1).mT)
    mixed = looped(q, k, v, 2, [list(range(len(few)))] * len(q))
    assert_same(layer(x)[0], layer.proj(mixed).mT.unflatten(1, x.shape[2:]))


def test_the_norm_comes_after_subsampling():
    layer, x = GlobalSubsampledAttention(8, 2, reduction=2).double(), torch.randn(2, 8, 4, 4).double()
    layer.norm.eps = 0
    before = layer(x)
    layer.sr.weight.data *= 7
    layer.sr.bias.data *= 7
    assert_same(layer(x), before)


@pytest.mark.parametrize("size", [(4, 5), (5, 4), (3, 3), (1, 8)])
def test_rows_that_the_reduction_does_not_divide_are_refused_and_not_dropped(size):
    layer = GlobalSubsampledAttention(8, 2, reduction=2)
    with pytest.raises(ValueError, match=rf"a {size[0]}×{size[1]} map .* both sides must be multiples of 2"):
        layer(torch.zeros(1, 8, *size))
    with pytest.raises(ValueError, match=r"a 9×6 map .* \(steps that fit this map: \[1, 3\]\)"):
        layer(torch.zeros(1, 8, 9, 6))


@pytest.mark.parametrize("size", [(3, 3), (7, 7)])
def test_with_one_key_left_the_output_is_the_same_at_every_position(size):
    layer, x = GlobalSubsampledAttention(8, 2, reduction=size[0]).double(), torch.randn(2, 8, *size).double()
    assert_same(layer(x), layer(x)[..., :1, :1].expand_as(x))
    varied = GlobalSubsampledAttention(8, 2, reduction=1).double()(x)
    assert varied.std((2, 3)).min() > 1e-6


@pytest.mark.parametrize("layer", [LocallyGroupedAttention, GlobalSubsampledAttention])
def test_heads_that_do_not_divide_are_refused(layer):
    geometry = {"window": 2} if layer is LocallyGroupedAttention else {"reduction": 2}
    with pytest.raises(ValueError, match=r"3 heads do not divide 8 channels; heads that do: \[1, 2, 4, 8\]"):
        layer(8, 3, **geometry)


@pytest.mark.parametrize("reduction", [0, -2])
def test_a_reduction_of_no_side_is_refused(reduction):
    with pytest.raises(ValueError, match=f"must be at least 1, got {reduction}"):
        GlobalSubsampledAttention(8, reduction=reduction)


@settings(max_examples=30)
@given(heads=st.integers(1, 3), width=st.integers(1, 3), size=st.tuples(sides, sides), r=st.integers(1, 3))
def test_the_cost_of_subsampling_is_what_the_docstring_says(heads, width, size, r):
    channels = heads * width
    layer = GlobalSubsampledAttention(channels, heads, reduction=r)
    n = size[0] * size[1] * r**2
    macs = count_macs(layer, (1, channels, size[0] * r, size[1] * r)) * r**2
    mixing = 2 * n**2 * channels
    if r == 1:
        assert macs == 4 * n * channels**2 + mixing
        assert count_parameters(layer) == 4 * channels**2 + 4 * channels
    else:
        assert macs == n * channels**2 * (3 * r**2 + 2) + mixing
        assert count_parameters(layer) == (r**2 + 4) * channels**2 + 7 * channels


def test_subsampled_attention_sees_the_whole_map():
    layer, x = GlobalSubsampledAttention(4, 2, reduction=2).double(), torch.randn(1, 4, 4, 6).double().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x)[..., 3, 5].square().sum(), x)
    assert gradient.abs().amax((0, 1)).min() > 0


# The position encoding generator


def test_generated_positions_are_those_of_timm():
    assert_same_layer(PositionEncodingGenerator(6).double(), PosConv(6, 6).double(), torch.randn(2, 6, 3, 5).double())


def test_generated_positions_are_a_sum_over_nine_neighbours_with_zeros_outside():
    layer, x = PositionEncodingGenerator(2).double(), torch.randn(1, 2, 3, 4).double()
    weight, bias = layer.proj[0].weight, layer.proj[0].bias
    expected = x.clone()
    for c in range(2):
        for i in range(3):
            for j in range(4):
                expected[0, c, i, j] += bias[c]
                for di in (-1, 0, 1):
                    for dj in (-1, 0, 1):
                        if 0 <= i + di < 3 and 0 <= j + dj < 4:
                            expected[0, c, i, j] += weight[c, 0, di + 1, dj + 1] * x[0, c, i + di, j + dj]
    assert_same(layer(x), expected)


def test_the_border_tells_positions_apart_in_a_constant_map():
    y = PositionEncodingGenerator(1).double()(torch.ones(1, 1, 5, 5).double())
    assert_same(y[..., 1:4, 1:4], y[..., 2:3, 2:3].expand(1, 1, 3, 3))
    corners_edges_and_centre = [y[0, 0, i, j].item() for i in (0, 2, 4) for j in (0, 2, 4)]
    assert len({round(value, 9) for value in corners_edges_and_centre}) == 9


@settings(max_examples=30)
@given(channels=sides, height=sides, width=sides)
def test_the_cost_of_generated_positions_is_what_the_docstring_says(channels, height, width):
    layer = PositionEncodingGenerator(channels)
    assert count_macs(layer, (1, channels, height, width)) == 9 * channels * height * width
    assert count_parameters(layer) == 10 * channels


# All layers


@every_layer
def test_gradients_are_those_of_finite_differences(name):
    layer, x = tiny(name)
    names, parameters = zip(*layer.named_parameters())

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters)), (x,))

    assert torch.autograd.gradcheck(run, (x[:1].requires_grad_(), *parameters), fast_mode=True)


@every_layer
def test_layout_in_memory_does_not_matter_nor_does_the_batch(name):
    layer, x = tiny(name)
    expected = layer(x)
    for same in laid_out(x):
        assert_same(layer(same), expected)
    assert_same(layer(x[1:]), expected[1:])


@every_layer
def test_half_precision_stays_near_full_precision(name):
    layer, x = (thing.float() for thing in tiny(name))
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
    torch.testing.assert_close(half.float(), layer(x), atol=0.05, rtol=0.05)


@every_layer
def test_it_compiles_whole_and_exports(name, unchecked):
    layer, x = tiny(name)
    torch._dynamo.reset()
    assert_same(torch.compile(layer, fullgraph=True, backend="eager")(x), layer(x))
    assert_same(torch.export.export(layer, (x,)).module()(x), layer(x))


# The networks


@pytest.mark.parametrize(
    ("build", "name", "macs", "parameters"),
    [(twins_svt, "twins_svt_small", 2.9, 24.1), (twins_pcpvt, "twins_pcpvt_small", 3.8, 24.1)],
)
def test_a_network_with_all_of_timms_weights_gives_its_logits(build, name, macs, parameters):
    oracle = timm.create_model(name, pretrained=False).eval()
    for parameter in oracle.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)  # timm starts with biases of zero, which show nothing
    model = build().eval()
    model.load_state_dict(oracle.state_dict())
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        found, expected = model(x), oracle(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert round(count_macs(model, (1, 3, 224, 224)) / 1e9, 1) == macs
    assert round(count_parameters(model) / 1e6, 1) == parameters


def small(window: int | None) -> Twins:
    """A network with every kind of layer that runs in no time, for grey images and seven classes."""
    return Twins((4, 4, 8, 8), (1, 2, 2, 4), (2, 1, 1, 1), (2, 2, 1, 1), window=window, classes=7, in_channels=1)


@pytest.mark.parametrize("window", [None, 2, 3])
def test_classes_and_image_channels_are_free_and_every_parameter_learns(window):
    model = small(window)
    logits = model(torch.randn(2, 1, 64, 96))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_blocks_attend_in_turn_inside_windows_and_to_the_subsampled_map():
    kinds = [[type(block.attn) for block in stage] for stage in small(window=2).blocks]
    assert kinds == [[LocallyGroupedAttention, GlobalSubsampledAttention], *[[LocallyGroupedAttention]] * 3]
    assert {type(block.attn) for stage in small(window=None).blocks for block in stage} == {GlobalSubsampledAttention}


@pytest.mark.parametrize("size", [(224, 220), (48, 64), (100, 100)])
def test_images_that_do_not_fit_are_refused(size):
    with pytest.raises(ValueError, match=f"a {size[0]}×{size[1]} map .* both sides must be multiples of 32"):
        small(window=None)(torch.zeros(1, 1, *size))


def test_stages_that_disagree_are_refused():
    with pytest.raises(
        ValueError, match=r"one to four stages need a number each in every sequence, got \{'widths': 5, 'heads': 4"
    ):
        Twins((8, 8, 8, 8, 8), (1, 1, 1, 1), (1, 1, 1, 1), (2, 2, 2, 2))
