"""AdaLoRA: SVD-shaped updates of query and value whose rank budget shrinks (Zhang et al., AdaLoRA, 2023), by peft."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from peft import AdaLoraConfig, AdaLoraModel
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fptplus.paper_training import EPOCHS, MESSIDOR2_STATED_IMAGES
from fptplus.training.fine_tuning import FineTuning

from .freezing import train_only
from .lora import separate_qkv
from .method import ImageMethod, image_fine_tuning

_ADAPTER = "default"


@dataclass(frozen=True)
class AdaLoRA(ImageMethod):
    init_rank: int = 12
    """Rank that every matrix starts with (peft's and the authors' default; 0.51 % of ViT-B)."""

    target_rank: int = 8
    """Mean rank left at the end."""

    alpha: int = 16
    """Scale factor of the updates (FPT+, Sec. IV-B1)."""

    total_steps: int = EPOCHS * (MESSIDOR2_STATED_IMAGES // 16)
    """Steps of the whole training; the default, 1,520, is the paper's on Messidor-2 in batches of 16."""

    warmup_steps: int = 200
    """Steps before the budget begins to shrink."""

    final_steps: int = 500
    """Steps at the end with the budget fixed."""

    allocation_interval: int = 10
    """Steps between two allocations."""

    orthogonality_weight: float = 0.5
    """Weight of the regularizer that keeps the singular vectors orthogonal (peft's default)."""

    title = "AdaLoRA"
    source = "Zhang et al., ICLR 2023, arXiv 2303.10512"

    def for_training(self, total_steps: int) -> Self:
        """Return the method with its phases scaled in proportion to this number of steps."""
        warmup, final = (steps * total_steps // self.total_steps for steps in (self.warmup_steps, self.final_steps))
        return replace(self, total_steps=total_steps, warmup_steps=warmup, final_steps=final)

    def build(self, vit: VisionTransformer, res: int) -> FineTuning:
        separate_qkv(vit)
        config = AdaLoraConfig(
            init_r=self.init_rank,
            target_r=self.target_rank,
            lora_alpha=self.alpha,
            tinit=self.warmup_steps,
            tfinal=self.final_steps,
            deltaT=self.allocation_interval,
            total_step=self.total_steps,
            target_modules=["query", "value"],
        )
        tuner = AdaLoraModel(vit, config, _ADAPTER)
        train_only(tuner.model, lambda name: ".lora_" in name)
        return image_fine_tuning(
            tuner.model,
            res,
            after_step=tuner.update_and_allocate,
            regularizer=lambda: self.orthogonality_weight * orthogonality(tuner.model),
            method_state=lambda: _allocator_state(tuner),
            load_method_state=lambda state: _load_allocator_state(tuner, state),
        )


_IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""Attributes that hold what peft's RankAllocator remembers: each weight's sensitivity, running mean and uncertainty."""


def _allocator_state(tuner: AdaLoraModel) -> dict:
    allocator = tuner.rankallocator
    return {
        "rank_pattern": tuner.peft_config[_ADAPTER].rank_pattern,
        **{name: dict(getattr(allocator, name)) for name in _IMPORTANCE},
    }


def _load_allocator_state(tuner: AdaLoraModel, state: dict) -> None:
    tuner.peft_config[_ADAPTER].rank_pattern = state["rank_pattern"]
    for name in _IMPORTANCE:
        setattr(tuner.rankallocator, name, dict(state[name]))


def orthogonality(model: nn.Module) -> Tensor:
    """Return the mean distance of the singular vectors' Gram matrices from the identity (AdaLoRA, Eq. 4).

    peft adds the same term, but only to models whose output carries a loss.
    """
    distances = []
    for name, matrix in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            gram = matrix @ matrix.T if ".lora_A." in name else matrix.T @ matrix
            distances.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
    return torch.stack(distances).mean()
