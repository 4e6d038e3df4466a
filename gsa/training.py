"""Training: a configuration goes in, a trained network and the record of its run come out."""

import platform
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from pydantic import TypeAdapter
from torch import Tensor, nn
from tqdm.auto import tqdm

from gsa import checkpoint
from gsa.data import Dataset, load
from gsa.layers import MECHANISMS, AttentionStem, StandAloneSelfAttention
from gsa.models import MODELS, MixingBlock, build_model, matched_width
from gsa.models.normalization import synchronize_batch_norm
from gsa.pipeline import Images, Normalizer, batches, split
from gsa.probes import count_macs, count_parameters

BY_ADAMW = (MixingBlock, StandAloneSelfAttention, AttentionStem)
"""What AdamW trains: mechanisms, and attention that is part of a host. SGD trains all else."""


class TrainingError(RuntimeError):
    """A run that cannot go on: it diverged or ran out of memory. The message is one line that says what to change."""


@dataclass(frozen=True)
class Config:
    """Everything that decides the outcome of a run.

    ``match`` makes a control of the host without the mechanism, widened until it costs what the host with the
    mechanism costs in "parameters" or "macs". ``images`` is how many training images to use, 0 for all, and
    ``holdout`` the share of the training set kept back for choices. Convolutional parameters are trained by SGD with
    Nesterov momentum at ``lr``, those of the mechanism, and of attention that is part of the host, by AdamW at
    ``mechanism_lr``; both rates rise linearly over the first ``warmup`` of all steps and fall linearly to zero.
    ``sam_radius`` > 0 turns on sharpness-aware minimisation (arXiv:2010.01412). ``precision`` "auto" is bf16 or fp16
    where the GPU has it, else fp32.
    """

    model: str = "resnet20"
    mechanism: str = "none"
    stages: tuple[int, ...] = (2, 3)
    width: int | None = None
    match: Literal["", "parameters", "macs"] = ""
    data: str = "cifar10"
    images: int = 0
    holdout: float = 0.1
    epochs: int = 30
    batch: int = 128
    lr: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    mechanism_lr: float = 2e-3
    mechanism_weight_decay: float = 0.05
    warmup: float = 0.2
    label_smoothing: float = 0.1
    crop: int = 4
    sam_radius: float = 0.0
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    compile: bool = False
    seed: int = 0
    study: str = ""

    def __post_init__(self) -> None:
        for value, known, what in ((self.model, MODELS, "model"), (self.mechanism, MECHANISMS, "mechanism")):
            if value not in known:
                raise ValueError(f"unknown {what} {value!r}; there are {', '.join(known)}")
        for name in ("epochs", "batch", "lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 < self.holdout < 1:
            raise ValueError(f"holdout is a share between 0 and 1, got {self.holdout}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a share of all steps, at least 0 and less than 1, got {self.warmup}")
        if not self.study:
            object.__setattr__(self, "study", self.model)

    @property
    def arm(self) -> str:
        """What a study calls this configuration whatever its seed."""
        return f"none-{self.match}-of-{self.mechanism}" if self.match else self.mechanism

    def scaled(self, budget: str) -> "Config":
        """The same run at a budget: "full" is the recipe, "demo" 8 epochs, "smoke" seconds on embedded images.

        A smoke run shows that everything runs: its network is too small and too briefly trained to classify.
        """
        if budget == "full":
            return self
        if budget == "demo":
            return replace(self, epochs=min(self.epochs, 8), study=f"{self.study}-demo")
        data = "shapes" if self.data in ("cifar10", "mnist") else self.data
        small = {"width": 16, "images": 500, "batch": 25, "lr": 0.05, "epochs": 2}
        return replace(self, data=data, study=f"{self.study}-smoke", **small)


def arm_options(arm: str) -> dict[str, str]:
    """The fields of :class:`Config` that an arm's name stands for."""
    if control := re.fullmatch("none-(parameters|macs)-of-(.+)", arm):
        return {"match": control[1], "mechanism": control[2]}
    return {"mechanism": arm}


@dataclass(frozen=True)
class Epoch:
    """What one epoch did. Accuracies are shares, losses are in nats."""

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    holdout_loss: float
    holdout_accuracy: float
    seconds: float


@dataclass(frozen=True)
class Record:
    """A finished run, as the ledger keeps it.

    ``macs`` and ``parameters`` are those of the network that was trained. ``peak_memory`` is the most bytes that its
    tensors took on a GPU, None on a CPU. ``weights_sha256`` names the file of its weights, where the ledger has it.
    """

    config: Config
    history: list[Epoch]
    test_accuracy: float
    test_accuracy_flip: float
    test_images: int
    train_images: int
    parameters: int
    macs: int
    seconds: float
    peak_memory: int | None
    device: str
    precision: str
    processes: int
    versions: dict[str, str]
    commit: str
    data_source: str
    finished: str
    weights_sha256: str | None = None


@dataclass
class Run:
    """A finished run: its record and the trained network, in evaluation mode, with what it takes to show it images:
    the normalizer, the names of the classes and the (channels, height, width) of an image."""

    record: Record
    model: nn.Module = field(repr=False)
    normalize: Normalizer = field(repr=False)
    classes: tuple[str, ...]
    image: tuple[int, int, int]


def train(config: Config, *, dataset: Dataset | None = None, checkpoints: str | Path | None = None) -> Run:
    """Train as ``config`` says and read the test set once, at the end.

    With ``checkpoints`` a directory, every epoch ends with a checkpoint there, and a run that was killed goes on from
    its last one to the same end. Under ``accelerate launch`` every process takes its share of each batch.
    Errors: ValueError for what cannot be trained (a batch larger than the data), TrainingError for a run that diverges
    or outgrows the memory, OSError for a directory that cannot be written.
    """
    try:
        return _train(config, dataset or load(config.data), Path(checkpoints) if checkpoints else None)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise TrainingError(f"out of memory with batches of {config.batch}; try --batch {config.batch // 2}") from error


def _train(config: Config, dataset: Dataset, checkpoints: Path | None) -> Run:
    torch.manual_seed(config.seed)
    precision = best_precision() if config.precision == "auto" else config.precision
    if precision == "fp16" and config.sam_radius:
        raise ValueError(f"sam_radius {config.sam_radius} needs --precision bf16 or fp32: fp16 gradients overflow")
    AcceleratorState._reset_state()  # accelerate allows one precision a process, a notebook may want two
    accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision)
    train_set, holdout_set, test_set = split(dataset, config.holdout, config.images, accelerator.device)
    check_batch(config.batch, len(train_set), accelerator.num_processes)
    normalize = Normalizer.of(train_set)

    model = build(config, dataset).to(accelerator.device, memory_format=torch.channels_last)
    if accelerator.num_processes > 1:
        model = synchronize_batch_norm(model)
    parallel, *optimizers = accelerator.prepare(model, *make_optimizers(model, config))
    loop = Loop(config, accelerator, torch.compile(parallel) if config.compile else parallel, optimizers)

    path = checkpoints / config.study / f"{config.arm}-{config.seed}.safetensors" if checkpoints else None
    steps = len(train_set) // config.batch
    history = resume(path, config, model, optimizers) if path and path.exists() else []
    with progress_bar(config, len(train_set), len(history), accelerator) as bar:
        for epoch in range(len(history), config.epochs):
            started = time.perf_counter()
            lr, loss, accuracy = loop.epoch(train_set, normalize, epoch, bar)
            held_out = evaluate(model, holdout_set, normalize, accelerator)
            check_finite([torch.tensor(held_out.loss)], config, (epoch + 1) * steps - 1, steps)
            seconds = time.perf_counter() - started
            history.append(Epoch(epoch, lr, loss, accuracy, held_out.loss, held_out.accuracy, seconds))
            bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.1%}", held_out=f"{held_out.accuracy:.1%}")
            if path and accelerator.is_main_process:
                state = {"config": to_json(config), "history": [to_json(epoch) for epoch in history]}
                checkpoint.save(path, model, optimizers, state)

    test = evaluate(model, test_set, normalize, accelerator, flip=True)
    return Run(
        Record(
            config=config,
            history=history,
            test_accuracy=test.accuracy,
            test_accuracy_flip=test.accuracy_flip,
            test_images=len(test_set),
            train_images=len(train_set),
            parameters=count_parameters(model),
            macs=count_macs(build(config, dataset), (1, *dataset.x_train.shape[1:])),
            seconds=sum(epoch.seconds for epoch in history),
            peak_memory=torch.cuda.max_memory_allocated() if accelerator.device.type == "cuda" else None,
            device=device_name(accelerator.device),
            precision=precision,
            processes=accelerator.num_processes,
            versions=versions(),
            commit=commit(),
            data_source=dataset.source,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
        model.eval().to(memory_format=torch.contiguous_format),
        normalize,
        dataset.classes,
        tuple(dataset.x_train.shape[1:]),
    )


@dataclass
class Loop:
    """One epoch of optimisation, as a single process sees it."""

    config: Config
    accelerator: Accelerator
    model: nn.Module
    optimizers: list[AcceleratedOptimizer]

    def epoch(self, images: Images, normalize: Normalizer, epoch: int, bar: tqdm) -> tuple[float, float, float]:
        """Train on every image once; the last learning rate, and the mean loss and accuracy on augmented images."""
        config, rank, processes = self.config, self.accelerator.process_index, self.accelerator.num_processes
        steps = len(images) // config.batch
        losses, correct = [], torch.zeros((), device=self.accelerator.device)
        self.model.train()
        for step, batch in enumerate(batches(images, config.batch, config.seed, epoch, config.crop)):
            factor = schedule(epoch * steps + step, config.epochs * steps, config.warmup)
            for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
                group["lr"] = group["peak_lr"] * factor
            x, y = normalize(batch.x[rank::processes]), batch.y[rank::processes]
            loss, logits = self.step(x, y)
            losses.append(loss)
            correct += (logits.argmax(1) == y).sum()
            bar.update()
            if step % 20 == 0 or step == steps - 1:
                check_finite(losses, config, epoch * steps, steps)
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        seen = steps * config.batch
        loss = self.accelerator.reduce(torch.stack(losses).mean(), "mean").item()
        return config.lr * factor, loss, self.accelerator.reduce(correct, "sum").item() / seen

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One step of every optimizer, by plain gradients or, with a radius, by sharpness-aware ones."""
        loss, logits = self.backward(x, y)
        if self.config.sam_radius:
            with ascended(self.model.parameters(), self.config.sam_radius):
                for optimizer in self.optimizers:
                    optimizer.zero_grad()
                self.backward(x, y)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss, logits

    def backward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with self.accelerator.autocast():
            logits = self.model(x)
            loss = F.cross_entropy(logits, y, label_smoothing=self.config.label_smoothing)
        self.accelerator.backward(loss)
        return loss.detach(), logits.detach()


@contextmanager
def ascended(parameters: Iterable[nn.Parameter], radius: float) -> Iterator[None]:
    """Inside, the parameters stand ``radius`` up the gradient: w + ρ g/‖g‖ (SAM, arXiv:2010.01412)."""
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    norm = torch.stack([parameter.grad.norm() for parameter in moved]).norm()
    steps = [parameter.grad * (radius / (norm + 1e-12)) for parameter in moved]
    with torch.no_grad():
        torch._foreach_add_(moved, steps)
    yield
    with torch.no_grad():
        torch._foreach_sub_(moved, steps)


@dataclass(frozen=True)
class Score:
    """What a network does on a split: mean loss, share of right answers, and that share with flip averaging."""

    loss: float
    accuracy: float
    accuracy_flip: float


@torch.no_grad()
def evaluate(
    model: nn.Module, images: Images, normalize: Normalizer, accelerator: Accelerator, *, flip: bool = False
) -> Score:
    """Score ``model``; ``flip`` averaging adds the logits of the image and of its mirror image."""
    model.eval()
    sums = torch.zeros(3, device=accelerator.device)
    mine = torch.arange(accelerator.process_index, len(images), accelerator.num_processes)
    for index in mine.split(500):
        batch = images.take(index, accelerator.device)
        x = normalize(batch.x)
        with accelerator.autocast():
            logits = model(x).float()
            averaged = logits + model(x.flip(-1)).float() if flip else logits
        sums[0] += F.cross_entropy(logits, batch.y, reduction="sum")
        sums[1] += (logits.argmax(1) == batch.y).sum()
        sums[2] += (averaged.argmax(1) == batch.y).sum()
    return Score(*(total / len(images) for total in accelerator.reduce(sums, "sum").tolist()))


def build(config: Config, dataset: Dataset) -> nn.Module:
    """The network of a configuration, fitted to the images and classes of the data set."""
    return build_for(config, len(dataset.classes), tuple(dataset.x_train.shape[1:]))


def build_for(config: Config, classes: int, image: tuple[int, int, int]) -> nn.Module:
    """The network of a configuration for so many classes and images of (channels, height, width)."""
    channels, size, _ = image
    options = {"classes": classes, "in_channels": channels, "size": size}
    if not config.match:
        options |= {"mechanism": config.mechanism, "stages": config.stages, "width": config.width}
        return build_model(config.model, **options)

    def cost(network: nn.Module) -> int:
        shape = (1, channels, size, size)
        return count_parameters(network) if config.match == "parameters" else count_macs(network, shape)

    width = matched_width(config.model, config.width, config.mechanism, config.stages, cost, **options)
    return build_model(config.model, width, **options)


def make_optimizers(model: nn.Module, config: Config) -> list[torch.optim.Optimizer]:
    """SGD with Nesterov momentum for the host, AdamW for the mechanism and for a host's own attention; no decay on
    biases and norms.

    SGD stands first: under fp16 accelerate revises the loss scale after each step, which Adam's does not depend on.
    """
    layers = [m.mechanism if isinstance(m, MixingBlock) else m for m in model.modules() if isinstance(m, BY_ADAMW)]
    inside = {id(p) for layer in layers for p in layer.parameters()}
    host = [p for p in model.parameters() if id(p) not in inside]
    mechanism = [p for p in model.parameters() if id(p) in inside]
    sgd = torch.optim.SGD(
        decay_groups(host, config.lr, config.weight_decay), lr=config.lr, momentum=config.momentum, nesterov=True
    )
    groups = decay_groups(mechanism, config.mechanism_lr, config.mechanism_weight_decay)
    return [sgd, torch.optim.AdamW(groups, lr=config.mechanism_lr)] if mechanism else [sgd]


def decay_groups(parameters: list[nn.Parameter], lr: float, decay: float) -> list[dict]:
    """Matrices and kernels decay, vectors do not."""
    matrices, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group | {"peak_lr": lr} for group in groups if group["params"]]


def schedule(step: int, steps: int, warmup: float) -> float:
    """The learning rate as a share of its peak: up in a line over the first ``warmup`` of all steps, then down to 0."""
    done = (step + 1) / (steps + 1)
    return done / warmup if done < warmup else (1 - done) / (1 - warmup)


def resume(path: Path, config: Config, model: nn.Module, optimizers: list[AcceleratedOptimizer]) -> list[Epoch]:
    """Load a checkpoint of the same configuration; the epochs that it has behind it."""
    state = checkpoint.load_state(path)
    there = TypeAdapter(Config).validate_python(state["config"])
    if there != config:
        differ = [f.name for f in fields(Config) if getattr(there, f.name) != getattr(config, f.name)]
        raise ValueError(
            f"{path} belongs to a run with another {', '.join(differ)}; delete it or give this run another study"
        )
    checkpoint.load_tensors(path, model, optimizers)
    return TypeAdapter(list[Epoch]).validate_python(state["history"])


def progress_bar(config: Config, images: int, epochs_done: int, accelerator: Accelerator) -> tqdm:
    """A bar over all steps of the run; only the main process draws it. TQDM_DISABLE=1 keeps it quiet."""
    steps = images // config.batch
    quiet = {} if accelerator.is_main_process else {"disable": True}
    label = f"{config.study}/{config.arm}-{config.seed}"
    return tqdm(total=config.epochs * steps, initial=epochs_done * steps, desc=label, unit="step", **quiet)


def check_batch(batch: int, images: int, processes: int) -> None:
    if batch > images:
        raise ValueError(f"a batch of {batch} is larger than the {images} training images; make it at most {images}")
    if batch % processes:
        raise ValueError(f"a batch of {batch} cannot be shared evenly by {processes} processes")


def check_finite(losses: list[Tensor], config: Config, first_step: int, steps_per_epoch: int) -> None:
    finite = torch.stack(losses).isfinite()
    if not finite.all():
        step = first_step + int(finite.logical_not().nonzero()[0])
        lr = config.lr * schedule(step, config.epochs * steps_per_epoch, config.warmup)
        raise TrainingError(f"the loss is not finite at step {step}, learning rate {lr:.3g}; try a smaller --lr")


def best_precision() -> str:
    if not torch.cuda.is_available():
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "accelerate", "einops", "numpy")}
    return {"python": platform.python_version(), **packages}


def commit() -> str:
    """The commit of the code that runs, with "-dirty" if it was changed since; "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def to_json(value: Config | Epoch | Record) -> dict:
    """A dataclass as JSON keeps it; ``TypeAdapter(type).validate_python`` turns it back."""
    return TypeAdapter(type(value)).dump_python(value, mode="json")
