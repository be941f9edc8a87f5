"""Attention-tuning: the attention layers move (Touvron et al., Three things everyone should know about ViT, 2022)."""

from dataclasses import dataclass

from timm.models.vision_transformer import VisionTransformer

from .freezing import train_only
from .method import FineTuning, image_fine_tuning


@dataclass(frozen=True)
class AttentionTuning:
    title = "Attention-tuning"
    source = "Touvron et al., ECCV 2022, arXiv 2203.09795"

    def build(self, vit: VisionTransformer, res: int) -> FineTuning:
        train_only(vit, lambda name: name.startswith("blocks.") and ".attn." in name)
        return image_fine_tuning(vit, res)
