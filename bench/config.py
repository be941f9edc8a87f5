"""What is benchmarked: one cell, and a selection of them (the paper's setting is Sec. IV-B1)."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Literal, get_args

from tyro.conf import UseAppendAction

from fptplus import InvalidInput
from fptplus.training import OptimizerName, Precision
from methods import METHODS, find_method
from methods.backbone import AttentionMode, Checkpointing

from .predict.devices import Gpu, default_gpu, find_gpu
from .units import parse_bytes

MeasuredOn = Literal["nothing", "cpu", "cuda"]
ProfileName = Literal["paper", "fast"]

PROFILES: dict[ProfileName, dict[str, str]] = {
    "paper": {"precision": "fp32", "attention": "eager", "checkpointing": "none", "optimizer": "adamw"},
    "fast": {"precision": "bf16", "attention": "sdpa", "checkpointing": "none", "optimizer": "adamw_fused"},
}
"""`paper` is what the paper's numbers were made with; `fast` is what one would use today."""

_AXES = {
    "precision": get_args(Precision),
    "attention": get_args(AttentionMode),
    "checkpointing": get_args(Checkpointing),
    "optimizer": get_args(OptimizerName),
    "device": get_args(MeasuredOn),
}
_LARGEST = {"res": 2**16, "batch_size": 2**20, "num_classes": 2**20}
_ADDED_LATER = {"epochs", "epoch_images", "vram_bytes"}


@dataclass(frozen=True, kw_only=True)
class CellConfig:
    """One configuration to predict or measure."""

    method: str
    """A name of METHODS or VARIANTS."""

    model: str
    """vit_s, vit_b, vit_l or a timm name."""

    res: int
    """Image height and width in pixels."""

    batch_size: int = 16
    """Images a step."""

    precision: Precision = "fp32"
    """fp32, or autocast to bf16 or fp16 with fp32 weights."""

    attention: AttentionMode = "eager"
    """Explicit score matrices, or fused kernels: PyTorch's choice (sdpa) or one pinned."""

    checkpointing: Checkpointing = "none"
    """`block` recomputes each transformer block in the backward pass."""

    optimizer: OptimizerName = "adamw"
    """AdamW with foreach kernels, AdamW in one kernel, or SGD with momentum."""

    num_classes: int = 5
    """Outputs of the head; 5 as in Messidor-2 and DDR."""

    device: MeasuredOn = "nothing"
    """What the cell is measured on, beside being predicted."""

    gpu: str = "a6000"
    """Name of the GPU that memory is predicted for; the paper's by default."""

    seed: int = 0
    """Of weights and inputs."""

    weights: str | None = None
    """Checkpoint file or timm pretrained name to measure with; None for random weights."""

    epochs: int = 0
    """Whole epochs to run and time, with batches from disk."""

    epoch_images: int = 0
    """Images of such an epoch; 0 where none is run."""

    vram_bytes: int | None = None
    """Memory of a smaller card to emulate on the CUDA device; None for all that it has."""

    def __post_init__(self) -> None:
        find_method(self.method)
        for name, most in _LARGEST.items():
            if not 1 <= (value := getattr(self, name)) <= most:
                bound = "at least 1" if value < 1 else f"at most {most}"
                raise InvalidInput(f"{name.replace('_', '-')} must be {bound}, got {value}.")
        for name, known in _AXES.items():
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

    @property
    def cell_id(self) -> str:
        """Name of the cell's record: a hash of its configuration.

        What was added to the configuration later counts only where it is set, so that older records keep their names.
        """
        named = {one.name: getattr(self, one.name) for one in fields(self)}
        text = json.dumps({k: v for k, v in named.items() if k not in _ADDED_LATER or v}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Methods, models and resolutions that are asked about, and the GPU that memory is predicted for."""

    method: UseAppendAction[tuple[str, ...]] = ()
    """Method to run; repeat for several. Default: the ten of the paper. Also: fpt_live, fptplus_live, fptplus_bf16 and
    fptplus_int8 for smaller features, and fpt_preloading, fptplus_preloading for the frozen pass alone."""

    model: UseAppendAction[tuple[str, ...]] = ()
    """vit_s, vit_b, vit_l or any plain ViT of timm; repeat for several. Default: vit_b."""

    res: UseAppendAction[tuple[int, ...]] = ()
    """Image height and width in pixels; repeat for several. Default: 512."""

    num_classes: int = 5
    """Outputs of the task head."""

    gpu: str | None = None
    """GPU to predict for: t4, rtx3060, rtx3090, rtx4090, a6000, a100-40gb, a100-80gb, l40s, h100, h200 or b200.
    Default: the one present, else the paper's a6000."""

    gpu_memory: str | None = None
    """Memory that must do, such as 11GiB. Default: all that the GPU has."""

    @property
    def gpu_to_predict(self) -> Gpu:
        """The GPU to predict for, with the memory that it may use.

        Raises:
            InvalidInput: if there is no such GPU, or its memory is no amount.
        """
        gpu = default_gpu() if self.gpu is None else find_gpu(self.gpu)
        return gpu if self.gpu_memory is None else replace(gpu, memory_bytes=parse_bytes("gpu-memory", self.gpu_memory))

    def _combined(self, axes: Iterable[dict], **shared) -> list[CellConfig]:
        """Every combination, each once; models outermost, then resolutions, axes, and methods innermost.

        Args:
            axes: batch size, precision, attention, checkpointing and optimizer of each.
            shared: further fields of all cells.

        Raises:
            InvalidInput: if any value is out of range.
        """
        shared = {"num_classes": self.num_classes, "gpu": self.gpu_to_predict.name, **shared}
        methods = self.method or tuple(METHODS)
        combinations = product(self.model or ("vit_b",), self.res or (512,), list(axes), methods)
        cells = [
            CellConfig(method=name, model=model, res=res, **one, **shared) for model, res, one, name in combinations
        ]
        return list(dict.fromkeys(cells))


@dataclass(frozen=True, kw_only=True)
class Setting(Selection):
    """What is asked about: methods, models, resolutions, and the axes that they share.

    The defaults are the paper's: all ten methods, ViT-B, 512 px, batch 16, fp32, explicit attention, AdamW, RTX A6000.
    """

    batch_size: int = 16
    """Images a training step."""

    profile: ProfileName = "paper"
    """Sets the axes below where not given. paper: fp32, eager, none, adamw. fast: bf16, sdpa, none, adamw_fused."""

    precision: Precision | None = None
    """fp32, or autocast to bf16 or fp16 with fp32 weights."""

    attention: AttentionMode | None = None
    """eager: explicit score matrices. sdpa: the fused kernel PyTorch chooses. flash, efficient: that fused kernel."""

    checkpointing: Checkpointing | None = None
    """block: recompute each transformer block in the backward pass."""

    optimizer: OptimizerName | None = None
    """adamw: foreach kernels. adamw_fused: one kernel. sgd: with momentum."""

    def cells(self) -> list[CellConfig]:
        """A cell for each model, resolution and method.

        Raises:
            InvalidInput: if any value is out of range.
        """
        axes = {name: getattr(self, name) or default for name, default in PROFILES[self.profile].items()}
        return self._combined([{"batch_size": self.batch_size, **axes}])
