"""What is benchmarked: one cell, or a selection of cells (the paper's setting is Sec. IV-B1)."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import product
from typing import Literal, get_args

from tyro.conf import UseAppendAction

from bench.cards.gpus import Gpu, default_gpu, find_gpu, limited
from bench.units import parse_bytes
from fptplus import InvalidInput
from fptplus.seed import check_seed
from fptplus.training.step import OptimizerName, ZeroGrad
from fptplus.training.training_config import check_count
from methods import METHODS, PASSES, find_method
from methods.backbone import AttentionMode, Checkpointing

from . import alloc_conf
from .step_options import (
    LORA_OPTIONS,
    STEP_OPTIONS,
    Averaging,
    CellPrecision,
    Clipping,
    given_options,
    options_for,
    ordered_targets,
    takes_lora_options,
)

MeasuredOn = Literal["nothing", "cpu", "cuda"]
ProfileName = Literal["paper", "fast"]

PROFILES: dict[ProfileName, dict[str, str]] = {
    "paper": {"precision": "fp32", "attention": "eager", "checkpointing": "none", "optimizer": "adamw"},
    "fast": {"precision": "bf16", "attention": "sdpa", "checkpointing": "none", "optimizer": "adamw_fused"},
}
"""Axes by profile: `paper` is how the paper's numbers were obtained; `fast` is what one would use today."""

_CHOICES = {
    "precision": get_args(CellPrecision),
    "attention": get_args(AttentionMode),
    "checkpointing": get_args(Checkpointing),
    "optimizer": get_args(OptimizerName),
    "zero_grad": get_args(ZeroGrad),
    "clipping": get_args(Clipping),
    "averaging": get_args(Averaging),
    "device": get_args(MeasuredOn),
}
_LARGEST = {"res": 2**16, "batch_size": 2**20, "num_classes": 2**20, "accumulation_steps": 2**20}
_ADDED_LATER = {"epochs": 0, "epoch_images": 0, "vram_bytes": None, "alloc_conf": None, **STEP_OPTIONS}


@dataclass(frozen=True, kw_only=True)
class CellConfig:
    """One configuration to predict or measure."""

    method: str
    """A name of METHODS or VARIANTS."""

    model: str
    """vit_s, vit_b, vit_l or the name of a timm model."""

    res: int
    """Image height and width in pixels."""

    batch_size: int = 16
    """Images per training step."""

    precision: CellPrecision = "fp32"
    """fp32; bf16 or fp16 by autocast over fp32 weights; or bf16_weights, everything in bf16 without autocast."""

    attention: AttentionMode = "eager"
    """Explicit score matrices (eager) or a fused kernel: PyTorch's choice (sdpa) or a particular one."""

    checkpointing: Checkpointing = "none"
    """`block` recomputes each transformer block in the backward pass."""

    optimizer: OptimizerName = "adamw"
    """AdamW with foreach kernels or in one kernel, or SGD with or without momentum."""

    zero_grad: ZeroGrad = "before_forward"
    """When the last step's gradients are released: after_forward keeps them through the forward pass."""

    accumulation_steps: int = 1
    """Micro-batches that a batch is split into; their gradients add up before the optimizer's step."""

    clipping: Clipping = "norm"
    """Whether gradients are clipped to norm 1, as the official code does."""

    drop_path: float = 0.0
    """Stochastic depth: probability that the backbone's last block is skipped; it falls to 0 at the first."""

    averaging: Averaging = "none"
    """ema: a second copy of the model, an exponential moving average of the weights."""

    lora_rank: int | None = None
    """Rank of LoRA's updates, 16 by default; None for every other method."""

    lora_targets: str | None = None
    """Linear layers that LoRA adapts, separated by commas; query,value by default; None for every other method."""

    alloc_conf: str | None = None
    """Settings of PyTorch's allocator in the cell's process; None for those of the environment, usually none."""

    num_classes: int = 5
    """Number of classes; 5 as in Messidor-2 and DDR."""

    device: MeasuredOn = "nothing"
    """The device that the cell is measured on as well as predicted, if any."""

    gpu: str = "a6000"
    """Name of the GPU that memory is predicted for; the paper's by default."""

    seed: int = 0
    """Random seed for initial weights and inputs."""

    weights: str | None = None
    """Checkpoint file or timm pretrained name to measure with; None for random weights."""

    epochs: int = 0
    """Whole epochs to run and time, with batches read from disk."""

    epoch_images: int = 0
    """Images in such an epoch; 0 if none is run."""

    vram_bytes: int | None = None
    """Memory limit on the card, in bytes; None for all of its memory."""

    def __post_init__(self) -> None:
        find_method(self.method)
        for name, most in _LARGEST.items():
            check_count(name.replace("_", "-"), getattr(self, name), most)
        check_seed(self.seed)
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise InvalidInput(f"{name} must be one of {', '.join(known)}, got {value!r}.")
        if self.epochs < 0 or (self.epochs and self.epoch_images < self.batch_size):
            raise InvalidInput(
                f"epochs must be at least 0 and their images at least a batch of {self.batch_size}, "
                f"got {self.epochs} epochs of {self.epoch_images} images."
            )
        if self.attention == "flash" and self.precision == "fp32":
            raise InvalidInput(
                "attention 'flash' must be used with precision bf16 or fp16, got fp32; "
                "the kernel has no fp32 form, 'efficient' has."
            )
        if self.precision == "fp16" and self.device == "cpu":
            raise InvalidInput(
                "precision fp16 must be measured on a CUDA device, got cpu; use bf16, or --device auto to predict."
            )
        self._check_step()
        self._settle_lora()

    def _check_step(self) -> None:
        """Refuse options of the training step that are out of range or cannot be combined."""
        if self.batch_size % self.accumulation_steps:
            raise InvalidInput(
                f"accumulation-steps must divide the batch of {self.batch_size} images, "
                f"got {self.accumulation_steps}; choose another of the two."
            )
        if not 0 <= self.drop_path < 1:
            raise InvalidInput(f"drop-path must be at least 0 and below 1, got {self.drop_path:g}.")
        if self.alloc_conf is not None:
            alloc_conf.check(self.alloc_conf)
        if self.method in PASSES and (given := given_options(self)):
            raise InvalidInput(
                f"{', '.join(given)} must be left out with method {self.method}, which takes no training step."
            )

    def _settle_lora(self) -> None:
        """Fill in LoRA's default rank and targets and put the targets in one order; None for every other method."""
        own = {name: STEP_OPTIONS[name] for name in LORA_OPTIONS}
        asked = {name: own[name] if (value := getattr(self, name)) is None else value for name in LORA_OPTIONS}
        if not 1 <= asked["lora_rank"] <= 2**16:
            raise InvalidInput(f"lora-rank must be at least 1 and at most {2**16}, got {asked['lora_rank']}.")
        asked["lora_targets"] = ",".join(ordered_targets(asked["lora_targets"]))
        if not takes_lora_options(self.method):
            if asked != own:
                raise InvalidInput(f"lora-rank and lora-targets must be left out with method {self.method}; use lora.")
            asked = dict.fromkeys(LORA_OPTIONS)
        for name, value in asked.items():
            object.__setattr__(self, name, value)

    @property
    def cell_id(self) -> str:
        """Name of the cell's record, a hash of its configuration.

        Fields added to the configuration later count only if they are set, so that older records keep their names.
        """
        named = {one.name: getattr(self, one.name) for one in fields(self)}
        counted = {k: v for k, v in named.items() if k not in _ADDED_LATER or v not in (None, _ADDED_LATER[k])}
        text = json.dumps(counted, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def no_kernel(cell: CellConfig) -> InvalidInput:
    """Return the error for a cell whose attention kernel does not run on its card, as its step found out."""
    return InvalidInput(
        f"attention {cell.attention} has no kernel for {cell.precision} on {cell.gpu}; use sdpa or eager."
    )


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Methods, models and resolutions to ask about, and the GPU to predict memory for."""

    method: UseAppendAction[tuple[str, ...]] = ()
    """Fine-tuning method. Default: the paper's ten, which are full, linear, vpt, attention, adapter, bitfit, lora,
    adalora, fpt and fptplus. Also: fpt_live and fptplus_live, which run the backbone in every step; fptplus_bf16 and
    fptplus_int8, which store smaller features; adapter_96 and attention_pos, other forms of adapter and attention;
    fpt_preloading and fptplus_preloading, the frozen pass alone."""

    model: UseAppendAction[tuple[str, ...]] = ()
    """Backbone: vit_s, vit_b, vit_l or any plain Vision Transformer in timm. Default: vit_b."""

    res: UseAppendAction[tuple[int, ...]] = ()
    """Image height and width in pixels. Default: 512."""

    num_classes: int = 5
    """Number of classes."""

    gpu: str | None = None
    """GPU to predict for: v100-16gb, v100-32gb, t4, rtx2080ti, a100-40gb, a100-80gb, rtx3060, rtx3090, a6000, a10g,
    rtx4060, l4, rtx4090, l40s, h100, h200, b200, rtx5090 or rtx-pro-6000. Default: this machine's GPU, or the
    paper's a6000 if there is none."""

    gpu_memory: str | None = None
    """Memory limit, e.g. 11GiB. Default: all of the GPU's memory."""

    engine: Literal["auto", "emulated", "traced"] = "auto"
    """How to predict memory. emulated: by PyTorch itself on an emulated CUDA device. traced: by a model of PyTorch,
    which also works where the emulated device does not. auto: emulated if possible, else traced."""

    alloc_conf: str | None = None
    """Settings of PyTorch's allocator, e.g. expandable_segments:True. They are kept in the records. Default: those of
    the environment, usually none."""

    @property
    def gpu_to_predict(self) -> Gpu:
        """Return the GPU to predict for, with the memory that it may use.

        Raises:
            InvalidInput: if there is no such GPU, or its memory limit is not an amount.
        """
        gpu = default_gpu() if self.gpu is None else find_gpu(self.gpu)
        return limited(gpu, self.smaller_memory_bytes)

    @property
    def smaller_memory_bytes(self) -> int | None:
        """Return the memory limit in bytes; None for all of the GPU's memory.

        Raises:
            InvalidInput: if the limit is not an amount.
        """
        return None if self.gpu_memory is None else parse_bytes("gpu-memory", self.gpu_memory)

    def _combined(self, axes: Iterable[dict], **shared) -> list[CellConfig]:
        """Return every combination once; models outermost, then resolutions, axes, and methods innermost.

        Args:
            axes: batch sizes, axes and options of the step, one set each; a method gets none that it does not take.
            shared: further fields of all cells.

        Raises:
            InvalidInput: if any value is out of range.
        """
        shared = {"num_classes": self.num_classes, "gpu": self.gpu_to_predict.name, **shared}
        shared["alloc_conf"] = self.alloc_conf
        methods, axes = self.method or tuple(METHODS), list(axes)
        asks_for_lora = any(name in one for one in axes for name in LORA_OPTIONS)
        if asks_for_lora and not any(map(takes_lora_options, methods)):
            raise InvalidInput("lora-rank and lora-targets must be given with method lora, which is not asked for.")
        cells = [
            CellConfig(method=name, model=model, res=res, **options_for(name, one), **shared)
            for model, res, one, name in product(self.model or ("vit_b",), self.res or (512,), axes, methods)
        ]
        return list(dict.fromkeys(cells))


@dataclass(frozen=True, kw_only=True)
class Setting(Selection):
    """What is asked about: methods, models, resolutions, and the axes that they share.

    The defaults are the paper's: all ten methods, ViT-B, 512 px, batch 16, fp32, explicit attention, AdamW, RTX A6000.
    """

    batch_size: int = 16
    """Images per training step."""

    profile: ProfileName = "paper"
    """Defaults of the four options below. paper: fp32, eager, none, adamw. fast: bf16, sdpa, none, adamw_fused."""

    precision: CellPrecision | None = None
    """Number format. fp32: everywhere. bf16, fp16: autocast over fp32 weights. bf16_weights: bf16 everywhere, without
    autocast. Default: the profile's."""

    attention: AttentionMode | None = None
    """Attention kernel. eager: explicit score matrices. sdpa: the fused kernel that PyTorch chooses. flash, efficient:
    that fused kernel. Default: the profile's."""

    checkpointing: Checkpointing | None = None
    """Activation checkpointing. block: recompute each block in the backward pass. Default: the profile's."""

    optimizer: OptimizerName | None = None
    """Optimizer. adamw: AdamW with foreach kernels. adamw_fused: AdamW in one kernel. sgd: SGD with momentum.
    sgd_no_momentum: SGD without. Default: the profile's."""

    zero_grad: ZeroGrad = "before_forward"
    """When to release the last step's gradients; after_forward keeps them through the forward pass."""

    accumulation_steps: int = 1
    """Number of micro-batches that each batch is split into."""

    clipping: Clipping = "norm"
    """Gradient clipping. norm: to norm 1. none: no clipping."""

    drop_path: float = 0.0
    """Stochastic depth: probability of skipping the backbone's last block, from 0 to below 1."""

    averaging: Averaging = "none"
    """Weight averaging. ema: keep an exponential moving average of the weights, a second copy of the model."""

    lora_rank: int | None = None
    """Rank of LoRA's updates. Default: 16."""

    lora_targets: str | None = None
    """Linear layers that LoRA adapts, separated by commas: query, key, value (or qkv, all three as one), proj, fc1,
    fc2. Default: query,value."""

    def cells(self) -> list[CellConfig]:
        """Return a cell for each model, resolution and method.

        Raises:
            InvalidInput: if any value is out of range.
        """
        axes = {name: getattr(self, name) or default for name, default in PROFILES[self.profile].items()}
        options = {name: value for name in STEP_OPTIONS if (value := getattr(self, name)) is not None}
        shared = {"vram_bytes": self.smaller_memory_bytes}
        return self._combined([{"batch_size": self.batch_size, **axes, **options}], **shared)
