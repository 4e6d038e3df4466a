"""Hashed attention is one softmax over the keys that each query meets, and each query meets keys that matter to it."""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_same, laid_out
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from gsa.layers.attention import record_weights
from gsa.layers.hashing import LSHAttention
from gsa.probes import count_macs, count_parameters

small = st.integers(1, 3)


def tiny(**options) -> tuple[LSHAttention, Tensor]:
    """A layer of four channels and two heads with a map of twelve pixels, in float64."""
    return LSHAttention(4, 2, **{"bucket": 3, **options}).double(), torch.randn(2, 4, 3, 4).double()


def heads_of(layer: LSHAttention, image: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Queries, keys and values of one image, head by head, each (positions, width)."""
    q, k, v = layer.qkv(image.flatten(1).mT).chunk(3, dim=-1)
    return list(zip(*(t.chunk(layer.heads, dim=-1) for t in (q, k, v))))


def looped(layer: LSHAttention, image: Tensor) -> Tensor:
    """The equation: extend, project, sort, cut, and take one softmax over the keys that a query met in all rounds."""
    results = []
    for q, k, v in heads_of(layer, image):
        radius = max(query @ query for query in q) + max(key @ key for key in k)
        above, below = torch.zeros(len(q), v.shape[1]).double(), torch.zeros(len(q), 1).double()
        for direction in layer.directions.T:
            q_hash, k_hash = [], []
            for query, key in zip(q, k):
                extended = torch.cat(
                    (query, torch.stack(((radius - query @ query).sqrt(), torch.tensor(0.0).double())))
                )
                q_hash.append((direction @ extended).item())
                extended = torch.cat((key, torch.stack((torch.tensor(0.0).double(), (radius - key @ key).sqrt()))))
                k_hash.append((direction @ extended).item())
            by_query, by_key = (sorted(range(len(h)), key=h.__getitem__) for h in (q_hash, k_hash))
            for place, i in enumerate(by_query):
                first = place // layer.bucket * layer.bucket
                for j in by_key[first : first + layer.bucket]:
                    weight = (q[i] @ k[j]).exp()
                    above[i] += weight * v[j]
                    below[i] += weight
        results.append(above / below)
    return layer.proj(torch.cat(results, dim=-1)).mT.unflatten(1, image.shape[1:])


@pytest.mark.parametrize("rounds", [1, 2, 5])
@pytest.mark.parametrize("bucket", [1, 3, 4, 12])
def test_it_is_the_loop(bucket, rounds):
    layer, x = tiny(bucket=bucket, rounds=rounds)
    assert_same(layer(x), torch.stack([looped(layer, image) for image in x]))


def test_its_gradients_are_those_of_the_loop():
    layer, x = tiny(rounds=3)
    inputs = [x.requires_grad_(), *layer.parameters()]
    found, expected = layer(x), torch.stack([looped(layer, image) for image in x])
    cotangent = torch.randn_like(found)
    for one, other in zip(*(torch.autograd.grad(y, inputs, cotangent) for y in (found, expected))):
        assert_same(one, other)


@pytest.mark.parametrize("rounds", [1, 2, 7])
def test_one_bucket_of_all_positions_is_plain_attention_without_a_scale_in_any_number_of_rounds(rounds):
    layer, x = tiny(bucket=12, rounds=rounds)
    inputs = [x.requires_grad_(), *layer.parameters()]
    q, k, v = (t.unflatten(2, (2, 2)).transpose(1, 2) for t in layer.qkv(x.flatten(2).mT).chunk(3, dim=-1))
    plain = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    found, expected = layer(x), layer.proj(plain.transpose(1, 2).flatten(2)).mT.unflatten(2, (3, 4))
    assert_same(found, expected)
    cotangent = torch.randn_like(found)
    for one, other in zip(*(torch.autograd.grad(y, inputs, cotangent) for y in (found, expected))):
        assert_same(one, other)


def test_queries_and_keys_are_hashed_and_not_the_input():
    """With K = −Q, a pixel has to meet those of the other colour; hashing the input would put it among its own."""
    layer = LSHAttention(4, 1, bucket=6, rounds=1).double()
    eye = torch.eye(4).double()
    layer.qkv.weight.data, layer.proj.weight.data = torch.cat((eye, -eye, eye)), eye
    layer.qkv.bias.data.zero_(), layer.proj.bias.data.zero_()
    colour = torch.randn(4).double()
    sign = torch.tensor([1, -1] * 6)[torch.randperm(12)].reshape(3, 4)
    x = (colour[:, None, None] * sign)[None]
    assert_same(layer(x), -x)


def test_a_shift_of_all_hashes_changes_no_order():
    layer, _ = tiny()
    q, k = (torch.randn(2, 2, 12, 2).double() for _ in range(2))
    orders = layer.orders(q, k)
    inside, of_queries, of_keys = layer.directions.split((2, 1, 1))
    radius = q.square().sum(-1).amax(-1) + k.square().sum(-1).amax(-1)
    for t, own, order in ((q, of_queries, orders[0]), (k, of_keys, orders[1])):
        rest = (radius[..., None] - t.square().sum(-1)).sqrt()
        for r, (direction, weight) in enumerate(zip(inside.T, own[0])):
            assert torch.equal((t @ direction + rest * weight + torch.rand(()) * 5).argsort(-1), order[r])


def test_extended_queries_are_nearer_to_the_keys_that_matter_more():
    q, k = torch.randn(20, 3).double(), torch.randn(20, 3).double()
    radius = q.square().sum(1).max() + k.square().sum(1).max()
    zero = torch.zeros(20, 1).double()
    long_q = torch.cat((q, zero, (radius - q.square().sum(1, keepdim=True)).sqrt()), 1)
    long_k = torch.cat((k, (radius - k.square().sum(1, keepdim=True)).sqrt(), zero), 1)
    assert_same(torch.cdist(long_q, long_k).square(), 2 * radius - 2 * q @ k.T)


def captured(layer: LSHAttention, q: Tensor, k: Tensor) -> float:
    """How much of the full softmax, on average, a query finds in its bucket."""
    weights = (q @ k.mT).softmax(-1)
    by_query, by_key = layer.orders(q, k)
    places = [order.argsort() // layer.bucket for order in (by_query, by_key)]
    together = places[0][..., :, None] == places[1][..., None, :]
    return (weights * together).sum(-1).mean().item()


def test_a_bucket_holds_more_than_its_share_of_the_attention():
    layer = LSHAttention(8, 1, bucket=16, rounds=8)
    q, k = 1.5 * torch.randn(4, 1, 64, 8), 1.5 * torch.randn(4, 1, 64, 8)
    share = 16 / 64
    unrelated = captured(layer, q, torch.zeros_like(k) + 1e-6 * torch.randn_like(k))
    assert abs(unrelated - share) < 0.02
    assert captured(layer, q, k) > 1.25 * share


# Directions


def test_evaluation_repeats_itself_as_the_published_code_does_not():
    layer, x = tiny(bucket=2)
    assert torch.equal(layer.eval()(x), layer(x))
    assert torch.equal(layer.train()(x), layer.eval()(x))


def test_directions_come_from_the_generator_and_nothing_else():
    layers = [LSHAttention(4, 2, bucket=3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(layers[0].directions, layers[1].directions)
    assert not torch.equal(layers[0].directions, layers[2].directions)
    layers[0].resample(torch.Generator().manual_seed(2))
    assert torch.equal(layers[0].directions, layers[2].directions)


def test_new_directions_cut_other_buckets():
    layer, x = tiny(bucket=2, rounds=1)
    before = layer(x)
    layer.resample(torch.Generator().manual_seed(3))
    assert (layer(x) - before).abs().max() > 1e-3


def test_directions_are_saved_with_the_weights(tmp_path):
    layer, x = tiny(bucket=2)
    save_file(layer.state_dict(), tmp_path / "weights.safetensors")
    again, _ = tiny(bucket=2)
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(again(x), layer(x))


# Properties


def test_pixels_have_no_order():
    layer, x = tiny(bucket=4)
    order = torch.randperm(12)
    permuted = x.flatten(2)[..., order].unflatten(2, (3, 4))
    assert_same(layer(permuted), layer(x).flatten(2)[..., order].unflatten(2, (3, 4)))


def test_a_constant_map_stays_constant():
    layer, x = tiny(bucket=4)
    constant = x[..., :1, :1].expand_as(x)
    assert_same(layer(constant), layer(constant)[..., :1, :1].expand_as(x))


@pytest.mark.parametrize(("bucket", "rounds"), [(2, 1), (2, 3), (4, 2)])
def test_a_position_sees_itself_and_the_buckets_it_was_in(bucket, rounds):
    layer = LSHAttention(4, 1, bucket=bucket, rounds=rounds).double()
    x = torch.randn(1, 4, 4, 6).double().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x)[..., 2, 3].square().sum(), x)
    seen = (gradient.abs().amax((0, 1)) > 0).sum()
    by_query, by_key = layer.orders(*(t[None, None].detach() for t in heads_of(layer, x[0])[0][:2]))
    met = {15}
    for queries, keys in zip(by_query[:, 0, 0].tolist(), by_key[:, 0, 0].tolist()):
        first = queries.index(15) // bucket * bucket
        met |= set(keys[first : first + bucket])
    assert seen == len(met) <= bucket * rounds + 1


def test_rows_of_every_softmax_sum_to_one_and_recording_changes_nothing():
    layer, x = tiny(rounds=2)
    with record_weights() as weights:
        recorded = layer(x)
    assert_same(recorded, layer(x))
    assert [w.shape for w in weights] == [(2 * 2 * 2 * 4, 1, 3, 3)]
    assert_same(weights[0].sum(-1), torch.ones(32, 1, 3).double())


def test_large_logits_stay_finite():
    layer, x = tiny(bucket=4)
    layer.qkv.weight.data *= 100
    assert layer(x).isfinite().all()


def test_gradients_are_those_of_finite_differences():
    layer, x = tiny()
    names, parameters = zip(*layer.named_parameters())

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters)), (x,))

    assert torch.autograd.gradcheck(run, (x[:1].requires_grad_(), *parameters), fast_mode=True)


def test_layout_in_memory_does_not_matter_nor_does_the_batch():
    layer, x = tiny()
    expected = layer(x)
    for same in laid_out(x):
        assert_same(layer(same), expected)
    assert_same(layer(x[1:]), expected[1:])


def test_half_precision_is_finite_and_near_where_the_buckets_are_the_same():
    layer, x = LSHAttention(8, bucket=16), torch.randn(3, 8, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
        assert LSHAttention(8, bucket=4)(x).isfinite().all()
    torch.testing.assert_close(half.float(), layer(x), atol=0.05, rtol=0.05)


def test_it_compiles_whole_and_exports(unchecked):
    layer, x = tiny()
    torch._dynamo.reset()
    assert_same(torch.compile(layer, fullgraph=True, backend="eager")(x), layer(x))
    assert_same(torch.export.export(layer, (x,)).module()(x), layer(x))


# Cost and errors


@settings(max_examples=30)
@given(heads=small, width=small, bucket=st.integers(1, 5), size=st.tuples(small, small), rounds=small)
def test_cost_is_what_the_docstring_says(heads, width, bucket, size, rounds):
    channels = heads * width
    layer = LSHAttention(channels, heads, bucket=bucket, rounds=rounds)
    n = size[0] * size[1] * bucket
    macs = 4 * n * channels**2 + rounds * n * channels * (3 * bucket + 2)
    assert count_macs(layer, (1, channels, size[0] * bucket, size[1])) == macs
    assert count_parameters(layer) == 4 * channels**2 + 4 * channels


def test_buckets_that_do_not_divide_the_positions_are_refused_with_those_that_do():
    with pytest.raises(
        ValueError, match=r"buckets of 4 do not divide the 15 positions of a 3×5 map; .*\[1, 3, 5, 15\]"
    ):
        LSHAttention(4, bucket=4)(torch.zeros(1, 4, 3, 5))


@pytest.mark.parametrize(("bucket", "rounds"), [(0, 1), (4, 0)])
def test_no_bucket_and_no_round_are_refused(bucket, rounds):
    with pytest.raises(ValueError, match=f"at least 1, got bucket {bucket} and {rounds} rounds"):
        LSHAttention(4, bucket=bucket, rounds=rounds)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"3 heads do not divide 8 channels; heads that do: \[1, 2, 4, 8\]"):
        LSHAttention(8, 3, bucket=4)
