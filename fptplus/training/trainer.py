"""Train for a number of epochs, keep the weights of the best validation AUC, and go on after an interruption.

An epoch's state is on disk before the next begins, and every random choice depends on the seed and the step alone: a
training killed at any moment and started again repeats the epoch it was in, and ends where it would have ended.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fptplus.distributed import Processes
from fptplus.errors import InvalidInput
from fptplus.network.precision import Precision, autocast
from fptplus.whole_file import whole_file

from .checkpoint import learnable_state, load_learnable, read_training_state, write_training_state
from .cpu_memory import keep_freed_memory
from .feed import Feed, seed_at
from .metrics import Scores, check_auc_is_defined, score
from .step import OptimizerName, TrainingStep, make_optimizer


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train; the defaults are the paper's and the official code's (Sec. IV-B1)."""

    epochs: int = 20
    """Passes over the training images."""

    batch_size: int = 16
    """Images a step, of all processes together."""

    lr: float = 1e-3
    """Learning rate at the start; it falls along half a cosine to 0, step by step."""

    weight_decay: float = 0.1
    """Decoupled weight decay of AdamW."""

    precision: Precision = "fp32"
    """fp32, or autocast to bf16 or fp16 with fp32 weights."""

    optimizer: OptimizerName = "adamw"
    """adamw: foreach kernels. adamw_fused: one kernel. sgd: with momentum. sgd_no_momentum: without."""

    seed: int = 0
    """Of initial weights, order, augmentation and dropout."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if (value := getattr(self, name)) < 1:
                raise InvalidInput(f"{name.replace('_', '-')} must be at least 1, got {value}.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InvalidInput(f"lr must be above 0, got {self.lr:g}.")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise InvalidInput(f"weight-decay must be at least 0, got {self.weight_decay:g}.")

    def lr_at(self, step: int, total_steps: int) -> float:
        """Learning rate of a step, counted from 0."""
        return self.lr * 0.5 * (1 + math.cos(math.pi * step / total_steps))


@dataclass(frozen=True)
class EpochReport:
    """One epoch, as a row of metrics.csv."""

    epoch: int
    """From 1."""

    train_loss: float
    val_loss: float
    val_auc: float
    val_accuracy: float
    lr: float
    """Of the last step."""

    train_s: float
    """Seconds of the training steps."""

    throughput_img_s: float
    """Training images a second."""


@dataclass
class History:
    """What a training has been through."""

    epochs: list[EpochReport] = field(default_factory=list)

    @property
    def best(self) -> EpochReport | None:
        """The first epoch of the highest validation AUC."""
        return max(self.epochs, key=lambda epoch: epoch.val_auc, default=None)

    def table(self) -> pd.DataFrame:
        """A row an epoch."""
        return pd.DataFrame([asdict(epoch) for epoch in self.epochs])


@dataclass(frozen=True, kw_only=True)
class Trainee:
    """A model to train, with what its method adds to a training step."""

    model: nn.Module
    """Gives logits from the inputs of a batch; parameters that move have `requires_grad`."""

    regularizer: Callable[[], Tensor] | None = None
    after_step: Callable[[int], None] | None = None
    """As of TrainingStep."""

    method_state: Callable[[], dict] | None = None
    load_method_state: Callable[[dict], None] | None = None
    """What the method remembers between steps beside the parameters, to be kept and given back; or None."""


OnEpoch = Callable[[EpochReport], None]


def train(
    trainee: Trainee,
    config: TrainingConfig,
    training: Feed,
    validation: Feed,
    folder: Path,
    *,
    identity: dict[str, str],
    on_epoch: OnEpoch = lambda report: None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> History:
    """Train, or go on with a training that was interrupted.

    Args:
        trainee: on the feeds' device.
        config: how.
        training, validation: the images.
        folder: gets metrics.csv, `best.safetensors` (weights of the best epoch) and `last.pt` (to go on from).
        identity: what the training is of; kept in both files, and what `last.pt` must have to be gone on from.
        on_epoch: told after each epoch, those already done included.
        on_step: told after each step how many of all steps are done.

    Returns:
        All epochs. The trainee has the weights of the best.

    Raises:
        InvalidInput: if a class is missing in validation, the training split holds less than a batch, or `folder` holds
            another training.
    """
    check_auc_is_defined(_labels(validation), validation.store.manifest.classes, "val")
    if training.device == "cpu":
        keep_freed_memory()
    run = _Run(trainee, config, training, folder, identity)
    history = run.resumed()
    for report in history.epochs:
        on_epoch(report)
    for epoch in range(len(history.epochs), config.epochs):
        train_loss, lr, train_s = run.train_epoch(epoch, on_step)
        scores = evaluate(trainee.model, validation, config.precision)
        images = training.steps_per_epoch * config.batch_size
        report = EpochReport(
            epoch + 1, train_loss, scores.loss, scores.auc, scores.accuracy, lr, train_s, images / train_s
        )
        history.epochs.append(report)
        run.keep(history)
        on_epoch(report)
    training.processes.wait()
    load_learnable(trainee.model, folder / "best.safetensors")
    return history


@torch.no_grad()
def evaluate(model: nn.Module, feed: Feed, precision: Precision = "fp32") -> Scores:
    """Scores on all images of a feed's split, gathered from all processes."""
    logits, labels = predict_logits(model, feed, precision)
    return score(feed.processes.gathered(logits), feed.processes.gathered(labels))


@torch.no_grad()
def predict_logits(model: nn.Module, feed: Feed, precision: Precision = "fp32") -> tuple[Tensor, Tensor]:
    """Logits (N, classes) in fp32 and labels (N,), on the CPU or, where processes gather, on their device."""
    was_training = model.training
    model.eval()
    logits, labels = [], []
    for batch in feed.in_order():
        with autocast(precision, torch.device(feed.device).type):
            logits.append(model(*batch.inputs).float())
        labels.append(batch.targets)
    model.train(was_training)
    classes = len(feed.store.manifest.classes)
    if not logits:  # a process may have no image of a small split
        return torch.empty(0, classes, device=feed.device), torch.empty(0, dtype=torch.long, device=feed.device)
    return torch.cat(logits), torch.cat(labels)


class _Run:
    """One training: its step, its schedule and its folder."""

    def __init__(self, trainee: Trainee, config: TrainingConfig, feed: Feed, folder: Path, identity: dict) -> None:
        self.trainee, self.config, self.feed, self.folder = trainee, config, feed, folder
        self.identity = identity | {name: str(value) for name, value in asdict(config).items()}
        self.optimizer = make_optimizer(
            config.optimizer, trainee.model.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        device_type = torch.device(feed.device).type
        self.step = TrainingStep(
            _distributed(trainee.model, feed.processes),
            self.optimizer,
            autocast=partial(autocast, config.precision, device_type),
            scaler=torch.amp.GradScaler(device_type) if config.precision == "fp16" else None,
            regularizer=trainee.regularizer,
            after_step=trainee.after_step,
        )
        self.total_steps = config.epochs * feed.steps_per_epoch

    def train_epoch(self, epoch: int, on_step: Callable[[int, int], None]) -> tuple[float, float, float]:
        """Mean loss, last learning rate and seconds of one epoch."""
        self.trainee.model.train()
        start, losses, lr = time.perf_counter(), [], 0.0
        for step, batch in enumerate(self.feed.epoch(epoch)):
            lr = self.config.lr_at(self.step.steps_done, self.total_steps)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            torch.manual_seed(seed_at(self.config.seed, epoch, step, self.feed.processes.rank))  # dropout
            losses.append(self.step(batch.inputs, batch.targets))
            on_step(self.step.steps_done, self.total_steps)
        loss = self.feed.processes.mean(torch.stack(losses).mean()).item()
        return loss, lr, time.perf_counter() - start

    def keep(self, history: History) -> None:
        """Put an epoch on disk: first the weights if they are the best so far, then the state to go on from."""
        if not self.feed.processes.is_first:
            return
        learnable = learnable_state(self.trainee.model)
        state = {
            "identity": self.identity,
            "history": [asdict(epoch) for epoch in history.epochs],
            "model": learnable,
            "optimizer": self.optimizer.state_dict(),
            "steps_done": self.step.steps_done,
            "scaler": self.step.scaler.state_dict() if self.step.scaler else None,
            "method": self.trainee.method_state() if self.trainee.method_state else None,
        }
        best = learnable if history.best is history.epochs[-1] else None
        write_training_state(self.folder, state, best, self.identity)
        self._write_metrics(history)

    def _write_metrics(self, history: History) -> None:
        with whole_file(self.folder / "metrics.csv") as beside:
            history.table().to_csv(beside, index=False)

    def resumed(self) -> History:
        """The epochs done before, all else set to go on from there; no epochs where there is nothing to go on from."""
        state = read_training_state(self.folder, self.identity, self.feed.device)
        if state is None:
            return History()
        load_learnable(self.trainee.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step.steps_done = state["steps_done"]
        if self.step.scaler is not None:
            self.step.scaler.load_state_dict(state["scaler"])
        if self.trainee.load_method_state is not None:
            self.trainee.load_method_state(state["method"])
        history = History([EpochReport(**epoch) for epoch in state["history"]])
        if self.feed.processes.is_first:
            self._write_metrics(history)
        return history


def _distributed(model: nn.Module, processes: Processes) -> nn.Module:
    """The model with its gradients averaged over all processes."""
    return DistributedDataParallel(model) if processes.world_size > 1 else model


def _labels(feed: Feed) -> Tensor:
    """Labels of all images of a feed's split."""
    return feed.store.labels[torch.from_numpy(feed.store.rows(feed.split))]
