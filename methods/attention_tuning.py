"""Attention-tuning: the attention layers learn (Touvron et al., Three things everyone should know about ViT, 2022)."""

from dataclasses import dataclass

from timm.models.vision_transformer import VisionTransformer

from fptplus.training.fine_tuning import FineTuning

from .freezing import train_only
from .method import ImageMethod, image_fine_tuning


@dataclass(frozen=True)
class AttentionTuning(ImageMethod):
    title: str = "Attention-tuning"
    position_embeddings: bool = False
    """Whether the position embeddings move too, as in the publication's code."""

    source = "Touvron et al., ECCV 2022, arXiv 2203.09795"

    def build(self, vit: VisionTransformer, res: int) -> FineTuning:
        train_only(vit, self._moves)
        return image_fine_tuning(vit, res)

    def _moves(self, name: str) -> bool:
        in_attention = name.startswith("blocks.") and ".attn." in name
        return in_attention or (self.position_embeddings and name == "pos_embed")
