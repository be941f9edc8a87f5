"""Build a cell's model, batch and training step on any device, for measurement, emulation and tracing alike."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from unittest import mock

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from fptplus import InvalidInput
from fptplus.training.step import MAX_GRAD_NORM, TrainingStep, make_optimizer, moving_average
from methods import FineTuning, Method, create_backbone, find_method

from .config import CellConfig
from .step_options import ordered_targets


def build_on(device: torch.device | str, cell: CellConfig) -> tuple[FineTuning, Tensor]:
    """Return the cell's model and targets on a device.

    Inputs come from `example_inputs` under the same default device.

    Raises:
        InvalidInput: if the model is not known, the method cannot drive it at this resolution, or nothing in the model
            would be skipped by drop path.
    """
    with torch.device(device), _nothing_drawn() if torch.device(device).type == "meta" else nullcontext():
        vit = create_backbone(
            cell.model,
            cell.res,
            cell.num_classes,
            attention=cell.attention,
            checkpointing=cell.checkpointing,
            drop_path=cell.drop_path,
            weights=cell.weights if torch.device(device).type != "meta" else None,
        )
        tuning = _method(cell).build(vit, cell.res)
        if cell.drop_path and not any(isinstance(m, DropPath) and m.training for m in tuning.model.modules()):
            raise InvalidInput(
                f"drop-path must be 0 with method {cell.method}, which runs no block of the LPM in training mode, "
                f"got {cell.drop_path:g}; leave it out, or name other methods."
            )
        if cell.precision == "bf16_weights":
            tuning = tuning.with_bf16_weights()
        return tuning, torch.randint(cell.num_classes, (cell.batch_size,))


@contextmanager
def _nothing_drawn() -> Iterator[None]:
    """Make modules without drawing their initial values: a third of the time, for values that nothing holds."""
    initialisers = {name: one for name, one in vars(nn.init).items() if name.endswith("_") and not name.startswith("_")}
    with ExitStack() as stack:
        for name, initialise in initialisers.items():
            stack.enter_context(mock.patch.object(nn.init, name, partial(_unless_meta, initialise)))
        yield


def _unless_meta(initialise: Callable[..., Tensor], tensor: Tensor, *args, **kwargs) -> Tensor:
    """Draw a tensor's values; a library imported meanwhile may keep this function and call it later on."""
    return tensor if tensor.is_meta else initialise(tensor, *args, **kwargs)


def _method(cell: CellConfig) -> Method:
    """Return the cell's method, with LoRA's hyperparameters if it is LoRA."""
    method = find_method(cell.method)
    if cell.lora_rank is None:
        return method
    return replace(method, rank=cell.lora_rank, targets=ordered_targets(cell.lora_targets))


def make_step(
    cell: CellConfig,
    tuning: FineTuning,
    *,
    autocast: Callable[[], AbstractContextManager],
    scaler: torch.amp.GradScaler | None = None,
) -> TrainingStep:
    """Return the cell's training step, with its optimizer and its moving average.

    Args:
        cell: the step's cell.
        tuning: the cell's model, on its device.
        autocast: creates the context of the cell's precision.
        scaler: gradient scaler of an fp16 step; None otherwise.
    """
    averaged = moving_average(tuning.model) if cell.averaging == "ema" else None
    return tuning.training_step(
        make_optimizer(cell.optimizer, tuning.model.parameters()),
        autocast=autocast,
        scaler=scaler,
        max_grad_norm=MAX_GRAD_NORM if cell.clipping == "norm" else None,
        zero_grad=cell.zero_grad,
        accumulation_steps=cell.accumulation_steps,
        averaged=averaged,
    )
