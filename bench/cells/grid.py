"""A sweep: every combination asked about, where it is measured, and what happens to the records."""

import math
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
    """Predict parameters, multiply-accumulates (MACs) and peak memory of fine-tuning methods; measure them on a GPU.

    The defaults are the paper's: all ten methods, ViT-B, 512 px, batch 16, fp32, explicit attention, AdamW, RTX A6000.
    Give an option several times to run all combinations. Measurements are kept: call it again to resume a sweep,
    however it ended.
    """

    batch_size: UseAppendAction[tuple[int, ...]] = ()
    """Images per training step. Default: 16."""

    profile: UseAppendAction[tuple[ProfileName, ...]] = ()
    """Defaults of the four options below. paper: fp32, eager, none, adamw. fast: bf16, sdpa, none, adamw_fused.
    Default: paper."""

    precision: UseAppendAction[tuple[CellPrecision, ...]] = ()
    """Number format. fp32: everywhere. bf16, fp16: autocast over fp32 weights. bf16_weights: bf16 everywhere, without
    autocast. Default: the profile's."""

    attention: UseAppendAction[tuple[AttentionMode, ...]] = ()
    """Attention kernel. eager: explicit score matrices. sdpa: the fused kernel that PyTorch chooses. flash, efficient:
    that fused kernel. Default: the profile's."""

    checkpointing: UseAppendAction[tuple[Checkpointing, ...]] = ()
    """Activation checkpointing. block: recompute each block in the backward pass. Default: the profile's."""

    optimizer: UseAppendAction[tuple[OptimizerName, ...]] = ()
    """Optimizer. adamw: AdamW with foreach kernels. adamw_fused: AdamW in one kernel. sgd: SGD with momentum.
    sgd_no_momentum: SGD without. Default: the profile's."""

    zero_grad: UseAppendAction[tuple[ZeroGrad, ...]] = ()
    """When to release the last step's gradients; after_forward keeps them through the forward pass. Default:
    before_forward."""

    accumulation_steps: UseAppendAction[tuple[int, ...]] = ()
    """Number of micro-batches that each batch is split into. Default: 1."""

    clipping: UseAppendAction[tuple[Clipping, ...]] = ()
    """Gradient clipping. norm: to norm 1. none: no clipping. Default: norm."""

    drop_path: UseAppendAction[tuple[float, ...]] = ()
    """Stochastic depth: probability of skipping the backbone's last block, from 0 to below 1. Default: 0."""

    averaging: UseAppendAction[tuple[Averaging, ...]] = ()
    """Weight averaging. ema: keep an exponential moving average of the weights, a second copy of the model. Default:
    none."""

    lora_rank: UseAppendAction[tuple[int, ...]] = ()
    """Rank of LoRA's updates. Default: 16."""

    lora_targets: UseAppendAction[tuple[str, ...]] = ()
    """Linear layers that LoRA adapts, separated by commas: query, key, value (or qkv, all three as one), proj, fc1,
    fc2. Default: query,value."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to measure. auto: on the CUDA device if there is one; otherwise only predict. cpu: time steps on the
    CPU."""

    cpu_budget_s: float = 30.0
    """Time limit for one cell on the CPU, in seconds. A longer cell is not timed, and its record says so."""

    timeout_s: float = 900.0
    """Time limit for one cell's process, in seconds. A cell that is stopped has a record that says so."""

    vram: str | None = None
    """Memory of a smaller card to simulate on the CUDA device, e.g. 11GiB. PyTorch gets it less the CUDA context."""

    epochs: int = 0
    """Number of whole epochs to run and time as well, with batches read from disk."""

    num_images: int = TABLE2_SPLIT_IMAGES
    """Images per epoch. The default is 60 % of Messidor-2, which the paper's Table II implies."""

    weights: str | None = None
    """Checkpoint file, timm pretrained name or name at Hugging Face to measure with. Default: random weights."""

    seed: int = 0
    """Random seed for initial weights and inputs."""

    redo: Literal["nothing", "failed", "oom", "all"] = "nothing"
    """Cells to measure again: those that failed, those that ran out of memory, or all. Earlier records are moved to
    records/superseded."""

    skip_larger_after_oom: bool = False
    """Once a method runs out of memory, mark its larger cells (in pixels and batch) as oom without running them."""

    out: str = "results"
    """Folder for results.csv and records/."""

    def check(self) -> None:
        """Refuse numbers that are out of range.

        Raises:
            InvalidInput: if a number is.
        """
        for name in ("cpu_budget_s", "timeout_s"):
            if not (value := getattr(self, name)) > 0:
                raise InvalidInput(f"{name.replace('_', '-')} must be above 0 seconds, got {value:g}.")
        if self.timeout_s == math.inf:
            raise InvalidInput("timeout-s must be a number of seconds, got inf; give a large one.")
        if self.num_images < 1:
            raise InvalidInput(f"num-images must be at least 1, got {self.num_images}.")

    @property
    def vram_bytes(self) -> int | None:
        """Return the memory of the smaller card to simulate, in bytes.

        Raises:
            InvalidInput: if it is not an amount.
        """
        return None if self.vram is None else parse_bytes("vram", self.vram)

    @property
    def smaller_memory_bytes(self) -> int | None:
        """Return the memory limit in bytes, asked for or simulated; None for all of the GPU's memory."""
        return super().smaller_memory_bytes or self.vram_bytes

    def cells(self, device: MeasuredOn | None = None) -> list[CellConfig]:
        """Return every combination once. If it is measured, each preloading pass follows the method that needs it.

        Args:
            device: kind of device to measure on; by default this machine's.

        Raises:
            InvalidInput: if any value is out of range, or the device asked for does not exist.
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
    """Yield the cells, each followed by the pass that makes its features if it reads any."""
    for cell in cells:
        yield cell
        if f"{cell.method}_preloading" in PASSES:
            yield preloading_of(cell)


def preloading_of(cell: CellConfig) -> CellConfig:
    """Return the frozen pass that makes the features of a cell's method.

    It takes as many images at a time as the cell's batch has.
    """
    plain = {"epochs": 0, "epoch_images": 0, "checkpointing": "none", "optimizer": "adamw"}
    return replace(cell, method=f"{cell.method}_preloading", **plain, **NO_STEP)


def measured_on(device: Literal["auto", "cpu", "cuda"]) -> MeasuredOn:
    """Return the device to measure on, resolving `auto` for this machine.

    Raises:
        InvalidInput: if a CUDA device is asked for and there is none.
    """
    has_cuda = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if has_cuda else "nothing"
    if device == "cuda" and not has_cuda:
        raise InvalidInput(
            "device must be auto or cpu on a machine without a CUDA device, got cuda; auto predicts instead."
        )
    return device
