"""What holds for every layer of the registry, whatever it computes."""

import shutil

import onnxruntime
import pytest
import torch
from helpers import laid_out
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic

from gsa import layers
from gsa.layers import MECHANISMS, build_mechanism, cheapest_patch, record_weights

SOFTMAXES = {"sk": 1, "self": 1, "non-local": 1, "sasa": 1, "window": 1, "grid": 1, "gsa": 2}
SOFTMAXES |= {"twins-gsa": 1, "twins": 2, "hashed": 1}
SOFTMAXES |= {"gsa-folded": 2, "gsa-folded-across": 1, "gsa-folded-within": 1}

every_mechanism = pytest.mark.parametrize("name", MECHANISMS)


def tiny(name: str, channels: int = 8, side: int = 4) -> tuple[nn.Module, Tensor]:
    """The layer and an input for it, in float64, with no parameter left at a zero that would hide a mistake."""
    layer = build_mechanism(name, channels, (side, side)).double().eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer, torch.randn(3, channels, side, side).double()


@every_mechanism
@pytest.mark.parametrize("size", [(4, 4), (8, 16)])
def test_a_map_keeps_its_shape(name, size):
    x = torch.randn(2, 8, *size)
    assert build_mechanism(name, 8, size)(x).shape == x.shape


@every_mechanism
def test_everything_is_made_on_the_device_of_the_map(name):
    layer, x = tiny(name)
    assert layer.to("meta")(x.to("meta")).is_meta


@every_mechanism
def test_an_image_does_not_depend_on_its_batch(name):
    layer, x = tiny(name)
    torch.testing.assert_close(layer(x)[1:2], layer(x[1:2]))


@every_mechanism
def test_layout_in_memory_does_not_matter(name):
    layer, x = tiny(name)
    expected = layer(x)
    for same in laid_out(x):
        torch.testing.assert_close(layer(same), expected)
    torch.testing.assert_close(layer.to(memory_format=torch.channels_last)(x), expected)


@every_mechanism
def test_half_precision_stays_near_full_precision(name):
    layer, x = build_mechanism(name, 8, (4, 4)).eval(), torch.randn(3, 8, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
    assert half.isfinite().all()
    if name != "hashed":  # whose pixels change buckets by rounding
        torch.testing.assert_close(half.float(), layer(x), atol=0.05, rtol=0.05)


@every_mechanism
def test_gradients_are_those_of_finite_differences(name):
    layer, x = tiny(name)
    x = x[:1].requires_grad_()
    names, parameters = zip(*layer.named_parameters()) if name != "none" else ((), ())

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters)), (x,))

    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)


@every_mechanism
def test_weights_survive_safetensors(name, tmp_path):
    layer, x = tiny(name)
    save_file(layer.state_dict(), tmp_path / "weights.safetensors")
    again, _ = tiny(name)
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(again(x), layer(x))


@every_mechanism
def test_rows_of_every_softmax_sum_to_one(name):
    layer, x = tiny(name)
    expected = layer(x)
    with record_weights() as weights:
        recorded = layer(x)
    torch.testing.assert_close(recorded, expected)
    assert len(weights) == SOFTMAXES.get(name, 0)
    for matrix in weights:
        torch.testing.assert_close(matrix.sum(-1), torch.ones(matrix.shape[:-1]).double())


@every_mechanism
def test_it_compiles_whole(name, unchecked):
    layer, x = tiny(name)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="eager")(x), layer(x))


@every_mechanism
def test_it_exports(name, unchecked):
    layer, x = tiny(name)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


@every_mechanism
def test_what_is_exported_takes_any_number_of_images(name, unchecked):
    layer, x = tiny(name)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    more = torch.cat([x, x.flip(0), x])
    torch.testing.assert_close(program.module()(more), layer(more))


@every_mechanism
def test_no_images_give_no_images(name):
    layer, x = tiny(name)
    y = layer(x[:0].requires_grad_())
    assert y.shape == (0, 8, 4, 4)
    y.sum().backward()


@every_mechanism
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_what_is_no_number_kills_nobody_and_no_other_image(name, bad):
    layer, x = tiny(name)
    expected = layer(x)[1:]
    x[0, 0, 1, 1] = bad
    y = layer(x.requires_grad_())
    torch.testing.assert_close(y[1:], expected)
    y.sum().backward()


@pytest.mark.parametrize("name", [name for name in MECHANISMS if name not in ("none", "conv")])
def test_a_missing_axis_is_refused_with_the_shape(name, unchecked):
    layer, x = tiny(name)
    with pytest.raises(ValueError, match=r"\(batch, channels, height, width\), got one of shape \(8, 4, 4\)"):
        layer(x[0])


@every_mechanism
def test_linear_layers_can_be_quantized(name, unchecked):
    layer, x = (part.float() for part in tiny(name))
    y = quantize_dynamic(layer, {nn.Linear}, dtype=torch.qint8)(x)
    assert y.shape == x.shape and y.isfinite().all()


@every_mechanism
def test_onnx_runtime_agrees(name, unchecked):
    layer, x = (part.float() for part in tiny(name))
    program = torch.onnx.export(layer, (x,), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), layer(x), atol=1e-4, rtol=1e-4)


def test_its_gradients_compile(unchecked):
    layer, x = tiny("gsa")
    inputs = [x.requires_grad_(), *layer.parameters()]
    outputs = (torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))
    for one, other in zip(*(torch.autograd.grad(output.square().sum(), inputs) for output in outputs)):
        torch.testing.assert_close(one, other)


@pytest.mark.skipif(not shutil.which("g++"), reason="the default compiler needs g++ on the CPU")
def test_compiled_machine_code_agrees(unchecked):
    layer, x = tiny("window")
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), layer(x))


WRITTEN_OUT = {
    "none": lambda: nn.Identity(),
    "conv": lambda: nn.Conv2d(8, 8, 3, padding=1),
    "separable": lambda: layers.DepthwiseSeparableConvolution(8, kernel_size=3),
    "se": lambda: layers.SqueezeExcitation(8, reduction=4),
    "channel": lambda: layers.ChannelGate(8, reduction=4),
    "spatial": lambda: layers.SpatialGate(kernel_size=7),
    "cbam": lambda: layers.CBAM(8, reduction=4, kernel_size=7),
    "sk": lambda: layers.SelectiveKernel(8, dilations=(1, 2), groups=1, reduction=16),
    "lka": lambda: layers.LargeKernelAttention(8),
    "stn": lambda: layers.SpatialTransformer(8, hidden=32),
    "deformable": lambda: layers.DeformableConvolution(8, kernel_size=3, modulated=False),
    "deformable-modulated": lambda: layers.DeformableConvolution(8, kernel_size=3, modulated=True),
    "self": lambda: layers.SelfAttention(8, 4, partition=layers.GLOBAL),
    "non-local": lambda: layers.NonLocal(8, reduction=2),
    "sasa": lambda: layers.StandAloneSelfAttention(8, 4, kernel_size=7),
    "window": lambda: layers.SelfAttention(8, 4, partition=layers.window(4)),
    "grid": lambda: layers.SelfAttention(8, 4, partition=layers.grid(4)),
    "twins-gsa": lambda: layers.GlobalSubsampledAttention(8, 4, reduction=4),
    "twins": lambda: nn.Sequential(
        layers.LocallyGroupedAttention(8, 4, window=4), layers.GlobalSubsampledAttention(8, 4, reduction=4)
    ),
    "peg": lambda: layers.PositionEncodingGenerator(8),
    "hashed": lambda: layers.LSHAttention(8, 4, bucket=16, rounds=2),
    "gsa": lambda: layers.GlobalSparseAttention(8, 4, patch=4),
    "gsa-projections": lambda: nn.Sequential(
        layers.ProjectedValues(8, partition=layers.grid(4)), layers.ProjectedValues(8, partition=layers.window(4))
    ),
    "gsa-folded": lambda: folded(),
    "gsa-folded-across": lambda: folded().across,
    "gsa-folded-within": lambda: folded().within,
    "gsa-folded-projections": lambda: nn.Sequential(
        layers.ProjectedValues(32, partition=layers.folded_channels(2)),
        layers.ProjectedValues(32, partition=layers.patches(2)),
    ),
}
"""Each name for 8 channels and maps of 8 × 16, with every argument that its constructor has."""


def folded() -> nn.Module:
    return layers.FoldedGlobalSparseAttention(8, 4, size=(8, 16), patch=2)


def test_every_mechanism_is_written_out():
    assert WRITTEN_OUT.keys() == MECHANISMS.keys()


@every_mechanism
def test_a_name_is_what_its_constructor_builds(name):
    built, written, x = (
        build_mechanism(name, 8, (8, 16)).double(),
        WRITTEN_OUT[name]().double(),
        torch.randn(2, 8, 8, 16),
    )
    for parameter in written.parameters():
        nn.init.normal_(parameter, std=0.1)
    built.load_state_dict(written.state_dict())
    torch.testing.assert_close(built.eval()(x.double()), written.eval()(x.double()), rtol=0, atol=0)


def test_window_and_grid_are_the_stages_of_gsa():
    window, grid, gsa = (build_mechanism(name, 8, (16, 16)) for name in ("window", "grid", "gsa"))
    assert gsa.across.partition == grid.partition
    assert gsa.within[0].partition == window.partition
    assert cheapest_patch(16, 16) == 4


@pytest.mark.parametrize("name", ["gsa", "gsa-folded"])
def test_projections_alone_have_the_projections_of_their_model(name):
    full, control = build_mechanism(name, 8, (4, 4)), build_mechanism(f"{name}-projections", 8, (4, 4))
    out = [p.shape for key, p in full.named_parameters() if "proj" in key]
    assert [p.shape for key, p in control.named_parameters() if "proj" in key] == out
    assert [p.shape for key, p in control.named_parameters() if ".v." in key] == out


def test_an_unknown_mechanism_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"unknown mechanism 'sag'; there are none, conv, .*se, .*gsa"):
        build_mechanism("sag", 8, (4, 4))
