"""THE training step: forward, loss, backward, clip, optimizer (FPT+, Sec. IV-B1; official training loop).

Real training, timing, metering and memory prediction all call this one class, so a benchmark always measures the step
that people train with.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._pytree import tree_flatten, tree_unflatten

from fptplus.errors import InvalidInput
from fptplus.network.features import Inputs

OptimizerName = Literal["adamw", "adamw_fused", "sgd", "sgd_no_momentum"]
ZeroGrad = Literal["before_forward", "after_forward"]
"""When the gradients of the last step are released: after_forward keeps them alive through the forward pass."""

Phase = Literal["forward", "loss", "backward", "optimizer"]

MAX_GRAD_NORM = 1.0
"""Norm at which gradients are clipped (official code)."""

EMA_DECAY = 0.9998
"""Decay of the moving average of the weights (timm's training script)."""


def make_optimizer(
    name: OptimizerName, parameters: Iterable[nn.Parameter], *, lr: float = 1e-3, weight_decay: float = 0.1
) -> torch.optim.Optimizer:
    """Make the optimizer for the parameters that have a gradient.

    Args:
        name: `adamw` (foreach: temporaries as large as the parameters), `adamw_fused` (one kernel, no temporaries),
            `sgd` (momentum 0.9), or `sgd_no_momentum` (no state at all).
        parameters: parameters of the model; frozen ones are left out.
        lr: learning rate; the schedule scales it.
        weight_decay: weight decay, decoupled for AdamW (official code: 0.1).
    """
    learnable = [parameter for parameter in parameters if parameter.requires_grad]
    match name:
        case "adamw":
            return torch.optim.AdamW(learnable, lr=lr, weight_decay=weight_decay, foreach=True)
        case "adamw_fused":
            return torch.optim.AdamW(learnable, lr=lr, weight_decay=weight_decay, fused=True)
        case "sgd" | "sgd_no_momentum":
            momentum = 0.9 if name == "sgd" else 0.0
            return torch.optim.SGD(learnable, lr=lr, weight_decay=weight_decay, momentum=momentum, foreach=True)
    raise InvalidInput(f"optimizer must be one of {', '.join(get_args(OptimizerName))}, got {name!r}.")


def moving_average(model: nn.Module) -> AveragedModel:
    """Return a copy of a model whose weights follow the original's as an exponential moving average (EMA)."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))


class TrainingStep:
    """One optimization step of any model on one batch.

    Args:
        model: gives logits (B, classes) from the tensors of a batch.
        optimizer: over the model's learnable parameters.
        autocast: makes the context that forward and cross-entropy run in.
        scaler: scales the loss of an fp16 step; None otherwise.
        regularizer: returns a further loss term of the method (AdaLoRA's orthogonality), or None.
        after_step: called with the steps done, while gradients still exist (AdaLoRA's rank allocation), or None.
        max_grad_norm: norm at which gradients are clipped; None for no clipping.
        zero_grad: when the last step's gradients are released.
        accumulation_steps: equal micro-batches per batch; the gradients are those of the whole batch.
        batch_axes: for each tensor of the inputs the axis that counts images (fine_tuning.batch_axes); None if it is
            the first of all.
        averaged: copy that follows the weights after each step (moving_average), or None.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        scaler: torch.amp.GradScaler | None = None,
        regularizer: Callable[[], Tensor] | None = None,
        after_step: Callable[[int], None] | None = None,
        max_grad_norm: float | None = MAX_GRAD_NORM,
        zero_grad: ZeroGrad = "before_forward",
        accumulation_steps: int = 1,
        batch_axes: Sequence[int | None] | None = None,
        averaged: AveragedModel | None = None,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self.autocast, self.scaler = autocast, scaler
        self.regularizer, self.after_step = regularizer, after_step
        self.max_grad_norm, self.zero_grad, self.averaged = max_grad_norm, zero_grad, averaged
        self.accumulation_steps, self.batch_axes = accumulation_steps, batch_axes
        self.steps_done = 0
        self._learnable = [p for group in optimizer.param_groups for p in group["params"]]

    def __call__(
        self, inputs: Inputs, targets: Tensor, on_phase: Callable[[Phase], None] = lambda phase: None
    ) -> Tensor:
        """Take one step.

        Args:
            inputs: what the model is called with, on its device.
            targets: (B,) class indices.
            on_phase: called with the name of each phase as it begins; forward, loss and backward once per micro-batch.

        Returns:
            The loss, a detached scalar still on the device, so that nothing waits for it.

        Raises:
            InvalidInput: if the batch cannot be split into equal micro-batches.
        """
        if self.zero_grad == "before_forward":
            self.optimizer.zero_grad(set_to_none=True)
        total = None
        for part_inputs, part_targets in self._micro_batches(inputs, targets):
            loss = self._loss(part_inputs, part_targets, on_phase)
            if total is None and self.zero_grad == "after_forward":
                self.optimizer.zero_grad(set_to_none=True)
            on_phase("backward")
            if self.scaler is None:
                loss.backward()
            else:
                self.scaler.scale(loss).backward()
            total = loss.detach() if total is None else total + loss.detach()
        on_phase("optimizer")
        self._update()
        return total

    def _micro_batches(self, inputs: Inputs, targets: Tensor) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield views of equal parts of a batch, or the batch itself if it is not split."""
        count, batch_size = self.accumulation_steps, len(targets)
        if count == 1:
            yield inputs, targets
            return
        if batch_size % count:
            raise InvalidInput(f"accumulation_steps must divide the batch of {batch_size} images, got {count}.")
        tensors, structure = tree_flatten(inputs)
        axes = self.batch_axes or [0] * len(tensors)
        parts = [
            [None] * count if tensor is None else tensor.chunk(count, axis)
            for tensor, axis in zip(tensors, axes, strict=True)
        ]
        for part_targets, *part in zip(targets.chunk(count), *parts, strict=True):
            yield tree_unflatten(part, structure), part_targets

    def _loss(self, inputs: Inputs, targets: Tensor, on_phase: Callable[[Phase], None]) -> Tensor:
        """Return the loss of a micro-batch: its share of the batch's mean."""
        with self.autocast():
            on_phase("forward")
            logits = self.model(*inputs)
            on_phase("loss")
            loss = F.cross_entropy(logits, targets)
        if self.regularizer is not None:  # of weights, which are fp32: autocast would round it
            loss = loss + self.regularizer()
        return loss if self.accumulation_steps == 1 else loss / self.accumulation_steps

    def _update(self) -> None:
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._learnable, self.max_grad_norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.steps_done += 1
        if self.after_step is not None:
            self.after_step(self.steps_done)
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
