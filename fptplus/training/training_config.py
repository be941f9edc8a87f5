"""The hyperparameters of a training run (FPT+, Sec. IV-B1)."""

import math
from dataclasses import dataclass

from fptplus.errors import InvalidInput
from fptplus.network.precision import Precision
from fptplus.seed import check_seed

from .step import OptimizerName

MOST_COUNTED = 10**9
"""Epochs and images beyond this are slips of the keyboard."""

LARGEST_RATE = 1e37
"""The optimizer's numbers in single precision end at 3.4e38; a step of AdamW begins with ten times the rate."""


def check_count(name: str, value: int, most: int = MOST_COUNTED) -> None:
    """Refuse a number of things that is below 1 or too large.

    Raises:
        InvalidInput: naming it.
    """
    if not 1 <= value <= most:
        bound = "at least 1" if value < 1 else f"at most {most}"
        raise InvalidInput(f"{name} must be {bound}, got {value}.")


def check_lr(lr: float) -> None:
    """Refuse a learning rate that no optimizer can step with.

    Raises:
        InvalidInput: if it is not above 0, too large, or NaN.
    """
    if not 0 < lr <= LARGEST_RATE:  # false for NaN
        bound = f"at most {LARGEST_RATE:g}" if lr > 0 else "above 0"
        raise InvalidInput(f"lr must be {bound}, got {lr:g}.")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train; the defaults are the paper's and the official code's (Sec. IV-B1)."""

    epochs: int = 20
    """Passes over the training images."""

    batch_size: int = 16
    """Images per step, over all processes."""

    lr: float = 1e-3
    """Learning rate at the start; it falls along half a cosine to 0, step by step."""

    weight_decay: float = 0.1
    """Decoupled weight decay of AdamW."""

    precision: Precision = "fp32"
    """Precision: fp32, or autocast to bf16 or fp16 with fp32 weights."""

    optimizer: OptimizerName = "adamw"
    """Optimizer. adamw: foreach kernels. adamw_fused: one kernel. sgd: with momentum. sgd_no_momentum: without."""

    seed: int = 0
    """Random seed for initial weights, order, augmentation and dropout."""

    def __post_init__(self) -> None:
        check_count("epochs", self.epochs)
        check_count("batch-size", self.batch_size)
        check_seed(self.seed)
        check_lr(self.lr)
        if not 0 <= self.weight_decay <= LARGEST_RATE:
            bound = f"at most {LARGEST_RATE:g}" if self.weight_decay > 0 else "at least 0"
            raise InvalidInput(f"weight-decay must be {bound}, got {self.weight_decay:g}.")

    def lr_at(self, step: int, total_steps: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.lr * 0.5 * (1 + math.cos(math.pi * step / total_steps))
