"""The model of PyTorch on a GPU, for machines where the emulated device does not run.

A step on meta tensors is traced by rules and replayed through a simulated allocator. Tests compare it with the emulated
device, cell by cell.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict

import torch
from torch import Tensor, nn

from bench.cards.gpus import Gpu, find_gpu
from bench.cards.verdict import Word
from bench.cells.anatomy import Anatomy
from bench.cells.building import build_on, make_step
from bench.cells.config import CellConfig, no_kernel
from bench.trace.kernels import CudaKernels, MetaAutocast, NoKernel, cuda_optimizers_on_meta
from bench.trace.replay import fits, replay_anatomy
from bench.trace.rules import RULES, Rule, Target
from bench.trace.trace import Trace, trace_inference, trace_training
from fptplus import InvalidInput
from fptplus.network.features import Inputs, map_tensors
from fptplus.network.precision import AUTOCAST_DTYPE
from methods import FineTuning

from .counts import count
from .prediction import Prediction, card_of

INSTALLED_TORCH = tuple(int(number) for number in torch.__version__.split(".")[:2])
HELD_TO_TORCH = (2, 14)
"""PyTorch release that the rules are tested against on the emulated device; others differ in some operators."""


def trace_cell(
    cell: CellConfig,
    *,
    gpu: Gpu | None = None,
    rules: Iterable[Rule] = tuple(RULES.values()),
    torch_version: tuple[int, int] = INSTALLED_TORCH,
) -> Trace:
    """Trace every allocation of three training steps of the cell, as the cell's GPU would make them.

    Args:
        cell: the cell to trace.
        gpu: its card, if it has been looked up; asking whether this machine has one takes a second.
        rules: rules for the memory that operators take besides their results; omit some to see what they contribute.
        torch_version: PyTorch version whose rules to apply; by default the installed one.

    Raises:
        InvalidInput: if the method cannot drive the model at this resolution, the cell's attention has no kernel on the
            GPU, or the cell has allocator settings.
    """
    tuning, targets = build_on("meta", cell)
    return _trace(cell, tuning, targets, gpu or find_gpu(cell.gpu), rules, torch_version)


def _trace(
    cell: CellConfig,
    tuning: FineTuning,
    targets: Tensor,
    gpu: Gpu,
    rules: Iterable[Rule] = tuple(RULES.values()),
    torch_version: tuple[int, int] = INSTALLED_TORCH,
) -> Trace:
    _check_allocator(cell)
    dtype = AUTOCAST_DTYPE.get(cell.precision)

    def autocast():
        return MetaAutocast(dtype) if dtype else nullcontext()

    with torch.device("meta"):
        inputs = map_tensors(torch.empty_like, tuning.example_inputs(cell.batch_size))  # each with its own memory
    if tuning.is_frozen:
        return _trace_pass(cell, tuning.model, inputs, gpu)
    try:
        with CudaKernels(cell.attention, gpu.compute_capability, dtype), cuda_optimizers_on_meta():
            step = make_step(cell, tuning, autocast=autocast)
            return trace_training(step, inputs, targets, target=Target(gpu, torch_version), rules=rules)
    except NoKernel as error:
        raise no_kernel(cell) from error


def _check_allocator(cell: CellConfig) -> None:
    """Refuse allocator settings, which the simulated allocator does not support.

    Raises:
        InvalidInput: if the cell has any.
    """
    if cell.alloc_conf is not None:
        raise InvalidInput(
            f"alloc-conf must be left out where memory is traced, whose allocator has PyTorch's defaults only, "
            f"got {cell.alloc_conf!r}; emulate the card instead (--engine emulated)."
        )


def trace_preloading(cell: CellConfig) -> Trace | None:
    """Trace every allocation of the frozen pass that makes one image's features; None if a method preloads nothing.

    Its attention is fused whatever the cell trains with, as FrozenBackbone's is.
    """
    tuning, _ = build_on("meta", cell)
    if tuning.preloader is None:
        return None
    return _trace_pass(cell, tuning.preloader, (_one_image(cell),), find_gpu(cell.gpu))


def _trace_pass(cell: CellConfig, model: nn.Module, inputs: Inputs, gpu: Gpu) -> Trace:
    """Trace every allocation of a frozen pass, its attention fused, as a GPU would make them."""
    dtype = AUTOCAST_DTYPE.get(cell.precision)
    with CudaKernels("sdpa", gpu.compute_capability), MetaAutocast(dtype) if dtype else nullcontext():
        return trace_inference(model, inputs, Target(gpu, INSTALLED_TORCH), RULES.values())


def _one_image(cell: CellConfig) -> Tensor:
    """Return an image (1, 3, res, res) on the meta device, in the type that the large pre-trained model (LPM) takes."""
    dtype = torch.bfloat16 if cell.precision == "bf16_weights" else torch.float32
    return torch.empty(1, 3, cell.res, cell.res, dtype=dtype, device="meta")


def predict_traced(cell: CellConfig) -> tuple[Prediction, Anatomy]:
    """Return the parameters, multiply-accumulates and peak memory of a cell, and what the memory is used for.

    Raises:
        InvalidInput: if the method or model is unknown, or the method cannot drive the model at this resolution.
    """
    tuning, targets = build_on("meta", cell)
    counts = count(cell)
    trace = _trace(cell, tuning, targets, find_gpu(cell.gpu))
    anatomy = replay_anatomy(trace)
    prediction = Prediction(
        by="traced",
        **asdict(counts),
        train_step_macs=cell.batch_size * counts.forward_macs if tuning.is_frozen else trace.train_step_macs,
        peak=anatomy.peak,
        context_bytes=card_of(cell).context_bytes,
        fits=fits_within_contexts(trace, card_of(cell)),
        unknown_workspaces="convolution",
    )
    return prediction, anatomy


def fits_within_contexts(trace: Trace, gpu: Gpu) -> Word:
    """Whether a traced step runs on a card, its allocator's retry included, given the range of its CUDA context."""
    if fits(trace, gpu.memory_bytes - gpu.context.high_bytes):
        return "yes"
    return "maybe" if fits(trace, gpu.memory_bytes - gpu.context.low_bytes) else "no"
