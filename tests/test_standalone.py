"""Stand-alone self-attention is its equation, and timm's where borders do not matter; the stem is its equation."""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_same, assert_same_with_gradients, laid_out
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.halo_attn import HaloAttn
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gsa.layers import record_weights, standalone
from gsa.layers.standalone import AttentionStem, StandAloneSelfAttention
from gsa.probes import count_macs, count_parameters


def looped(layer: StandAloneSelfAttention, x: Tensor) -> Tensor:
    """The equation, one query and one head at a time, over the neighbours that exist."""
    (height, width), kernel_size, stride = x.shape[2:], layer.kernel_size, layer.stride
    q = layer.q(x).unflatten(1, (layer.heads, -1))
    k, v = layer.kv(x).unflatten(1, (2, layer.heads, -1)).unbind(1)

    def answer(b: int, h: int, i: int, j: int) -> Tensor:
        logits, values = [], []
        for row, r_row in enumerate(layer.height_rel, i - kernel_size // 2):
            for column, r_column in enumerate(layer.width_rel, j - kernel_size // 2):
                if 0 <= row < height and 0 <= column < width:
                    key = k[b, h, :, row, column] + torch.cat([r_row, r_column])
                    logits.append(torch.dot(q[b, h, :, i, j], key))
                    values.append(v[b, h, :, row, column])
        return torch.stack(logits).softmax(0) @ torch.stack(values)

    centres = [(i, j) for i in range(0, height, stride) for j in range(0, width, stride)]
    images = [
        torch.cat([torch.stack([answer(b, h, i, j) for i, j in centres], -1) for h in range(layer.heads)])
        for b in range(len(x))
    ]
    return torch.stack(images).unflatten(2, (len(range(0, height, stride)), -1))


def assert_same_layer(layer: nn.Module, x: Tensor, reference) -> None:
    """Output of layer and of ``reference(layer, x)`` agree, and the gradients of the input and every parameter."""
    x = x.requires_grad_()
    assert_same_with_gradients(layer(x), reference(layer, x), [x, *layer.parameters()])


def gradients_are_those_of_finite_differences(layer: nn.Module, x: Tensor) -> bool:
    names, parameters = zip(*layer.named_parameters())

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters)), (x,))

    return torch.autograd.gradcheck(run, (x.requires_grad_(), *parameters), fast_mode=True)


# Stand-alone self-attention


@pytest.mark.parametrize("block", [1, 2, 3, 8])
@pytest.mark.parametrize(
    ("size", "kernel_size", "stride"), [((5, 4), 3, 1), ((3, 2), 7, 1), ((7, 6), 5, 2), ((1, 7), 3, 3), ((4, 5), 1, 4)]
)
def test_it_is_the_loop_over_the_neighbours_that_exist(monkeypatch, block, size, kernel_size, stride):
    monkeypatch.setattr(standalone, "BLOCK", block)
    layer = StandAloneSelfAttention(8, 2, kernel_size=kernel_size, stride=stride).double()
    assert_same_layer(layer, torch.randn(2, 8, *size).double(), looped)


@pytest.mark.parametrize("heads", [1, 3])
def test_it_is_the_loop_on_a_map_of_several_blocks_that_no_block_divides(heads):
    layer = StandAloneSelfAttention(6, heads, kernel_size=3).double()
    assert_same_layer(layer, torch.randn(1, 6, 9, 11).double(), looped)


def as_halo(layer: StandAloneSelfAttention, channels: int) -> HaloAttn:
    """timm's attention with the weights of ``layer``; it divides all logits by √d and pads with zeros that attend."""
    k, width = layer.kernel_size, channels // layer.heads
    oracle = HaloAttn(channels, num_heads=layer.heads, block_size=1, halo_size=k // 2, scale_pos_embed=True).double()
    with torch.no_grad():
        oracle.q.weight.copy_(layer.q.weight / oracle.scale)
        oracle.kv.weight.copy_(by_head(layer.kv.weight, layer.heads))
        for name, half in (("height_rel", slice(width // 2)), ("width_rel", slice(width // 2, None))):
            theirs = getattr(oracle.pos_embed, name).zero_()
            theirs[k - 1 :, half] = getattr(layer, name)
    return oracle


def by_head(weight: Tensor, heads: int) -> Tensor:
    """Rows of keys then values, head by head, as rows of heads, each its keys then its values."""
    return weight.unflatten(0, (2, heads, -1)).transpose(0, 1).flatten(0, 2)


@pytest.mark.parametrize(("heads", "kernel_size"), [(1, 3), (2, 5), (4, 7)])
def test_away_from_the_border_it_is_that_of_timm(heads, kernel_size):
    layer = StandAloneSelfAttention(16, heads, kernel_size=kernel_size).double()
    oracle, width, reach = as_halo(layer, 16), 16 // heads, kernel_size // 2
    x = torch.randn(2, 16, 10, 11).double().requires_grad_()
    found, expected = (run(x)[..., reach:-reach, reach:-reach] for run in (layer, oracle))
    assert_same(found, expected)
    cotangent = torch.randn_like(found)
    dx, dq, dkv, dheight, dwidth = torch.autograd.grad(
        found, [x, layer.q.weight, layer.kv.weight, layer.height_rel, layer.width_rel], cotangent
    )
    theirs = [x, oracle.q.weight, oracle.kv.weight, oracle.pos_embed.height_rel, oracle.pos_embed.width_rel]
    their_dx, their_dq, their_dkv, their_dheight, their_dwidth = torch.autograd.grad(expected, theirs, cotangent)
    assert_same(dx, their_dx)
    assert_same(dq, their_dq / oracle.scale)
    assert_same(by_head(dkv, heads), their_dkv)
    assert_same(dheight, their_dheight[kernel_size - 1 :, : width // 2])
    assert_same(dwidth, their_dwidth[kernel_size - 1 :, width // 2 :])


def test_gradients_are_those_of_finite_differences(monkeypatch):
    monkeypatch.setattr(standalone, "BLOCK", 2)
    layer = StandAloneSelfAttention(4, 2, kernel_size=3, stride=2).double()
    assert gradients_are_those_of_finite_differences(layer, torch.randn(1, 4, 5, 4).double())


@pytest.mark.parametrize("stride", [1, 2])
def test_constant_values_come_back_at_the_border_too(stride):
    layer = StandAloneSelfAttention(8, 2, stride=stride).double()
    x = torch.randn(2, 8, 1, 1).double().expand(-1, -1, 10, 9)
    v = layer.kv(x).chunk(2, dim=1)[1]
    assert_same(layer(x), v[..., ::stride, ::stride])


def test_logits_are_summed_over_the_channels_of_a_head():
    layer = StandAloneSelfAttention(8, 2).double()
    with torch.no_grad():
        layer.kv.weight[8:12] = layer.kv.weight[8]
        layer.kv.weight[12:] = layer.kv.weight[12]
    one, other = layer(torch.randn(2, 8, 5, 5).double()).unflatten(1, (2, 4)).unbind(1)
    assert_same(one, one[:, :1].expand_as(one))
    assert_same(other, other[:, :1].expand_as(other))


def test_positions_are_not_added_to_the_values():
    layer = StandAloneSelfAttention(8, 2).double()
    layer.kv.weight.data[8:] = 0
    assert (layer(torch.randn(2, 8, 5, 5).double()) == 0).all()


def test_each_head_has_its_own_weights():
    layer, x = StandAloneSelfAttention(8, 2).double(), torch.randn(1, 8, 5, 5).double()
    before = layer(x)
    layer.q.weight.data[4:] += 1
    changed = (layer(x) - before).abs().amax((0, 2, 3)) > 1e-6
    assert changed.tolist() == 4 * [False] + 4 * [True]


@pytest.mark.parametrize("stride", [2, 3, 5])
@pytest.mark.parametrize("size", [(12, 12), (13, 11)])
def test_a_stride_keeps_every_stride_th_query_and_all_keys(stride, size):
    layer = StandAloneSelfAttention(8, 2, kernel_size=5).double()
    strided = StandAloneSelfAttention(8, 2, kernel_size=5, stride=stride).double()
    strided.load_state_dict(layer.state_dict())
    x = torch.randn(2, 8, *size).double()
    assert_same(strided(x), layer(x)[..., ::stride, ::stride])


@pytest.mark.parametrize("logits", [1.0, 1e6])
@pytest.mark.parametrize("place", [(0, 0), (5, 8), (9, 12)])
def test_a_query_depends_on_its_neighbourhood_and_nothing_else(logits, place):
    layer, x = StandAloneSelfAttention(8, 2, kernel_size=5).double(), torch.randn(1, 8, 10, 13).double()
    layer.q.weight.data *= logits
    i, j = place
    (gradient,) = torch.autograd.grad(layer(x.requires_grad_())[0, :, i, j].square().sum(), x)
    seen = torch.zeros(10, 13, dtype=torch.bool)
    seen[max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3] = True
    influence = gradient.abs().amax((0, 1))
    assert (influence[~seen] == 0).all()
    if logits == 1:
        assert (influence[seen] > 0).all()


def test_logits_far_below_zero_let_no_outsider_in():
    layer = StandAloneSelfAttention(2, 1, kernel_size=3)
    with torch.no_grad():
        layer.q.weight.copy_(torch.tensor([[1e3, 0], [0, 0]])[..., None, None])
        layer.kv.weight.copy_(torch.tensor([[-1e3, 0], [0, 0], [1, 0], [0, 1]])[..., None, None])
    x = torch.ones(1, 2, 5, 5)
    x[..., 4] = 0  # the only keys whose logits are 0, not −10⁶; columns 0 to 2 do not see them
    assert (layer(x)[..., :3] == 1).all()


def test_where_the_neighbourhood_is_whole_it_moves_with_the_image():
    layer, x = StandAloneSelfAttention(8, 2, kernel_size=5).double(), torch.randn(1, 8, 16, 16).double()
    moved = layer(x.roll((3, 5), (2, 3)))
    assert_same(moved[..., 5:-2, 7:-2], layer(x)[..., 2:-5, 2:-7])


@pytest.mark.parametrize("stride", [1, 2])
def test_recorded_weights_are_a_softmax_over_at_most_a_neighbourhood(stride):
    layer, x = StandAloneSelfAttention(8, 2, kernel_size=5, stride=stride).double(), torch.randn(3, 8, 9, 10).double()
    expected = layer(x)
    with record_weights() as weights:
        assert_same(layer(x), expected)
    assert [w.shape for w in weights] == {1: [(4, 6, 64, 144)], 2: [(1, 6, 25, 169)]}[stride]
    assert_same(weights[0].sum(-1), torch.ones(weights[0].shape[:-1]).double())
    partners = (weights[0] > 0).sum(-1)
    assert partners.min() == 9
    assert partners.max() == 25


class Operators(TorchDispatchMode):
    """Counts the attention kernels that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if "scaled_dot_product" in str(function):
            self.names.append(function.name())
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize(("channels", "kernel_size"), [(64, 7), (24, 5), (8, 3)])
def test_it_is_one_call_of_the_fused_kernel_forward_and_one_backward(channels, kernel_size):
    layer = StandAloneSelfAttention(channels, kernel_size=kernel_size)
    with Operators() as operators:
        layer(torch.randn(2, channels, 9, 9)).sum().backward()
    kernel = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert operators.names == [kernel, f"{kernel}_backward"]


# A contraction over one element is a product to PyTorch, which its counter leaves out: hence two of everything.
@settings(max_examples=15)
@given(
    heads=st.integers(2, 3),
    half=st.integers(2, 5),
    reach=st.integers(1, 3),
    stride=st.integers(1, 3),
    blocks=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    side=st.sampled_from([3, 8]),
)
def test_cost_is_what_the_docstring_says(heads, half, reach, stride, blocks, side):
    k, channels = 2 * reach + 1, 2 * half * heads
    layer = StandAloneSelfAttention(channels, heads, kernel_size=k, stride=stride)
    rows, columns = (side * (count if side == 8 else 1) for count in blocks)
    period = next(p for p in range(k, k + 8) if (2 * half + 2 * p) % 8 == 0)
    pairs = 2 * (stride * (side - 1) + k) ** 2 * (channels + 2 * period * heads)
    macs = 2 * rows * columns * stride**2 * channels**2 + rows * columns * (channels**2 + period * channels + pairs)
    assert count_macs(layer, (1, channels, rows * stride, columns * stride)) == macs
    assert count_parameters(layer) == 3 * channels**2 + k * channels // heads


def test_what_cannot_be_built_is_refused_with_what_would_fit():
    with pytest.raises(ValueError, match=r"3 heads do not divide 8 channels; .*\[1, 2, 4, 8\]"):
        StandAloneSelfAttention(8, 3)
    with pytest.raises(
        ValueError, match=r"4 heads of 12 channels are 3 wide: odd; heads of even width: \[1, 2, 3, 6\]"
    ):
        StandAloneSelfAttention(12, 4)
    with pytest.raises(ValueError, match="a window of side 4 has no middle"):
        StandAloneSelfAttention(8, kernel_size=4)
    with pytest.raises(ValueError, match="a window of side -1 has no middle"):
        StandAloneSelfAttention(8, kernel_size=-1)
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        StandAloneSelfAttention(8, stride=0)


# The stem


def looped_stem(layer: AttentionStem, x: Tensor) -> Tensor:
    """The equation, one pixel of one block at a time, then normalisation and pooling."""
    side, heads = layer.window, layer.heads
    queries, keys = layer.qk.weight.chunk(2)

    def value(a: int, b: int, pixel: Tensor) -> Tensor:
        scores = [torch.dot(layer.row_embed[a] + layer.column_embed[b], nu) for nu in layer.mixture_embed]
        shares = torch.stack(scores).softmax(0)
        return sum(share * matrix for share, matrix in zip(shares, layer.v)) @ pixel

    out = torch.zeros(len(x), len(queries), *x.shape[2:], dtype=x.dtype)
    places = [(a, b) for a in range(side) for b in range(side)]
    for number, image in enumerate(x):
        for top in range(0, x.shape[2], side):
            for left in range(0, x.shape[3], side):
                pixels = [image[:, top + a, left + b] for a, b in places]
                k = torch.stack([(keys @ pixel).unflatten(0, (heads, -1)) for pixel in pixels])
                v = torch.stack([value(*p, pixel).unflatten(0, (heads, -1)) for p, pixel in zip(places, pixels)])
                for (a, b), pixel in zip(places, pixels):
                    q = (queries @ pixel).unflatten(0, (heads, -1))
                    mixed = [(k[:, h] @ q[h]).softmax(0) @ v[:, h] for h in range(heads)]
                    out[number, :, top + a, left + b] = torch.cat(mixed)
    return F.max_pool2d(layer.norm(out), side)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("heads", "window", "mixtures"), [(2, 4, 4), (1, 2, 1), (4, 3, 2)])
def test_the_stem_is_the_loop(training, heads, window, mixtures):
    layer = AttentionStem(8, heads, window=window, mixtures=mixtures).double().train(training)
    assert_same_layer(layer, torch.randn(2, 3, 2 * window, window).double(), looped_stem)


def test_gradients_of_the_stem_are_those_of_finite_differences():
    layer = AttentionStem(4, 2, in_channels=2, window=2, mixtures=3).double().eval()
    assert gradients_are_those_of_finite_differences(layer, torch.randn(1, 2, 4, 2).double())


def test_the_matrices_of_a_place_are_mixed_in_shares_that_sum_to_one():
    layer = AttentionStem(8, 2, mixtures=3).double()
    shares = layer.mixture()
    assert shares.shape == (16, 3)
    assert_same(shares.sum(-1), torch.ones(16).double())
    assert (shares.amax(0) - shares.amin(0) > 0.01).all()


def test_values_know_their_place_and_nothing_else_does():
    layer = AttentionStem(8, 2, mixtures=2).double().eval()
    x = torch.randn(1, 3, 4, 4).double()
    shuffled = x.flatten(2)[..., torch.randperm(16)].unflatten(2, (4, 4))
    assert (layer(x) - layer(shuffled)).abs().max() > 1e-3
    layer.mixture_embed.data[:] = layer.mixture_embed.data[0]
    assert_same(layer(x), layer(shuffled))


def test_a_block_of_the_stem_sees_itself_alone():
    layer, x = AttentionStem(8, 2).double().eval(), torch.randn(1, 3, 8, 12).double().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x)[0, :, 1, 2].sum(), x)
    seen = gradient.abs().amax((0, 1)) > 0
    assert seen[4:, 8:].all()
    assert seen.sum() == 16


@settings(max_examples=15)
@given(
    heads=st.integers(1, 3),
    width=st.integers(2, 4),
    colours=st.integers(2, 4),
    window=st.integers(2, 4),
    mixtures=st.integers(2, 4),
    blocks=st.integers(2, 3),
)
def test_the_cost_of_the_stem_is_what_the_docstring_says(heads, width, colours, window, mixtures, blocks):
    channels = heads * width
    layer = AttentionStem(channels, heads, in_channels=colours, window=window, mixtures=mixtures)
    pixels = blocks * window**2
    shared = window**2 * mixtures * (colours * channels + width)
    macs = 3 * pixels * colours * channels + 2 * pixels * window**2 * channels + shared
    assert count_macs(layer, (1, colours, blocks * window, window)) == macs
    matrices, embeddings = (2 + mixtures) * colours * channels, (2 * window + mixtures) * width
    assert count_parameters(layer) == matrices + embeddings + 2 * channels


def test_a_stem_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"3 heads do not divide 8 channels"):
        AttentionStem(8, 3)
    with pytest.raises(ValueError, match="mixtures must be at least 1, got 0"):
        AttentionStem(8, mixtures=0)
    with pytest.raises(ValueError, match=r"window\(4\): a 8×6 map .*multiples of 4"):
        AttentionStem(8)(torch.zeros(1, 3, 8, 6))


# Both


def both() -> list[tuple[nn.Module, Tensor]]:
    attention = StandAloneSelfAttention(8, 2, kernel_size=3, stride=2)
    return [(attention, torch.randn(2, 8, 9, 10)), (AttentionStem(8, 2).eval(), torch.randn(2, 3, 8, 4))]


def test_they_compile_whole_and_export(unchecked):
    for layer, x in both():
        torch._dynamo.reset()
        torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="eager")(x), layer(x))
        torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


def test_half_precision_stays_near_full_precision():
    for layer, x in both():
        with torch.autocast("cpu", torch.bfloat16):
            half = layer(x)
        torch.testing.assert_close(half.float(), layer(x), atol=0.05, rtol=0.05)


def test_layout_in_memory_does_not_matter():
    for layer, x in both():
        expected = layer(x)
        for same in laid_out(x):
            torch.testing.assert_close(layer(same), expected)
        torch.testing.assert_close(layer.to(memory_format=torch.channels_last)(x), expected)
