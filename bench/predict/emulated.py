"""One cell on an emulated card: its real training step, by PyTorch's allocator and operators.

predict_cell() and everything else that forks runs in the processes of an EmulatedPool (emulate/pool.py), which have not
started CUDA. The other functions run in the processes forked there, each on a card.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial

import torch

from bench.cards.gpus import Gpu, endless
from bench.cards.verdict import verdict
from bench.cells.anatomy import Anatomy, Peak
from bench.cells.building import build_on
from bench.cells.config import CellConfig, no_kernel
from bench.cells.work import Work, pinned_attention, work_without_values
from bench.emulate.build import CannotEmulate
from bench.emulate.device_state import kernel_launches, unanswered, unknown_workspaces
from bench.emulate.fork import JobFailed, on_card
from bench.emulate.step_anatomy import StepWatch
from bench.emulate.step_profile import profiled
from bench.timing.estimate import StepEstimate, estimate_step
from bench.timing.operations import StepWork
from bench.timing.recording import record_step, timed
from fptplus import InvalidInput
from fptplus.network.features import tensors_of
from methods import FineTuning

from .counts import count
from .prediction import Prediction


class StepFails(RuntimeError):
    """PyTorch's own operators refuse the step, as they would on the real card; the message is theirs."""


WARMUP_STEPS = 2
"""Steps before memory is read: optimizer state appears in the first step, and blocks find their places in the
second."""

NUM_STEPS = WARMUP_STEPS + 1
"""Steps that a prediction of memory takes."""


def prepare() -> None:
    """Import what counting imports at its first use, so that no process forked from this one has to."""
    with suppress(ImportError):  # without fvcore nothing is counted by it
        import fvcore.nn  # noqa: F401


def predict_cell(cell: CellConfig, gpu: Gpu) -> tuple[Prediction, Anatomy]:
    """Predict a cell, with as much memory as it takes and on its card.

    Args:
        cell: the cell to predict.
        gpu: its card, looked up by the caller, since asking this machine for a card would start CUDA.

    Raises:
        InvalidInput: if the method cannot drive the model at this resolution.
        CannotEmulate: if the step calls something that the device has no answer to.
    """
    prediction, anatomy = on_card(endless(gpu), emulate_cell, cell, gpu)
    return replace(prediction, **how_it_fits(cell, gpu, prediction.peak)), anatomy


def how_it_fits(cell: CellConfig, gpu: Gpu, peak: Peak) -> dict[str, str | None]:
    """Return `fits` and `out_of_memory` of a Prediction, by a run on the card unless its memory is clearly enough.

    Args:
        cell: the step's cell.
        gpu: its card.
        peak: peak with as much memory as the step takes.
    """
    if verdict(peak.reserved_bytes, gpu).word == "yes":
        return {"fits": "yes", "out_of_memory": None}
    message = on_card(gpu, run_out, cell, context_bytes=gpu.context.high_bytes)
    if message is None:
        return {"fits": "yes", "out_of_memory": None}
    is_hopeless = peak.allocated_bytes + gpu.context.low_bytes > gpu.memory_bytes
    is_out = is_hopeless or on_card(gpu, run_out, cell, context_bytes=gpu.context.low_bytes) is not None
    return {"fits": "no" if is_out else "maybe", "out_of_memory": message}


def emulate_cell(cell: CellConfig, gpu: Gpu) -> tuple[Prediction, Anatomy]:
    """Return what this process's card says of a cell, with the time predicted for it, and the cell's anatomy.

    Args:
        cell: the step's cell.
        gpu: the card whose time is predicted and whose context is counted; memory is this process's card's.
    """
    tuning, _ = build_on("meta", cell)
    with prepared(cell):
        work, host_time_s = _warmed_up(cell, tuning)
        launched = kernel_launches()
        with StepWatch(work) as watch, profiled(work.step.model) as read:
            work(watch.enter)
        launches = kernel_launches() - launched
        done = record_step(work.step.model, work, tensors_of(work.inputs), host_time_s=host_time_s)
    seen = read()
    anatomy, unknown = watch.anatomy(seen), unknown_workspaces()
    prediction = Prediction(
        by="emulated",
        **asdict(count(cell, "cuda")),  # last, since it leaves blocks behind
        train_step_macs=done.macs,
        peak=anatomy.peak,
        context_bytes=gpu.context_bytes,
        kernel_launches=launches,
        estimate=estimate_step(done, gpu, cell.batch_size),
        unknown_workspaces=unknown,
    )
    return prediction, anatomy


def work_of(cell: CellConfig, tuning: FineTuning | None = None) -> StepWork:
    """Return what a cell's step does, for a prediction of its time on any card; runs on this process's card.

    Args:
        cell: the step's cell.
        tuning: the cell's model on the meta device, if it has been built.
    """
    tuning = tuning or build_on("meta", cell)[0]
    with prepared(cell):
        work, host_time_s = _warmed_up(cell, tuning)
        return record_step(work.step.model, work, tensors_of(work.inputs), host_time_s=host_time_s)


def estimate_of(cell: CellConfig, gpu: Gpu, tuning: FineTuning | None = None) -> StepEstimate | None:
    """Return the time and energy predicted for a cell on a card; runs on this process's card.

    Args:
        cell: the step's cell.
        gpu: the card whose time is predicted.
        tuning: the cell's model on the meta device, if it has been built.
    """
    return estimate_step(work_of(cell, tuning), gpu, cell.batch_size)


def peak_of(cell: CellConfig, tuning: FineTuning | None = None) -> Peak:
    """Return the counters of a cell on this process's card.

    Args:
        cell: the step's cell.
        tuning: the cell's model on the meta device, if it has been built.
    """
    tuning = tuning or build_on("meta", cell)[0]
    with prepared(cell):
        work = _work(cell, tuning)
        for _ in range(NUM_STEPS):
            work()
        return read_peak()


def run_out(cell: CellConfig, tuning: FineTuning | None = None) -> str | None:
    """Return PyTorch's message if the cell's step does not fit this process's card, with its place; None if it fits.

    Args:
        cell: the cell whose step is run.
        tuning: the cell's model on the meta device, if it has been built.
    """
    tuning = tuning or build_on("meta", cell)[0]
    place = "building the step"

    def enter(step: int, phase: str) -> None:
        nonlocal place
        place = f"step {step}, {phase}"

    with prepared(cell):
        try:
            work = _work(cell, tuning)
            for step in range(1, NUM_STEPS + 1):
                work(partial(enter, step))
        except torch.OutOfMemoryError as error:
            return f"{place}: {str(error).partition(' Including non-PyTorch memory')[0]}"
    return None


def read_peak() -> Peak:
    """Return the device's counters; how they divide into kinds is not known."""
    counters = torch.cuda.memory_stats()
    return Peak(
        requested_bytes=counters["requested_bytes.all.peak"],
        allocated_bytes=counters["allocated_bytes.all.peak"],
        reserved_bytes=counters["reserved_bytes.all.peak"],
        by_kind={},
    )


def _warmed_up(cell: CellConfig, tuning: FineTuning) -> tuple[Work, float]:
    """Return a cell's work after its warm-up, and the processor time of the last step in seconds."""
    work = _work(cell, tuning)
    return work, [timed(work) for _ in range(WARMUP_STEPS)][-1]


def _work(cell: CellConfig, tuning: FineTuning) -> Work:
    return work_without_values(replace(cell, device="cuda"), tuning)


@contextmanager
def prepared(cell: CellConfig) -> Iterator[None]:
    """Apply the allocator's settings and the attention kernel of a cell; put errors of the device into words."""
    if torch._C._cuda_isInBadFork():
        raise JobFailed("a process on an emulated card must be forked from one that has not started CUDA.")
    if cell.alloc_conf is not None:
        _set_up_allocator(cell.alloc_conf)
    try:
        with pinned_attention(cell.attention):
            yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if "No available kernel" in str(error):
            raise no_kernel(cell) from error
        if names := unanswered():
            raise CannotEmulate(
                f"the emulated device has no answer to {names}, which {cell.method} calls; use --engine traced."
            ) from error
        raise StepFails(f"PyTorch {torch.__version__} fails in this step on {cell.gpu}: {error}") from error


def _set_up_allocator(settings: str) -> None:
    try:
        torch.cuda.memory._set_allocator_settings(settings)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidInput(f"alloc-conf must be settings that PyTorch knows, got {settings!r}: {reason}") from error
