"""Gates are those of timm, torchvision and PyTorch, of loops over their equations, and cost what they say."""

from collections.abc import Callable

import pytest
import torch
from helpers import assert_same, assert_same_with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import SelectiveKernel as TimmsSelectiveKernel
from timm.layers import SqueezeExcite
from timm.layers.cbam import CbamModule
from torch import Tensor, nn
from torchvision import ops

from gsa.layers import SqueezeExcitation, TemporalAttention, record_weights
from gsa.layers.gates import (
    CBAM,
    ChannelGate,
    LargeKernelAttention,
    SelectiveKernel,
    SpatialGate,
)
from gsa.probes import count_macs, count_parameters

sides = st.integers(1, 6)


def assert_same_layer(layer: nn.Module, oracle: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Outputs and gradients agree, those of the parameters too; an oracle that is a module gets the layer's weights."""
    x.requires_grad_()
    theirs = layer
    if isinstance(oracle, nn.Module):
        oracle.load_state_dict(layer.state_dict())
        theirs = oracle
    assert_same_with_gradients(layer(x), oracle(x), [x, *layer.parameters()], [x, *theirs.parameters()])
    for name, buffer in theirs.named_buffers():
        assert_same(layer.get_buffer(name), buffer)


def unsettled(layer: nn.Module) -> nn.Module:
    """The layer in float64, its batch normalizations as if trained: at first they hardly do anything."""
    for norm in layer.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.bias, norm.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    return layer.double()


def image(*shape: int) -> Tensor:
    return torch.randn(shape).double()


# Squeeze and excitation


def timms(channels: int, reduction: int) -> nn.Module:
    # Without rd_channels timm rounds the reduced width to a multiple of 8.
    return SqueezeExcite(channels, rd_channels=channels // reduction)


def torchvisions(channels: int, reduction: int) -> nn.Module:
    return ops.SqueezeExcitation(channels, channels // reduction)


@pytest.mark.parametrize("reference", [timms, torchvisions])
@pytest.mark.parametrize(("channels", "reduction"), [(8, 1), (8, 4), (12, 5), (6, 6)])
def test_squeeze_excitation_is_that_of_others(reference, channels, reduction):
    layer = SqueezeExcitation(channels, reduction=reduction).double()
    assert_same_layer(layer, reference(channels, reduction).double(), image(2, channels, 5, 3))


def test_one_weight_a_channel_wherever_the_pixels_are():
    layer, x = SqueezeExcitation(8, reduction=2).double(), torch.rand(2, 8, 3, 4).double() + 1
    gate = layer(x) / x
    torch.testing.assert_close(gate, gate[:, :, :1, :1].expand_as(gate))
    assert ((gate > 0) & (gate < 1)).all()
    order = torch.randperm(12)
    shuffled = x.flatten(2)[..., order].unflatten(2, (3, 4))
    torch.testing.assert_close(layer(shuffled), layer(x).flatten(2)[..., order].unflatten(2, (3, 4)))


@given(width=st.integers(1, 6), reduction=st.integers(1, 6), side=st.integers(1, 6))
def test_cost_is_what_the_docstring_says(width, reduction, side):
    channels = width * reduction
    layer = SqueezeExcitation(channels, reduction=reduction)
    assert count_macs(layer, (1, channels, side, side)) == 2 * channels * width
    assert count_parameters(layer) == 2 * channels * width + width + channels


@pytest.mark.parametrize("build", [SqueezeExcitation, ChannelGate, CBAM])
@pytest.mark.parametrize("reduction", [0, 9])
def test_a_reduction_that_leaves_no_channel_is_refused(build, reduction):
    with pytest.raises(ValueError, match=f"reduction {reduction} leaves no channel of 8; it must be in 1…8"):
        build(8, reduction=reduction)


# The equations as loops


def looped_channel_gate(layer: ChannelGate, x: Tensor) -> Tensor:
    w1, w2 = layer.fc1.weight[..., 0, 0], layer.fc2.weight[..., 0, 0]

    def mlp(pooled: list[Tensor]) -> list[Tensor]:
        hidden = [sum(w * value for w, value in zip(row, pooled)).clamp(min=0) for row in w1]
        return [sum(w * value for w, value in zip(row, hidden)) for row in w2]

    images = []
    for channels in x:
        logits = zip(mlp([c.sum() / c.numel() for c in channels]), mlp([c.max() for c in channels]))
        images.append(torch.stack([c / (1 + (-a - b).exp()) for c, (a, b) in zip(channels, logits)]))
    return torch.stack(images)


def looped_convolution(plane: Tensor, kernel: Tensor, dilation: int = 1) -> Tensor:
    """One channel with one kernel; outside the plane are zeros."""
    (height, width), radius = plane.shape, len(kernel) // 2
    taps = [(a, b) for a in range(-radius, radius + 1) for b in range(-radius, radius + 1)]
    rows = []
    for i in range(height):
        for j in range(width):
            at = [(i + dilation * a, j + dilation * b, kernel[radius + a, radius + b]) for a, b in taps]
            rows.append(sum(w * plane[p, q] for p, q, w in at if 0 <= p < height and 0 <= q < width))
    return torch.stack(rows).unflatten(0, (height, width))


def normalized(norm: nn.BatchNorm2d, channel: int, values: Tensor) -> Tensor:
    centred = (values - norm.running_mean[channel]) / (norm.running_var[channel] + norm.eps).sqrt()
    return centred * norm.weight[channel] + norm.bias[channel]


def looped_spatial_gate(layer: SpatialGate, x: Tensor) -> Tensor:
    images = []
    for channels in x:
        pooled = [sum(channels) / len(channels), torch.stack(list(channels)).max(0).values]
        kernels = layer.conv.conv.weight[0]
        logits = sum(looped_convolution(plane, kernel) for plane, kernel in zip(pooled, kernels))
        images.append(channels / (1 + (-normalized(layer.conv.bn, 0, logits)).exp()))
    return torch.stack(images)


def looped_cbam(layer: CBAM, x: Tensor) -> Tensor:
    return looped_spatial_gate(layer.spatial, looped_channel_gate(layer.channel, x))


def looped_selective_kernel(layer: SelectiveKernel, x: Tensor) -> Tensor:
    w1, w2 = layer.attn.fc_reduce.weight[..., 0, 0], layer.attn.fc_select.weight[..., 0, 0]
    images = []
    for channels in x:
        branches = []
        for path in layer.paths:
            planes = []
            for index, kernels in enumerate(path.conv.weight):
                step = path.conv.dilation[0]
                plane = sum(looped_convolution(c, kernel, step) for c, kernel in zip(channels, kernels))
                planes.append(normalized(path.bn, index, plane).clamp(min=0))
            branches.append(planes)
        s = [sum(planes).mean() for planes in zip(*branches)]
        z = [normalized(layer.attn.bn, i, sum(w * a for w, a in zip(row, s))).clamp(min=0) for i, row in enumerate(w1)]
        logits = torch.stack([sum(w * a for w, a in zip(row, z)) for row in w2]).chunk(len(branches))
        powers = [part.exp() for part in logits]
        shares = [part / sum(powers) for part in powers]
        mixed = [sum(a[c] * u[c] for a, u in zip(shares, branches)) for c in range(len(channels))]
        images.append(torch.stack(mixed))
    return torch.stack(images)


def looped_large_kernel(layer: LargeKernelAttention, x: Tensor) -> Tensor:
    images = []
    for channels in x:
        maps = list(channels)
        for conv in (layer.conv0, layer.conv_spatial):
            kernels, biases, step = conv.weight[:, 0], conv.bias, conv.dilation[0]
            maps = [looped_convolution(c, kernel, step) + b for c, kernel, b in zip(maps, kernels, biases)]
        rows = zip(channels, layer.conv1.weight[..., 0, 0], layer.conv1.bias)
        images.append(torch.stack([c * (sum(w * a for w, a in zip(row, maps)) + b) for c, row, b in rows]))
    return torch.stack(images)


def looped_temporal_attention(layer: TemporalAttention, x: Tensor) -> Tensor:
    clips = torch.zeros_like(x)
    for b, i, j in torch.cartesian_prod(*(torch.arange(x.shape[axis]) for axis in (0, 3, 4))).tolist():
        moments = layer.qkv(x[b, :, :, i, j]).unflatten(-1, (3, layer.heads, -1))
        for t, (query, _, _) in enumerate(moments):
            heads = []
            for head, q in enumerate(query):
                powers = [(torch.dot(q, k[head]) / len(q) ** 0.5).exp() for _, k, _ in moments]
                heads.append(sum(p * v[head] for p, (_, _, v) in zip(powers, moments)) / sum(powers))
            clips[b, t, :, i, j] = layer.proj(torch.cat(heads))
    return clips


LOOPS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor]]] = {
    "channel": (lambda: ChannelGate(4, reduction=2), looped_channel_gate),
    "spatial": (lambda: SpatialGate(kernel_size=3), looped_spatial_gate),
    "cbam": (lambda: CBAM(4, reduction=2, kernel_size=5), looped_cbam),
    "sk": (lambda: SelectiveKernel(4, dilations=(1, 2, 3)), looped_selective_kernel),
    "lka": (lambda: LargeKernelAttention(4), looped_large_kernel),
    "temporal": (lambda: TemporalAttention(4, 2), looped_temporal_attention),
}

every_layer = pytest.mark.parametrize("name", LOOPS)


def tiny(name: str) -> tuple[nn.Module, Tensor]:
    """A layer of four channels in eval mode and an input for it, in float64."""
    clip = (3,) if name == "temporal" else ()
    return unsettled(LOOPS[name][0]()).eval(), image(2, *clip, 4, 3, 5)


@every_layer
def test_a_layer_is_the_loop_over_its_equation(name):
    layer, x = tiny(name)
    assert_same_layer(layer, lambda x: LOOPS[name][1](layer, x), x)


@every_layer
@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_those_of_finite_differences(name, training):
    layer, x = tiny(name)
    layer.train(training)
    names, parameters = zip(*layer.named_parameters())

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters)), (x,))

    assert torch.autograd.gradcheck(run, (x.requires_grad_(), *parameters), fast_mode=True)


@every_layer
def test_it_compiles_whole_and_exports(name, unchecked):
    layer, x = tiny(name)
    torch._dynamo.reset()
    assert_same(torch.compile(layer, fullgraph=True, backend="eager")(x), layer(x))
    assert_same(torch.export.export(layer, (x,)).module()(x), layer(x))


@every_layer
def test_layout_in_memory_does_not_matter(name):
    layer, x = tiny(name)
    layouts = [x.mT.contiguous().mT]
    if x.ndim == 4:
        layouts.append(x.contiguous(memory_format=torch.channels_last))
    for same in layouts:
        assert_same(layer(same), layer(x))


@every_layer
def test_half_precision_stays_near_full_precision(name):
    layer, x = tiny(name)
    layer, x = layer.float(), x.float()
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
    torch.testing.assert_close(half.float(), layer(x), atol=0.1, rtol=0.05)


# CBAM


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("channels", "reduction", "kernel_size"), [(8, 4, 7), (12, 5, 3), (6, 6, 1)])
def test_cbam_is_that_of_timm(channels, reduction, kernel_size, training):
    layer = unsettled(CBAM(channels, reduction=reduction, kernel_size=kernel_size))
    oracle = CbamModule(channels, rd_channels=channels // reduction, spatial_kernel_size=kernel_size).double()
    assert_same_layer(layer.train(training), oracle.train(training), image(2, channels, 6, 5))


def test_average_and_maximum_share_one_perceptron_and_meet_before_the_sigmoid():
    layer, levels = ChannelGate(8, reduction=2).double(), image(2, 8, 1, 1)
    logits = layer.fc2(layer.fc1(levels).relu())
    assert_same(layer(levels.expand(2, 8, 3, 4)), ((2 * logits).sigmoid() * levels).expand(2, 8, 3, 4))


def test_the_channel_gate_comes_before_the_spatial_one():
    layer, x = tiny("cbam")
    assert_same(layer(x), layer.spatial(layer.channel(x)))
    assert (layer(x) - layer.channel(layer.spatial(x))).abs().max() > 1e-3


def test_undecided_gates_halve_and_nothing_is_added_to_them():
    layer, x = CBAM(8, reduction=2).double(), image(2, 8, 9, 9)
    for weight in (layer.channel.fc2.weight, layer.spatial.conv.conv.weight):
        nn.init.zeros_(weight)
    assert_same(layer.channel(x), x / 2)
    assert_same(layer.spatial(x), x / 2)
    assert_same(layer(x), x / 4)


def test_the_kernel_sees_the_mean_first_and_the_maximum_second():
    layer, x = SpatialGate().double().eval(), image(2, 4, 9, 9)
    centred = x - x.mean(1, keepdim=True)
    nn.init.zeros_(layer.conv.conv.weight[:, 1])
    assert_same(layer(centred), centred / 2)
    assert (layer(x) - x / 2).abs().max() > 1e-3


@pytest.mark.parametrize("kernel_size", [0, 2, -3])
def test_a_kernel_without_a_middle_is_refused(kernel_size):
    for build in (lambda: SpatialGate(kernel_size=kernel_size), lambda: CBAM(16, kernel_size=kernel_size)):
        with pytest.raises(ValueError, match=f"a window of side {kernel_size} has no middle; odd sides do"):
            build()


@settings(max_examples=30)
@given(width=sides, reduction=sides, radius=st.integers(0, 3), height=sides, side=sides)
def test_the_cost_of_cbam_and_its_halves_is_what_their_docstrings_say(width, reduction, radius, height, side):
    channels, k = width * reduction, 2 * radius + 1
    shape = (1, channels, height, side)
    channel, spatial = ChannelGate(channels, reduction=reduction), SpatialGate(kernel_size=k)
    whole = CBAM(channels, reduction=reduction, kernel_size=k)
    macs, parameters = (3 * channels * width, 2 * k**2 * height * side), (2 * channels * width, 2 * k**2 + 2)
    assert (count_macs(channel, shape), count_macs(spatial, shape)) == macs
    assert (count_parameters(channel), count_parameters(spatial)) == parameters
    assert count_macs(whole, shape) == sum(macs)
    assert count_parameters(whole) == sum(parameters)


# Selective kernel


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("branches", "groups"), [(2, 1), (2, 4), (3, 2)])
def test_selective_kernel_is_that_of_timm(branches, groups, training):
    layer = unsettled(SelectiveKernel(8, dilations=range(1, branches + 1), groups=groups))
    kernels = [3, 5, 7][:branches]
    oracle = TimmsSelectiveKernel(8, kernel_size=kernels, groups=groups, split_input=False, rd_channels=32).double()
    assert_same_layer(layer.train(training), oracle.train(training), image(3, 8, 6, 5))


def test_the_branches_share_every_channel_between_them():
    layer, x = tiny("sk")
    expected = layer(x)
    with record_weights() as weights:
        assert_same(layer(x), expected)
    assert [w.shape for w in weights] == [(2, 4, 1, 3)]
    assert_same(weights[0].sum(-1), torch.ones(2, 4, 1).double())
    assert weights[0].std(1).min() > 1e-3


def test_equal_branches_leave_nothing_to_select():
    layer, x = unsettled(SelectiveKernel(4, dilations=(2, 2))).eval(), image(2, 4, 5, 5)
    layer.paths[1].load_state_dict(layer.paths[0].state_dict())
    assert_same(layer(x), layer.paths[0](x).relu())


@pytest.mark.parametrize(("channels", "reduction", "width"), [(8, 16, 32), (64, 2, 32), (66, 2, 33), (128, 1, 128)])
def test_the_squeezed_vector_is_as_wide_as_the_paper_says(channels, reduction, width):
    assert SelectiveKernel(channels, groups=channels // 2, reduction=reduction).attn.fc_reduce.out_channels == width


def test_the_squeezed_vector_is_normalized_and_rectified():
    layer, x, seen = unsettled(SelectiveKernel(4)), image(5, 4, 3, 3), []
    layer.attn.fc_reduce.register_forward_hook(lambda module, inputs, output: seen.append(output))
    layer.attn.fc_select.register_forward_pre_hook(lambda module, inputs: seen.append(*inputs))
    layer(x)
    before, after = seen
    centred = (before - before.mean(0)) / (before.var(0, unbiased=False) + 1e-5).sqrt()
    norm = layer.attn.bn
    assert_same(after, (centred * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(min=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dilations": ()}, r"dilations \(\) must name at least one branch, each at least 1"),
        ({"dilations": (1, 0)}, r"dilations \(1, 0\) must name at least one branch, each at least 1"),
        ({"reduction": 0}, r"reduction 0 is no reduction; it must be at least 1"),
        ({"groups": 3}, r"3 groups do not divide 8 channels; groups that do: \[1, 2, 4, 8\]"),
        ({"groups": 0}, r"0 groups do not divide 8 channels"),
    ],
)
def test_branches_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SelectiveKernel(8, **options)


@settings(max_examples=30)
@given(width=sides, groups=sides, branches=st.integers(1, 3), reduction=st.integers(1, 3), side=sides)
def test_the_cost_of_selective_kernel_is_what_the_docstring_says(width, groups, branches, reduction, side):
    channels, pixels = 8 * width * groups, side * (side + 1)
    layer = SelectiveKernel(channels, dilations=[1] * branches, groups=groups, reduction=reduction)
    squeezed = max(channels // reduction, 32)
    convolutions, linear = 9 * branches * channels**2 // groups, (branches + 1) * channels * squeezed
    macs = pixels * (convolutions + branches * channels) + branches * channels + linear
    assert count_macs(layer, (1, channels, side, side + 1)) == macs
    assert count_parameters(layer) == convolutions + linear + 2 * branches * channels + 2 * squeezed


# Temporal attention


def test_temporal_attention_is_that_of_pytorch_at_every_pixel():
    layer, x = TemporalAttention(8, 2).double(), image(2, 5, 8, 3, 4).requires_grad_()
    oracle = nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)
    names = ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]
    oracle.load_state_dict(dict(zip(names, layer.parameters())))
    expected = torch.empty_like(x)
    for i in range(3):
        for j in range(4):
            history = x[..., i, j]
            expected[..., i, j] = oracle(history, history, history, need_weights=False)[0]
    assert_same_with_gradients(layer(x), expected, [x, *layer.parameters()], [x, *oracle.parameters()])


def test_one_moment_returns_the_projected_values():
    layer, x = TemporalAttention(8, 2).double(), torch.randn(2, 1, 8, 3, 4).double()
    values = layer.qkv(x.movedim(2, -1)).chunk(3, dim=-1)[2]
    assert_same(layer(x), layer.proj(values).movedim(-1, 2))


def test_every_pixel_looks_at_its_own_history_alone():
    layer, x = TemporalAttention(8, 2).double(), image(2, 5, 8, 3, 4).requires_grad_()
    with record_weights() as weights:
        y = layer(x)
    assert [w.shape for w in weights] == [(2 * 3 * 4, 2, 5, 5)]
    (gradient,) = torch.autograd.grad(y[1, 2, :, 2, 0].sum(), x)
    met = gradient.abs().amax(2).nonzero().tolist()
    assert met == [[1, moment, 2, 0] for moment in range(5)]


def test_moments_have_no_order():
    layer, x = tiny("temporal")
    assert_same(layer(x.flip(1)), layer(x).flip(1))


def test_heads_and_clips_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"3 heads do not divide 8 channels"):
        TemporalAttention(8, 3)
    with pytest.raises(ValueError, match=r"tokens 4 wide .* for tokens 8 wide"):
        TemporalAttention(8, 2)(torch.zeros(1, 2, 4, 3, 3))


@given(heads=sides, width=sides, moments=sides, height=sides, side=sides)
def test_the_cost_of_temporal_attention_is_what_the_docstring_says(heads, width, moments, height, side):
    channels = heads * width
    layer = TemporalAttention(channels, heads)
    macs = height * side * (4 * moments * channels**2 + 2 * moments**2 * channels)
    assert count_macs(layer, (1, moments, channels, height, side)) == macs
    assert count_parameters(layer) == 4 * channels**2 + 4 * channels


# Large kernel attention


class ThreeConvolutions(nn.Module):
    """VAN's attention, said with PyTorch's own dilated convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.conv_spatial = nn.Conv2d(channels, channels, 7, padding=9, groups=channels, dilation=3)
        self.conv1 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv1(self.conv_spatial(self.conv0(x)))


@given(channels=sides, height=st.integers(1, 11), width=st.integers(1, 11))
def test_large_kernel_attention_is_three_convolutions_whatever_the_size(channels, height, width):
    layer, oracle = LargeKernelAttention(channels).double(), ThreeConvolutions(channels).double()
    assert_same_layer(layer, oracle, image(2, channels, height, width))


def support(layer: nn.Module, side: int) -> Tensor:
    """The positions, from the middle one, that the middle pixel of the output depends on."""
    x = image(1, 4, side, side).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x)[0, :, side // 2, side // 2].sum(), x)
    return gradient.abs().amax((0, 1)).nonzero() - side // 2


@pytest.mark.parametrize(
    ("build", "radius"), [(lambda: LargeKernelAttention(4), 11), (SpatialGate, 3)], ids=["lka", "spatial"]
)
def test_a_weight_depends_on_its_whole_neighbourhood_and_on_nothing_else(build, radius):
    seen = support(unsettled(build()).eval(), 29)
    assert len(seen) == (2 * radius + 1) ** 2
    assert seen.abs().max() == radius


def test_weights_of_large_kernel_attention_pass_no_sigmoid():
    layer, x = tiny("lka")
    expected = -3 * layer(x)
    for parameter in layer.conv1.parameters():
        parameter.data *= -3
    assert_same(layer(x), expected)


@given(channels=sides, height=st.integers(1, 11), width=st.integers(1, 11))
def test_the_cost_of_large_kernel_attention_is_what_the_docstring_says(channels, height, width):
    layer, blocks = LargeKernelAttention(channels), -(-height // 3) * -(-width // 3)
    macs = height * width * channels * (channels + 25) + 49 * channels * 9 * blocks
    assert count_macs(layer, (1, channels, height, width)) == macs
    assert count_parameters(layer) == channels**2 + 77 * channels
