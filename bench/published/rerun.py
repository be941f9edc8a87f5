"""Rerun the published scripts on emulated cards, each in a process of its own."""

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
"""Variables without workspaces. cuBLAS takes its workspaces from PyTorch's allocator since PyTorch 2.0
(github.com/pytorch/pytorch/issues/95668), hipBLAS since 2.6 (pull request 138791 there); before that they were not
PyTorch's blocks."""

AMPLE_BYTES = 160 * GIB
"""Memory of a card that has more than any row needs."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """How the rows of one source are emulated."""

    train: Callable[[Measurement], None]
    cuda: str = ""
    """CUDA version that PyTorch was built with, if the size of the CUDA context is needed."""

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
"""Scripts by the first word of the source."""


def script_of(row: Measurement) -> Script | None:
    """Return the script of a row; None if there is none to run."""
    return SCRIPTS[row.source.split()[0]] if row.card else None


def run_script(row: Measurement) -> Peaks:
    """Run the script of a row, which must have one, on this process's CUDA device."""
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
    """Emulate every row that has a script.

    A bound is run at the GPU's capacity with the CUDA context that is hardest on its claim: the largest for a batch
    that ran, the smallest for one that did not. The other context is tried only if that run contradicts the claim.

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
    """Return the peaks of each row's script."""
    jobs = [Job(gpu=card_of(row), arguments=(row,), environment=script_of(row).environment) for row in rows]
    return {row: _peaks(answer) for row, answer in zip(rows, pool.map(run_script, jobs), strict=True)}


def _peaks(answer: Peaks | Exception) -> Peaks:
    if isinstance(answer, Exception):
        raise answer
    return answer


def _ample_card(row: Measurement) -> Gpu:
    """Return the row's card; for a bound, give it so much memory that a failed batch shows what it would need."""
    gpu = GPUS[row.card]
    return replace(gpu, memory_bytes=AMPLE_BYTES) if row.is_bound else gpu


def _card_at_capacity(row: Measurement, with_largest_context: bool) -> Gpu:
    """Return the row's card with its published capacity, less a context of the source's CUDA version.

    The emulated device deducts the context of the installed version, so the difference is added to the memory.
    """
    gpu, context = GPUS[row.card], _context(row)
    size_bytes = context.high_bytes if with_largest_context else context.low_bytes
    return replace(gpu, memory_bytes=int(row.measured_mib * MIB) - size_bytes + gpu.context_bytes)


def _context(row: Measurement) -> ContextSize | None:
    """Return the CUDA context of the row's process if its counter includes it."""
    needs_it = row.is_bound or row.counter in ("nvidia-smi process", "NVML device")
    return context_of(GPUS[row.card], script_of(row).cuda) if needs_it else None
