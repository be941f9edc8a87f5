"""LoRA: low-rank updates of the query and value weights (Hu et al., LoRA, 2022), by peft."""

from dataclasses import dataclass

from peft import LoraConfig, inject_adapter_in_model
from timm.models.vision_transformer import VisionTransformer

from .freezing import train_only
from .method import FineTuning, image_fine_tuning
from .separate_qkv import separate_qkv


@dataclass(frozen=True)
class LoRA:
    rank: int = 16
    """r. The paper states none; 16 gives its 0.68 % of ViT-B."""

    alpha: int = 16
    """Scale factor (FPT+, Sec. IV-B1)."""

    title = "LoRA"
    source = "Hu et al., ICLR 2022, arXiv 2106.09685"

    def build(self, vit: VisionTransformer, res: int) -> FineTuning:
        separate_qkv(vit)
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=["query", "value"])
        model = inject_adapter_in_model(config, vit)
        train_only(model, lambda name: ".lora_" in name)
        return image_fine_tuning(model, res)
