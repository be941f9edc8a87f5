"""The published scripts on emulated cards, each in a process of its own."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from bench.cards.contexts import ContextSize, context_of
from bench.cards.gpus import GPUS, Gpu
from bench.emulate.device_state import unknown_workspaces
from bench.emulate.pool import EmulatedPool, Job
from bench.units import GIB, MIB

from . import scripts
from .emulations import Emulated, Peaks
from .measurements import Measurement

NO_WORKSPACES = {"CUBLAS_WORKSPACE_CONFIG": ":0:0"}
"""cuBLAS has its workspaces from PyTorch's allocator since PyTorch 2.0 (github.com/pytorch/pytorch/issues/95668),
hipBLAS since 2.6 (pull request 138791 there); before that they were no blocks of PyTorch's."""

AMPLE_BYTES = 160 * GIB
"""A card that has more than any row takes."""


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
    "huggingface.co/datasets/optimum-benchmark/cuda": Script(train=scripts.optimum_benchmark, cuda="12"),
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


def run_script(row: Measurement) -> Peaks:
    """Run the script of a row, which has one, on this process's CUDA device."""
    ran = True
    try:
        script_of(row).train(row)
    except torch.OutOfMemoryError:
        ran = False
    return Peaks(
        allocated_bytes=torch.cuda.max_memory_allocated(),
        reserved_bytes=torch.cuda.max_memory_reserved(),
        ran=ran,
        unknown_workspaces=unknown_workspaces(),
    )


def emulate(rows: list[Measurement]) -> dict[Measurement, Emulated]:
    """Every row that has a script.

    A bound is run at the GPU's capacity with the CUDA context that makes its claim the hardest: the largest for a batch
    that ran, the smallest for one that did not. Only if that contradicts it is the other context tried.

    Raises:
        CannotEmulate: if the emulated device does not run here.
    """
    scripted = [row for row in rows if script_of(row)]
    bounds = [row for row in scripted if row.is_bound]
    with EmulatedPool() as pool:
        free = _run(pool, scripted, _ample_card)
        hardest = _run(pool, bounds, lambda row: _card_at_capacity(row, row.counter == "ran"))
        contradicted = [row for row in bounds if hardest[row].ran != (row.counter == "ran")]
        easiest = hardest | _run(pool, contradicted, lambda row: _card_at_capacity(row, row.counter != "ran"))
    return {
        row: Emulated(
            peaks=free[row],
            context=_context(row),
            ran_with=(hardest[row].ran, easiest[row].ran) if row.is_bound else None,
        )
        for row in scripted
    }


def _run(pool: EmulatedPool, rows: list[Measurement], card_of: Callable[[Measurement], Gpu]) -> dict:
    """Peaks of each row's script."""
    jobs = [Job(gpu=card_of(row), arguments=(row,), environment=script_of(row).environment) for row in rows]
    return {row: _peaks(answer) for row, answer in zip(rows, pool.map(run_script, jobs), strict=True)}


def _peaks(answer: Peaks | Exception) -> Peaks:
    if isinstance(answer, Exception):
        raise answer
    return answer


def _ample_card(row: Measurement) -> Gpu:
    """The row's card; for a bound with so much memory that what did not run shows what it would take."""
    gpu = GPUS[row.card]
    return replace(gpu, memory_bytes=AMPLE_BYTES) if row.is_bound else gpu


def _card_at_capacity(row: Measurement, with_largest_context: bool) -> Gpu:
    """The row's card with its published capacity, less a context of the source's CUDA version.

    The emulated device deducts the context of the installed one, so the difference is added to the memory.
    """
    gpu, context = GPUS[row.card], _context(row)
    size_bytes = context.high_bytes if with_largest_context else context.low_bytes
    return replace(gpu, memory_bytes=int(row.measured_mib * MIB) - size_bytes + gpu.context_bytes)


def _context(row: Measurement) -> ContextSize | None:
    """Of the row's process, where its counter asks for it."""
    needs_it = row.is_bound or row.counter in ("nvidia-smi process", "NVML device")
    return context_of(GPUS[row.card], script_of(row).cuda) if needs_it else None
