"""Cross-attention is that of PyTorch, decoupled a sum of two; words find figures, and pixels where they have gone."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_same, assert_same_with_gradients, laid_out
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gsa import data
from gsa.layers import SelfAttention, record_weights
from gsa.layers.cross import CrossAttention, DecoupledCrossAttention
from gsa.layers.matching import Finder, centres, endpoint_error, estimate_flow
from gsa.probes import count_macs, count_parameters

sizes = st.integers(1, 4)
CONTEXT = 5


def cross(channels: int = 8, heads: int = 2, context_channels: int = CONTEXT) -> CrossAttention:
    return CrossAttention(channels, heads, context_channels=context_channels).double()


def decoupled(strength: float = 0.7, second_channels: int = 3) -> DecoupledCrossAttention:
    layer = DecoupledCrossAttention(8, 2, context_channels=CONTEXT, second_channels=second_channels, strength=strength)
    return layer.double()


def image(batch: int = 2, channels: int = 8, height: int = 3, width: int = 4) -> Tensor:
    return torch.randn(batch, channels, height, width).double()


def words(count: int, channels: int = CONTEXT, batch: int = 2) -> Tensor:
    return torch.randn(batch, count, channels).double()


def ragged(lengths: list[int], count: int) -> Tensor:
    """A mask of sentences of the given lengths, padded to ``count`` words."""
    return torch.arange(count) < torch.tensor(lengths)[:, None]


def looped(layer: CrossAttention, kv: nn.Linear, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
    """What the heads answer before the projection, one image, pixel and head at a time: (batch, channels, H, W)."""
    answers, width = torch.zeros_like(x), x.shape[1] // layer.heads
    for b, row, column in torch.cartesian_prod(*(torch.arange(x.shape[axis]) for axis in (0, 2, 3))):
        heard = context[b] if mask is None else context[b][mask[b]]
        query, (keys, values) = layer.q(x[b, :, row, column]), kv(heard).chunk(2, dim=-1)
        for h in range(layer.heads):
            own = slice(h * width, (h + 1) * width)
            exponentials = torch.stack([(torch.dot(query[own], key[own]) / width**0.5).exp() for key in keys])
            answers[b, own, row, column] = exponentials / exponentials.sum() @ values[:, own]
    return answers


def projected(layer: CrossAttention, answers: Tensor) -> Tensor:
    return layer.proj(answers.movedim(1, -1)).movedim(-1, 1)


# Against PyTorch, and against the equation


def as_multihead(layer: CrossAttention) -> nn.MultiheadAttention:
    """PyTorch's own attention with the weights of ``layer``."""
    channels, context_channels = layer.q.in_features, layer.kv.in_features
    oracle = nn.MultiheadAttention(
        channels, layer.heads, kdim=context_channels, vdim=context_channels, batch_first=True, dtype=torch.float64
    )
    q, (k, v) = layer.q.weight, layer.kv.weight.chunk(2)
    if context_channels == channels:
        weights = {"in_proj_weight": torch.cat([q, k, v])}
    else:
        weights = {"q_proj_weight": q, "k_proj_weight": k, "v_proj_weight": v}
    weights |= {"in_proj_bias": torch.cat([layer.q.bias, layer.kv.bias])}
    weights |= {f"out_proj.{name}": weight for name, weight in layer.proj.named_parameters()}
    oracle.load_state_dict(weights)
    return oracle


@pytest.mark.parametrize("heads", [1, 2, 8])
@pytest.mark.parametrize("context_channels", [CONTEXT, 8])
@pytest.mark.parametrize("lengths", [None, [6, 2]], ids=["whole", "padded"])
def test_cross_attention_is_that_of_pytorch(heads, context_channels, lengths):
    layer = cross(8, heads, context_channels)
    oracle = as_multihead(layer)
    mask = None if lengths is None else ragged(lengths, 6)
    inputs = [image().requires_grad_(), words(6, context_channels).requires_grad_()]
    same = [t.detach().clone().requires_grad_() for t in inputs]
    found = layer(*inputs, mask)
    ignored = None if mask is None else ~mask
    queries = same[0].flatten(2).mT
    expected = oracle(queries, same[1], same[1], key_padding_mask=ignored, need_weights=False)[0].mT.view_as(found)
    assert_same(found, expected)

    cotangent = torch.randn_like(found)
    found.backward(cotangent)
    expected.backward(cotangent)
    for one, other in zip(inputs, same):
        assert_same(one.grad, other.grad)
    separate = [oracle.q_proj_weight, oracle.k_proj_weight, oracle.v_proj_weight]
    gradients = oracle.in_proj_weight.grad.chunk(3) if context_channels == 8 else [weight.grad for weight in separate]
    for one, other in zip([layer.q.weight.grad, *layer.kv.weight.grad.chunk(2)], gradients, strict=True):
        assert_same(one, other)
    assert_same(torch.cat([layer.q.bias.grad, layer.kv.bias.grad]), oracle.in_proj_bias.grad)
    assert_same(layer.proj.weight.grad, oracle.out_proj.weight.grad)
    assert_same(layer.proj.bias.grad, oracle.out_proj.bias.grad)


def test_recorded_weights_are_those_of_pytorch():
    layer, x, context, mask = cross(), image(), words(6), ragged([6, 2], 6)
    with record_weights() as weights:
        layer(x, context, mask)
    queries = x.flatten(2).mT
    _, expected = as_multihead(layer)(queries, context, context, key_padding_mask=~mask, average_attn_weights=False)
    assert_same(weights[0], expected)


@pytest.mark.parametrize("lengths", [None, [4, 1]], ids=["whole", "padded"])
def test_cross_attention_is_the_loop(lengths):
    layer, x, context = cross(), image().requires_grad_(), words(4).requires_grad_()
    mask = None if lengths is None else ragged(lengths, 4)
    expected = projected(layer, looped(layer, layer.kv, x, context, mask))
    assert_same_with_gradients(layer(x, context, mask), expected, [x, context, *layer.parameters()])


@pytest.mark.parametrize("strength", [1.0, 0.3, -2.0])
def test_decoupled_cross_attention_is_the_loop(strength):
    layer, x = decoupled(strength), image().requires_grad_()
    context, second = words(4).requires_grad_(), words(3, 3).requires_grad_()
    mask, second_mask = ragged([4, 1], 4), ragged([2, 3], 3)
    answers = looped(layer, layer.kv, x, context, mask)
    added = looped(layer, layer.kv_second, x, second, second_mask)
    found = layer(x, context, second, mask, second_mask)
    assert_same_with_gradients(
        found, projected(layer, answers + strength * added), [x, context, second, *layer.parameters()]
    )


# Who asks whom


def test_attending_to_ones_own_pixels_is_self_attention_and_one_large_projection_equals_three():
    layer, same, x = cross(context_channels=8), SelfAttention(8, 2).double(), image()
    for name in ("weight", "bias"):
        parts = [getattr(part, name) for part in (layer.q, layer.kv)]
        getattr(same.qkv, name).data = torch.cat(parts).data
    same.proj.load_state_dict(layer.proj.state_dict())
    assert_same(layer(x, x.flatten(2).mT), same(x))


def test_swapping_who_asks_transposes_the_logits():
    layer, swapped = cross(context_channels=8), cross(context_channels=8)
    for name in ("weight", "bias"):
        q, (k, v) = getattr(layer.q, name).data, getattr(layer.kv, name).data.chunk(2)
        getattr(swapped.q, name).data, getattr(swapped.kv, name).data = k, torch.cat([q, v])
    one, other = image(), image()
    tokens = [x.flatten(2).mT for x in (one, other)]
    with record_weights() as weights:
        layer(one, tokens[1])
        swapped(other, tokens[0])
    q, k = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in (layer.q(tokens[0]), layer.kv(tokens[1])[..., :8]))
    logits = centred(q @ k.mT / 2)
    assert (logits - logits.mT).abs().max() > 0.1
    assert_same(centred(weights[0].log()), logits)
    assert_same(centred(weights[1].log()), logits.mT)


def centred(logits: Tensor) -> Tensor:
    """What is left of the logits after a softmax along either axis, which moves whole rows or columns."""
    return logits - logits.mean(-1, keepdim=True) - logits.mean(-2, keepdim=True) + logits.mean((-2, -1), keepdim=True)


def test_pixels_have_no_order():
    layer, x, context, order = cross(), image(), words(4), torch.randperm(12)
    permuted = x.flatten(2)[..., order].view_as(x)
    assert_same(layer(permuted, context), layer(x, context).flatten(2)[..., order].view_as(x))


def test_words_have_no_order():
    layer, x, context, mask, order = cross(), image(), words(6), ragged([6, 2], 6), torch.randperm(6)
    assert_same(layer(x, context[:, order], mask[:, order]), layer(x, context, mask))


def test_a_pixel_hears_every_word_and_no_other_pixel():
    layer, x, context = cross(), image(1), words(4, batch=1)
    of_pixels, of_words = torch.autograd.functional.jacobian(lambda *t: layer(*t)[0, :, 1, 2].sum(), (x, context))
    assert of_pixels[0].abs().amax(0).nonzero().tolist() == [[1, 2]]
    assert (of_words.abs().amax(-1) > 0).all()


def test_an_image_does_not_depend_on_its_batch():
    layer, x, contexts, masks = decoupled(), image(), (words(4), words(3, 3)), (ragged([4, 2], 4), ragged([1, 3], 3))
    alone = layer(x[1:], *(t[1:] for t in (*contexts, *masks)))
    assert_same(layer(x, *contexts, *masks)[1:], alone)


# Words that are not there


@pytest.mark.parametrize("recording", [False, True])
def test_padded_words_never_attend(recording):
    layer, x, context, mask = cross(), image(), words(6).requires_grad_(), ragged([6, 2], 6)

    def run(context: Tensor) -> Tensor:
        if not recording:
            return layer(x, context, mask)
        with record_weights() as weights:
            y = layer(x, context, mask)
        assert (weights[0][1, ..., 2:] == 0).all()
        return y

    y = run(context)
    (gradient,) = torch.autograd.grad(y.square().sum(), context)
    assert (gradient.abs().amax(-1) > 0).equal(mask)
    assert_same(run(torch.where(mask[..., None], context, 100.0)), y)
    assert_same(y[1:], layer(x[1:], context[1:, :2]))
    assert (layer(x, context)[1] - y[1]).abs().max() > 0.01


@pytest.mark.parametrize("recording", [False, True])
def test_an_image_without_words_gets_the_bias_and_finite_gradients(recording):
    layer, x, context = cross(), image().requires_grad_(), words(4).requires_grad_()
    inputs = [x, context, *layer.parameters()]
    if recording:
        with record_weights() as weights:
            y = layer(x, context, ragged([3, 0], 4))
        assert_same(weights[0].sum(-1), torch.ones(2, 2, 12).double())
    else:
        y = layer(x, context, ragged([3, 0], 4))
    assert_same(y[1], layer.proj.bias[:, None, None].expand_as(y[1]))
    gradients = torch.autograd.grad(y.square().sum(), inputs)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert (gradients[0][1] == 0).all() and (gradients[1][1] == 0).all()
    assert_same(layer(x, words(0)), layer.proj.bias[:, None, None].expand_as(y))


def test_each_context_has_a_mask_of_its_own():
    layer, x, context, second = decoupled(), image(1), words(4, batch=1), words(3, 3, batch=1)
    expected = layer(x, context[:, :1], second[:, :2])
    assert_same(layer(x, context, second, ragged([1], 4), ragged([2], 3)), expected)
    assert_same(layer(x, context[:, :1], second, None, ragged([2], 3)), expected)
    assert_same(layer(x, context, second[:, :2], ragged([1], 4)), expected)


# Two softmaxes, or one


def test_without_strength_it_is_the_base_layer():
    base, layer = cross(), decoupled(strength=0.0)
    missing, unexpected = layer.load_state_dict(base.state_dict(), strict=False)
    assert (missing, unexpected) == (["kv_second.weight", "kv_second.bias"], [])
    x, context, mask = image(), words(4), ragged([4, 2], 4)
    assert torch.equal(layer(x, context, words(3, 3), mask), base(x, context, mask))
    layer.strength = 1.0
    assert (layer(x, context, words(3, 3), mask) - base(x, context, mask)).abs().max() > 0.01


def test_one_softmax_over_both_contexts_is_instead_a_convex_mix():
    base, layer, x = cross(), decoupled(1.0, second_channels=CONTEXT), image()
    layer.load_state_dict(base.state_dict(), strict=False)
    layer.kv_second.load_state_dict(base.kv.state_dict())
    context, second = words(4), words(3)
    first, other = (looped(base, base.kv, x, tokens) for tokens in (context, second))
    share = torch.sigmoid(logsumexp(base, x, context) - logsumexp(base, x, second))
    share = share.repeat_interleave(4, dim=1).view_as(x)
    joint = base(x, torch.cat([context, second], dim=1))
    assert_same(joint, projected(base, share * first + (1 - share) * other))
    assert_same(layer(x, context, second), projected(base, first + other))
    assert (layer(x, context, second) - joint).abs().max() > 0.01


def logsumexp(layer: CrossAttention, x: Tensor, context: Tensor) -> Tensor:
    """Of the logits of every head and pixel over the context: (batch, heads, pixels)."""
    q, k = layer.q(x.flatten(2).mT), layer.kv(context).chunk(2, dim=-1)[0]
    q, k = (part.unflatten(2, (layer.heads, -1)).transpose(1, 2) for part in (q, k))
    return (q @ k.mT / q.shape[-1] ** 0.5).logsumexp(-1)


def test_each_softmax_is_over_its_words_and_after_the_product():
    layer, x, context, second = decoupled(), image(), words(4), words(3, 3)
    with record_weights() as weights:
        layer(x, context, second)
    q = layer.q(x.flatten(2).mT).unflatten(2, (2, 4)).transpose(1, 2) / 2
    for found, kv, tokens in zip(weights, (layer.kv, layer.kv_second), (context, second), strict=True):
        k = kv(tokens)[..., :8].unflatten(2, (2, 4)).transpose(1, 2)
        assert_same(found, (q @ k.mT).softmax(-1))
        for mistaken in ((q @ k.mT).softmax(-2), (q @ k.mT).softmax(1), q @ k.softmax(-2).mT):
            assert (found - mistaken).abs().max() > 0.1


def test_words_that_agree_are_repeated_to_every_pixel():
    layer, context, second = decoupled(), words(1), words(1, 3)
    repeated = layer(image(), context.expand(2, 4, CONTEXT), second.expand(2, 3, 3))
    values, added = (kv(tokens)[:, 0, 8:] for kv, tokens in ((layer.kv, context), (layer.kv_second, second)))
    assert_same(repeated, layer.proj(values + layer.strength * added)[..., None, None].expand_as(repeated))


# What holds for every layer, for these that take more than a map


def cross_case() -> tuple[CrossAttention, list[Tensor]]:
    return cross(), [image(), words(4), ragged([4, 2], 4)]


def decoupled_case() -> tuple[CrossAttention, list[Tensor]]:
    return decoupled(), [image(), words(4), words(3, 3), ragged([4, 2], 4), ragged([1, 3], 3)]


both = pytest.mark.parametrize("case", [cross_case, decoupled_case])


@both
def test_gradients_are_those_of_finite_differences(case):
    layer, inputs = case()
    inputs[0] = inputs[0][..., :2, :2]
    names, parameters = zip(*layer.named_parameters())
    tensors = [t.requires_grad_() for t in inputs if t.is_floating_point()]
    masks = [t for t in inputs if not t.is_floating_point()]

    def run(*leaves: Tensor) -> Tensor:
        given, weights = leaves[: len(tensors)], leaves[len(tensors) :]
        return torch.func.functional_call(layer, dict(zip(names, weights)), (*given, *masks))

    assert torch.autograd.gradcheck(run, (*tensors, *parameters), fast_mode=True)


@both
def test_layout_in_memory_does_not_matter(case):
    layer, (x, *contexts) = case()
    expected = layer(x, *contexts)
    for same in laid_out(x):
        assert_same(layer(same, *contexts), expected)
    strided = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in contexts]
    assert_same(layer(x, *strided), expected)


@both
def test_half_precision_stays_near_full_precision(case):
    layer, inputs = case()
    inputs = [t.float() if t.is_floating_point() else t for t in inputs]
    layer = layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(*inputs)
    torch.testing.assert_close(half.float(), layer(*inputs), atol=0.05, rtol=0.05)


@both
def test_it_compiles_whole_with_its_gradients_and_exports(case, unchecked):
    layer, inputs = case()
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_same_with_gradients(compiled(*inputs), layer(*inputs), list(layer.parameters()))
    assert_same(torch.export.export(layer, tuple(inputs)).module()(*inputs), layer(*inputs))


class InContext(nn.Module):
    """A layer as a function of the map alone."""

    def __init__(self, layer: nn.Module, *contexts: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.contexts = nn.ParameterList(nn.Parameter(context, requires_grad=False) for context in contexts)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, *self.contexts)


@settings(max_examples=20)
@given(heads=sizes, width=sizes, n=sizes, context_channels=sizes, height=sizes)
def test_cost_is_what_the_docstring_says(heads, width, n, context_channels, height):
    c, d, pixels = heads * width, context_channels, height * 3
    layer = CrossAttention(c, heads, context_channels=d)
    macs = count_macs(InContext(layer, torch.zeros(1, n, d)), (1, c, height, 3))
    assert macs == 2 * pixels * c**2 + 2 * n * d * c + 2 * pixels * n * c
    assert count_parameters(layer) == 2 * c**2 + 2 * d * c + 4 * c

    more = DecoupledCrossAttention(c, heads, context_channels=d, second_channels=7)
    contexts = torch.zeros(1, n, d), torch.zeros(1, 5, 7)
    assert count_macs(InContext(more, *contexts), (1, c, height, 3)) == macs + 2 * 5 * 7 * c + 2 * pixels * 5 * c
    assert count_parameters(more) == count_parameters(layer) + 2 * 7 * c + 2 * c


def test_what_does_not_fit_is_refused_with_what_would(unchecked):
    with pytest.raises(ValueError, match=r"3 heads do not divide 8 channels; .*\[1, 2, 4, 8\]"):
        CrossAttention(8, 3, context_channels=CONTEXT)
    layer, x, context = cross(), image(), words(4)
    with pytest.raises(ValueError, match="a map of 6 channels came to a layer built for 8"):
        layer(image(channels=6), context)
    for wrong in (words(4, 8), words(4, batch=1), words(4)[0]):
        with pytest.raises(ValueError, match=rf"{shaped(wrong)} does not fit a batch of 2 .* \(2, tokens, 5\)"):
            layer(x, wrong)
    for wrong in (ragged([4, 2], 5), ragged([4], 4)):
        with pytest.raises(ValueError, match=rf"{shaped(wrong)} does not fit .* it must be \(2, 4\)"):
            layer(x, context, wrong)


def test_a_second_context_that_does_not_fit_is_refused(unchecked):
    layer, x, context = decoupled(), image(), words(4)
    with pytest.raises(ValueError, match=r"\(2, 4, 5\) does not fit a batch of 2 .* \(2, tokens, 3\)"):
        layer(x, context, context)
    with pytest.raises(ValueError, match=r"a mask of shape \(2, 4\) does not fit .* it must be \(2, 3\)"):
        layer(x, context, words(3, 3), None, ragged([4, 2], 4))


def shaped(tensor: Tensor) -> str:
    return str(tuple(tensor.shape)).replace("(", r"\(").replace(")", r"\)")


# From words to pixels: a network that finds what a sentence names


def fitted(finder: Finder) -> Finder:
    """The network after a few seconds on images of which it learns the centre of what is meant, and no more."""
    images, sentences, masks = data.described(2000, seed=0)
    x, where = images / 127.5 - 1, centres(masks.float())
    optimizer = torch.optim.Adam(finder.parameters(), 5e-3)
    batches = [some for _ in range(4) for some in torch.randperm(len(x)).split(32)]
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(batches))
    for some in batches:
        optimizer.zero_grad()
        ((finder(x[some], sentences[some]) - where[some]) / 16).square().sum(1).mean().backward()
        optimizer.step()
        falling.step()
    return finder


@pytest.fixture(scope="module")
def finder() -> Finder:
    torch.manual_seed(0)
    return fitted(Finder(len(data.WORDS)))


@pytest.fixture(scope="module")
def held_out() -> data.Described:
    return data.described(400, seed=1)


def mass(finder: Finder, images: Tensor, sentences: Tensor, masks: Tensor) -> Tensor:
    """How much of each sentence's attention lies on the figure meant."""
    with torch.no_grad(), record_weights() as weights:
        finder(images / 127.5 - 1, sentences)
    return (weights[0].view(-1, 16, 16) * F.max_pool2d(masks.float(), 2)).sum((1, 2))


def test_the_map_of_a_sentence_lies_on_the_figure_it_names(finder, held_out):
    on_figure = mass(finder, *held_out)
    assert on_figure.mean() > 0.85 and (on_figure > 0.5).float().mean() > 0.9
    images, sentences, masks = held_out
    said = finder(images / 127.5 - 1, sentences)
    assert (said - centres(masks.float())).norm(dim=1).median() < 2


@pytest.mark.parametrize("size", [(32, 32), (8, 20)])
def test_a_sentence_that_says_nothing_points_to_the_middle_of_the_image(size):
    nothing = torch.zeros(2, 3).long()
    said = Finder(len(data.WORDS))(torch.randn(2, 3, *size), nothing)
    assert_close(said, torch.tensor([(side - 1) / 2 for side in size]).expand(2, 2))


def test_with_other_words_it_looks_elsewhere(finder, held_out):
    images, sentences, masks = held_out
    assert mass(finder, images, sentences[torch.randperm(400)], masks).mean() < 0.6
    other_meanings = torch.cat([torch.zeros(1).long(), torch.randperm(len(data.WORDS) - 1) + 1])
    assert mass(finder, images, other_meanings[sentences], masks).mean() < 0.7
    assert mass(finder, images, torch.zeros_like(sentences), masks).mean() < 0.6


def test_a_sentence_looks_where_all_of_its_words_look(finder, held_out):
    def logarithms(sentences: Tensor) -> Tensor:
        with torch.no_grad(), record_weights() as weights:
            finder(held_out.images / 127.5 - 1, sentences)
        return weights[0][:, 0, 0].double().log()

    words = sum(logarithms(word[:, None]) for word in held_out.sentences.T)
    torch.testing.assert_close(words.softmax(-1).float(), logarithms(held_out.sentences).exp().float())
    backwards = logarithms(held_out.sentences.flip(1))
    torch.testing.assert_close(backwards, logarithms(held_out.sentences), rtol=1e-4, atol=1e-3)


# From pixels to pixels: the flow between two images


def test_matching_finds_the_flow_of_pairs_it_was_not_set_on():
    first, second, flow = data.moved(20, seed=1)
    first, second = first / 255, second / 255
    assert endpoint_error(estimate_flow(first, second), flow) < 0.5
    assert endpoint_error(torch.zeros_like(flow), flow) > 1.5
    assert endpoint_error(estimate_flow(second, first), flow) > 3, "queries and keys the wrong way round"
    assert endpoint_error(estimate_flow(second, first), -flow) < 0.6
    assert endpoint_error(estimate_flow(first, second, patch=1), flow) > 5, "a pixel's colour is no address"


def test_what_has_not_moved_has_no_flow_and_what_is_shifted_has_the_shift():
    first, _, _ = data.moved(4, seed=2)
    first = first / 255
    inside = (..., slice(6, -6), slice(6, -6))
    assert estimate_flow(first, first, scale=1000.0)[inside].abs().max() < 1e-3
    found = estimate_flow(first, first.roll((2, -3), (2, 3)), scale=1000.0)[inside]
    assert_close(found, torch.tensor([2.0, -3.0])[:, None, None].expand_as(found))


def test_the_endpoint_error_is_the_mean_of_those_that_end_inside():
    flow, found = torch.zeros(1, 2, 7, 9), torch.zeros(1, 2, 7, 9)
    flow[0, 0, 4, 6], flow[0, 1, 2, 2] = 1.0, -1.0  # both end outside: of 3 × 5, 13 are left, and one comes in
    flow[0, :, 0, 0] = torch.tensor([2.0, 2.0])
    found[0, 0, 4, 6], found[0, 1, 0, 5] = 50.0, 50.0
    found[0, :, 0, 0] = torch.tensor([5.0, -2.0])
    assert endpoint_error(found, flow) == pytest.approx(5 / 14)


def test_flow_is_the_loop_over_pairs_of_patches():
    first, second = torch.rand(2, 1, 3, 5, 4)
    found = estimate_flow(first, second, patch=3, scale=20.0)

    def token(x: Tensor, row: int, column: int) -> Tensor:
        patch = F.pad(x, (1, 1, 1, 1), mode="replicate")[0, :, row : row + 3, column : column + 3].flatten()
        return (patch - patch.mean()) / (patch - patch.mean()).norm()

    for row, column in torch.cartesian_prod(torch.arange(5), torch.arange(4)).tolist():
        end, total = torch.zeros(2), 0.0
        for i, j in torch.cartesian_prod(torch.arange(5), torch.arange(4)).tolist():
            weight = (20 * token(first, row, column) @ token(second, i, j)).exp()
            end, total = end + weight * torch.tensor([i, j]), total + weight
        assert_close(found[0, :, row, column], end / total - torch.tensor([row, column]))


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("recorded", [False, True])
def test_a_masked_word_does_nothing_whatever_it_holds(recorded):
    layer, x, words = CrossAttention(8, 2, context_channels=4), torch.randn(2, 8, 2, 2), torch.randn(2, 3, 4)
    mask = torch.tensor([[True, False, True], [True, True, False]])
    spoiled = words.masked_fill(~mask[..., None], float("nan"))
    with record_weights() if recorded else nullcontext():
        torch.testing.assert_close(layer(x, spoiled, mask), layer(x, words, mask))
