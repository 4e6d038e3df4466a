"""Training: a configuration goes in, a trained network and the record of its run come out."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from pydantic import TypeAdapter
from torch import Tensor, nn
from tqdm import tqdm

from gsa.data import Dataset, load
from gsa.data.dataset import PUBLISHED
from gsa.data.pipeline import Images, Normalizer, batches, split
from gsa.models import WhitenedNet, build_model, matched_width
from gsa.models.normalization import synchronize_batch_norm
from gsa.probes import count_macs, count_parameters, count_training_flops
from gsa.training import checkpoint
from gsa.training.config import Config
from gsa.training.devices import accelerated, device_name, keep_freed_memory
from gsa.training.optimizers import ascended, make_optimizers, schedule
from gsa.training.record import Epoch, Record, Run, TrainingError, commit, to_json, versions

WHITENED_FROM = 5000
"""So many training images decide the whitening stem."""


def train(config: Config, *, dataset: Dataset | None = None, checkpoints: str | Path | None = None) -> Run:
    """Train as ``config`` says and read the test set once, at the end.

    With ``checkpoints`` a directory, every epoch ends with a checkpoint there, and a run that was killed goes on from
    its last one to the same end. Under ``accelerate launch`` every process takes its share of each batch. The caller's
    random numbers and accelerator stay as they are; on the CPU freed memory stays with the process from here on
    (``gsa.training.devices.keep_freed_memory``).

    Raises:
        ValueError: for what cannot be trained (a batch larger than the data)
        TrainingError: for a run that diverges, outgrows the memory or is trained by another process at this moment
        OSError: for a directory that cannot be written.
    """
    path = Path(checkpoints) / f"{config.name}.safetensors" if checkpoints else None
    try:
        keep_freed_memory()
        with torch.random.fork_rng(), accelerated(config.precision) as accelerator:
            torch.manual_seed(config.seed)
            with checkpoint.alone(path) if path and accelerator.is_main_process else nullcontext():
                return _train(config, dataset or load(config.data), path, accelerator)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        smaller = f"--batch {config.batch // 2}" if config.batch > 1 else "a smaller --width"
        raise TrainingError(f"out of memory with batches of {config.batch}; try {smaller}") from error


def _train(config: Config, dataset: Dataset, path: Path | None, accelerator: Accelerator) -> Run:
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    check(config, dataset)
    train_set, holdout_set, test_set = split(dataset, config.holdout, config.images, accelerator.device)
    check_batch(config.batch, len(train_set), accelerator.num_processes)
    normalize = Normalizer.of(train_set)

    model = build(config, dataset).to(accelerator.device, memory_format=torch.channels_last)
    if isinstance(model, WhitenedNet):
        model.whiten(normalize(train_set.x[:WHITENED_FROM]))
    if accelerator.num_processes > 1:
        model = synchronize_batch_norm(model)
    loop = Loop.of(config, accelerator, model, make_optimizers(model, config), train_set, normalize)

    history = loop.resume(path) if path and path.exists() else []
    with progress_bar(config, len(train_set), len(history), accelerator) as bar:
        for epoch in range(len(history), config.epochs):
            lr, loss, accuracy, seconds = loop.epoch(epoch, bar)
            held_out = evaluate(model, holdout_set, normalize, accelerator)
            loop.check_finite([held_out.loss], (epoch + 1) * loop.steps - 1)
            history.append(Epoch(epoch, lr, loss, accuracy, held_out.loss, held_out.accuracy, seconds))
            shown = f"{held_out.accuracy:.1%}" if len(holdout_set) else "none"
            bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.1%}", held_out=shown)
            if path and accelerator.is_main_process:
                loop.save(path, history)

    held_out = evaluate(model, holdout_set, normalize, accelerator, tta=True)
    test = evaluate(model, test_set, normalize, accelerator, tta=True) if config.test else Score()
    loop.check_finite([test.loss], config.epochs * loop.steps - 1)
    record = Record(
        config=config,
        history=history,
        holdout_accuracy_tta=held_out.accuracy_tta,
        test_accuracy=test.accuracy,
        test_accuracy_tta=test.accuracy_tta,
        test_images=len(test_set) if config.test else 0,
        train_images=len(train_set),
        parameters=count_parameters(model),
        macs=count_macs(build(config, dataset), (1, *dataset.x_train.shape[1:])),
        flops=training_flops(config, dataset, len(train_set)),
        seconds=sum(epoch.seconds for epoch in history),
        peak_memory=torch.cuda.max_memory_allocated() if accelerator.device.type == "cuda" else None,
        device=", ".join(dict.fromkeys(device for device, _ in loop.places)),
        threads=torch.get_num_threads(),
        precision=loop.precision,
        processes=accelerator.num_processes,
        versions=versions(),
        commit=", ".join(dict.fromkeys(commit for _, commit in loop.places)),
        data_source=dataset.source,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    model = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    model = model.eval().to(memory_format=torch.contiguous_format)
    return Run(record, model, normalize, dataset.classes, tuple(dataset.x_train.shape[1:]), loop.losses)


@dataclass
class Loop:
    """The optimisation of one network on its images, as a single process sees it."""

    config: Config
    accelerator: Accelerator
    model: nn.Module
    parallel: Callable[[Tensor], Tensor]
    optimizers: list[AcceleratedOptimizer]
    images: Images
    normalize: Normalizer
    losses: list[float] = field(default_factory=list)
    places: list[tuple[str, str]] = field(default_factory=list)
    """Where it has run: device and commit, of every process that went on with it."""

    def __post_init__(self) -> None:
        self.places.append((device_name(self.accelerator.device), commit()))

    @classmethod
    def of(
        cls,
        config: Config,
        accelerator: Accelerator,
        model: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        images: Images,
        normalize: Normalizer,
    ) -> "Loop":
        """Prepared for the processes there are and, if ``config`` says so, compiled."""
        parallel, *prepared = accelerator.prepare(model, *optimizers)
        loop = cls(config, accelerator, model, parallel, prepared, images, normalize)
        if config.compile:
            # What is fused must round as it does elsewhere: else no pixel may equal a map's rounded maximum, and the
            # gradient of that, shared by the pixels that equal it, is 0/0.
            loop.parallel = torch.compile(parallel, options={"emulate_precision_casts": True})
            loop.warm_up()
        return loop

    @property
    def precision(self) -> str:
        """The numbers of matrix products, as a configuration calls them."""
        return self.accelerator.mixed_precision.replace("no", "fp32")

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return len(self.images) // self.config.batch

    def epoch(self, epoch: int, bar: tqdm) -> tuple[float, float, float, float]:
        """Train on every image once: the last learning rate, mean loss and accuracy on augmented images, seconds."""
        config, rank, processes = self.config, self.accelerator.process_index, self.accelerator.num_processes
        first = epoch * self.steps
        losses, correct = [], torch.zeros((), device=self.accelerator.device)
        self.model.train()
        started = self.now()
        for step, batch in enumerate(batches(self.images, config.batch, config.seed, epoch, config.crop), first):
            factor = schedule(step, config.epochs * self.steps, config.warmup)
            for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
                group["lr"] = group["peak_lr"] * factor
            loss, logits = self.step(self.normalize(batch.x[rank::processes]), batch.y[rank::processes])
            losses.append(loss)
            correct += (logits.argmax(1) == batch.y[rank::processes]).sum()
            bar.update()
            if self.accelerator.device.type == "cpu" and processes == 1:  # elsewhere to look is to wait
                self.check_finite([loss.item()], step)
        seconds = self.now() - started
        by_step = self.accelerator.reduce(torch.stack(losses), "mean").tolist()  # pyright: ignore
        self.check_finite(by_step, first)
        self.losses += by_step
        accuracy = self.accelerator.reduce(correct, "sum").item() / (self.steps * config.batch)  # pyright: ignore
        return config.lr * factor, sum(by_step) / self.steps, accuracy, seconds

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One step of every optimizer, by plain gradients or, with a radius, by sharpness-aware ones."""
        loss, logits = self.backward(x, y)
        if self.config.sam_radius:
            with ascended(self.model.parameters(), self.config.sam_radius), still_norms(self.model):
                for optimizer in self.optimizers:
                    optimizer.zero_grad()
                self.backward(x, y)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss, logits

    def backward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with self.accelerator.autocast():
            logits = self.parallel(x)
            loss = F.cross_entropy(logits, y, label_smoothing=self.config.label_smoothing)
        self.accelerator.backward(loss)
        return loss.detach(), logits.detach()

    def warm_up(self) -> None:
        """Compile, and leave no trace."""
        kept = copy.deepcopy(self.model.state_dict())
        batch = slice(self.accelerator.process_index, self.config.batch, self.accelerator.num_processes)
        self.model.train()
        self.backward(self.normalize(self.images.x[batch]), self.images.y[batch])
        self.model.zero_grad()
        self.model.load_state_dict(kept)

    def check_finite(self, losses: Sequence[float | None], first_step: int) -> None:
        """TrainingError for the first loss, of this step and those after it, that is infinite or no number."""
        for step, loss in enumerate(losses, first_step):
            if loss is not None and not math.isfinite(loss):
                lr = self.config.lr * schedule(step, self.config.epochs * self.steps, self.config.warmup)
                smaller = "--lr" if self.config.mechanism == "none" else "--lr or --mechanism-lr"
                raise TrainingError(
                    f"the loss is not finite at step {step}, learning rate {lr:.3g}; try a smaller {smaller}"
                )

    def now(self) -> float:
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def save(self, path: Path, history: list[Epoch]) -> None:
        """A checkpoint after the epochs of ``history``."""
        scaler = self.accelerator.scaler
        state = {
            "config": to_json(self.config),
            "history": [to_json(epoch) for epoch in history],
            "scaler": scaler.state_dict() if scaler else {},
            "precision": self.precision,
            "places": self.places,
        }
        checkpoint.save(path, self.model, self.optimizers, state)

    def resume(self, path: Path) -> list[Epoch]:
        """Load a checkpoint of the same configuration; the epochs that it has behind it."""
        state = checkpoint.load_state(path)
        if missing := {"config", "history", "scaler"} - state.keys():
            raise ValueError(f"{path} is no checkpoint of a run, it has no {', '.join(sorted(missing))}: delete it")
        there = TypeAdapter(Config).validate_python(state["config"])
        if there != self.config:
            differ = [f.name for f in fields(Config) if getattr(there, f.name) != getattr(self.config, f.name)]
            raise ValueError(
                f"{path} belongs to a run with another {', '.join(differ)}; delete it or give this run another study"
            )
        if state.get("precision", self.precision) != self.precision:
            raise ValueError(f"{path} was computed in {state['precision']}, not in {self.precision}: delete it")
        self.places[:0] = map(tuple, state.get("places", []))
        checkpoint.load_tensors(path, self.model, self.optimizers)
        if state["scaler"] and (scaler := self.accelerator.scaler):
            scaler.load_state_dict(state["scaler"])
        return TypeAdapter(list[Epoch]).validate_python(state["history"])


@contextmanager
def still_norms(model: nn.Module) -> Iterator[None]:
    """Inside, batch norms do not move their running statistics."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    yield
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@dataclass(frozen=True)
class Score:
    """What a network does on a split: mean loss, share of right answers, and that share with the mirror images' vote;
    None where there are no images."""

    loss: float | None = None
    accuracy: float | None = None
    accuracy_tta: float | None = None


@torch.no_grad()
def evaluate(
    model: nn.Module, images: Images, normalize: Normalizer, accelerator: Accelerator, *, tta: bool = False
) -> Score:
    """Score ``model``; with ``tta`` the logits of an image and of its mirror image are added."""
    if not len(images):
        return Score()
    model.eval()
    sums = torch.zeros(3, device=accelerator.device)
    mine = torch.arange(accelerator.process_index, len(images), accelerator.num_processes)
    for index in mine.split(500):
        batch = images.take(index, accelerator.device)
        x = normalize(batch.x)
        with accelerator.autocast():
            logits = model(x).float()
            averaged = logits + model(x.flip(-1)).float() if tta else logits
        sums[0] += F.cross_entropy(logits, batch.y, reduction="sum")
        sums[1] += (logits.argmax(1) == batch.y).sum()
        sums[2] += (averaged.argmax(1) == batch.y).sum()
    return Score(*(total / len(images) for total in accelerator.reduce(sums, "sum").tolist()))  # pyright: ignore


def build(config: Config, dataset: Dataset) -> nn.Module:
    """The network of a configuration, fitted to the images and classes of the data set."""
    return build_for(config, len(dataset.classes), tuple(dataset.x_train.shape[1:]))


def build_for(config: Config, classes: int, image: tuple[int, int, int]) -> nn.Module:
    """The network of a configuration for so many classes and images of (channels, height, width)."""
    channels, *size = image
    options = {"classes": classes, "in_channels": channels, "size": tuple(size)}
    if not config.match:
        options |= {"mechanism": config.mechanism, "stages": config.stages, "width": config.width}
        return build_model(config.model, **options)

    def cost(network: nn.Module) -> int:
        return count_parameters(network) if config.match == "parameters" else count_macs(network, (1, *image))

    width = matched_width(config.model, config.width, config.mechanism, config.stages, cost, **options)
    return build_model(config.model, width, **options)


def training_flops(config: Config, dataset: Dataset, images: int) -> int:
    """Floating-point operations of all steps of the network, forward and backward; SAM goes through each twice."""
    one = count_training_flops(build(config, dataset), (2, *dataset.x_train.shape[1:])) // 2
    passes = 2 if config.sam_radius else 1
    return one * passes * config.epochs * (images // config.batch) * config.batch


def progress_bar(config: Config, images: int, epochs_done: int, accelerator: Accelerator) -> tqdm:
    """A bar over all steps of the run; only the main process draws it. TQDM_DISABLE=1 keeps it quiet."""
    steps = images // config.batch
    quiet = {} if accelerator.is_main_process else {"disable": True}
    return tqdm(total=config.epochs * steps, initial=epochs_done * steps, desc=config.name, unit="step", **quiet)


def check(config: Config, dataset: Dataset) -> None:
    """ValueError for images that do not fit the configuration."""
    name, images, (height, width) = dataset.name, len(dataset.y_train), dataset.x_train.shape[2:]
    if name != config.data:
        raise ValueError(f"the images are called {name!r} but the configuration says data {config.data!r}")
    if name in PUBLISHED and images != PUBLISHED[name][0].images["train"]:
        raise ValueError(f"{images:,} images are not all of {name}: give this data set a name of its own")
    if config.crop >= min(height, width):
        raise ValueError(
            f"crop {config.crop} is too large for images of {height}×{width}: at most {min(height, width) - 1}"
        )


def check_batch(batch: int, images: int, processes: int) -> None:
    if batch > images:
        raise ValueError(f"a batch of {batch} is larger than the {images} training images; make it at most {images}")
    if batch % processes:
        raise ValueError(f"a batch of {batch} cannot be shared evenly by {processes} processes")
