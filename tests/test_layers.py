"""What holds for every layer of the registry, whatever it computes."""

import shutil

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

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
    for same in (x.mT.contiguous().mT, x.contiguous(memory_format=torch.channels_last)):
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


@pytest.mark.parametrize("name", [name for name in MECHANISMS if name != "hashed"])  # ONNX has no stable sort
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
