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
        for name in ("epochs", "batch_size"):
            if not 1 <= (value := getattr(self, name)) <= MOST_COUNTED:
                bound = "at least 1" if value < 1 else f"at most {MOST_COUNTED}"
                raise InvalidInput(f"{name.replace('_', '-')} must be {bound}, got {value}.")
        check_seed(self.seed)
        if not 0 < self.lr <= LARGEST_RATE:  # false for NaN
            bound = f"at most {LARGEST_RATE:g}" if self.lr > 0 else "above 0"
            raise InvalidInput(f"lr must be {bound}, got {self.lr:g}.")
        if not 0 <= self.weight_decay <= LARGEST_RATE:
            bound = f"at most {LARGEST_RATE:g}" if self.weight_decay > 0 else "at least 0"
            raise InvalidInput(f"weight-decay must be {bound}, got {self.weight_decay:g}.")

    def lr_at(self, step: int, total_steps: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.lr * 0.5 * (1 + math.cos(math.pi * step / total_steps))
