"""The published scripts on emulated cards, each in a process of its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from bench.emulate.pool import EmulatedPool, Job
from bench.predict.contexts import ContextSize, context_of
from bench.predict.devices import GPUS, Gpu
from bench.units import GIB, MIB

from . import scripts
from .emulated import Emulated, Peaks
from .measurements import Measurement

NO_WORKSPACES = {"CUBLAS_WORKSPACE_CONFIG": ":0:0"}
"""cuBLAS has its workspaces from PyTorch's allocator since PyTorch 2.0 (github.com/pytorch/pytorch/issues/95668),
hipBLAS since 2.6 (pull request 138791 there); before that they were no blocks of PyTorch's."""

SCRATCH_MIB = (16, 32, 64, 128, 256)
"""cuDNN's scratch for the patch embedding is not known. It is freed at once and no part of the allocated peak, but
where it once stood decides which segments later blocks find: these sizes are tried for what is reserved."""

AMPLE_BYTES = 160 * GIB
"""On a card with that much, a step that did not run shows what it would have taken."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """How the rows of one source are emulated."""

    train: Callable[[Measurement], None]
    cuda: str = ""
    """That PyTorch was built with, where the size of the CUDA context is asked for."""

    environment: dict[str, str] = field(default_factory=dict)


SCRIPTS: dict[str, Script] = {
    "rasbt/pytorch-memory-optim": Script(train=scripts.pytorch_memory_optim),
    "transformer-benchmark.github.io": Script(train=scripts.which_transformer, environment=NO_WORKSPACES),
    "headless-start/peft-lora-vit": Script(train=scripts.peft_lora_vit),
    "yyyyychen/LowMemoryBP": Script(train=scripts.low_memory_bp),
    "zhuang-group/Mesa": Script(train=scripts.deit, environment=NO_WORKSPACES),
    "huggingface.co/datasets/optimum-benchmark/cuda": Script(train=scripts.optimum_benchmark, cuda="12.4"),
    "huggingface.co/datasets/optimum-benchmark/rocm": Script(
        train=scripts.optimum_benchmark, environment=NO_WORKSPACES
    ),
    "facebookresearch/deit": Script(train=scripts.deit, environment=NO_WORKSPACES),
    "roatienza/deep-text-recognition-benchmark": Script(train=scripts.vitstr, cuda="11.3", environment=NO_WORKSPACES),
    "timm": Script(train=scripts.timm_benchmark, cuda="11.3", environment=NO_WORKSPACES),
}
"""By the first word of the source."""


def script_of(row: Measurement) -> Script | None:
    """The script of a row; None where there is none to run."""
    return SCRIPTS[row.source.split()[0]] if row.card else None


def run_script(row: Measurement, scratch_mib: int = 0) -> Peaks:
    """Run a row's script on this process's CUDA device.

    Args:
        row: of a source in `SCRIPTS`.
        scratch_mib: memory that each convolution takes while it runs.
    """
    ran = True
    with _scratch(scratch_mib * MIB):
        try:
            script_of(row).train(row)
        except torch.OutOfMemoryError:
            ran = False
    return Peaks(
        allocated_bytes=torch.cuda.max_memory_allocated(),
        reserved_bytes=torch.cuda.max_memory_reserved(),
        ran=ran,
    )


@contextmanager
def _scratch(num_bytes: int) -> Iterator[None]:
    """Each convolution takes so much in its forward and backward pass, and gives it back."""

    def take(*_) -> None:
        torch.empty(num_bytes, dtype=torch.uint8, device="cuda")

    def around(module: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        if num_bytes and isinstance(module, nn.Conv2d):
            take()
            if output.requires_grad:
                output.register_hook(take)

    handle = register_module_forward_hook(around)
    try:
        yield
    finally:
        handle.remove()


def emulate(rows: list[Measurement]) -> dict[Measurement, Emulated]:
    """Every row that has a script.

    Raises:
        CannotEmulate: if the emulated device does not run here.
    """
    jobs = [job for row in rows if script_of(row) for job in _jobs(row)]
    with EmulatedPool() as pool:
        answers = iter(list(pool.map(run_script, jobs)))
    return {row: _emulated(row, [_peaks(next(answers)) for _ in _jobs(row)]) for row in rows if script_of(row)}


def _peaks(answer: Peaks | Exception) -> Peaks:
    if isinstance(answer, Exception):
        raise answer
    return answer


def _jobs(row: Measurement) -> list[Job]:
    """The run itself, then those that its counter needs: at the capacity of the GPU, or with scratch."""
    gpu = GPUS[row.card]
    cards = [(_with_memory(gpu, AMPLE_BYTES) if row.is_bound else gpu, 0)]
    if row.is_bound:
        context = _context(row)
        capacity = int(row.measured_mib * MIB)
        cards += [(_with_memory(gpu, capacity - size), 0) for size in (context.high_bytes, context.low_bytes)]
    elif row.counter == "max_memory_reserved":
        cards += [(gpu, mib) for mib in SCRATCH_MIB]
    environment = script_of(row).environment
    return [Job(gpu=card, arguments=(row, scratch), environment=environment) for card, scratch in cards]


def _with_memory(gpu: Gpu, for_segments_bytes: int) -> Gpu:
    """A card on which PyTorch can reserve so much beside the context that the emulated device deducts."""
    return replace(gpu, memory_bytes=for_segments_bytes + gpu.context_bytes)


def _context(row: Measurement) -> ContextSize | None:
    cuda = script_of(row).cuda
    needs_it = row.is_bound or row.counter in ("nvidia-smi process", "NVML device")
    return context_of(GPUS[row.card], cuda) if needs_it else None


def _emulated(row: Measurement, peaks: list[Peaks]) -> Emulated:
    reserved = [one.reserved_bytes for one in (peaks[:1] if row.is_bound else peaks)]
    return Emulated(
        peaks=peaks[0],
        context=_context(row),
        reserved_range_bytes=(min(reserved), max(reserved)),
        ran_with=(peaks[1].ran, peaks[2].ran) if row.is_bound else None,
    )
