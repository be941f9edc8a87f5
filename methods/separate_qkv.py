"""timm's fused qkv layer as three linear layers, so that query and value can be adapted without the key."""

import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class SeparateQKV(nn.Module):
    """Gives what the fused layer gives, from three layers `query`, `key` and `value` that hold its rows."""

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        self.query, self.key, self.value = (self._rows(fused, part) for part in range(3))

    @staticmethod
    def _rows(fused: nn.Linear, part: int) -> nn.Linear:
        """One third of the fused layer, with storage of its own."""
        size = fused.out_features // 3
        rows = slice(part * size, (part + 1) * size)
        layer = nn.Linear(fused.in_features, size, bias=fused.bias is not None, device=fused.weight.device)
        layer.weight = nn.Parameter(fused.weight.detach()[rows].clone())
        if fused.bias is not None:
            layer.bias = nn.Parameter(fused.bias.detach()[rows].clone())
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, 3·D)."""
        return torch.cat([self.query(x), self.key(x), self.value(x)], dim=-1)


def separate_qkv(vit: VisionTransformer) -> None:
    """Replace the fused qkv layer of every block."""
    for module in vit.modules():
        if isinstance(module, Attention):
            module.qkv = SeparateQKV(module.qkv)
