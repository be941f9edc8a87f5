"""A sweep: every combination of what is asked about, where it is measured, and what is done with the records."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import torch
from tyro.conf import UseAppendAction

from bench.units import parse_bytes
from fptplus import InvalidInput
from fptplus.paper_training import TABLE2_SPLIT_IMAGES
from fptplus.training.step import OptimizerName, ZeroGrad
from methods import PASSES
from methods.backbone import AttentionMode, Checkpointing

from .config import PROFILES, CellConfig, MeasuredOn, ProfileName, Selection
from .step_options import NO_STEP, STEP_OPTIONS, Averaging, CellPrecision, Clipping


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Selection):
    """Predict parameters, MACs and peak memory of fine-tuning methods; measure them where there is a GPU.

    The defaults are the paper's: all ten methods, ViT-B, 512 px, batch 16, fp32, explicit attention, AdamW, RTX A6000.
    Every axis may be repeated: all combinations are run. What was measured before is kept, so a call goes on where the
    last one ended, however that was.
    """

    batch_size: UseAppendAction[tuple[int, ...]] = ()
    """Images a training step; repeat for several. Default: 16."""

    profile: UseAppendAction[tuple[ProfileName, ...]] = ()
    """Sets the axes below where not given. paper: fp32, eager, none, adamw. fast: bf16, sdpa, none, adamw_fused.
    Repeat for both. Default: paper."""

    precision: UseAppendAction[tuple[CellPrecision, ...]] = ()
    """fp32; autocast to bf16 or fp16 with fp32 weights; bf16_weights: all in bf16 without autocast. Repeat for
    several."""

    attention: UseAppendAction[tuple[AttentionMode, ...]] = ()
    """eager: explicit score matrices. sdpa: the fused kernel PyTorch chooses. flash, efficient: that fused kernel.
    Repeat for several."""

    checkpointing: UseAppendAction[tuple[Checkpointing, ...]] = ()
    """block: recompute each transformer block in the backward pass. Repeat for both."""

    optimizer: UseAppendAction[tuple[OptimizerName, ...]] = ()
    """adamw: foreach kernels. adamw_fused: one kernel. sgd: with momentum. sgd_no_momentum: without. Repeat for
    several."""

    zero_grad: UseAppendAction[tuple[ZeroGrad, ...]] = ()
    """Where gradients are released; after_forward: they live through the forward pass. Repeat for both. Default:
    before_forward."""

    accumulation_steps: UseAppendAction[tuple[int, ...]] = ()
    """Micro-batches that a batch is split into; repeat for several. Default: 1."""

    clipping: UseAppendAction[tuple[Clipping, ...]] = ()
    """norm: clip gradients to norm 1. none: do not. Repeat for both. Default: norm."""

    drop_path: UseAppendAction[tuple[float, ...]] = ()
    """Stochastic depth of the LPM, from 0 to below 1; repeat for several. Default: 0."""

    averaging: UseAppendAction[tuple[Averaging, ...]] = ()
    """ema: keep a moving average of the weights, a second copy of the model. Repeat for both. Default: none."""

    lora_rank: UseAppendAction[tuple[int, ...]] = ()
    """Rank of LoRA's updates; repeat for several. Default: 16."""

    lora_targets: UseAppendAction[tuple[str, ...]] = ()
    """Linear layers that LoRA adapts: some of query, key, value (or qkv, fused), proj, fc1, fc2, with commas; repeat
    for several choices. Default: query,value."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to measure. auto: on the CUDA device if there is one, else predict only. cpu: time steps on the CPU."""

    cpu_budget_s: float = 30.0
    """Seconds that timing one cell may take on a CPU; a cell that would take longer is not timed, and says so."""

    timeout_s: float = 900.0
    """Seconds after which the process of a cell is ended; its record says so."""

    vram: str | None = None
    """Emulate a smaller card on the CUDA device, such as 11GiB: PyTorch gets that much less the CUDA context."""

    epochs: int = 0
    """Also run and time so many whole epochs, with batches from disk."""

    num_images: int = TABLE2_SPLIT_IMAGES
    """Images of an epoch, run or derived. Default: 60 % of Messidor-2, which is what the paper's Table II implies."""

    weights: str | None = None
    """Checkpoint file (timm or Hugging Face) or timm pretrained name to measure with. Default: random weights."""

    seed: int = 0
    """Of weights and inputs."""

    redo: Literal["nothing", "failed", "oom", "all"] = "nothing"
    """Measure again what has failed, run out of memory, or everything; the earlier records go to records/superseded."""

    skip_larger_after_oom: bool = False
    """Where a method has run out of memory, mark its larger cells (pixels, batch) as oom without running them."""

    out: str = "results"
    """Folder for results.csv and records/."""

    def check(self) -> None:
        """Refuse numbers out of range.

        Raises:
            InvalidInput: if one is.
        """
        for name in ("cpu_budget_s", "timeout_s"):
            if not (value := getattr(self, name)) > 0:
                raise InvalidInput(f"{name.replace('_', '-')} must be above 0 seconds, got {value:g}.")
        if self.num_images < 1:
            raise InvalidInput(f"num-images must be at least 1, got {self.num_images}.")

    @property
    def vram_bytes(self) -> int | None:
        """The memory to emulate, in bytes.

        Raises:
            InvalidInput: if it is no amount.
        """
        return None if self.vram is None else parse_bytes("vram", self.vram)

    @property
    def smaller_memory_bytes(self) -> int | None:
        """Memory that must do, or that is emulated; None for all that the GPU has."""
        return super().smaller_memory_bytes or self.vram_bytes

    def cells(self, device: MeasuredOn | None = None) -> list[CellConfig]:
        """Every combination, each once; where it is measured, preloading passes follow the methods that need them.

        Args:
            device: to measure on, if not this machine's.

        Raises:
            InvalidInput: if any value is out of range, or the device asked for is not there.
        """
        self.check()
        device = device or measured_on(self.device)
        shared = {"device": device, "weights": self.weights, "seed": self.seed}
        if self.epochs:
            shared |= {"epochs": self.epochs, "epoch_images": self.num_images}
        if device != "cpu":
            shared["vram_bytes"] = self.smaller_memory_bytes if device == "nothing" else self.vram_bytes
        cells = self._combined(self._axes(), **shared)
        return cells if device == "nothing" else list(dict.fromkeys(with_preloading(cells)))

    def _axes(self) -> Iterator[dict]:
        options = {name: given for name in STEP_OPTIONS if (given := getattr(self, name))}
        for profile, batch_size in product(self.profile or ("paper",), self.batch_size or (16,)):
            axes = {name: getattr(self, name) or (default,) for name, default in PROFILES[profile].items()} | options
            for values in product(*axes.values()):
                yield {"batch_size": batch_size, **dict(zip(axes, values, strict=True))}


def with_preloading(cells: list[CellConfig]) -> Iterator[CellConfig]:
    """The cells, each followed by the pass that makes its features where it reads some."""
    for cell in cells:
        yield cell
        if f"{cell.method}_preloading" in PASSES:
            yield preloading_of(cell)


def preloading_of(cell: CellConfig) -> CellConfig:
    """The frozen pass that makes the features of a cell's method, on as many images at a time as the cell's batch."""
    plain = {"epochs": 0, "epoch_images": 0, "checkpointing": "none", "optimizer": "adamw"}
    return replace(cell, method=f"{cell.method}_preloading", **plain, **NO_STEP)


def measured_on(device: Literal["auto", "cpu", "cuda"]) -> MeasuredOn:
    """What `auto` means on this machine.

    Raises:
        InvalidInput: if there is no CUDA device and one is asked for.
    """
    has_cuda = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if has_cuda else "nothing"
    if device == "cuda" and not has_cuda:
        raise InvalidInput(
            "device must be auto or cpu on a machine without a CUDA device, got cuda; auto predicts instead."
        )
    return device
