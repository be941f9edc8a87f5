"""Functions that tests of the measured path run in processes on emulated cards, which find them by name."""

import io
import os
import signal
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.cards.gpus import GPUS
from bench.cards.probe import Properties, ask, present_properties
from bench.cells.config import CellConfig
from bench.commands.doctor import Finding, examine
from bench.emulate.pool import Job
from bench.measure.journal import Journal, Reading, Story, read_journal
from bench.measure.loader import MappedExamples, mapped_batches, on_device
from bench.measure.measure import Budget, measure
from bench.measure.meters.memory import MemoryMeter, MemoryReading, Usage, foreign_processes, usage_of_all
from bench.measure.meters.nvml import NvmlDevice, NvmlSilent, find_device, nvml_session
from bench.measure.meters.power import PowerMeter, PowerReading
from bench.measure.outcome import outcome_of
from bench.predict.prediction import Prediction
from bench.records.record import Record
from bench.sweep.harness import run_cell
from fptplus.network.features import tensors_of
from methods import create_backbone, find_method

QUICK = Budget(loader_s=0.0)
WHOLE = Budget(idle_s=0.01, power_window_s=0.05, loader_s=0.3)
"""All parts of a measurement, each as short as it can be."""

BLOCK_BYTES = 2**20


def job(*arguments: object, card: str = "a6000") -> Job:
    """A job for a card of the catalogue."""
    return Job(gpu=GPUS[card], arguments=arguments)


class AnotherProcess:
    """A process of this machine that computes on the device once it is told to come; ended with the context.

    It is forked, so it must be made before this process touches the device.
    """

    def __init__(self, num_bytes: int = BLOCK_BYTES) -> None:
        call, answer = os.pipe(), os.pipe()
        self._call, self._answer, self._has_come = call[1], answer[0], False
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.read(call[0], 1)
                kept = torch.empty(num_bytes, dtype=torch.uint8, device="cuda")
                os.write(answer[1], b"x")
                while kept.numel():
                    signal.pause()
            finally:
                os._exit(1)
        os.close(answer[1])

    def come(self) -> None:
        """Take the memory, once; it has it when this returns."""
        if not self._has_come:
            os.write(self._call, b"x")
            self._has_come = os.read(self._answer, 1) == b"x"

    def __enter__(self) -> "AnotherProcess":
        return self

    def __exit__(self, *exc_info) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def story_of(cell: CellConfig, budget: Budget = QUICK, on_phase: Callable[[str], None] = lambda phase: None) -> Story:
    """What measuring a cell in this process writes into its journal."""

    class ToldJournal(Journal):
        def begin(self, phase: str, peak_allocated_bytes: int | None = None) -> None:
            super().begin(phase, peak_allocated_bytes)
            on_phase(phase)

    file = io.StringIO()
    with tempfile.TemporaryDirectory() as scratch:
        measure(cell, budget, Path(scratch), ToldJournal(file))
    return list(read_journal(file.getvalue().splitlines()))[-1]


def story_beside_another(cell: CellConfig, phase: str) -> tuple[Story, int]:
    """The story of a cell, and the id of another process, which comes before it or as a phase of it begins."""
    with AnotherProcess() as another:
        if phase == "before":
            another.come()
        return story_of(cell, on_phase=lambda begun: another.come() if begun == phase else None), another.pid


def blocks_beside_another(another_bytes: int, warmup_bytes: int, num_bytes: int) -> tuple[MemoryReading, Usage, str]:
    """A block held after a larger one was released in the warm-up, next to another process.

    Returns:
        The counters, the device before this process has touched it, and the name of the only foreign process.
    """
    with AnotherProcess(another_bytes) as another, nvml_session():
        another.come()
        (before,) = usage_of_all().values()
        meter = MemoryMeter(device := _current_device(), before)
        torch.empty(warmup_bytes, dtype=torch.uint8, device="cuda")
        torch.cuda.empty_cache()
        meter.reset()
        kept = torch.empty(num_bytes, dtype=torch.uint8, device="cuda")
        reading = meter.read()
        del kept
        return reading, before, foreign_processes(device, before)[another.pid]


def free_bytes_around_another(num_bytes: int) -> list[int]:
    """The device's free memory before another process, while it holds some, and when it is dead but not yet reaped."""
    with AnotherProcess(num_bytes) as another:
        free = [torch.cuda.mem_get_info()[0]]
        another.come()
        free.append(torch.cuda.mem_get_info()[0])
        os.kill(another.pid, signal.SIGKILL)
        os.waitid(os.P_PID, another.pid, os.WEXITED | os.WNOWAIT)
        return [*free, torch.cuda.mem_get_info()[0]]


def counters_without_nvml() -> MemoryReading:
    """Counters of a block where nobody asks NVML."""
    kept = torch.empty(BLOCK_BYTES, dtype=torch.uint8, device="cuda")
    reading = MemoryMeter().read()
    del kept
    return reading


def out_of_memory_beside_another(another_bytes: int, num_bytes: int) -> Reading:
    """The outcome of asking for memory of which another process has left too little."""
    with AnotherProcess(another_bytes) as another:
        another.come()
        return _outcome(lambda: torch.empty(num_bytes, dtype=torch.uint8, device="cuda"))


def operator_without_answer() -> Reading:
    """The outcome of a step with an operator that the emulated device does not have."""
    sparse = torch.eye(64).to_sparse().cuda()
    return _outcome(lambda: torch.sparse.mm(sparse, sparse))


def _outcome(function: Callable[[], object]) -> Reading:
    cell = CellConfig(method="linear", model="test_vit", res=64, device="cuda")
    try:
        function()
    except RuntimeError as error:
        return outcome_of(error, cell, "warm-up, forward")
    raise AssertionError("it must fail")


def found_devices(environments: list[dict[str, str]]) -> list[str]:
    """What NVML finds in each environment: the device's UUID, or why none is found; last what CUDA's own UUID finds,
    and that UUID.
    """
    with nvml_session():
        found = [_uuid_or_reason(environ) for environ in environments]
        return [*found, _uuid_or_reason(os.environ, ask().uuid), f"GPU-{ask().uuid}"]


def _uuid_or_reason(environ: dict[str, str], cuda_uuid: str | None = None) -> str:
    try:
        return find_device(environ, cuda_uuid).uuid
    except NvmlSilent as silent:
        return str(silent)


def _current_device() -> NvmlDevice:
    return find_device({}, ask().uuid)


def power_without_a_meter() -> tuple[dict[str, float | None], PowerReading]:
    """What NVML says of the power of an emulated device, and what a window of work on it reads."""
    with nvml_session():
        device = _current_device()
        meter = PowerMeter(device, interval_s=0.001)
        meter.idle(0.0)
        meter.start()
        quantities = ("power_w", "energy_j", "temperature_c", "power_limit_w")
        return {name: getattr(device, name) for name in quantities}, meter.stop(10)


def properties_and_whether_cuda_was_started() -> tuple[Properties, bool]:
    """What a process learns of the device without touching it."""
    return present_properties(), torch.cuda.is_initialized()


def doctor_alone_and_beside_another(out: str) -> tuple[list[Finding], int, list[Finding]]:
    """The doctor's findings on an undisturbed device; the id of a process that then uses it, and the findings there."""
    with AnotherProcess() as another:
        alone = list(examine(out))
        another.come()
        return alone, another.pid, list(examine(out))


def batch_from_disk(method: str, num_workers: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The second batch of stored examples as it arrives on the device, and as it was stored; both on the CPU."""
    tuning = find_method(method).build(create_backbone("test_vit", 64, 5), 64)
    torch.manual_seed(0)
    stored = tuning.example_inputs(4)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        examples = MappedExamples(Path(folder), tuning.example_inputs, num_stored=4, num_images=8, num_classes=5)
        batches = on_device(mapped_batches(examples, 4, "cuda", num_workers), "cuda")
        _, (inputs, _) = islice(batches, 2)
        assert all(tensor.is_cuda for tensor in tensors_of(inputs))
        return tuple(tensor.cpu() for tensor in tensors_of(inputs)), tuple(tensors_of(stored))


def benchmarks(*options: str) -> tuple[int, str]:
    """Status and words of the benchmark of linear probing's step, run as by nobody's worker."""
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        del os.environ[name]
    printed = io.StringIO()
    arguments = [
        "bench/speed/bench_training_step.py",
        "-k",
        "linear",
        "-q",
        "-rs",
        "--assert",
        "plain",
        "-p",
        "no:cacheprovider",
    ]
    with redirect_stdout(printed):
        status = pytest.main([*arguments, "--model", "test_vit", "--res", "64", *options])
    return int(status), printed.getvalue()


def records_of(cells: list[CellConfig], budget: Budget, predictions: list[Prediction]) -> tuple[list[Record], bool]:
    """Records of cells, each measured in a process of its own; and whether CUDA was started in this one."""
    pairs = zip(cells, predictions, strict=True)
    return [run_cell(cell, budget, prediction=known) for cell, known in pairs], torch.cuda.is_initialized()
