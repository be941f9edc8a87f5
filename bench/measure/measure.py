"""Measure one cell in this process: memory, time and power on a CUDA device, time on a CPU.

On an emulated device it takes the same course and finds memory, but neither time nor power. It is called in a process
that was started for the cell (bench/measure/cell_process.py), and reports its findings at once.
"""

import os
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from bench.cards.gpus import find_gpu
from bench.cells import alloc_conf
from bench.cells.config import CellConfig
from bench.cells.work import Work, pinned_attention, work_on_device
from bench.emulate.device_state import is_emulated
from bench.measure.meters.memory import MemoryMeter, Usage, foreign_processes, process_memory, usage_of_all
from bench.measure.meters.nvml import NvmlDevice, NvmlSilent, find_device, nvml_session
from bench.measure.meters.power import PowerMeter
from bench.measure.meters.throughput import ThroughputReading, time_steps
from bench.records.measured_columns import MEASURED_TIME
from bench.records.record import COLUMNS
from fptplus import InvalidInput
from fptplus.network.features import tensors_of

from .environment import device_facts, nvml_facts
from .journal import Journal, Reading
from .loader import MappedExamples, mapped_batches, on_device
from .outcome import outcome_of

_WARMUP_STEPS = 3
CPU_STEPS_WANTED = 4
"""Steps on a CPU: one to warm up and three to time. If the budget does not allow them, nothing is measured."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Time limits in seconds for the parts of measuring one cell."""

    cpu_s: float = 30.0
    """Time for steps on a CPU; a cell that would take longer is not timed."""

    cuda_s: float = 5.0
    """Time for steps on a CUDA device; at least three are timed, however long they take."""

    idle_s: float = 2.0
    """Time for metering the power of the idle GPU."""

    power_window_s: float = 5.5
    """Time for metering the power of the working GPU; 0 omits power, idle power included."""

    loader_s: float = 3.0
    """Time for steps with batches from disk; 0 omits them."""

    timeout_s: float = 900.0
    """Time for the whole cell, after which its process is ended."""


def measure(cell: CellConfig, budget: Budget, scratch: Path, journal: Journal) -> None:
    """Run the cell's step and read the meters; findings are written to the journal at once.

    Three failures are outcomes with a status of their own: memory runs out, the device lacks a kernel, and another
    process uses the GPU. Times on an emulated device mean nothing and are never reported.

    Args:
        cell: a cell whose `device` is cuda or cpu.
        budget: time limits.
        scratch: folder for temporary files; the caller removes it.
        journal: is told of each phase and finding.
    """
    journal.known = frozenset(COLUMNS)
    run = _measure_on_cuda if cell.device == "cuda" else _measure_on_cpu
    if cell.device == "cuda" and is_emulated():
        journal.left_out = frozenset(MEASURED_TIME)
        budget = replace(budget, cuda_s=0.0, power_window_s=0.0, loader_s=min(budget.loader_s, 0.5))
    try:
        run(cell, budget, scratch, journal)
    except RuntimeError as error:
        if (outcome := outcome_of(error, cell, journal.phase)) is None:
            raise
        journal.found(outcome)


def _measure_on_cuda(cell: CellConfig, budget: Budget, scratch: Path, journal: Journal) -> None:
    """Measure memory and time over the same steps, after a warm-up that creates optimizer state; then the rest."""
    with ExitStack() as stack:
        stack.enter_context(pinned_attention(cell.attention))
        journal.begin("starting the device")
        journal.found({"alloc_conf": alloc_conf.in_force(cell.alloc_conf)})
        device, before = _start_device(stack, journal)
        if device is not None and _is_shared(device, before, journal):
            return
        power = PowerMeter(device) if device is not None and budget.power_window_s else None
        if power is not None:
            power.idle(budget.idle_s)
        if cell.vram_bytes is not None:
            _emulate_memory(cell, device, before)
        work, memory = _build(cell, journal), MemoryMeter(device, before)
        for _ in range(_WARMUP_STEPS):
            work(partial(_enter_step_phase, journal))
        memory.reset()
        _begin(journal, "timing steps")
        timing = time_steps(
            work, batch_size=cell.batch_size, device="cuda", budget_s=budget.cuda_s, min_steps=3, max_steps=100
        )
        journal.found(asdict(memory.read()) | asdict(timing))
        _measure_beyond(cell, work, timing, budget, scratch, journal, power)
        if device is not None and _is_shared(device, before, journal):
            return
        journal.found(nvml_facts(device) if device is not None else {})


def _measure_on_cpu(cell: CellConfig, budget: Budget, scratch: Path, journal: Journal) -> None:
    """Measure time only; memory of a CPU process is not one of CUDA's counters, so those columns stay empty."""
    journal.found(device_facts("cpu"))
    work = _build(cell, journal)
    began = time.perf_counter()
    work(partial(_enter_step_phase, journal))
    left_s = budget.cpu_s - (time.perf_counter() - began)
    _begin(journal, "timing steps")
    timing = time_steps(
        work,
        batch_size=cell.batch_size,
        device="cpu",
        budget_s=left_s / 2,  # the other half is for batches from disk
        min_steps=CPU_STEPS_WANTED - 1,
        max_steps=20,
    )
    journal.found(asdict(timing))
    _measure_beyond(cell, work, timing, budget, scratch, journal, power=None)


def _start_device(stack: ExitStack, journal: Journal) -> tuple[NvmlDevice | None, Usage | None]:
    """Start CUDA, observed by NVML if there is one. Return the device in NVML and its usage before."""
    try:
        stack.enter_context(nvml_session())
        before = usage_of_all()
    except NvmlSilent as silent:
        journal.note(f"NVML counters not measured: {silent}")
        before = None
    torch.cuda.synchronize()  # creates the context
    journal.found(device_facts("cuda"))
    if before is None:
        return None, None
    try:
        device = find_device(os.environ, str(torch.cuda.get_device_properties(0).uuid))
    except NvmlSilent as silent:
        journal.note(f"NVML counters not measured: {silent}")
        return None, None
    return device, before.get(device.uuid, Usage(None, frozenset()))


def _is_shared(device: NvmlDevice, before: Usage, journal: Journal) -> bool:
    """Whether another process computes on the device; it is reported as the status, since no figure can be trusted."""
    if not (others := foreign_processes(device, before)):
        return False
    names = ", ".join(f"{pid} ({name})" for pid, name in others.items())
    detail = f"foreign process on the GPU: {names}; end it, or choose another GPU with CUDA_VISIBLE_DEVICES"
    journal.found({"status": "failed", "status_detail": detail, "ended_in_phase": journal.phase})
    return True


def _emulate_memory(cell: CellConfig, device: NvmlDevice | None, before: Usage | None) -> None:
    """Limit PyTorch to the memory it would have on a smaller card: that card's memory less the CUDA context."""
    measured = process_memory(device, before)[0] if device is not None else None
    context_bytes = find_gpu(cell.gpu).context_bytes if measured is None else measured
    if (left_bytes := cell.vram_bytes - context_bytes) <= 0:
        raise InvalidInput(
            f"vram must be more than the CUDA context's {context_bytes} bytes, got {cell.vram_bytes}; ask for more."
        )
    total_bytes = torch.cuda.get_device_properties(0).total_memory
    if cell.vram_bytes > total_bytes:
        raise InvalidInput(f"vram must be at most the device's {total_bytes} bytes, got {cell.vram_bytes}.")
    torch.cuda.set_per_process_memory_fraction(left_bytes / total_bytes)


def _build(cell: CellConfig, journal: Journal) -> Work:
    _begin(journal, "building")
    work = work_on_device(cell)
    _begin(journal, "warm-up")
    return work


def _begin(journal: Journal, phase: str) -> None:
    journal.begin(phase, torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None)


def _enter_step_phase(journal: Journal, phase: str) -> None:
    _begin(journal, f"warm-up, {phase}")


def _measure_beyond(
    cell: CellConfig,
    work: Work,
    timing: ThroughputReading,
    budget: Budget,
    scratch: Path,
    journal: Journal,
    power: PowerMeter | None,
) -> None:
    """Measure power, disk, batches from disk and whole epochs; a failure of one is noted and leaves the others."""
    parts = {
        "metering power": partial(_measure_power, power, budget.power_window_s) if power is not None else None,
        "writing features": partial(_measure_disk, scratch) if work.is_frozen else None,
        "timing steps from disk": None if work.is_frozen else partial(_measure_loader, timing, budget, scratch),
        "running epochs": partial(_measure_epochs, scratch) if cell.epochs else None,
    }
    for phase, part in parts.items():
        if part is None:
            continue
        _begin(journal, phase)
        try:
            journal.found(part(cell, work))
        except (torch.OutOfMemoryError, OSError) as error:
            journal.note(f"{phase} did not work: {str(error).partition('. GPU')[0]}")


def _measure_power(meter: PowerMeter, window_s: float, cell: CellConfig, work: Work) -> Reading:
    """Measure power over a window of steps, waiting between them only enough not to run ahead of the device."""
    num_steps, began = 0, time.perf_counter()
    meter.start()
    while time.perf_counter() - began < window_s:
        work()
        num_steps += 1
        if num_steps % 8 == 0:
            torch.cuda.synchronize()
    torch.cuda.synchronize()
    return asdict(meter.stop(num_steps * cell.batch_size))


def _measure_disk(scratch: Path, cell: CellConfig, work: Work) -> Reading:
    """Measure the size of a batch's features in a file, in fp32 like those of the official code."""
    path = scratch / "features.bin"
    with path.open("wb") as file:
        for tensor in tensors_of(work()):
            tensor.float().cpu().numpy().tofile(file)
    return {"disk_bytes_per_img": path.stat().st_size / cell.batch_size}


def _measure_loader(timing: ThroughputReading, budget: Budget, scratch: Path, cell: CellConfig, work: Work) -> Reading:
    """Time steps whose batches come from disk, after two that fill the queue."""
    limit_s = budget.loader_s if cell.device == "cuda" else min(budget.loader_s, budget.cpu_s / 4)
    num_steps = min(100, int(limit_s / timing.step_time_s) - 2)
    if num_steps < 3:
        return {}
    batches = on_device(_batches(cell, work, scratch, num_images=8 * cell.batch_size), cell.device)
    for inputs, targets in islice(batches, 2):
        work.step(inputs, targets)
    from_disk = time_steps(
        lambda: work.step(*next(batches)),
        batch_size=cell.batch_size,
        device=cell.device,
        budget_s=0.0,
        min_steps=num_steps,
        max_steps=num_steps,
    )
    return {"loader_step_time_s": from_disk.step_time_s, "loader_throughput_img_s": from_disk.throughput_img_s}


def _measure_epochs(scratch: Path, cell: CellConfig, work: Work) -> Reading:
    """Time all steps of the epochs asked for by the wall clock, with batches from disk."""
    batches = _batches(cell, work, scratch, num_images=cell.epoch_images)
    num_steps = cell.epochs * (cell.epoch_images // cell.batch_size)
    began = time.perf_counter()
    for inputs, targets in islice(on_device(batches, cell.device), num_steps):
        work.step(inputs, targets)
    if cell.device == "cuda":
        torch.cuda.synchronize()
    return {"measured_training_time_s": time.perf_counter() - began}


def _batches(cell: CellConfig, work: Work, scratch: Path, num_images: int):
    examples = MappedExamples(
        scratch, work.example_inputs, num_stored=cell.batch_size, num_images=num_images, num_classes=cell.num_classes
    )
    num_workers = min(4, os.cpu_count() or 1) if cell.device == "cuda" else 0
    return mapped_batches(examples, cell.batch_size, cell.device, num_workers)
