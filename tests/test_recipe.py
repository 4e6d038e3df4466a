"""The recipe against numbers: what training leaves behind equals every update written out in double precision."""

import subprocess
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
import torch
from helpers import tinted
from torch import Tensor

from gsa.data import Dataset
from gsa.data.pipeline import Normalizer, batches, split
from gsa.training import Config, loop, record, train
from gsa.training.devices import best_precision
from gsa.training.loop import Loop

CPU = torch.device("cpu")
RECIPE = Config(
    mechanism="se",
    stages=(2,),
    width=4,
    data="tinted",
    images=50,
    holdout=0.25,
    epochs=2,
    batch=16,
    lr=0.1,
    momentum=0.7,
    weight_decay=2.0,
    head_lr=0.02,
    bias_lr=0.03,
    mechanism_lr=0.01,
    mechanism_weight_decay=2.0,
    warmup=0.3,
    label_smoothing=0.2,
    crop=2,
    precision="fp32",
    seed=3,
)
RECIPES = {
    "muon": RECIPE,
    "muon in the mechanism too": replace(RECIPE, mechanism="host-conv"),
    "sgd": replace(RECIPE, model="resnet8", optimizer="sgd", lr=0.05, weight_decay=0.5),
}


def rule(config: Config, name: str, parameter: Tensor) -> tuple[str, float, float]:
    """Who is to train a parameter, its peak rate and its decay, by the name of the parameter."""
    matrix = parameter.ndim > 1
    if config.optimizer == "muon" and name.endswith(("conv1.weight", "conv2.weight", ".mechanism.weight")):
        return "muon", config.lr, config.weight_decay
    if ".mechanism." in name:
        return "adamw", config.mechanism_lr, config.mechanism_weight_decay * matrix
    if config.optimizer == "sgd":
        return "sgd", config.lr, config.weight_decay * matrix
    if name == "head.weight":
        return "adamw", config.head_lr, config.weight_decay
    return "adamw", config.bias_lr, 0.0


def orthogonal(x: Tensor) -> Tensor:
    """Three Newton–Schulz steps towards the nearest orthogonal matrix, as Muon's author gives them."""
    x = x / x.norm()
    for _ in range(3):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x


class ByHand:
    """The training of a configuration, step by step: the network before and after, the loss of each step, and what a
    record says of epochs."""

    def __init__(self, config: Config, dataset: Dataset) -> None:
        images, *_ = split(dataset, config.holdout, config.images, CPU)
        normalize, moments, step = Normalizer.of(images), {}, 0
        torch.manual_seed(config.seed)
        self.model = loop.build(config, dataset).double()
        if config.model == "whitened":
            self.model.whiten(normalize(images.x).double())
        self.before = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.epochs, self.losses, steps = [], [], config.epochs * (len(images) // config.batch)
        for epoch in range(config.epochs):
            losses, right = [], 0
            for batch in batches(images, config.batch, config.seed, epoch, config.crop):
                step += 1
                share = np.interp(step / (steps + 1), [0, config.warmup, 1], [0, 1, 0])
                loss, logits = self.loss(normalize(batch.x).double(), batch.y, config.label_smoothing)
                trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
                for (name, p), gradient in zip(trained.items(), torch.autograd.grad(loss, [*trained.values()])):
                    kind, peak, decay = rule(config, name, p)
                    state = moments.setdefault(name, [torch.zeros_like(p), torch.zeros_like(p)])
                    update = getattr(self, kind)
                    p.data = update(p.detach(), gradient, state, share * peak, decay, config.momentum, step)
                losses.append(loss.item())
                right += (logits.argmax(1) == batch.y).sum().item()
            self.losses += losses
            self.epochs.append((share * config.lr, np.mean(losses), right / (len(losses) * config.batch)))

    def loss(self, x: Tensor, y: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        logits = self.model(x)
        targets = torch.full_like(logits, smoothing / 4)
        targets[torch.arange(len(y)), y] += 1 - smoothing
        return -(targets * logits.log_softmax(1)).sum(1).mean(), logits

    @staticmethod
    def sgd(w, g, state, lr, decay, momentum, step):
        g = g + decay * w
        state[0] = momentum * state[0] + g
        return w - lr * (g + momentum * state[0])

    @staticmethod
    def muon(w, g, state, lr, decay, momentum, step):
        state[0] = momentum * state[0] + g
        ratio = sqrt(max(1, w.shape[0] / w.shape[1]))
        return w - lr * decay * w - lr * ratio * orthogonal(g + momentum * state[0])

    @staticmethod
    def adamw(w, g, state, lr, decay, momentum, step):
        state[:] = 0.9 * state[0] + 0.1 * g, 0.999 * state[1] + 0.001 * g**2
        first, second = state[0] / (1 - 0.9**step), state[1] / (1 - 0.999**step)
        return w - lr * decay * w - lr * first / (second.sqrt() + 1e-8)


@pytest.mark.parametrize("name", RECIPES)
def test_training_does_what_every_update_written_out_does(name):
    """Muon orthogonalises in bf16, which has three digits, and moves all that is trained beside it."""
    config, dataset = RECIPES[name], tinted()
    expected, run = ByHand(config, dataset), train(config, dataset=dataset)
    tolerance, found = 0.03 if config.optimizer == "muon" else 1e-4, run.model.state_dict()
    for name, tensor in expected.model.state_dict().items():
        way = (tensor - expected.before[name]).double().norm()
        assert (found[name] - tensor).double().norm() <= tolerance * way + 1e-6, name
    for epoch, (lr, loss, accuracy) in zip(run.record.history, expected.epochs, strict=True):
        assert epoch.lr == pytest.approx(lr)
        assert epoch.train_loss == pytest.approx(loss, rel=tolerance)
        assert epoch.train_accuracy == pytest.approx(accuracy, abs=1.5 / 48 if config.optimizer == "muon" else 1e-9)
    assert run.losses == pytest.approx(expected.losses, rel=tolerance)


def test_initial_weights_depend_on_the_seed_of_the_run_and_on_nothing_else(monkeypatch):
    """At a rate of almost nothing training leaves them as they were."""

    def begun(**changes) -> Tensor:
        torch.manual_seed(torch.seed())
        still = dict.fromkeys(("lr", "head_lr", "bias_lr", "mechanism_lr"), 1e-12)
        config = replace(RECIPE, epochs=1, weight_decay=0.0, mechanism_weight_decay=0.0, **still | changes)
        return train(config, dataset=tinted()).model.state_dict()["body.3.conv1.weight"]

    first = begun()
    for same in ({"images": 32}, {"crop": 0}, {"label_smoothing": 0.0}):
        torch.testing.assert_close(begun(**same), first)
    assert not torch.allclose(begun(seed=4), first, atol=1e-2)


# What it costs


def macs(config: Config, height: int, width: int) -> tuple[int, int]:
    """Multiply-accumulates of one image in the stem of the whitened network, and in all that follows."""
    stem, channels, rest = 24 * 12 * height * width, 24, 0
    for factor in (1, 2, 4):
        wide = factor * config.width
        rest += 9 * channels * wide * height * width + 9 * wide**2 * (height // 2) * (width // 2)
        channels, height, width = wide, height // 2, width // 2
    return stem, rest + 4 * channels


@pytest.mark.parametrize(("sam_radius", "passes"), [(0.0, 1), (0.05, 2)])
def test_the_record_counts_the_work_of_all_steps_forward_and_backward(sam_radius, passes):
    """Backward is twice forward, but for the stem, which needs a gradient neither to its kernels nor to the image."""
    config = replace(RECIPE, mechanism="none", sam_radius=sam_radius)
    made = train(config, dataset=tinted(height=8, width=16)).record
    stem, rest = macs(config, 8, 16)
    assert made.macs == stem + rest
    assert made.flops == 2 * (stem + 3 * rest) * passes * 2 * 48


def test_seconds_are_those_of_all_epochs_and_of_nothing_but_training(monkeypatch):
    clock = iter(number**2 for number in range(100))
    monkeypatch.setattr(Loop, "now", lambda self: float(next(clock)))
    made = train(replace(RECIPE, epochs=3), dataset=tinted()).record
    assert [epoch.seconds for epoch in made.history] == [1, 9 - 4, 25 - 16]
    assert made.seconds == 1 + 5 + 9


def test_the_record_says_how_many_threads_computed(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert train(replace(RECIPE, epochs=1), dataset=tinted()).record.threads == 7


def test_compiled_it_trains_through_the_compiled_network_and_compiling_leaves_no_trace(monkeypatch):
    calls = []

    def compile(model, options):
        assert options["emulate_precision_casts"]
        return lambda x: calls.append(len(x)) or model(x)

    plain = train(RECIPE, dataset=tinted())
    monkeypatch.setattr(torch, "compile", compile)
    compiled = train(replace(RECIPE, compile=True), dataset=tinted())
    assert calls == [16] * (1 + 6)
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(compiled.model.state_dict()[name], tensor), name


# Where it runs


@pytest.mark.parametrize(
    ("emulates", "computes", "expected"), [(True, True, "bf16"), (True, False, "fp16"), (False, False, "fp16")]
)
def test_a_gpu_gets_bf16_only_where_its_hardware_has_it(monkeypatch, emulates, computes, expected):
    """A T4 only emulates it, and is asked for fp16."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: computes or (emulates and including_emulation)
    )
    assert best_precision(torch.device("cuda")) == expected


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": False}, "bf16"),
        ({"amx_bf16": False, "avx512_bf16": True}, "bf16"),
        ({"amx_bf16": False, "avx512_bf16": False, "avx512_f": True}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_a_cpu_gets_bf16_only_where_its_hardware_has_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert best_precision(CPU) == expected
    assert train(replace(RECIPE, precision="auto"), dataset=tinted()).record.precision == expected


# The code that ran


def git(*arguments: str, at) -> str:
    done = subprocess.run(["git", "-C", str(at), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one commit in which the package lies."""
    monkeypatch.setattr(record, "__file__", str(tmp_path / "gsa" / "record.py"))
    (tmp_path / "gsa").mkdir()
    (tmp_path / "gsa" / "record.py").write_text("1")
    git("init", "--quiet", at=tmp_path)
    git("add", ".", at=tmp_path)
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    git(*who, "commit", "--quiet", "--message", "one", at=tmp_path)
    return tmp_path


def test_the_record_names_the_commit_and_says_whether_the_code_was_changed_since(repository):
    commit = git("rev-parse", "HEAD", at=repository)
    assert record.commit() == commit
    (repository / "gsa" / "record.py").write_text("2")
    assert record.commit() == f"{commit}-dirty"


def test_the_commit_of_a_repository_that_only_surrounds_the_package_is_not_its_own(repository):
    git("rm", "--quiet", "--cached", "gsa/record.py", at=repository)
    assert record.commit() == "unknown"
