"""A cell's repeated work: one training step on one batch, or one frozen pass that makes features."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fptplus.network.features import Features, Inputs, map_tensors
from fptplus.network.precision import autocast
from fptplus.training.fine_tuning import ExampleInputs, FineTuning
from methods.backbone import AttentionMode

from .building import build_on, make_step
from .config import CellConfig


@dataclass(frozen=True, kw_only=True)
class Work:
    """A step on its device, together with a batch."""

    step: Callable[..., Tensor | Features]
    """The step; it takes inputs, targets and, if wanted, listeners that are told of each phase."""

    inputs: Inputs
    targets: Tensor
    example_inputs: ExampleInputs
    is_frozen: bool

    def __call__(self, *on_phase: Callable[[str], None]) -> Tensor | Features:
        """Run the step once."""
        return self.step(self.inputs, self.targets, *on_phase)


_PINNED_KERNELS = {"flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}


def pinned_attention(attention: AttentionMode) -> AbstractContextManager:
    """Return the context in which fused attention uses the kernel that a cell names, if it names one."""
    kernel = _PINNED_KERNELS.get(attention)
    return nullcontext() if kernel is None else sdpa_kernel(kernel)


class FrozenPass:
    """The frozen forward pass without gradients, called like a TrainingStep."""

    def __init__(self, model: nn.Module, autocast: Callable[[], AbstractContextManager]) -> None:
        self.model, self.autocast = model, autocast

    def __call__(
        self, inputs: Inputs, targets: Tensor, on_phase: Callable[[str], None] = lambda phase: None
    ) -> Features:
        """Return the features of a batch; targets are ignored."""
        on_phase("forward")
        with torch.no_grad(), self.autocast():
            return self.model(*inputs)


def work_on_device(cell: CellConfig) -> Work:
    """Return the cell's step on its device, with its batch.

    It is built on the CPU and then moved, so that nothing but the model and the batch has ever been allocated on the
    device.
    """
    torch.manual_seed(cell.seed)
    tuning, targets = build_on("cpu", cell)
    model = tuning.model.to(cell.device)
    inputs = map_tensors(lambda tensor: tensor.to(cell.device), tuning.example_inputs(cell.batch_size))
    return make_work(cell, tuning, model, inputs, targets.to(cell.device))


def work_without_values(cell: CellConfig, tuning: FineTuning) -> Work:
    """Return work that allocates the same blocks in the same order, without drawing or moving any values.

    Args:
        cell: a cell with a device.
        tuning: the cell's model on the meta device; it is moved to the cell's device.
    """
    model = tuning.model.to_empty(device=cell.device)
    return make_work(cell, tuning, model, *batch_without_values(cell, tuning))


def batch_without_values(cell: CellConfig, tuning: FineTuning) -> tuple[Inputs, Tensor]:
    """Return a batch's inputs and targets on the cell's device, without drawing or moving any values."""
    with torch.device("meta"):
        example = tuning.example_inputs(cell.batch_size)
    inputs = map_tensors(partial(torch.empty_like, device=cell.device), example)
    return inputs, torch.empty(cell.batch_size, dtype=torch.long, device=cell.device)


def make_work(cell: CellConfig, tuning: FineTuning, model: nn.Module, inputs: Inputs, targets: Tensor) -> Work:
    """Return the step of a model on its device, with its batch there."""
    mixed = partial(autocast, cell.precision, cell.device)
    if tuning.is_frozen:
        step = FrozenPass(model, mixed)
    else:
        scaler = torch.amp.GradScaler(cell.device) if cell.precision == "fp16" else None
        step = make_step(cell, tuning, autocast=mixed, scaler=scaler)
    return Work(
        step=step,
        inputs=inputs,
        targets=targets,
        example_inputs=tuning.example_inputs,
        is_frozen=tuning.is_frozen,
    )
