"""Adapter: a bottleneck after the attention and after the MLP of every block (Houlsby et al., 2019), or after one.

The paper neither draws its adapter nor states a width. Two of 48 a block (`adapter`) and one of 96 behind a LayerNorm
after the MLP (`adapter_96`) both have 2.03 % of ViT-B's parameters; docs/paper.md compares them with the print.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fptplus.training.fine_tuning import FineTuning

from .freezing import train_only
from .method import ImageMethod, image_fine_tuning


class Adapter(nn.Module):
    """x + up(gelu(down(x))), of LayerNormed x where asked; starts as the identity."""

    def __init__(self, dim: int, bottleneck: int, *, layer_norm: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim) if layer_norm else nn.Identity()
        self.down, self.up = nn.Linear(dim, bottleneck), nn.Linear(bottleneck, dim)
        nn.init.normal_(self.down.weight, std=1e-2)
        for almost_zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(almost_zero)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(F.gelu(self.down(self.norm(x))))


class Adapted(nn.Module):
    """A sublayer followed by its adapter, before the residual connection."""

    def __init__(self, sublayer: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.sublayer, self.adapter = sublayer, adapter

    def forward(self, x: Tensor, **options) -> Tensor:
        return self.adapter(self.sublayer(x, **options))


@dataclass(frozen=True)
class AdapterTuning(ImageMethod):
    bottleneck: int = 48
    """Width of each adapter. The paper states none; 48, twice a block, gives its 2.03 % of ViT-B."""

    title: str = "Adapter"
    sublayers: tuple[str, ...] = ("attn", "mlp")
    """Sublayers of every block that an adapter follows."""

    layer_norm: bool = False
    """Whether an adapter normalises its tokens first."""

    source = "Houlsby et al., ICML 2019, arXiv 1902.00751"

    def build(self, vit: VisionTransformer, res: int) -> FineTuning:
        for block in vit.blocks:
            for name in self.sublayers:
                adapter = Adapter(vit.embed_dim, self.bottleneck, layer_norm=self.layer_norm)
                setattr(block, name, Adapted(getattr(block, name), adapter))
        train_only(vit, lambda name: ".adapter." in name)
        return image_fine_tuning(vit, res)
