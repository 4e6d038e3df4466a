"""Hosts are the networks they are called after, and carry a mechanism after the stages that were chosen, or nothing."""

from collections.abc import Iterator, Sequence
from math import ceil

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
from torch import nn

from gsa.layers import MECHANISMS, AttentionStem, MatrixConvolution, StandAloneSelfAttention, build_mechanism
from gsa.models import (
    MODELS,
    RESNETS,
    BasicCNN,
    MixingBlock,
    ResNet,
    StandAloneBlock,
    build_model,
    matched_width,
    resnet8,
    resnet18,
    resnet20,
)
from gsa.models.normalization import SynchronizedBatchNorm2d, synchronize_batch_norm
from gsa.models.whitened import whitening_kernels
from gsa.probes import count_macs, count_parameters
from gsa.training import checkpoint

PUBLISHED = {"resnet20": 272_474, "resnet32": 466_906, "resnet44": 661_338, "resnet56": 855_770}
PUBLISHED |= {"resnet18": 11_173_962, "resnet34": 21_282_122}


def convolutions(blocks: Sequence[int], width: int, size: int = 32, colours: int = 3) -> Iterator[tuple[int, int, int]]:
    """Weights, output channels and output pixels of every convolution of a residual network."""
    yield 9 * colours * width, width, size**2
    channels_in = width
    for stage, depth in enumerate(blocks):
        channels, pixels = width * 2**stage, (size // 2**stage) ** 2
        for block in range(depth):
            yield 9 * channels_in * channels, channels, pixels
            yield 9 * channels**2, channels, pixels
            if block == 0 and stage > 0:
                yield channels_in * channels, channels, pixels
            channels_in = channels


@pytest.mark.parametrize("name", RESNETS)
def test_cost_is_that_of_the_convolutions(name):
    blocks, width = (MODELS[name].keywords[key] for key in ("blocks", "width"))
    features = width * 2 ** (len(blocks) - 1)
    layers = list(convolutions(blocks, width))
    with torch.device("meta"):
        model = build_model(name)
    parameters = sum(weights + 2 * channels for weights, channels, _ in layers) + 10 * features + 10
    assert count_parameters(model) == parameters == PUBLISHED.get(name, parameters)
    assert count_macs(model, (1, 3, 32, 32)) == sum(weights * p for weights, _, p in layers) + 10 * features
    assert name == f"resnet{2 * sum(blocks) + 2}"


@pytest.mark.parametrize("training", [False, True])
def test_resnet18_is_that_of_torchvision_with_a_small_stem(training):
    oracle = torchvision.models.resnet18(num_classes=10)
    oracle.conv1, oracle.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    model = resnet18().train(training)
    oracle.train(training)
    oracle.load_state_dict(dict(zip(oracle.state_dict(), model.state_dict().values(), strict=True)))
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(model(x), oracle(x))


def places(model: ResNet) -> list[int]:
    """After which stage, told by its channels, each mechanism comes."""
    places, stages = [], {model.stem[0].out_channels * 2**s: s + 1 for s in range(4)}
    for module in model.body:
        if isinstance(module, MixingBlock):
            places.append(stages[module.norm.num_features])
    return places


@pytest.mark.parametrize("stages", [(), (1,), (3,), (2, 3), (3, 1), (1, 2, 3)])
def test_a_mechanism_comes_once_after_each_chosen_stage(stages):
    model = resnet20(mechanism="gsa", stages=stages, width=4)
    assert places(model) == sorted(stages)
    for block, following in zip(model.body, [*model.body[1:], None]):
        if isinstance(block, MixingBlock):
            assert following is None or following.conv1.stride == (2, 2)


def test_by_default_a_mechanism_comes_after_stages_two_and_three():
    assert places(resnet20(mechanism="se")) == [2, 3]
    assert places(resnet18(mechanism="se")) == [2, 3]


def test_none_adds_nothing_at_all():
    torch.manual_seed(0)
    with_none = resnet8(mechanism="none", stages=(1, 2, 3)).state_dict()
    torch.manual_seed(0)
    bare = resnet8().state_dict()
    assert with_none.keys() == bare.keys()
    assert all(torch.equal(tensor, bare[name]) for name, tensor in with_none.items())


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_mechanism_is_built_for_the_map_of_its_stage(mechanism):
    model = resnet8(mechanism=mechanism, stages=(2, 3), width=4, size=(32, 32))
    built = [m.mechanism for m in model.body if isinstance(m, MixingBlock)]
    expected = [build_mechanism(mechanism, 8, (16, 16)), build_mechanism(mechanism, 16, (8, 8))]
    assert [str(m) for m in built] == ([] if mechanism == "none" else [str(m) for m in expected])
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_grey_images_of_28_pixels_and_other_classes(mechanism):
    model = resnet8(mechanism=mechanism, stages=(2,), width=4, classes=7, in_channels=1, size=(28, 28))
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 7)


def test_sizes_that_do_not_halve_are_rounded_up_as_convolutions_do():
    model = resnet8(mechanism="gsa-folded", stages=(2,), width=4, size=(15, 15))
    assert model(torch.randn(2, 3, 15, 15)).shape == (2, 10)


def test_a_mechanism_is_added_to_the_normalised_map():
    block = MixingBlock(nn.Conv2d(4, 4, 1), 4)
    x = 5 * torch.randn(3, 4, 6, 6) + 2
    normalised = (x - x.mean((0, 2, 3), keepdim=True)) / x.var((0, 2, 3), correction=0, keepdim=True).add(1e-5).sqrt()
    torch.testing.assert_close(block(x), x + block.mechanism(normalised))


def test_every_parameter_of_a_network_learns():
    model = resnet8(mechanism="gsa", stages=(1, 2, 3), width=4, size=(8, 8))
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet21", {}, r"unknown model 'resnet21'; there are .*resnet20.*resnet18"),
        ("resnet20", {"mechanism": "sag"}, r"unknown mechanism 'sag'; there are none, .*gsa"),
        ("resnet20", {"stages": (0, 3, 4)}, r"stages \[0, 4\] do not exist; this network has stages 1…3"),
        ("whitened", {"stages": (1, 4)}, r"stages \[4\] do not exist; this network has stages 1…3"),
        ("resnet18", {"stages": (5,)}, r"stages \[5\] do not exist; this network has stages 1…4"),
        ("resnet8", {"mechanism": "gsa-folded", "size": (28, 28)}, r"7×7 map"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, **{"mechanism": "gsa"} | options)


@pytest.mark.parametrize("what", ["parameters", "macs"])
@pytest.mark.parametrize("mechanism", ["gsa", "conv", "none"])
@pytest.mark.parametrize("width", [None, 8])
def test_a_matched_width_is_the_nearest_of_all(what, mechanism, width):
    cost = {"parameters": count_parameters, "macs": lambda model: count_macs(model, (1, 3, 16, 16))}[what]

    def of(width: int | None, **options) -> int:
        with torch.device("meta"):
            return cost(build_model("resnet8", width, size=(16, 16), **options))

    target = of(width, mechanism=mechanism, stages=(1, 3))
    own = width or 16
    nearest = min(range(own, 2 * own), key=lambda width: abs(of(width) - target))
    assert matched_width("resnet8", width, mechanism, (1, 3), cost, size=(16, 16)) == nearest
    assert (nearest > own) == (mechanism != "none")


# The stand-alone network

STAND_ALONE = [name for name in MODELS if name.startswith("sasa")]


def test_every_residual_network_has_a_stand_alone_form_with_and_without_the_stem():
    assert [f"sasa-{name}" for name in RESNETS] + [f"sasa-{name}-stem" for name in RESNETS] == STAND_ALONE


@pytest.mark.parametrize("name", STAND_ALONE)
def test_the_stand_alone_network_has_no_spatial_convolution_but_perhaps_the_stem(name):
    with torch.device("meta"):
        model = build_model(name)
    spatial = [at for at, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert spatial == ([] if name.endswith("-stem") else ["stem.0"])
    modules = list(model.modules())
    host = RESNETS[name.removeprefix("sasa-").removesuffix("-stem")]
    assert sum(isinstance(m, StandAloneSelfAttention) for m in modules) == 2 * sum(host.keywords["blocks"])
    assert sum(isinstance(m, AttentionStem) for m in modules) == name.endswith("-stem")


@pytest.mark.parametrize("name", ["sasa-resnet8", "sasa-resnet20", "sasa-resnet20-stem", "sasa-resnet18-stem"])
def test_the_stand_alone_network_costs_what_its_blocks_say(name):
    blocks, width = (MODELS[name].keywords[key] for key in ("blocks", "width"))
    stem = name.endswith("-stem")
    with torch.device("meta"):
        model, head = build_model(name), nn.Linear(width * 2 ** (len(blocks) - 1), 10)
        start = AttentionStem(width) if stem else nn.Conv2d(3, width, 3, padding=1, bias=False)
    parameters = count_parameters(start) + (0 if stem else 2 * width) + count_parameters(head)
    macs = count_macs(start, (1, 3, 32, 32)) + head.weight.numel()
    before, side = width, 32 // 4 if stem else 32
    for stage, depth in enumerate(blocks):
        channels = width * 2**stage
        for block in range(depth):
            changes = stage > 0 and block == 0
            parameters += 3 * (before**2 + channels**2) + 7 * (before + channels) // 4 + 4 * channels
            parameters += changes * (2 * before * channels + 2 * channels)
            macs += of_attention(before, side)
            side //= 2 if changes else 1
            macs += of_attention(channels, side) + changes * 2 * before * channels * side**2
            before = channels
    assert count_parameters(model) == parameters
    assert count_macs(model, (1, 3, 32, 32)) == macs


def of_attention(channels: int, side: int) -> int:
    with torch.device("meta"):
        return count_macs(StandAloneSelfAttention(channels), (1, channels, side, side))


@pytest.mark.parametrize(("before", "channels", "stride"), [(8, 8, 1), (8, 16, 2), (8, 8, 2), (8, 16, 1)])
@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_a_stand_alone_block_is_its_equation(before, channels, stride, size):
    block = StandAloneBlock(before, channels, stride, heads=2, kernel_size=3).eval()
    for norm in (m for m in block.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, before, *size)
    y = block.attention1(x)
    rows, columns = (ceil(side / stride) for side in size)
    y = torch.stack([y[..., i * stride : (i + 1) * stride, :].mean(-2) for i in range(rows)], -2)
    y = torch.stack([y[..., j * stride : (j + 1) * stride].mean(-1) for j in range(columns)], -1)
    if channels != before:
        y = torch.einsum("oc, bcij -> boij", block.change[1].weight[..., 0, 0], y)
    short = x if (before, stride) == (channels, 1) else block.shortcut(x)
    expected = (short + block.bn2(block.attention2(block.bn1(y).relu()))).relu()
    torch.testing.assert_close(block(x), expected)
    assert expected.shape == (2, channels, rows, columns)


@pytest.mark.parametrize("size", [32, 24])
@pytest.mark.parametrize("name", ["sasa-resnet8", "sasa-resnet8-stem"])
def test_the_stand_alone_network_carries_a_mechanism_on_the_map_of_its_stage(name, size):
    model = build_model(name, width=8, mechanism="gsa", stages=(1, 2), classes=7, in_channels=1, size=(size, size))
    side = size // 4 if name.endswith("-stem") else size
    built = [m.mechanism for m in model.body if isinstance(m, MixingBlock)]
    sides = [(channels, side // halved) for channels, halved in ((8, 1), (16, 2))]
    assert [str(m) for m in built] == [str(build_mechanism("gsa", c, (s, s))) for c, s in sides]
    assert model(torch.randn(2, 1, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", ["sasa-resnet8", "sasa-resnet8-stem"])
def test_every_parameter_of_a_stand_alone_network_learns(name):
    model = build_model(name, width=8, size=(16, 16))
    model(torch.randn(4, 3, 16, 16)).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", ["sasa-resnet8", "sasa-resnet8-stem"])
def test_a_checkpoint_brings_a_stand_alone_network_back(tmp_path, name):
    model, other = (build_model(name, width=8, size=(16, 16)) for _ in range(2))
    x = torch.randn(2, 3, 16, 16)
    model(x)
    assert not torch.equal(model.eval()(x), other.eval()(x))
    checkpoint.save(tmp_path / "network.safetensors", model, [], {"epoch": 1})
    checkpoint.load_tensors(tmp_path / "network.safetensors", other, [])
    assert torch.equal(model(x), other(x))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sasa-resnet8", {"width": 17}, r"4 heads do not divide 17 channels"),
        ("sasa-resnet8", {"width": 12}, r"12 channels are 3 wide: odd; heads of even width: \[1, 2, 3, 6\]"),
        ("sasa-resnet8-stem", {"size": (30, 30)}, r"window\(4\): a 30×30 map .*multiples of 4"),
    ],
)
def test_a_stand_alone_network_that_does_not_fit_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, **options)(torch.randn(2, 3, 30, 30))


# The whitened network


def normalised(x: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
    """Zero mean and unit variance in every channel, and a bias; the running statistics have gone 0.4 of the way."""
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    torch.testing.assert_close(norm.running_mean, 0.4 * mean)
    torch.testing.assert_close(norm.running_var, 0.6 + 0.4 * x.var((0, 2, 3)))
    return (x - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None] + norm.bias[:, None, None]


def gelu(x: torch.Tensor) -> torch.Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


@pytest.mark.parametrize("size", [(16, 16), (11, 24)])
@pytest.mark.parametrize("name", ["whitened", "whitened-published"])
def test_the_whitened_network_is_its_equation(name, size):
    model = build_model(name, 4, mechanism="se", stages=(1, 3), size=size).double()
    x = torch.randn(3, 3, *size, dtype=torch.float64)
    for parameter in (p for p in model.parameters() if p.ndim == 1 and p.requires_grad):
        nn.init.normal_(parameter)
    found = model(x)
    if name == "whitened":
        x = torch.cat([torch.zeros_like(x[..., :1]), x], dim=3)
        x = torch.cat([torch.zeros_like(x[..., :1, :]), x], dim=2)
    y = gelu(F.conv2d(x, model.stem.weight, model.stem.bias))
    assert [isinstance(group, MixingBlock) for group in model.body] == [False, True, False, False, True]
    for group in model.body:
        if isinstance(group, MixingBlock):
            norm = group.norm
            mean, variance = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), correction=0, keepdim=True)
            scaled = (y - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
            y = y + group.mechanism(scaled)
            continue
        kernels = [conv.weight.view(len(conv.weight), -1, 3, 3) for conv in (group.conv1, group.conv2)]
        y = gelu(normalised(F.max_pool2d(F.conv2d(y, kernels[0], padding=1), 2), group.norm1))
        y = gelu(normalised(F.conv2d(y, kernels[1], padding=1), group.norm2))
    largest = y.flatten(2).max(2).values
    torch.testing.assert_close(found, largest @ model.head.weight.T + model.head.bias)


@pytest.mark.parametrize(("name", "widths"), [("whitened", (64, 128, 256)), ("whitened-published", (64, 256, 256))])
def test_the_whitened_networks_have_their_widths(name, widths):
    with torch.device("meta"):
        assert [group.norm2.num_features for group in build_model(name).body] == list(widths)


def test_whitened_patches_are_uncorrelated_with_variance_one():
    x = F.avg_pool2d(torch.randn(20, 3, 34, 34), 3, stride=1) * torch.tensor([1.0, 2, 3])[:, None, None]
    responses = F.conv2d(x, whitening_kernels(x, epsilon=1e-9)).movedim(1, 0).flatten(1)
    torch.testing.assert_close(torch.cov(responses), torch.eye(12), atol=1e-2, rtol=0)


def test_directions_that_hold_little_are_not_blown_up():
    x = torch.randn(50, 3, 16, 16) * torch.tensor([1.0, 0.1, 0.01])[:, None, None]
    variances = torch.cov(F.conv2d(x, whitening_kernels(x)).movedim(1, 0).flatten(1)).diag().sort().values
    expected = torch.tensor([v / (v + 5e-4) for v in (1e-4, 1e-2, 1.0)]).repeat_interleave(4)
    torch.testing.assert_close(variances, expected, atol=0.02, rtol=0)


def test_the_stem_keeps_both_signs_and_is_not_trained():
    model = build_model("whitened", 4, size=(16, 16))
    x = torch.randn(10, 3, 16, 16)
    model.whiten(x)
    assert torch.equal(model.stem.weight[:12], -model.stem.weight[12:])
    torch.testing.assert_close(model.stem.weight[:12], whitening_kernels(x))
    assert not model.stem.weight.requires_grad and model.stem.bias.requires_grad


def test_kernels_as_a_matrix_are_a_convolution_that_begins_as_the_identity():
    layer, x = MatrixConvolution(3, 5), torch.randn(2, 3, 6, 6)
    assert torch.equal(layer(x), F.conv2d(x, layer.weight.view(5, 3, 3, 3), padding=1))
    torch.testing.assert_close(layer(x)[:, :3], x)


# Batch normalisation over processes; that two of them agree with one is a test of training


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("training", [True, False])
def test_synchronised_normalisation_is_that_of_pytorch(one_process, training):
    plain = nn.BatchNorm2d(4)
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    plain.running_mean.normal_()
    plain.running_var.uniform_(0.5, 2)
    synchronised = nn.Sequential(nn.BatchNorm2d(4))
    synchronised[0].load_state_dict(plain.state_dict())
    synchronize_batch_norm(synchronised)
    assert type(synchronised[0]) is SynchronizedBatchNorm2d
    x = (2 * torch.randn(3, 4, 5, 5) + 3).requires_grad_()
    found, expected = synchronised.train(training)(x), plain.train(training)(x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    cotangent = torch.randn_like(found)
    inputs = ([x, *synchronised.parameters()], [x, *plain.parameters()])
    for one, other in zip(*(torch.autograd.grad(y, i, cotangent) for y, i in zip((found, expected), inputs))):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(synchronised[0].state_dict()[name], tensor)


def test_the_basic_network_is_its_equation():
    network, x = BasicCNN(classes=4, in_channels=3, size=14), torch.randn(2, 3, 14, 14)

    def layer(x: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
        y = F.conv2d(x, conv.weight, conv.bias)
        corners = [y[..., i : y.shape[2] // 2 * 2 : 2, j : y.shape[3] // 2 * 2 : 2] for i in (0, 1) for j in (0, 1)]
        return torch.stack(corners).amax(0).clamp(min=0)

    y = layer(layer(x, network.conv1), network.conv2).flatten(1)
    torch.testing.assert_close(network(x), y @ network.fc.weight.T + network.fc.bias)


def test_the_basic_network_has_the_parameters_that_its_source_lists():
    network = BasicCNN()
    counts = [sum(p.numel() for p in layer.parameters()) for layer in (network.conv1, network.conv2, network.fc)]
    assert counts == [260, 1820, 5010] and count_parameters(network) == 7090
    assert network(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert BasicCNN(4, in_channels=3, size=12)(torch.randn(2, 3, 12, 12)).shape == (2, 4)
    with pytest.raises(ValueError, match="11×11 pixels leave nothing"):
        BasicCNN(size=11)
