"""What a cell does over and over: one training step on one batch, or one frozen pass that makes features."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from fptplus.training import TrainingStep, autocast, make_optimizer
from methods.method import ExampleInputs

from .config import CellConfig
from .predict.predictor import build_on


@dataclass(frozen=True, kw_only=True)
class Work:
    """A step on its device, with a batch."""

    step: Callable[..., Tensor | tuple[Tensor, ...]]
    """Takes inputs, targets and, if wanted, who is told of each phase."""

    inputs: tuple[Tensor, ...]
    targets: Tensor
    example_inputs: ExampleInputs
    is_frozen: bool

    def __call__(self, *on_phase: Callable[[str], None]) -> Tensor | tuple[Tensor, ...]:
        """Do it once."""
        return self.step(self.inputs, self.targets, *on_phase)


class FrozenPass:
    """A forward pass without gradients, called like a TrainingStep."""

    def __init__(self, model: nn.Module, autocast: Callable[[], AbstractContextManager]) -> None:
        self.model, self.autocast = model, autocast

    def __call__(
        self, inputs: tuple[Tensor, ...], targets: Tensor, on_phase: Callable[[str], None] = lambda phase: None
    ) -> tuple[Tensor, ...]:
        """The features of a batch; targets are not looked at."""
        on_phase("forward")
        with torch.no_grad(), self.autocast():
            return self.model(*inputs)


def work_on_device(cell: CellConfig) -> Work:
    """The cell's step on its device, with its batch.

    Built on the CPU and moved, so that nothing but the model and the batch has ever been allocated on the device.
    """
    torch.manual_seed(cell.seed)
    tuning, targets = build_on("cpu", cell)
    inputs = tuple(tensor.to(cell.device) for tensor in tuning.example_inputs(cell.batch_size))
    model = tuning.model.to(cell.device)
    mixed = partial(autocast, cell.precision, cell.device)
    if tuning.is_frozen:
        step = FrozenPass(model, mixed)
    else:
        step: TrainingStep = tuning.training_step(
            make_optimizer(cell.optimizer, model.parameters()),
            autocast=mixed,
            scaler=torch.amp.GradScaler(cell.device) if cell.precision == "fp16" else None,
        )
    return Work(
        step=step,
        inputs=inputs,
        targets=targets.to(cell.device),
        example_inputs=tuning.example_inputs,
        is_frozen=tuning.is_frozen,
    )
