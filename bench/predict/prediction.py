"""What can be said of a cell without a GPU, by either engine."""

from dataclasses import dataclass, replace
from typing import Literal

from bench.cards.gpus import Gpu, find_gpu
from bench.cards.verdict import Word
from bench.cells.anatomy import Peak
from bench.cells.config import CellConfig
from bench.timing.estimate import StepEstimate

PredictedBy = Literal["emulated", "traced"]
"""Engine of a prediction: PyTorch itself on the emulated card, or a model of it on meta tensors."""


def card_of(cell: CellConfig) -> Gpu:
    """Return the card that a cell is predicted for, with the memory of it that may be used."""
    gpu = find_gpu(cell.gpu)
    return gpu if cell.vram_bytes is None else replace(gpu, memory_bytes=cell.vram_bytes)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Prediction for a cell, made without running it."""

    by: PredictedBy

    learnable_params: int
    total_params: int
    forward_macs: int
    """Multiply-accumulates (MACs) of one image, through what a training step computes."""

    train_step_macs: int
    """MACs of a whole step on the whole batch, backward pass included if there is one."""

    backbone_forward_macs: int | None
    """MACs of one image through the frozen large pre-trained model (LPM) if features are preloaded; None otherwise."""

    fvcore_forward_macs: int | None
    """forward_macs by fvcore's convention, which does not see fused attention; None without fvcore."""

    peak: Peak
    """Peak with as much memory as the step takes."""

    context_bytes: int
    """Memory that a process holds on the GPU beyond PyTorch's segments."""

    fits: Word = "yes"
    """Whether the step runs on the card; `maybe` where the size of the CUDA context decides."""

    out_of_memory: str | None = None
    """Where the step ends on the card, and PyTorch's own message; None if it fits or is traced."""

    kernel_launches: int | None = None
    """Kernel launches of one training step: PyTorch's kernels and library calls; None if it is traced."""

    estimate: StepEstimate | None = None
    """Time and energy of one training step on the card, by the model of timing/, with the exact counts that they rest
    on; None if it is traced, or nothing is known of the card."""

    unknown_workspaces: str = ""
    """Kinds of operators whose scratch memory inside cuDNN is not known, separated by commas."""

    remark: str = ""
    """Why it is traced while other cells are emulated."""

    @property
    def process_bytes(self) -> int:
        """Memory of the process as NVML would report it."""
        return self.peak.reserved_bytes + self.context_bytes

    @property
    def params_pct(self) -> float:
        """Learnable parameters in percent of all parameters."""
        return 100 * self.learnable_params / self.total_params
