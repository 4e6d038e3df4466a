"""The speedrun whitens, gives each parameter to one optimizer, counts its work, and keeps what it did."""

import json
import math
import re
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from gsa import speedrun
from gsa.__main__ import main
from gsa.data import Dataset
from gsa.models.whitened import MatrixConvolution, WhitenedNet, whitening_kernels
from gsa.probes import count_macs
from gsa.speedrun import Race, Speedrun, count_step_flops, finished, make_optimizers, table, train

RUN = Speedrun(data="tinted", epochs=2, batch=20, crop=1, precision="fp32")


def tinted() -> Dataset:
    """Four classes of 16×16 noise, each with a tint of its own."""
    drawn = torch.Generator().manual_seed(0)
    y = torch.arange(140) % 4
    tints = torch.randint(256, (4, 3, 1, 1), generator=drawn)
    x = (tints[y] + torch.randint(-90, 91, (140, 3, 16, 16), generator=drawn)).clamp(0, 255).to(torch.uint8)
    return Dataset("tinted", "drawn by a test", tuple("abcd"), x[:100], y[:100], x[100:], y[100:])


@pytest.fixture
def small(monkeypatch):
    """The same network, a sixteenth as wide."""
    monkeypatch.setattr(speedrun, "WhitenedNet", lambda **options: WhitenedNet((8, 16, 16), **options))


# The network


def test_whitened_patches_are_uncorrelated_with_variance_one():
    x = F.avg_pool2d(torch.randn(20, 3, 34, 34), 3, stride=1) * torch.tensor([1.0, 2, 3])[:, None, None]
    responses = F.conv2d(x, whitening_kernels(x, epsilon=1e-9)).movedim(1, 0).flatten(1)
    assert torch.allclose(torch.cov(responses), torch.eye(12), atol=1e-2)


def test_directions_that_hold_little_are_not_blown_up():
    x = torch.randn(50, 3, 16, 16) * torch.tensor([1.0, 0.1, 0.01])[:, None, None]
    variances = torch.cov(F.conv2d(x, whitening_kernels(x)).movedim(1, 0).flatten(1)).diag().sort().values
    expected = torch.tensor([v / (v + 5e-4) for v in (1e-4, 1e-2, 1.0)]).repeat_interleave(4)
    assert torch.allclose(variances, expected, atol=0.02)


def test_the_stem_keeps_both_signs_and_is_not_trained():
    model = WhitenedNet((4, 4), size=16)
    model.whiten(torch.randn(10, 3, 16, 16))
    assert torch.equal(model.stem.weight[:12], -model.stem.weight[12:])
    assert not model.stem.weight.requires_grad and model.stem.bias.requires_grad


def test_kernels_as_a_matrix_are_a_convolution_that_begins_as_the_identity():
    layer, x = MatrixConvolution(3, 5), torch.randn(2, 3, 6, 6)
    assert torch.equal(layer(x), F.conv2d(x, layer.weight.view(5, 3, 3, 3), padding=1))
    assert torch.allclose(layer(x)[:, :3], x)


def test_a_stage_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"stages \[4\] do not exist; this network has stages 1…3"):
        WhitenedNet(stages=(1, 4))


def test_forward_and_backward_cost_almost_three_times_the_forward_pass():
    """The stem needs no gradient to its kernels, nor to the image."""
    model = WhitenedNet((8, 16, 16), mechanism="gsa")
    stem = 31**2 * 24 * 12
    assert count_step_flops(model, (1, 3, 32, 32)) == 2 * (3 * count_macs(model, (1, 3, 32, 32)) - 2 * stem)


# The race


@pytest.mark.parametrize("mechanism", ["none", "gsa"])
def test_every_trained_parameter_has_one_rate(mechanism):
    model = WhitenedNet((8, 16, 16), mechanism=mechanism)
    optimizers = make_optimizers(model, RUN)
    rates = {id(p): group["peak_lr"] for o in optimizers for group in o.param_groups for p in group["params"]}
    given = [p for o in optimizers for group in o.param_groups for p in group["params"] if p.requires_grad]
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(given) == len({id(p) for p in given}) == len(trained)
    expected = {"body.0.conv1.weight": RUN.lr, "head.weight": RUN.head_lr, "head.bias": RUN.bias_lr}
    expected |= {"stem.bias": RUN.bias_lr, "body.0.norm1.bias": RUN.bias_lr}
    if mechanism == "gsa":
        expected |= {"body.1.mechanism.across.qkv.weight": RUN.mechanism_lr, "body.1.norm.weight": RUN.bias_lr}
    assert {name: rates[id(trained[name])] for name in expected} == expected


def test_compilation_leaves_no_trace():
    torch.manual_seed(0)
    model, images = WhitenedNet((4, 4), size=16, classes=4), tinted()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    race = Race(RUN, model, Accelerator(cpu=True))
    race.warm_up(speedrun.Images(images.x_train, images.y_train), speedrun.Normalizer.of(images_of(images)))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def images_of(dataset: Dataset) -> speedrun.Images:
    return speedrun.Images(dataset.x_train, dataset.y_train)


def test_it_learns_and_says_what_it_did(small):
    done = train(replace(RUN, mechanism="gsa", epochs=6, seed=3), tinted())
    assert done.accuracy > 0.5 and done.images == 10
    assert done.flops % (6 * 4 * 20) == 0 and done.seconds > 0
    assert train(replace(RUN, mechanism="gsa", epochs=6, seed=3), tinted()).accuracy_flip == done.accuracy_flip


def test_without_held_out_images_it_trains_on_all_and_is_judged_on_test_images(small):
    done = train(replace(RUN, holdout=0.0), tinted())
    held_out = train(RUN, tinted())
    assert (done.images, held_out.images) == (40, 10)
    assert done.flops * 4 == held_out.flops * 5


def test_a_run_that_diverges_says_what_to_change(small):
    with pytest.raises(speedrun.TrainingError, match=r"not finite after epoch 0; try a smaller --lr than 1e\+30"):
        train(replace(RUN, lr=1e30, head_lr=1e30, bias_lr=1e30), tinted())


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch": 0}, {"holdout": 1.0}])
def test_what_cannot_be_is_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        replace(RUN, **wrong)


# What is kept


def test_the_command_keeps_runs_and_repeats_none(small, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(speedrun, "load", lambda name: tinted())
    monkeypatch.setattr(sys, "argv", ["gsa", "speedrun", "--epochs", "1", "--batch", "20", "--results", str(tmp_path)])
    main()
    sys.argv += ["--seeds", "0", "1"]
    main()
    kept = finished(tmp_path)
    assert [(one.run.mechanism, one.run.seed) for one in kept] == [("none", 0), ("gsa", 0), ("none", 1), ("gsa", 1)]
    assert re.search(r"gsa +1 +20 +held-out +2 +\d+\.\d\d", capsys.readouterr().out)
    rows = table(tmp_path).set_index("mechanism")
    assert list(rows["runs"]) == [2, 2] and rows.loc["gsa", "petaflops"] > rows.loc["none", "petaflops"]


def test_the_table_has_a_row_for_each_recipe(small, tmp_path):
    done = train(RUN, tinted())
    for accuracy, seed in ((0.9, 0), (0.94, 1), (0.92, 2)):
        speedrun.keep(replace(done, run=replace(RUN, seed=seed), accuracy_flip=accuracy, seconds=10.0 + seed), tmp_path)
    speedrun.keep(replace(done, run=replace(RUN, holdout=0.0)), tmp_path)
    first, second = table(tmp_path).itertuples()
    assert (first.runs, first.accuracy, first.seconds) == (3, pytest.approx(0.92), 11)
    assert first.high - 0.92 == pytest.approx(4.3027 * 0.02 / math.sqrt(3), rel=1e-3)
    assert second.runs == 1 and math.isnan(second.low)


def test_a_line_that_is_no_run_is_named(small, tmp_path):
    speedrun.keep(train(RUN, tinted()), tmp_path)
    path = tmp_path / speedrun.FILE
    line = json.loads(path.read_text())
    path.write_text(path.read_text() + json.dumps(line | {"seconds": "fast"}) + "\n")
    with pytest.raises(ValueError, match=r"speedrun.jsonl, line 2, is no finished speedrun"):
        finished(tmp_path)
    assert finished(tmp_path / "nowhere") == []
