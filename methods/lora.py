"""LoRA: low-rank updates of the query and value weights, or of others (Hu et al., LoRA, 2022), by peft."""

from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fptplus.training.fine_tuning import FineTuning

from .freezing import train_only
from .method import ImageMethod, image_fine_tuning

TARGETS: dict[str, str] = {
    "query": "attn.qkv.query",
    "key": "attn.qkv.key",
    "value": "attn.qkv.value",
    "qkv": "attn.qkv",
    "proj": "attn.proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
"""The linear layers of a block that can be adapted; `qkv` is timm's fused layer, the three before it its parts."""


@dataclass(frozen=True)
class LoRA(ImageMethod):
    rank: int = 16
    """Rank r. The paper states none; 16 gives its 0.68 % of ViT-B."""

    targets: tuple[str, ...] = ("query", "value")
    """Names in TARGETS of the layers to adapt. The paper states none; query and value give its 0.68 % of ViT-B."""

    alpha: int = 16
    """Scale factor of the updates (FPT+, Sec. IV-B1)."""

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


class SeparateQKV(nn.Module):
    """Layer with the output of the fused one, from three layers `query`, `key` and `value` that hold its rows."""

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        self.query, self.key, self.value = (self._rows(fused, part) for part in range(3))

    @staticmethod
    def _rows(fused: nn.Linear, part: int) -> nn.Linear:
        """Return one third of the fused layer, with its own storage."""
        size = fused.out_features // 3
        rows = slice(part * size, (part + 1) * size)
        layer = nn.Linear(fused.in_features, size, bias=fused.bias is not None, device=fused.weight.device)
        layer.weight = nn.Parameter(fused.weight.detach()[rows].clone())
        if fused.bias is not None:
            layer.bias = nn.Parameter(fused.bias.detach()[rows].clone())
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, N, D) to (B, N, 3·D)."""
        return torch.cat([self.query(x), self.key(x), self.value(x)], dim=-1)


def separate_qkv(vit: VisionTransformer) -> None:
    """Replace the fused qkv layer of every block, so that query and value can be adapted without the key."""
    for module in vit.modules():
        if isinstance(module, Attention):
            module.qkv = SeparateQKV(module.qkv)
