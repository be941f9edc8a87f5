"""Measure one cell in this process: memory and time on a CUDA device, time within a budget on a CPU."""

import gc
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial

import psutil
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from fptplus.training import TrainingStep, autocast, make_optimizer

from .config import CellConfig
from .environment import device_facts
from .meters.memory import MemoryMeter
from .meters.throughput import time_steps
from .predict.predictor import Prediction, build_on

_PINNED_KERNELS = {"flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}
_WARMUP_STEPS = 3
_CPU_STEPS_WANTED = 4
"""One to warm up and three to time; a budget that does not hold them measures nothing."""

Reading = dict[str, int | float | str | None]
"""Columns of a record."""


@dataclass(frozen=True, kw_only=True)
class TimingBudget:
    """Seconds that timing the steps of one cell may take."""

    cpu_s: float = 30.0
    """A cell that would take longer is not timed."""

    cuda_s: float = 10.0
    """No further step begins after it, once three are timed."""


def measure(cell: CellConfig, prediction: Prediction, budget: TimingBudget) -> Reading:
    """Run the cell's training step and read the meters.

    Out of memory and a kernel the device does not have are outcomes, returned as a status. A reading without a device
    is of a cell that was not run.

    Args:
        cell: with `device` cuda or cpu.
        prediction: of the same cell; on a CPU it tells beforehand whether time and memory suffice.
        budget: for timing.
    """
    if cell.device == "cpu" and (reason := _why_not_on_cpu(prediction, budget.cpu_s)):
        return {"status_detail": reason}
    on_cuda = cell.device == "cuda"
    try:
        reading = _measure_on_cuda(cell, budget.cuda_s) if on_cuda else _measure_on_cpu(cell, budget.cpu_s)
    except torch.cuda.OutOfMemoryError as error:
        reading = {"status": "oom", "status_detail": str(error).partition(". GPU")[0]}
    except RuntimeError as error:
        if "No available kernel" not in str(error):
            raise
        reading = {"status": "unsupported", "status_detail": f"attention {cell.attention}: {error}"}
    return {**device_facts(cell.device), **reading}


def training_on_device(cell: CellConfig) -> partial:
    """The cell's training step on its device, with its batch.

    Built on the CPU and moved, so that nothing but the model and the batch has ever been allocated on the device.
    """
    torch.manual_seed(cell.seed)
    tuning, targets = build_on("cpu", cell)
    inputs = tuple(tensor.to(cell.device) for tensor in tuning.example_inputs(cell.batch_size))
    model = tuning.model.to(cell.device)
    step: TrainingStep = tuning.training_step(
        make_optimizer(cell.optimizer, model.parameters()),
        autocast=partial(autocast, cell.precision, cell.device),
        scaler=torch.amp.GradScaler(cell.device) if cell.precision == "fp16" else None,
    )
    return partial(step, inputs, targets.to(cell.device))


def _measure_on_cuda(cell: CellConfig, budget_s: float) -> Reading:
    """Both meters over the same steps, after a warm-up that brings in the optimizer's state."""
    gc.collect()
    torch.cuda.empty_cache()  # what an earlier cell in this process has left
    pinned = _PINNED_KERNELS.get(cell.attention)
    with sdpa_kernel(pinned) if pinned else nullcontext():
        take_step, memory = training_on_device(cell), MemoryMeter()
        for _ in range(_WARMUP_STEPS):
            take_step()
        memory.reset()
        timing = time_steps(
            take_step, batch_size=cell.batch_size, device="cuda", budget_s=budget_s, min_steps=3, max_steps=50
        )
        return {**asdict(memory.read()), **asdict(timing)}


def _measure_on_cpu(cell: CellConfig, budget_s: float) -> Reading:
    take_step = training_on_device(cell)
    began = time.perf_counter()
    take_step()
    left_s = budget_s - (time.perf_counter() - began)
    timing = time_steps(
        take_step,
        batch_size=cell.batch_size,
        device="cpu",
        budget_s=left_s,
        min_steps=_CPU_STEPS_WANTED - 1,
        max_steps=20,
    )
    return asdict(timing)


def _why_not_on_cpu(prediction: Prediction, budget_s: float) -> str | None:
    """The reason why timing this cell would take too long or too much memory, or None."""
    needed, free = prediction.peak.allocated_bytes, psutil.virtual_memory().available
    if needed > 0.8 * free:
        return f"not timed: needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB of memory are free"
    expected_s = _CPU_STEPS_WANTED * 2 * prediction.train_step_macs / _cpu_flops_per_s()
    if expected_s > budget_s:
        steps = f"{_CPU_STEPS_WANTED} steps would take about {expected_s:.0f} s"
        return f"not timed: {steps}, the CPU budget is {budget_s:g} s"
    return None


def _cpu_flops_per_s() -> float:
    """Speed of a matrix product here; a training step never reaches more."""
    size = 1024
    matrix = torch.randn(size, size)
    matrix @ matrix  # the first one starts the threads
    start = time.perf_counter()
    for _ in range(3):
        matrix @ matrix
    return 3 * 2 * size**3 / (time.perf_counter() - start)
