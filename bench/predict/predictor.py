"""Predict one cell on any machine: build it on meta tensors, trace its training step, replay the trace."""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.config import CellConfig
from bench.meters.flops import forward_macs, fvcore_macs
from fptplus.training import AUTOCAST_DTYPE, make_optimizer
from methods import FineTuning, create_backbone, find_method

from .devices import find_gpu
from .kernels import CudaKernels, MetaAutocast, fused_optimizers_on_meta
from .replay import Peak, replay
from .rules import RULES, Rule, Target
from .trace import Trace, trace_inference, trace_training

INSTALLED_TORCH = tuple(int(number) for number in torch.__version__.split(".")[:2])


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What can be said of a cell without running it."""

    learnable_params: int
    total_params: int
    forward_macs: int
    """Of one image, through what a training step computes."""

    train_step_macs: int
    """Of a whole step on the whole batch, backward pass included where there is one."""

    backbone_forward_macs: int | None
    """Of one image through the frozen LPM, where features are preloaded; None otherwise."""

    fvcore_forward_macs: int | None
    """As forward_macs, by fvcore's convention, which does not see fused attention; None without fvcore."""

    peak: Peak
    context_bytes: int
    """What a process holds on the GPU beyond PyTorch's segments."""

    @property
    def process_bytes(self) -> int:
        """What NVML would say the process uses."""
        return self.peak.reserved_bytes + self.context_bytes

    @property
    def params_pct(self) -> float:
        """Learnable parameters in percent of all."""
        return 100 * self.learnable_params / self.total_params


def build_on(device: torch.device | str, cell: CellConfig) -> tuple[FineTuning, Tensor]:
    """The cell's model and targets on a device; inputs come from `example_inputs` under the same default device."""
    with torch.device(device):
        vit = create_backbone(
            cell.model,
            cell.res,
            cell.num_classes,
            attention=cell.attention,
            checkpointing=cell.checkpointing,
            weights=cell.weights if torch.device(device).type != "meta" else None,
        )
        tuning = find_method(cell.method).build(vit, cell.res)
        return tuning, torch.randint(cell.num_classes, (cell.batch_size,))


def trace_cell(
    cell: CellConfig,
    *,
    rules: Iterable[Rule] = tuple(RULES.values()),
    torch_version: tuple[int, int] = INSTALLED_TORCH,
) -> Trace:
    """Every allocation of two training steps of the cell, as the cell's GPU would make them.

    Args:
        cell: what to trace.
        rules: of the memory that operators take beside their results; leave some out to see what they contribute.
        torch_version: whose rules to apply; the installed PyTorch's by default, the paper used 2.0.
    """
    tuning, targets = build_on("meta", cell)
    return _trace(cell, tuning, targets, rules, torch_version)


def _trace(
    cell: CellConfig,
    tuning: FineTuning,
    targets: Tensor,
    rules: Iterable[Rule] = tuple(RULES.values()),
    torch_version: tuple[int, int] = INSTALLED_TORCH,
) -> Trace:
    dtype = AUTOCAST_DTYPE.get(cell.precision)

    def autocast():
        return MetaAutocast(dtype) if dtype else nullcontext()

    with torch.device("meta"):
        inputs = tuning.example_inputs(cell.batch_size)
    gpu = find_gpu(cell.gpu)
    if tuning.is_frozen:
        return _trace_pass(cell, tuning.model, inputs)
    with CudaKernels(cell.attention, gpu.compute_capability, dtype), fused_optimizers_on_meta():
        optimizer = make_optimizer(cell.optimizer, tuning.model.parameters())
        step = tuning.training_step(optimizer, autocast=autocast)
        return trace_training(step, inputs, targets, target=Target(gpu, torch_version), rules=rules)


def trace_preloading(cell: CellConfig) -> Trace | None:
    """Every allocation of the frozen pass that makes one image's features; None for methods that preload nothing.

    Its attention is fused whatever the cell trains with, as FrozenBackbone's is.
    """
    tuning, _ = build_on("meta", cell)
    if tuning.preloader is None:
        return None
    with torch.device("meta"):
        image = torch.empty(1, 3, cell.res, cell.res)
    return _trace_pass(cell, tuning.preloader, (image,))


def _trace_pass(cell: CellConfig, model: nn.Module, inputs: tuple[Tensor, ...]) -> Trace:
    """Every allocation of a frozen pass, its attention fused, as the cell's GPU would make them."""
    gpu, dtype = find_gpu(cell.gpu), AUTOCAST_DTYPE.get(cell.precision)
    with CudaKernels("sdpa", gpu.compute_capability), MetaAutocast(dtype) if dtype else nullcontext():
        return trace_inference(model, inputs, Target(gpu, INSTALLED_TORCH), RULES.values())


def predict(cell: CellConfig) -> Prediction:
    """Parameters, MACs and peak memory of a cell.

    Raises:
        InvalidInput: if the method or model is unknown, or the method cannot drive the model at this resolution.
    """
    tuning, targets = build_on("meta", cell)
    with torch.device("meta"):
        image = torch.empty(1, 3, cell.res, cell.res)
        inputs = tuning.example_inputs(1)
    with CudaKernels(cell.attention):
        one_image = forward_macs(tuning.model, inputs)
        backbone = forward_macs(tuning.preloader, (image,)) if tuning.preloader else None
    trace = _trace(cell, tuning, targets)
    return Prediction(
        learnable_params=tuning.learnable_params,
        total_params=tuning.total_params,
        forward_macs=one_image,
        backbone_forward_macs=backbone,
        fvcore_forward_macs=fvcore_macs(tuning.model, inputs),
        train_step_macs=cell.batch_size * one_image if tuning.is_frozen else trace.train_step_macs,
        peak=replay(trace),
        context_bytes=find_gpu(cell.gpu).context_bytes,
    )
