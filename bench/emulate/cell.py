"""One cell on an emulated card: its real training step, by PyTorch's allocator and operators.

predict_cell() and what else forks runs in the processes of an EmulatedPool (pool.py), which have not started CUDA; the
other functions in those that it forks, each on a card.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from bench import alloc_conf
from bench.building import build_on
from bench.config import CellConfig
from bench.meters.flops import fvcore_macs
from bench.predict.anatomy import Anatomy, Peak
from bench.predict.devices import Gpu
from bench.predict.prediction import Prediction
from bench.predict.verdict import verdict
from bench.work import Work, pinned_attention, work_without_values
from fptplus import InvalidInput
from methods import FineTuning

from .build import CannotEmulate
from .device_state import kernel_launches, unanswered, unknown_workspaces
from .fork import on_card
from .profile import profiled
from .step_anatomy import StepWatch

WARMUP_STEPS = 2
"""The optimizer's state appears in the first step, and blocks find their places in the second."""

_ENDLESS_BYTES = 2**42


def predict_cell(cell: CellConfig, gpu: Gpu) -> tuple[Prediction, Anatomy]:
    """A cell with as much memory as it takes, and on its card.

    Args:
        cell: to predict.
        gpu: its card; looked up by the caller, since asking this machine for a card would start CUDA.

    Raises:
        InvalidInput: if the method cannot drive the model at this resolution.
        CannotEmulate: if the step calls what the device has no answer to.
    """
    prediction, anatomy = on_card(endless(gpu), emulate_cell, cell, gpu.context_bytes)
    return replace(prediction, **how_it_fits(cell, gpu, prediction.peak)), anatomy


def endless(gpu: Gpu) -> Gpu:
    """A card that holds whatever a step takes."""
    return replace(gpu, memory_bytes=_ENDLESS_BYTES)


def how_it_fits(cell: CellConfig, gpu: Gpu, peak: Peak) -> dict[str, str | None]:
    """`fits` and `out_of_memory` of a Prediction: by a run on the card where its memory is not clearly enough.

    Args:
        cell: whose step it is.
        gpu: its card.
        peak: with as much memory as it takes.
    """
    if verdict(peak.reserved_bytes, gpu).word == "yes":
        return {"fits": "yes", "out_of_memory": None}
    message = on_card(gpu, run_out, cell, context_bytes=gpu.context.high_bytes)
    if message is None:
        return {"fits": "yes", "out_of_memory": None}
    is_hopeless = peak.allocated_bytes + gpu.context.low_bytes > gpu.memory_bytes
    is_out = is_hopeless or on_card(gpu, run_out, cell, context_bytes=gpu.context.low_bytes) is not None
    return {"fits": "no" if is_out else "maybe", "out_of_memory": message}


def emulate_cell(cell: CellConfig, context_bytes: int) -> tuple[Prediction, Anatomy]:
    """Parameters, MACs, peaks and launches of a cell on the card of this process, and what its memory is for."""
    tuning, fvcore = count(cell)
    with _prepared(cell):
        work = _work(cell, tuning)
        for _ in range(WARMUP_STEPS):
            work()
        launched = kernel_launches()
        with StepWatch(work) as watch, profiled(work.step.model) as read:
            work(watch.enter)
        launches, seen = kernel_launches() - launched, read()
        anatomy = watch.anatomy(seen)
        prediction = Prediction(
            by="emulated",
            learnable_params=tuning.learnable_params,
            total_params=tuning.total_params,
            forward_macs=_forward_macs(tuning.model, _one_image(tuning)),
            train_step_macs=seen.macs,
            backbone_forward_macs=_backbone_macs(cell, tuning),
            fvcore_forward_macs=fvcore,
            peak=anatomy.peak,
            context_bytes=context_bytes,
            kernel_launches=launches,
            unknown_workspaces=unknown_workspaces(),
        )
        return prediction, anatomy


def peaks_of(cell: CellConfig, batch_sizes: list[int], tuning: FineTuning | None = None) -> list[Peak]:
    """The counters of a cell at several batch sizes on the card of this process; its model is built once.

    Each batch begins with an empty cache and without the optimizer's state.

    Args:
        cell: of any batch size.
        batch_sizes: to run.
        tuning: of the cell, on the meta device, where it has been built.
    """
    tuning = tuning or build_on("meta", cell)[0]
    peaks = []
    with _prepared(cell):
        for batch_size in batch_sizes:
            work = _work(replace(cell, batch_size=batch_size), tuning)
            for _ in range(WARMUP_STEPS + 1):
                work()
            peaks.append(read_peak())
            del work
            _clean(tuning)
    return peaks


def run_out(cell: CellConfig, tuning: FineTuning | None = None) -> str | None:
    """PyTorch's message where the cell's step does not fit the card of this process, with its place; None if it fits.

    Args:
        cell: whose step is run.
        tuning: of the cell, on the meta device, where it has been built.
    """
    tuning = tuning or build_on("meta", cell)[0]
    place = "building the step"

    def enter(step: int, phase: str) -> None:
        nonlocal place
        place = f"step {step}, {phase}"

    with _prepared(cell):
        try:
            work = _work(cell, tuning)
            for step in range(1, WARMUP_STEPS + 2):
                work(partial(enter, step))
        except torch.OutOfMemoryError as error:
            return f"{place}: {str(error).partition(' Of the allocated memory')[0]}"
    return None


def _clean(tuning: FineTuning) -> None:
    """Leave nothing on the device but the model."""
    for parameter in tuning.model.parameters():
        parameter.grad = None
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def read_peak() -> Peak:
    """The device's counters, by kinds not known."""
    counters = torch.cuda.memory_stats()
    return Peak(
        requested_bytes=counters["requested_bytes.all.peak"],
        allocated_bytes=counters["allocated_bytes.all.peak"],
        reserved_bytes=counters["reserved_bytes.all.peak"],
        by_kind={},
    )


def _work(cell: CellConfig, tuning: FineTuning) -> Work:
    return work_without_values(replace(cell, device="cuda"), tuning)


@contextmanager
def _prepared(cell: CellConfig) -> Iterator[None]:
    """The allocator's settings and the attention kernel of a cell; errors of the device in words."""
    if (settings := alloc_conf.in_force(cell.alloc_conf)) is not None:
        torch.cuda.memory._set_allocator_settings(settings)
    try:
        with pinned_attention(cell.attention):
            yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if names := unanswered():
            raise CannotEmulate(
                f"the emulated device has no answer to {names}, which {cell.method} calls; use --engine traced."
            ) from error
        if "No available kernel" in str(error):
            raise InvalidInput(
                f"attention {cell.attention} has no kernel for {cell.precision} on {cell.gpu}; use sdpa or eager."
            ) from error
        raise


def _work(cell: CellConfig, tuning: FineTuning) -> Work:
    return work_without_values(replace(cell, device="cuda"), tuning)


def count(cell: CellConfig) -> tuple[FineTuning, int | None]:
    """The cell's model on meta tensors, and fvcore's count of it, which cannot be traced in bf16."""
    tuning = counted = build_on("meta", cell)[0]
    if cell.precision == "bf16_weights":
        counted, _ = build_on("meta", replace(cell, precision="fp32"))
    with torch.device("meta"):
        return tuning, fvcore_macs(counted.model, counted.example_inputs(1))


def _one_image(tuning: FineTuning) -> tuple[Tensor, ...]:
    with torch.device("meta"):
        example = tuning.example_inputs(1)
    return tuple(torch.empty_like(tensor, device="cuda") for tensor in example)


def _backbone_macs(cell: CellConfig, tuning: FineTuning) -> int | None:
    """MACs of preloading one image, where features are preloaded."""
    if tuning.preloader is None:
        return None
    preloader = tuning.preloader.to_empty(device="cuda")
    dtype = next(preloader.parameters()).dtype
    return _forward_macs(preloader, (torch.empty(1, 3, cell.res, cell.res, device="cuda", dtype=dtype),))


def _forward_macs(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    with profiled(model) as read:
        model(*inputs)
    return read().macs
