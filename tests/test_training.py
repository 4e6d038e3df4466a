"""A run ends with the same numbers however often it is killed and however many processes share it."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from helpers import tinted
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import gsa.data.pipeline
from gsa.data.pipeline import Images, Normalizer, split
from gsa.layers import MECHANISMS, AttentionStem, MatrixConvolution, StandAloneSelfAttention
from gsa.models import MixingBlock, build_model
from gsa.probes import count_macs, count_parameters
from gsa.training import Config, Record, Run, TrainingError, loop, make_optimizers, schedule, to_json, train
from gsa.training.checkpoint import alone, load_state
from gsa.training.loop import Loop
from gsa.training.weights import pack

CONFIG = Config(
    model="resnet8",
    mechanism="gsa",
    stages=(2,),
    width=4,
    data="tinted",
    epochs=4,
    batch=16,
    optimizer="sgd",
    lr=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    mechanism_weight_decay=0.05,
    warmup=0.2,
    label_smoothing=0.1,
    crop=1,
    precision="fp32",
    study="t",
)
FAST = replace(CONFIG, model="whitened", optimizer="muon", stages=(1,), width=8, epochs=2, study="fast")
CPU = torch.device("cpu")
TINTED = tinted(160, 42)


def batches_until_death(*args) -> Iterator[Images]:
    epoch = args[3]
    for step, batch in enumerate(gsa.data.pipeline.batches(*args)):
        if (epoch, step) == (2, 3):
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch


def main(task: str, directory: Path) -> None:
    """What this file does as a program: the run that dies, or one process of a run that several share."""
    if task == "die":
        loop.batches = batches_until_death
    run = train(CONFIG, dataset=TINTED, checkpoints=directory)
    rank = os.environ["RANK"]
    save_file(run.model.state_dict(), directory / f"rank-{rank}.safetensors")
    (directory / f"rank-{rank}.json").write_text(json.dumps(to_json(run.record)))
    (directory / f"fast-{rank}.json").write_text(json.dumps(train(FAST, dataset=TINTED).losses))


def as_program(task: str, directory: Path, *launcher: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *launcher, __file__, task, str(directory)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    environment = os.environ | threads | {"ACCELERATE_USE_CPU": "1", "TQDM_DISABLE": "1"}
    return subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)


def numbers(run: Run) -> dict:
    """The record of a run without its times."""
    record = to_json(run.record) | {"seconds": None, "finished": None}
    return record | {"history": [epoch | {"seconds": None} for epoch in record["history"]]}


def assert_same_run(one: Run, other: Run) -> None:
    assert numbers(one) == numbers(other)
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name


@pytest.fixture(scope="module")
def whole() -> Run:
    """An ordinary run, neither killed nor shared."""
    return train(CONFIG, dataset=TINTED)


# Killed, resumed, shared


def test_a_killed_run_resumes_and_ends_with_the_same_numbers(tmp_path, whole):
    killed = as_program("die", tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(load_state(tmp_path / "t" / "gsa-0.safetensors")["history"]) == 2
    assert_same_run(train(CONFIG, dataset=TINTED, checkpoints=tmp_path), whole)


def test_the_fast_host_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(Loop, "epoch", interrupted(Loop.epoch, 1))
        train(FAST, dataset=TINTED, checkpoints=tmp_path)
    assert_same_run(train(FAST, dataset=TINTED, checkpoints=tmp_path), train(FAST, dataset=TINTED))


def test_two_processes_agree_with_one(tmp_path, whole):
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes=2 --num_machines=1 --main_process_port=0"
    done = as_program("share", tmp_path, *launch.split(), "--mixed_precision=no", "--dynamo_backend=no")
    assert done.returncode == 0, done.stderr
    first, second = (load_file(tmp_path / f"rank-{rank}.safetensors") for rank in range(2))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=0, msg=name)
    shared = TypeAdapter(Record).validate_json((tmp_path / "rank-0.json").read_text())
    assert shared.processes == 2
    for epoch, single in zip(shared.history, whole.record.history, strict=True):
        assert epoch.train_loss == pytest.approx(single.train_loss, abs=1e-4)
        assert epoch.holdout_loss == pytest.approx(single.holdout_loss, abs=1e-3)
    assert shared.test_accuracy == pytest.approx(whole.record.test_accuracy, abs=1.5 / whole.record.test_images)
    fast, single = json.loads((tmp_path / "fast-0.json").read_text()), train(FAST, dataset=TINTED).losses
    assert fast[:2] == pytest.approx(single[:2], abs=1e-4)
    assert fast == pytest.approx(single, rel=0.03)  # Muon orthogonalises in bf16, so a last digit becomes the third


# Reproducible, honest


def test_the_seed_decides_the_run(whole):
    assert_same_run(train(CONFIG, dataset=TINTED), whole)
    other = train(replace(CONFIG, seed=1), dataset=TINTED)
    assert other.record.history[0].train_loss != whole.record.history[0].train_loss


def test_the_test_set_is_read_once_at_the_end_and_changes_nothing(monkeypatch, whole):
    seen = []

    def evaluate(model, images, *args, **options):
        seen.append((len(images), options))
        return gsa_evaluate(model, images, *args, **options)

    gsa_evaluate = loop.evaluate
    monkeypatch.setattr(loop, "evaluate", evaluate)
    poisoned = replace(TINTED, x_test=255 - TINTED.x_test, y_test=(TINTED.y_test + 1) % 4)
    run = train(CONFIG, dataset=poisoned)
    assert seen == [(16, {})] * CONFIG.epochs + [(16, {"tta": True}), (len(TINTED.y_test), {"tta": True})]
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, whole.model.state_dict()[name]), name
    assert run.record.test_accuracy < whole.record.test_accuracy


def test_the_record_says_what_was_done(whole):
    record, data = whole.record, TINTED
    assert (record.train_images, record.test_images, record.data_source) == (144, 42, data.source)
    assert record.parameters == count_parameters(whole.model)
    assert record.macs == count_macs(whole.model, (1, 3, 8, 8))
    assert (record.precision, record.processes) == ("fp32", 1)
    assert [epoch.epoch for epoch in record.history] == [0, 1, 2, 3]
    assert record.history[-1].train_loss < record.history[0].train_loss
    assert record.history[-1].train_accuracy > 0.5

    train_set, held_out, test = split(data, CONFIG.holdout, 0, CPU)
    said = {
        held_out: (record.history[-1].holdout_accuracy, record.holdout_accuracy_tta),
        test: (record.test_accuracy, record.test_accuracy_tta),
    }
    for images, (accuracy, accuracy_tta) in said.items():
        x = Normalizer.of(train_set)(images.x)
        with torch.no_grad():
            logits, mirrored = whole.model(x), whole.model(x.flip(-1))
        assert accuracy == pytest.approx((logits.argmax(1) == images.y).float().mean().item())
        assert accuracy_tta == pytest.approx(((logits + mirrored).argmax(1) == images.y).float().mean().item())


def test_a_record_survives_json(whole):
    adapter = TypeAdapter(Record)
    assert adapter.validate_json(adapter.dump_json(whole.record)) == whole.record
    assert adapter.validate_python(to_json(whole.record)) == whole.record


def test_a_record_of_a_resumed_run_names_every_commit_and_device_that_it_ran_on(tmp_path, monkeypatch):
    config = replace(CONFIG, epochs=2)
    for number, end in enumerate((1, 2)):
        monkeypatch.setattr(loop, "commit", lambda number=number: f"commit{number}")
        monkeypatch.setattr(loop, "device_name", lambda device, number=number: f"device{number}")
        with suppress(KeyboardInterrupt), monkeypatch.context() as patch:
            patch.setattr(Loop, "epoch", interrupted(Loop.epoch, end))
            made = train(config, dataset=TINTED, checkpoints=tmp_path).record
    assert (made.commit, made.device) == ("commit0, commit1", "device0, device1")


def interrupted(epoch: Callable, end: int) -> Callable:
    """The method ``epoch``, but the epoch of that number does not begin."""

    def until(self, number: int, bar: object) -> tuple[float, float, float, float]:
        if number == end:
            raise KeyboardInterrupt
        return epoch(self, number, bar)

    return until


def test_a_run_goes_on_in_the_precision_in_which_it_began(tmp_path):
    train(replace(CONFIG, epochs=1), dataset=TINTED, checkpoints=tmp_path)
    path = tmp_path / "t" / "gsa-0.safetensors"
    with safe_open(path, "pt") as file:
        state, tensors = json.loads(file.metadata()["state"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {"state": json.dumps(state | {"precision": "bf16"})})
    with pytest.raises(ValueError, match=r"gsa-0\.safetensors was computed in bf16, not in fp32") as error:
        train(replace(CONFIG, epochs=1), dataset=TINTED, checkpoints=tmp_path)
    assert_one_line(error)


class Scaler:
    """As much of a loss scaler as a checkpoint sees."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.scale = state["scale"]


def test_a_resumed_run_keeps_its_loss_scale(tmp_path):
    loops = [a_loop() for _ in range(2)]
    for one, scale in zip(loops, (1024.0, 65536.0), strict=True):
        one.accelerator.scaler = Scaler(scale)
    loops[0].save(tmp_path / "run.safetensors", [])
    loops[1].resume(tmp_path / "run.safetensors")
    assert loops[1].accelerator.scaler.scale == 1024.0


def a_loop(config: Config = CONFIG) -> Loop:
    images, *_ = split(TINTED, config.holdout, 0, CPU)
    model = loop.build(config, TINTED)
    return Loop.of(config, Accelerator(), model, make_optimizers(model, config), images, Normalizer.of(images))


def test_the_second_pass_of_sharpness_awareness_leaves_the_running_statistics():
    one, other = a_loop(replace(CONFIG, sam_radius=0.3)), a_loop()
    other.model.load_state_dict(one.model.state_dict())
    for each in (one, other):
        each.step(each.normalize(each.images.x[:16]), each.images.y[:16])
    for name, tensor in one.model.state_dict().items():
        if "running" in name:
            assert torch.equal(tensor, other.model.state_dict()[name]), name
    assert {norm.momentum for norm in one.model.modules() if isinstance(norm, nn.BatchNorm2d)} == {0.1}


def test_a_trained_network_can_be_saved_and_used_as_it_is(tmp_path, whole):
    save_file(whole.model.state_dict(), tmp_path / "weights.safetensors")
    assert not whole.model.training
    assert whole.model(torch.rand(2, 3, 8, 8)).dtype == torch.float32


def test_one_session_may_train_in_several_precisions(whole):
    for precision in ("bf16", "fp32"):
        run = train(replace(CONFIG, precision=precision, epochs=1), dataset=TINTED)
        assert run.record.precision == precision
        assert run.record.history[0].train_loss == pytest.approx(whole.record.history[0].train_loss, rel=0.1)
        plain, x = loop.build(CONFIG, TINTED).eval(), torch.rand(2, 3, 8, 8)
        plain.load_state_dict(run.model.state_dict())
        assert torch.equal(run.model(x), plain(x)), "a trained network computes in single precision"


@pytest.mark.parametrize("width", [None, 24])
@pytest.mark.parametrize("match", ["parameters", "macs"])
def test_a_matched_control_costs_what_the_mechanism_costs(match, width):
    config = replace(CONFIG, model="resnet8", width=width, mechanism="gsa", stages=(2, 3), match=match)
    control, other = (loop.build(c, TINTED) for c in (config, replace(config, match="")))
    cost = {"parameters": count_parameters, "macs": lambda model: count_macs(model, (1, 3, 8, 8))}[match]
    assert not any(isinstance(module, MixingBlock) for module in control.modules())
    assert cost(control) == pytest.approx(cost(other), rel=0.1)
    assert config.arm == f"none-{match}-of-gsa"


def test_flip_averaging_adds_the_logits_of_the_mirror_image():
    images = Images(torch.randint(256, (1200, 3, 2, 4), dtype=torch.uint8), torch.zeros(1200).long())
    normalize, model = Normalizer.of(images), nn.Sequential(nn.Flatten(), nn.Linear(24, 5))
    x = normalize(images.x)
    with torch.no_grad():
        logits, mirrored = model(x), model(x.flip(-1))
    images = replace(images, y=(logits + mirrored).argmax(1))
    score = loop.evaluate(model, images, normalize, Accelerator(), tta=True)
    right = (logits.argmax(1) == images.y).double().mean().item()
    assert score.loss == pytest.approx(F.cross_entropy(logits, images.y).item(), rel=1e-5)
    assert (score.accuracy, score.accuracy_tta) == (pytest.approx(right), 1.0)
    assert right < 0.9
    assert loop.evaluate(model, images, normalize, Accelerator()).accuracy_tta == score.accuracy


# What is the caller's


def test_random_numbers_are_as_they_were(unchecked):
    """Types go unchecked, as beartype looks at a random element of a list."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    expected = []
    for between in (lambda: None, lambda: train(replace(CONFIG, epochs=1), dataset=TINTED)):
        torch.manual_seed(7)
        random.seed(7)
        np.random.seed(7)  # noqa: NPY002
        between()
        expected.append([torch.rand(1, device=device).item() for device in devices])
        expected[-1] += [random.random(), np.random.rand()]  # noqa: NPY002
    assert expected[0] == expected[1]


@pytest.mark.skipif(not shutil.which("g++"), reason="the default compiler needs g++ on the CPU")
def test_a_compiled_run_learns_what_a_plain_one_does(monkeypatch, unchecked):
    class Largest(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            convolution, head = self
            return head(F.gelu(convolution(x)).amax((2, 3)))

    monkeypatch.setattr(loop, "build", lambda *_: Largest(nn.Conv2d(3, 4, 3), nn.Linear(4, 4)))
    config = replace(CONFIG, precision="bf16", epochs=1)
    plain, compiled = (train(replace(config, compile=on), dataset=TINTED).record.history for on in (False, True))
    assert compiled[0].train_loss == pytest.approx(plain[0].train_loss, abs=0.02)


def test_an_accelerator_keeps_its_precision_and_its_steps():
    AcceleratorState._reset_state()
    mine = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=4)
    assert train(replace(CONFIG, epochs=1), dataset=TINTED).record.precision == "fp32"
    with pytest.raises(TrainingError):
        train(replace(CONFIG, epochs=1, lr=1e30), dataset=TINTED)
    assert (mine.mixed_precision, mine.gradient_accumulation_steps, mine.sync_gradients) == ("bf16", 4, True)
    AcceleratorState._reset_state()
    GradientState._reset_state()


@pytest.mark.parametrize(
    ("name", "value"),
    [("GRADIENT_ACCUMULATION_STEPS", "4"), ("DYNAMO_BACKEND", "EAGER"), ("MIXED_PRECISION", "bf16")],
)
def test_the_environment_changes_no_run(monkeypatch, whole, name, value):
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    monkeypatch.setattr(torch, "compile", lambda *arguments, **options: pytest.fail("it was compiled"))
    assert_same_run(train(CONFIG, dataset=TINTED), whole)


# One at a time


def test_a_run_that_another_process_trains_is_refused_and_says_who_does(tmp_path):
    path = tmp_path / "t" / "gsa-0.safetensors"
    with alone(path), pytest.raises(TrainingError, match=rf"gsa-0\.safetensors.*: process {os.getpid()} on") as error:
        train(CONFIG, dataset=TINTED, checkpoints=tmp_path)
    assert_one_line(error)
    assert not path.exists()
    train(replace(CONFIG, epochs=1), dataset=TINTED, checkpoints=tmp_path)


# The recipe


@given(steps=st.integers(1, 500), warmup=st.floats(0, 1))
def test_the_rate_rises_then_falls_in_lines_and_never_rests(steps, warmup):
    rates = [schedule(step, steps, warmup) for step in range(steps)]
    assert all(0 < rate <= 1 + 1e-12 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize("steps", [9, 99])
def test_the_rate_starts_and_ends_one_step_from_zero_and_peaks_after_the_warmup(steps):
    rates = [schedule(step, steps, 0.2) for step in range(steps)]
    peak = (steps + 1) // 5
    assert rates[0] == pytest.approx(1 / peak)
    assert rates[peak - 1] == pytest.approx(1)
    assert rates[-1] == pytest.approx(1 / (steps + 1 - peak))


def test_every_parameter_has_one_rate_and_only_matrices_decay():
    model = loop.build(CONFIG, TINTED)
    sgd, adamw = make_optimizers(model, CONFIG)
    assert isinstance(sgd, torch.optim.SGD) and isinstance(adamw, torch.optim.AdamW)
    trained = [p for optimizer in (sgd, adamw) for group in optimizer.param_groups for p in group["params"]]
    assert len(trained) == len(set(trained)) == len(list(model.parameters()))
    mechanism = {p for m in model.modules() if isinstance(m, MixingBlock) for p in m.mechanism.parameters()}
    assert {p for group in adamw.param_groups for p in group["params"]} == mechanism
    for optimizer, decay in ((sgd, CONFIG.weight_decay), (adamw, CONFIG.mechanism_weight_decay)):
        for group in optimizer.param_groups:
            assert {group["weight_decay"]} == {decay if p.ndim > 1 else 0.0 for p in group["params"]}


@pytest.mark.parametrize("mechanism", ["none", "gsa", "host-conv", "conv"])
def test_under_muon_every_parameter_has_one_optimizer_and_kernels_have_muon(mechanism):
    config = replace(CONFIG, model="whitened", optimizer="muon", mechanism=mechanism, stages=(1,))
    model = loop.build(config, TINTED)
    muon, adamw = ([p for g in o.param_groups for p in g["params"]] for o in make_optimizers(model, config))
    assert set(muon) == {m.weight for m in model.modules() if isinstance(m, MatrixConvolution)}
    assert len(muon) + len(adamw) == len({*muon, *adamw})
    assert {*muon, *adamw} == {p for p in model.parameters() if p.requires_grad}


def test_a_host_alone_has_sgd_alone():
    model = loop.build(replace(CONFIG, mechanism="none"), TINTED)
    assert [type(o) for o in make_optimizers(model, CONFIG)] == [torch.optim.SGD]


def test_the_attention_of_a_stand_alone_host_is_trained_by_adamw():
    model = build_model("sasa-resnet8-stem", width=8)
    _, adamw = make_optimizers(model, CONFIG)
    trained = {p for group in adamw.param_groups for p in group["params"]}
    attention = (StandAloneSelfAttention, AttentionStem)
    assert trained == {p for m in model.modules() if isinstance(m, attention) for p in m.parameters()}


@pytest.mark.parametrize("radius", [0.0, 0.3])
def test_a_step_goes_down_the_gradient_taken_up_the_hill(radius):
    config = replace(CONFIG, sam_radius=radius, label_smoothing=0.0)
    model = nn.Linear(5, 3)
    weights = [p.detach().clone() for p in model.parameters()]
    x, y, lr = torch.randn(7, 5), torch.randint(3, (7,)), 0.5

    def gradients(at: list[Tensor]) -> tuple[Tensor, ...]:
        at = [w.requires_grad_() for w in at]
        return torch.autograd.grad(F.cross_entropy(F.linear(x, *at), y), at)

    plain = gradients([w.clone() for w in weights])
    norm = sum(g.square().sum() for g in plain).sqrt()
    taken = gradients([(w + radius * g / norm).detach() for w, g in zip(weights, plain)])

    accelerator = Accelerator()
    images, *_ = split(TINTED, 0.0, 0, CPU)
    sgd = torch.optim.SGD(model.parameters(), lr=lr)
    loss, logits = Loop.of(config, accelerator, model, [sgd], images, Normalizer.of(images)).step(x, y)
    torch.testing.assert_close(logits, F.linear(x, *weights))
    torch.testing.assert_close(loss, F.cross_entropy(logits, y))
    for parameter, weight, gradient in zip(model.parameters(), weights, taken):
        torch.testing.assert_close(parameter.detach(), weight - lr * gradient)
        assert parameter.grad is None


# What cannot be trained says so in a line


def assert_one_line(error: pytest.ExceptionInfo) -> None:
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("batch", "step", "lr"), [(16, 1, "1e+30"), (144, 0, "6.25e+29")], ids=["in training", "after the last step"]
)
def test_divergence_names_the_step_and_the_rate(batch, step, lr):
    with pytest.raises(TrainingError, match=re.escape(f"not finite at step {step}, learning rate {lr}; ")) as error:
        train(replace(CONFIG, epochs=1, batch=batch, lr=1e30), dataset=TINTED)
    assert_one_line(error)


@pytest.mark.parametrize("unseen", [{"test": False}, {"holdout": 0.0}], ids=["held-out images", "test images"])
def test_a_network_that_its_last_step_spoiled_is_no_result(unseen):
    with pytest.raises(TrainingError, match="not finite at step 0"):
        train(replace(CONFIG, epochs=1, batch=144, lr=1e30, **unseen), dataset=TINTED)


def test_divergence_names_the_rate_of_its_own_step():
    lr = CONFIG.lr * schedule(14, 4 * 9, CONFIG.warmup)
    with pytest.raises(TrainingError, match=f"step 14, learning rate {lr:.3g}; try a smaller --lr or --mechanism-lr"):
        a_loop().check_finite([1.0, None, float("inf"), 1.0], 12)


@pytest.mark.parametrize("mechanism", [name for name in MECHANISMS if name != "none"])
def test_divergence_with_any_mechanism_is_a_line_and_never_a_crash(mechanism):
    config = replace(CONFIG, model="whitened", optimizer="muon", mechanism=mechanism, stages=(1,), width=8)
    with pytest.raises(
        TrainingError, match=r"not finite at step \d+, .*; try a smaller --lr or --mechanism-lr"
    ) as error:
        train(replace(config, epochs=1, lr=1e30, mechanism_lr=1e30, head_lr=1e30), dataset=TINTED)
    assert_one_line(error)


@pytest.mark.parametrize("where", ["on a GPU", "on the CPU"])
def test_out_of_memory_names_a_smaller_batch(monkeypatch, where):
    def evaluate(*args):
        if where == "on a GPU":
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB.")
        return torch.empty(2**50)

    monkeypatch.setattr(loop, "evaluate", evaluate)
    with pytest.raises(TrainingError, match="out of memory with batches of 16; try --batch 8") as error:
        train(CONFIG, dataset=TINTED)
    assert_one_line(error)


def test_other_errors_pass_unchanged(monkeypatch):
    monkeypatch.setattr(loop, "evaluate", lambda *args: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size") as error:
        train(CONFIG, dataset=TINTED)
    assert not isinstance(error.value, TrainingError)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="batch of 145 is larger than the 144 training images") as error:
        train(replace(CONFIG, batch=145), dataset=TINTED)
    assert_one_line(error)
    with pytest.raises(ValueError, match="batch of 16 is larger than the 15 training images"):
        train(replace(CONFIG, images=15), dataset=TINTED)


def test_a_batch_that_processes_cannot_share_is_refused():
    with pytest.raises(ValueError, match="batch of 16 cannot be shared evenly by 3 processes"):
        loop.check_batch(16, 144, 3)


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    train(replace(CONFIG, epochs=1), dataset=TINTED, checkpoints=tmp_path)
    with pytest.raises(ValueError, match=r"gsa-0\.safetensors belongs to a run with another lr, crop; ") as error:
        train(replace(CONFIG, epochs=1, lr=0.3, crop=0), dataset=TINTED, checkpoints=tmp_path)
    assert_one_line(error)


def test_the_weights_of_a_run_are_no_checkpoint(tmp_path, whole):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "gsa-0.safetensors").write_bytes(pack(whole))
    with pytest.raises(ValueError, match=r"gsa-0\.safetensors is no checkpoint of a run, it has no history, scaler"):
        train(CONFIG, dataset=TINTED, checkpoints=tmp_path)


def test_checkpoints_that_cannot_be_written_are_an_os_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        train(replace(CONFIG, epochs=1), dataset=TINTED, checkpoints=tmp_path / "file")


def test_a_stage_that_the_host_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"stages \[4\] do not exist; this network has stages 1…3"):
        train(replace(CONFIG, stages=(2, 4)), dataset=TINTED)


def test_budgets_shrink_a_run_and_give_it_a_study_of_its_own():
    config = Config(epochs=30)
    assert config.scaled("full") == config
    assert config.scaled("demo") == replace(config, epochs=8, study="own-demo")
    smoke = config.scaled("smoke")
    assert (smoke.data, smoke.epochs, smoke.study) == ("shapes", 3, "own-smoke")
    assert Config(data="same").scaled("smoke").data == "same"


@pytest.mark.parametrize("budget", ["smoke", "demo"])
def test_budgets_never_make_a_run_longer(budget):
    assert Config(epochs=1).scaled(budget).epochs == 1


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
