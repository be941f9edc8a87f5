"""LoRA: low-rank updates of the query and value weights, or of others (Hu et al., LoRA, 2022), by peft."""

from dataclasses import dataclass

from peft import LoraConfig, inject_adapter_in_model
from timm.models.vision_transformer import VisionTransformer

from .freezing import train_only
from .method import FineTuning, image_fine_tuning
from .separate_qkv import separate_qkv

TARGETS: dict[str, str] = {
    "query": "attn.qkv.query",
    "key": "attn.qkv.key",
    "value": "attn.qkv.value",
    "qkv": "attn.qkv",
    "proj": "attn.proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
"""The linear layers of a block that can be adapted; `qkv` is timm's fused layer, the three before it are its parts."""


@dataclass(frozen=True)
class LoRA:
    rank: int = 16
    """r. The paper states none; 16 gives its 0.68 % of ViT-B."""

    targets: tuple[str, ...] = ("query", "value")
    """Names of TARGETS. The paper states none; query and value give its 0.68 % of ViT-B."""

    alpha: int = 16
    """Scale factor (FPT+, Sec. IV-B1)."""

    title = "LoRA"
    source = "Hu et al., ICLR 2022, arXiv 2106.09685"

    def build(self, vit: VisionTransformer, res: int) -> FineTuning:
        if not {"query", "key", "value"}.isdisjoint(self.targets):
            separate_qkv(vit)
        layers = "|".join(TARGETS[name] for name in self.targets).replace(".", r"\.")
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=rf"blocks\.\d+\.({layers})")
        model = inject_adapter_in_model(config, vit)
        train_only(model, lambda name: ".lora_" in name)
        return image_fine_tuning(model, res)
