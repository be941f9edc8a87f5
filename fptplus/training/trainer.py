"""Train for a number of epochs, keep the weights of the best validation AUC, and resume after an interruption.

An epoch's state is on disk before the next begins, and every random choice depends on the seed and the step alone. So a
training run that is killed at any moment and started again repeats the epoch it was in, and ends where it would have
ended.
"""

import math
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fptplus.distributed import Processes
from fptplus.errors import InvalidInput
from fptplus.network.precision import Precision, autocast
from fptplus.whole_file import clear_unfinished, whole_file

from .checkpoint import (
    BEST,
    LAST,
    CheckpointInfo,
    damaged_state,
    learnable_state,
    load_learnable,
    read_training_state,
    write_training_state,
)
from .cpu_memory import keep_freed_memory
from .feed import Feed, seed_at
from .fine_tuning import FineTuning
from .metrics import Diverged, Scores, check_auc_is_defined, score
from .step import make_optimizer

METRICS = "metrics.csv"


@dataclass(frozen=True)
class EpochReport:
    """One epoch, as a row of metrics.csv."""

    epoch: int
    """Number of the epoch, counted from 1."""

    train_loss: float
    val_loss: float
    val_auc: float
    val_accuracy: float
    lr: float
    """Learning rate of the last step."""

    train_s: float
    """Seconds of the training steps."""

    throughput_img_s: float
    """Training images per second."""

    @property
    def diverged(self) -> bool:
        """Whether a loss is no longer a number; the scores of validation are NaN if it is theirs."""
        return not (math.isfinite(self.train_loss) and math.isfinite(self.val_loss))


@dataclass
class History:
    """The epochs of a training run so far."""

    epochs: list[EpochReport] = field(default_factory=list)

    @property
    def best(self) -> EpochReport | None:
        """The first epoch of the highest validation AUC; None if none has one."""
        scored = [epoch for epoch in self.epochs if not epoch.diverged]
        return max(scored, key=lambda epoch: epoch.val_auc, default=None)

    @property
    def diverged(self) -> bool:
        """Whether the training ended because a loss was no longer a number."""
        return any(epoch.diverged for epoch in self.epochs)

    def table(self) -> pd.DataFrame:
        """Return a table with one row per epoch."""
        return pd.DataFrame([asdict(epoch) for epoch in self.epochs])


OnEpoch = Callable[[EpochReport], None]


def train(
    tuning: FineTuning,
    info: CheckpointInfo,
    training: Feed,
    validation: Feed,
    folder: Path,
    *,
    on_epoch: OnEpoch = lambda report: None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> History:
    """Train, or resume a training run that was interrupted.

    Args:
        tuning: the model to train, on the feeds' device.
        info: what is trained, and how. It is kept in both files, and must match for a run to resume.
        training, validation: batches of the two splits.
        folder: gets metrics.csv, `best.safetensors` (weights of the best epoch) and `last.pt` (to resume from). No
            other process may be training there.
        on_epoch: called after each epoch, and for those already done.
        on_step: called after each step with the number of steps done and the total.

    Returns:
        All epochs; the one in which a loss is no longer a number is the last (`History.diverged`). The model has the
        weights of the best, if there is one.

    Raises:
        InvalidInput: if a class is missing in validation, the training split holds less than a batch, or `folder` holds
            another training run.
    """
    check_auc_is_defined(_labels(validation), validation.store.manifest.classes, "val")
    if training.device == "cpu":
        keep_freed_memory()
    config = info.training
    run = _Run(tuning, info, training, folder)
    history = run.resumed()
    for report in history.epochs:
        on_epoch(report)
    while len(history.epochs) < config.epochs and not history.diverged:
        epoch = len(history.epochs)
        train_loss, lr, train_s = run.train_epoch(epoch, on_step)
        images = training.steps_per_epoch * config.batch_size
        validated = _validated(tuning.model, validation, config.precision)
        report = EpochReport(epoch + 1, train_loss, *validated, lr, train_s, images / train_s)
        history.epochs.append(report)
        run.keep(history)
        on_epoch(report)
    training.processes.wait()
    if history.best is not None:
        load_learnable(tuning.model, folder / BEST)
    return history


def _validated(model: nn.Module, validation: Feed, precision: Precision) -> tuple[float, float, float]:
    """Loss, AUC and accuracy; NaN where the model has diverged."""
    try:
        scores = evaluate(model, validation, precision)
    except Diverged:
        return math.nan, math.nan, math.nan
    return scores.loss, scores.auc, scores.accuracy


@torch.no_grad()
def evaluate(model: nn.Module, feed: Feed, precision: Precision = "fp32") -> Scores:
    """Scores on all images of a feed's split, gathered from all processes.

    Raises:
        Diverged: if the model's outputs are not finite.
    """
    logits, labels = predict_logits(model, feed, precision)
    return score(feed.processes.gathered(logits), feed.processes.gathered(labels))


@torch.no_grad()
def predict_logits(model: nn.Module, feed: Feed, precision: Precision = "fp32") -> tuple[Tensor, Tensor]:
    """Return logits (N, classes) in fp32 and labels (N,), on the CPU or, with several processes, on their device."""
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
    """One training run: its step, its schedule and its folder."""

    def __init__(self, tuning: FineTuning, info: CheckpointInfo, feed: Feed, folder: Path) -> None:
        self.tuning, self.info, self.config, self.feed, self.folder = tuning, info, info.training, feed, folder
        if feed.processes.is_first:
            clear_unfinished(folder, BEST, LAST, METRICS)
        config, device_type = info.training, torch.device(feed.device).type
        self.optimizer = make_optimizer(
            config.optimizer, tuning.model.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.step = replace(tuning, model=_distributed(tuning.model, feed.processes)).training_step(
            self.optimizer,
            autocast=partial(autocast, config.precision, device_type),
            scaler=torch.amp.GradScaler(device_type) if config.precision == "fp16" else None,
        )
        self.total_steps = config.epochs * feed.steps_per_epoch

    def train_epoch(self, epoch: int, on_step: Callable[[int, int], None]) -> tuple[float, float, float]:
        """Train for one epoch; return its mean loss, last learning rate and seconds."""
        self.tuning.model.train()
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
        """Write an epoch to disk: first the weights if they are the best so far, then the state to resume from."""
        if not self.feed.processes.is_first:
            return
        learnable = learnable_state(self.tuning.model)
        state = {
            "identity": self.info.metadata(),
            "history": [asdict(epoch) for epoch in history.epochs],
            "model": learnable,
            "optimizer": self.optimizer.state_dict(),
            "steps_done": self.step.steps_done,
            "scaler": self.step.scaler.state_dict() if self.step.scaler else None,
            "method": self.tuning.method_state() if self.tuning.method_state else None,
        }
        best = learnable if history.best is history.epochs[-1] else None
        try:
            write_training_state(self.folder, state, best, self.info)
            self._write_metrics(history)
        except (OSError, RuntimeError, SafetensorError) as error:  # whatever the three libraries make of a full disk
            raise self._kept_elsewhere(state, best, error) from error

    def _kept_elsewhere(self, state: dict, best: dict[str, Tensor] | None, error: Exception) -> InvalidInput:
        """What to say of an epoch that the folder does not take; it is kept among temporary files, if these take it."""
        said = (
            f"{str(self.folder)!r} must take epoch {len(state['history'])}, it could not be written "
            f"({getattr(error, 'strerror', None) or error})"
        )
        elsewhere = Path(tempfile.mkdtemp(prefix="fptplus-epoch-"))
        try:
            write_training_state(elsewhere, state, best, self.info)
        except (OSError, RuntimeError, SafetensorError):
            shutil.rmtree(elsewhere, ignore_errors=True)
            return InvalidInput(f"{said}; make room and repeat the command, which resumes after the epoch before.")
        return InvalidInput(
            f"{said}; it is kept in {str(elsewhere)!r}: make room, move its files there and repeat the command, which "
            "resumes."
        )

    def _write_metrics(self, history: History) -> None:
        with whole_file(self.folder / METRICS) as beside:
            history.table().to_csv(beside, index=False)

    def resumed(self) -> History:
        """Restore the state to resume from, and return the epochs already done; none if there is nothing to resume."""
        state = read_training_state(self.folder, self.info, self.feed.device)
        if state is None:
            return History()
        try:
            history = self._restored(state)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise damaged_state(self.folder, error) from error
        if self.feed.processes.is_first:
            self._write_metrics(history)
        return history

    def _restored(self, state: dict) -> History:
        load_learnable(self.tuning.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step.steps_done = int(state["steps_done"])
        if self.step.scaler is not None:
            self.step.scaler.load_state_dict(state["scaler"])
        if self.tuning.load_method_state is not None:
            self.tuning.load_method_state(state["method"])
        return History([EpochReport(**epoch) for epoch in state["history"]])


def _distributed(model: nn.Module, processes: Processes) -> nn.Module:
    """Return the model with its gradients averaged over all processes."""
    return DistributedDataParallel(model) if processes.world_size > 1 else model


def _labels(feed: Feed) -> Tensor:
    """Return the labels of all images of a feed's split."""
    return feed.store.labels[torch.from_numpy(feed.store.rows(feed.split))]
