"""One primitive, tested against loops; self-attention and the non-local block, tested against PyTorch's and timm's."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_same, assert_same_with_gradients, laid_out
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.non_local_attn import NonLocalAttn
from timm.models.twins import LocallyGroupedAttn
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from gsa.layers import GLOBAL, ProjectedValues, SelfAttention, attend, attention, grid, patches, record_weights, window
from gsa.layers.attention import NonLocal, frozen_weights, guidance_mask
from gsa.probes import count_macs, count_parameters

sizes = st.integers(1, 4)


def looped(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Attention one query, one head and one image at a time; ``bias`` is that of every pair, −∞ where none meet."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    images = []
    for b in range(q.shape[0]):
        heads = []
        for h in range(q.shape[1]):
            rows = []
            for i in range(q.shape[2]):
                logits = torch.stack([scale * torch.dot(q[b, h, i], key) for key in k[b, h]])
                logits = logits if bias is None else logits + bias[b, h, i]
                exponentials = (logits - logits.max()).exp()
                rows.append(sum(w * value for w, value in zip(exponentials / exponentials.sum(), v[b, h])))
            heads.append(torch.stack(rows))
        images.append(torch.stack(heads))
    return torch.stack(images)


def random_qkv(*shape: int, keys: int = 5, width_of_value: int = 2) -> list[Tensor]:
    batch, heads, queries, width = shape
    q, k = torch.randn(batch, heads, queries, width), torch.randn(batch, heads, keys, width)
    return [t.double().requires_grad_() for t in (q, k, torch.randn(batch, heads, keys, width_of_value))]


# The primitive


@given(shape=st.tuples(sizes, sizes, sizes, sizes), keys=sizes, width_of_value=sizes)
def test_attend_is_the_loop(shape, keys, width_of_value):
    qkv = random_qkv(*shape, keys=keys, width_of_value=width_of_value)
    assert_same_with_gradients(attend(*qkv), looped(*qkv), qkv)


@pytest.mark.parametrize("recording", [False, True])
@pytest.mark.parametrize("scale", [None, 1.0, 0.3])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 4, 5), (4, 5), (2, 1, 1, 5)], ids=str)
def test_a_bias_is_added_to_the_logits_and_broadcasts(recording, scale, shape):
    qkv, bias = random_qkv(2, 3, 4, 6), torch.randn(shape).double().requires_grad_()
    expected = looped(*qkv, bias.expand(2, 3, 4, 5), scale)
    if recording:
        with record_weights():
            found = attend(*qkv, bias=bias, scale=scale)
    else:
        found = attend(*qkv, bias=bias, scale=scale)
    assert_same_with_gradients(found, expected, [*qkv, bias])


@pytest.mark.parametrize("recording", [False, True])
def test_a_boolean_bias_says_who_may_meet(recording):
    qkv = random_qkv(2, 3, 4, 6)
    meet = torch.rand(3, 4, 5) < 0.6
    meet[..., 0] = True
    expected = looped(*qkv, torch.zeros(2, 3, 4, 5).double().masked_fill(~meet, float("-inf")))
    if recording:
        with record_weights() as weights:
            found = attend(*qkv, bias=meet)
        assert (weights[0].masked_select(~meet) == 0).all()
    else:
        found = attend(*qkv, bias=meet)
    assert_same_with_gradients(found, expected, qkv)


def test_swapping_queries_and_keys_transposes_the_logits():
    q, k, v = random_qkv(2, 3, 5, 4, keys=5)
    with record_weights() as weights:
        attend(q, k, v)
        attend(k, q, v)
    logits, swapped = (w.log() + (t @ s.mT / 2).logsumexp(-1, keepdim=True) for w, t, s in zip(weights, (q, k), (k, q)))
    assert_same(logits, swapped.mT)


# Looking at the weights


def test_recording_changes_no_output_and_every_row_sums_to_one():
    qkv = random_qkv(2, 3, 4, 6)
    plain = attend(*qkv)
    with record_weights() as weights:
        recorded = attend(*qkv)
    assert_same_with_gradients(recorded, plain, qkv)
    assert [w.shape for w in weights] == [(2, 3, 4, 5)]
    assert_same(weights[0].sum(-1), torch.ones(2, 3, 4).double())
    assert_same(weights[0] @ qkv[2], plain)


def test_recording_collects_every_call_in_order_and_stops_with_the_block():
    few, many = random_qkv(1, 1, 2, 3, keys=2), random_qkv(1, 1, 2, 3, keys=7)
    with record_weights() as weights:
        attend(*few)
        attend(*many)
    attend(*few)
    assert [w.shape[-1] for w in weights] == [2, 7]


def test_the_innermost_block_records():
    few, many = random_qkv(1, 1, 2, 3, keys=2), random_qkv(1, 1, 2, 3, keys=7)
    with record_weights() as outer:
        attend(*few)
        with record_weights() as inner:
            attend(*many)
        attend(*few)
    assert [w.shape[-1] for w in outer] == [2, 2]
    assert [w.shape[-1] for w in inner] == [7]


def test_an_exception_ends_the_recording():
    with record_weights() as outer:
        with pytest.raises(RuntimeError, match="in the block"), record_weights():
            raise RuntimeError("in the block")
        attend(*random_qkv(1, 1, 2, 3))
    assert len(outer) == 1
    with pytest.raises(RuntimeError, match="in the block"), record_weights() as weights:
        raise RuntimeError("in the block")
    attend(*random_qkv(1, 1, 2, 3))
    assert weights == []


def test_recorded_weights_are_part_of_the_graph():
    qkv = random_qkv(1, 2, 3, 4)
    with record_weights() as weights:
        attend(*qkv)
    (gradient,) = torch.autograd.grad(weights[0][..., 0].sum(), qkv[0])
    assert gradient.abs().max() > 0


def test_each_thread_records_and_freezes_for_itself():
    layer, x = SelfAttention(8, 2), torch.randn(2, 8, 2, 2)
    with ThreadPoolExecutor(1) as other, frozen_weights(), record_weights() as weights:
        other.submit(lambda: layer(x).square().sum().backward()).result()
        assert weights == []
        assert layer.qkv.weight.grad[:16].abs().max() > 0
        with torch.no_grad():
            layer(x)
        assert len(weights) == 1


@pytest.mark.parametrize("tokens", [4, 9, 16, 31, 32, 49, 256, 300])
def test_both_paths_agree_in_half_precision(tokens):
    qkv = [t.bfloat16().requires_grad_() for t in random_qkv(2, 3, tokens, 16, keys=tokens, width_of_value=16)]
    exact = [t.detach().float().requires_grad_() for t in qkv]
    expected, cotangent = F.scaled_dot_product_attention(*exact), torch.randn(2, 3, tokens, 16)
    assert attention.explicit_is_faster(qkv[1]) == (tokens <= 256)
    for y in (attend(*qkv), attention.explicit(*qkv, None, 0.25)[1], F.scaled_dot_product_attention(*qkv)):
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), expected, atol=0.02, rtol=0.02)
        gradients = torch.autograd.grad(y, qkv, cotangent.bfloat16())
        for found, wanted in zip(gradients, torch.autograd.grad(expected, exact, cotangent, retain_graph=True)):
            torch.testing.assert_close(found.float(), wanted, atol=0.03, rtol=0.03)


def packed(qkv: Tensor) -> Tensor:
    """What short groups take on a CPU, in any precision."""
    return attention._PackedAttention.apply(qkv, 2)[0]


def one_by_one(qkv: Tensor) -> Tensor:
    q, k, v = qkv.unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("groups", [0, 1, 5])
@pytest.mark.parametrize("piece", [1, 12, 4096])
def test_packed_attention_is_that_of_pytorch_group_by_group(monkeypatch, groups, piece):
    monkeypatch.setattr(attention._PackedAttention, "TOKENS", piece)
    qkv = torch.randn(groups, 6, 18).double().requires_grad_()
    assert_same_with_gradients(packed(qkv), one_by_one(qkv), [qkv])


def test_packed_attention_has_every_derivative(monkeypatch):
    monkeypatch.setattr(attention._PackedAttention, "TOKENS", 4)
    qkv = torch.randn(3, 2, 12).double().requires_grad_()
    assert torch.autograd.gradcheck(packed, qkv) and torch.autograd.gradgradcheck(packed, qkv)
    assert_same(torch.func.jacrev(packed)(qkv), torch.autograd.functional.jacobian(one_by_one, qkv))
    assert_same(torch.func.vmap(packed)(qkv[:, None]).squeeze(1), packed(qkv))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_layer_takes_the_packed_path_for_short_groups_alone(monkeypatch, precision):
    calls, apply = [], attention._PackedAttention.apply
    monkeypatch.setattr(attention._PackedAttention, "apply", lambda *inputs: calls.append(1) or apply(*inputs))
    for side, short in ((4, True), (20, False)):
        layer, x = SelfAttention(8, 2, partition=window(side)).to(precision), torch.randn(2, 8, 20, 20).to(precision)
        y = layer(x)
        assert bool(calls) == short
        with record_weights() as weights:
            recorded = layer(x)
        torch.testing.assert_close(y, recorded, atol=0.01, rtol=0.01)
        assert len(weights) == 1 and len(calls) == short
        calls.clear()


@pytest.mark.parametrize(
    ("shape", "precision", "explicit"),
    [
        ((65_535, 1, 4, 4), torch.bfloat16, False),
        ((65_536, 1, 4, 4), torch.bfloat16, True),
        ((4096, 4, 16, 16), torch.float32, True),
        ((4096, 4, 16, 16), torch.bfloat16, False),
        ((4096, 4, 64, 16), torch.float32, False),
        ((455, 4, 9, 16), torch.float32, False),
    ],
    ids=str,
)
def test_on_cuda_many_short_groups_and_more_than_its_kernels_take_are_explicit(shape, precision, explicit, unchecked):
    with FakeTensorMode():
        assert attention.explicit_is_faster(torch.empty(shape, dtype=precision, device="cuda")) == explicit


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("tokens", [5, 200])
def test_both_paths_agree_where_logits_overflow_and_masks_are_infinite(precision, tokens):
    q, k, v = (torch.randn(2, 2, tokens, 8).to(precision).requires_grad_() for _ in range(3))
    bias = torch.zeros(tokens, tokens).masked_fill(torch.rand(tokens, tokens) < 0.3, -float("inf")).to(precision)
    bias[1] = -float("inf")
    for big, mask in ((1.0, bias), (1.0, bias == 0), (200.0, None)):
        inputs = [(q * big).detach().requires_grad_(), (k * big).detach().requires_grad_(), v]
        fused = F.scaled_dot_product_attention(*inputs, attn_mask=mask)
        with record_weights() as weights:
            recorded = attend(*inputs, bias=mask)
        for y in (recorded, attend(*inputs, bias=mask)) if big == 1 or precision != torch.bfloat16 else (recorded,):
            assert y.dtype == precision
            torch.testing.assert_close(y, fused, atol=0.03, rtol=0.03)
            assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(y.sum(), inputs))
        if mask is not None:
            assert (weights[0][..., 1, :] == 0).all() and (recorded[..., 1, :] == 0).all()


def test_attend_compiles_whole(unchecked):
    qkv = random_qkv(2, 3, 4, 6)
    compiled = torch.compile(attend, fullgraph=True, backend="eager")
    assert_same(compiled(*qkv), attend(*qkv))
    assert_same(compiled(*qkv, scale=0.5), attend(*qkv, scale=0.5))
    with record_weights() as weights:
        recorded = compiled(*qkv)
    assert_same(recorded, attend(*qkv))
    assert len(weights) == 1


# Self-attention


MULTIHEAD = {"qkv.weight": "in_proj_weight", "qkv.bias": "in_proj_bias"}
MULTIHEAD |= {"proj.weight": "out_proj.weight", "proj.bias": "out_proj.bias"}


def as_multihead(layer: SelfAttention) -> nn.MultiheadAttention:
    """PyTorch's own attention with the weights of ``layer``."""
    oracle = nn.MultiheadAttention(layer.channels, layer.heads, batch_first=True, dtype=torch.float64)
    oracle.load_state_dict({MULTIHEAD[name]: weight for name, weight in layer.state_dict().items()})
    return oracle


def assert_same_layer(layer: nn.Module, oracle: nn.Module, run, x: Tensor, pairs: dict[str, str]) -> None:
    """Outputs and the gradients of the input and of every parameter agree; ``pairs`` maps our names to theirs."""
    x, same = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = layer(x), run(oracle, same)
    assert_same(found, expected)
    cotangent = torch.randn_like(found)
    found.backward(cotangent)
    expected.backward(cotangent)
    assert_same(x.grad, same.grad)
    ours, theirs = dict(layer.named_parameters()), dict(oracle.named_parameters())
    assert ours.keys() == pairs.keys()
    for name, other in pairs.items():
        assert_same(ours[name].grad, theirs[other].grad)


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_self_attention_is_that_of_pytorch(heads):
    layer = SelfAttention(8, heads).double()

    def run(oracle: nn.MultiheadAttention, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        return oracle(tokens, tokens, tokens, need_weights=False)[0].mT.unflatten(2, x.shape[2:])

    assert_same_layer(layer, as_multihead(layer), run, torch.randn(2, 8, 3, 5).double(), MULTIHEAD)


@pytest.mark.parametrize("side", [2, 4])
def test_window_attention_is_that_of_twins_with_the_same_names(side):
    layer = SelfAttention(8, 2, partition=window(side)).double()
    oracle = LocallyGroupedAttn(8, 2, ws=side).double()
    oracle.load_state_dict(layer.state_dict())

    def run(oracle: nn.Module, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        return oracle(x.flatten(2).mT, (height, width)).mT.unflatten(2, (height, width))

    pairs = {name: name for name in layer.state_dict()}
    assert_same_layer(layer, oracle, run, torch.randn(2, 8, 4, 8).double(), pairs)


def test_recorded_weights_of_a_layer_are_those_of_pytorch():
    layer = SelfAttention(8, 2).double()
    x = torch.randn(2, 8, 3, 3).double()
    with record_weights() as weights:
        layer(x)
    tokens = x.flatten(2).mT
    _, expected = as_multihead(layer)(tokens, tokens, tokens, need_weights=True, average_attn_weights=False)
    assert_same(weights[0], expected)


@pytest.mark.parametrize(
    ("partition", "groups", "tokens"), [(GLOBAL, 2, 16), (window(2), 8, 4), (grid(2), 8, 4), (grid(4), 32, 1)]
)
def test_a_partition_decides_who_meets(partition, groups, tokens):
    with record_weights() as weights:
        SelfAttention(8, 2, partition=partition)(torch.randn(2, 8, 4, 4))
    assert [w.shape for w in weights] == [(groups, 2, tokens, tokens)]


def test_one_large_projection_equals_three():
    layer = SelfAttention(6, 3).double()
    x = torch.randn(2, 6, 2, 4).double()
    tokens = x.flatten(2).mT
    q, k, v = (
        F.linear(tokens, weight, bias).unflatten(2, (3, 2)).transpose(1, 2)
        for weight, bias in zip(layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3))
    )
    mixed = layer.proj(looped(q, k, v).transpose(1, 2).flatten(2))
    assert_same(layer(x), mixed.mT.unflatten(2, (2, 4)))


def test_pixels_have_no_order():
    layer = SelfAttention(8, 2).double()
    x = torch.randn(2, 8, 3, 4).double()
    order = torch.randperm(12)
    permuted = x.flatten(2)[..., order].unflatten(2, (3, 4))
    assert_same(layer(permuted), layer(x).flatten(2)[..., order].unflatten(2, (3, 4)))


@given(heads=sizes, width=sizes, groups=st.tuples(sizes, sizes), side=sizes)
def test_cost_is_what_the_docstring_says(heads, width, groups, side):
    channels = heads * width
    layer = SelfAttention(channels, heads, partition=window(side))
    n, count = side**2, groups[0] * groups[1]
    shape = (1, channels, groups[0] * side, groups[1] * side)
    assert count_macs(layer, shape) == count * (4 * n * channels**2 + 2 * n**2 * channels)
    assert count_parameters(layer) == 4 * channels**2 + 4 * channels


@pytest.mark.parametrize("heads", [0, 3, 16])
def test_heads_that_do_not_divide_are_refused_with_those_that_do(heads):
    with pytest.raises(ValueError, match=rf"{heads} heads do not divide 8 channels; .*\[1, 2, 4, 8\]"):
        SelfAttention(8, heads)


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"window\(3\): a 4×6 map .*multiples of 3"):
        SelfAttention(8, partition=window(3))(torch.zeros(1, 8, 4, 6))
    with pytest.raises(ValueError, match=r"global makes tokens 4 wide of a 2×2 map of 4 channels, .* 8 wide"):
        SelfAttention(8)(torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match=r"patches\(2\) makes tokens 16 wide"):
        SelfAttention(8, partition=patches(2))(torch.zeros(1, 4, 2, 2))


# Without attention


@pytest.mark.parametrize("partition", [GLOBAL, window(2), grid(2)])
def test_projections_alone_are_attention_with_the_identity_for_weights(partition):
    attention = SelfAttention(8, 2, partition=partition).double()
    control = ProjectedValues(8, partition=partition).double()
    control.v.load_state_dict({"weight": attention.qkv.weight[16:], "bias": attention.qkv.bias[16:]})
    control.proj.load_state_dict(attention.proj.state_dict())
    attention.qkv.weight.data[:16] *= 0
    same_tokens = torch.randn(2, 8, 1, 1).double().expand(2, 8, 4, 4)
    assert_same(control(same_tokens), attention(same_tokens))
    moved = same_tokens.clone()
    moved[..., 0, 0] += 1
    changed = (control(moved) - control(same_tokens)).abs().amax((0, 1)) > 1e-9
    assert changed.nonzero().tolist() == [[0, 0]]


@given(channels=sizes, side=sizes, rows=sizes)
def test_the_cost_of_projections_alone_is_what_the_docstring_says(channels, side, rows):
    layer = ProjectedValues(channels, partition=window(side))
    n = side**2
    assert count_macs(layer, (1, channels, rows * side, side)) == 2 * rows * n * channels**2
    assert count_parameters(layer) == 2 * channels**2 + 2 * channels


# Non-local


def non_local(channels: int = 16, reduction: int = 2) -> NonLocal:
    """A block past its start, where the gain of its norm is zero."""
    block = NonLocal(channels, reduction=reduction).double()
    nn.init.normal_(block.norm.weight)
    nn.init.normal_(block.norm.bias)
    return block


def queries_keys_values(block: NonLocal, x: Tensor) -> list[Tensor]:
    return [part(x).flatten(2).mT.unsqueeze(1) for part in (block.t, block.p, block.g)]


@pytest.mark.parametrize("training", [True, False])
def test_non_local_is_that_of_timm_with_the_same_names(training):
    block = non_local().train(training)
    oracle = NonLocalAttn(16, rd_ratio=0.5, use_scale=False).double().train(training)
    oracle.load_state_dict(block.state_dict())
    pairs = {name: name for name, _ in block.named_parameters()}
    assert_same_layer(block, oracle, lambda oracle, x: oracle(x), torch.randn(2, 16, 3, 5).double(), pairs)
    for mine, timms in zip(block.buffers(), oracle.buffers(), strict=True):
        torch.testing.assert_close(mine, timms)


def test_non_local_is_the_loop():
    block, x = non_local().eval(), torch.randn(2, 16, 2, 3).double().requires_grad_()
    nn.init.normal_(block.norm.running_mean)
    nn.init.uniform_(block.norm.running_var, 0.5, 2)
    mixed = looped(*queries_keys_values(block, x), scale=1.0).squeeze(1).mT.unflatten(2, (2, 3))
    mean, variance, gain, shift = (
        t[:, None, None] for t in (block.norm.running_mean, block.norm.running_var, block.norm.weight, block.norm.bias)
    )
    expected = x + (block.z(mixed) - mean) / (variance + block.norm.eps).sqrt() * gain + shift
    assert_same_with_gradients(block(x), expected, [x, *block.parameters()])


@pytest.mark.parametrize("training", [True, False])
def test_non_local_starts_as_the_identity_and_can_leave_it(training):
    block, x = NonLocal(16).train(training), torch.randn(2, 16, 3, 5)
    y = block(x)
    assert torch.equal(y, x)
    (gradient,) = torch.autograd.grad(y.pow(3).sum(), block.norm.weight)
    assert (gradient != 0).all()


def test_logits_of_non_local_are_not_divided_by_the_root_of_the_width():
    block, x = non_local(), torch.randn(2, 16, 3, 5).double()
    q, k, _ = queries_keys_values(block, x)
    with record_weights() as weights:
        block(x)
    assert_same(weights[0], (q @ k.mT).softmax(-1))
    assert (weights[0] - (q @ k.mT / 8**0.5).softmax(-1)).abs().max() > 0.01


def test_timms_optional_scale_is_of_the_whole_width_where_the_logits_have_the_reduced_one():
    block, x = non_local(), torch.randn(2, 16, 3, 5).double()
    oracle = NonLocalAttn(16, rd_ratio=0.5, use_scale=True).double()
    oracle.load_state_dict(block.state_dict())
    for width, agrees in ((16, True), (8, False)):
        scaled = non_local()
        scaled.load_state_dict(block.state_dict())
        for parameter in scaled.t.parameters():
            parameter.data *= width**-0.5
        assert torch.allclose(scaled(x), oracle(x), rtol=1e-10, atol=1e-10) is agrees


def test_every_pixel_of_non_local_hears_every_pixel_of_its_own_image():
    block, x = non_local().eval(), torch.randn(2, 16, 2, 3).double()
    heard = torch.autograd.functional.jacobian(lambda x: block(x)[0, :, 1, 1].sum(), x).abs().amax(1)
    assert (heard[0] > 0).all()
    assert (heard[1] == 0).all()


def test_pixels_of_non_local_have_no_order():
    block, x, order = non_local(), torch.randn(2, 16, 3, 4).double(), torch.randperm(12)
    permuted = x.flatten(2)[..., order].view_as(x)
    assert_same(block(permuted), block(x).flatten(2)[..., order].view_as(x))


def test_gradients_of_non_local_are_those_of_finite_differences():
    block, x = non_local(4).eval(), torch.randn(1, 4, 2, 2).double().requires_grad_()
    names, parameters = zip(*block.named_parameters())

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(block, dict(zip(names, parameters)), (x,))

    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)


def test_non_local_past_its_start_compiles_exports_and_takes_any_layout_and_precision(unchecked):
    block, x = non_local().eval(), torch.randn(2, 16, 3, 5).double()
    expected = block(x)
    assert_same(torch.compile(block, fullgraph=True, backend="eager")(x), expected)
    assert_same(torch.export.export(block, (x,)).module()(x), expected)
    for same in laid_out(x):
        assert_same(block(same), expected)
    with torch.autocast("cpu", torch.bfloat16):
        half = block.float()(x.float())
    torch.testing.assert_close(half.double(), expected, atol=0.05, rtol=0.05)


@settings(max_examples=20)
@given(channels=st.integers(1, 9), reduction=sizes, height=sizes)
def test_the_cost_of_non_local_is_what_the_docstring_says(channels, reduction, height):
    reduction = min(reduction, channels)
    width, pixels = channels // reduction, 3 * height
    block = NonLocal(channels, reduction=reduction)
    macs = 4 * pixels * channels * width + 2 * pixels**2 * width
    assert count_macs(block, (1, channels, height, 3)) == macs
    assert count_parameters(block) == 4 * channels * width + 3 * width + 3 * channels


@pytest.mark.parametrize("reduction", [0, 9])
def test_a_reduction_that_leaves_no_channel_is_refused(reduction):
    with pytest.raises(ValueError, match=f"reduction {reduction} leaves no channel of 8; it must be in 1…8"):
        NonLocal(8, reduction=reduction)


# Self-attention guidance


@given(shape=st.tuples(sizes, sizes, st.integers(2, 6)))
def test_a_guidance_mask_is_above_the_mean_of_its_score_which_is_one(shape):
    batch, heads, tokens = shape
    with record_weights() as weights:
        attend(*(torch.randn(batch, heads, tokens, 3).double() for _ in range(3)))
    score = torch.zeros(batch, tokens).double()
    for h in range(heads):
        for i in range(tokens):
            score += weights[0][:, h, i] / heads
    assert_same(score.mean(-1), torch.ones(batch).double())
    mask = guidance_mask(weights[0])
    assert torch.equal(mask, score > score.mean(-1, keepdim=True))
    assert mask.any(-1).all() and not mask.all(-1).any()


def test_the_mean_of_the_guidance_score_is_exactly_one_so_equal_shares_are_not_above_it():
    assert not guidance_mask(torch.full((1, 2, 8, 8), 1 / 8)).any()
    eighths = torch.tensor([[5.0, 2, 1], [4, 3, 1], [3, 4, 1]]) / 8
    assert eighths.sum(0).mean() == 1
    assert guidance_mask(eighths[None, None]).tolist() == [[True, True, False]]


def test_the_token_that_all_attend_to_is_the_one_that_guidance_blurs():
    weights = torch.full((1, 2, 12, 12), 0.05)
    weights[..., 7] = 0.45
    mask = GLOBAL.merge(guidance_mask(weights).float().unsqueeze(-1), (3, 4))
    assert mask[0, 0].nonzero().tolist() == [[1, 3]]


def test_guidance_needs_self_attention():
    with pytest.raises(ValueError, match="2 queries attend to 5 keys: that is no self-attention"):
        guidance_mask(torch.full((1, 1, 2, 5), 0.2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_query_that_may_meet_nobody_gets_zeros_recorded_or_not(dtype):
    q, k, v = (torch.randn(1, 2, 3, 4, dtype=dtype, requires_grad=True) for _ in range(3))
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    fused = attend(q, k, v, bias=mask)
    with record_weights() as weights:
        explicit = attend(q, k, v, bias=mask)
    torch.testing.assert_close(explicit, fused)
    assert (fused[..., 1, :] == 0).all() and (weights[0][..., 1, :] == 0).all()
    for gradient in torch.autograd.grad(explicit.square().sum(), (q, k, v)):
        assert gradient.isfinite().all()
