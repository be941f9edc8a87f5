"""FPT+ before its parts are added one by one (FPT+, Fig. 7): the side network alone, and features through an MLP.

The paper names these models but does not describe them. Here the side network is FPT+'s own, on images at the
resolution of the frozen large pre-trained model (LPM); and "an MLP layer to process and align the hidden dimensions"
(Sec. III-D) is one two-layer MLP per tapped LPM block, whose output tokens are all appended to the side network's.
"""

from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import fptplus
from fptplus.network.side_network import SideNetwork
from fptplus.training.fine_tuning import FineTuning

from .backbone import published_params, uses_fused_attention
from .fpt import layer_kind_of
from .method import ImageMethod, image_fine_tuning

SOURCE = "Huang et al., FPT+, Sec. IV-G1"


class SideNetworkAlone(nn.Module):
    """The side network without any pre-trained knowledge."""

    def __init__(self, side: SideNetwork) -> None:
        super().__init__()
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) for images (B, 3, H, W)."""
        tokens = self.side.embed(images)
        for block in self.side.blocks:
            tokens = block(tokens)
        return self.side.classify(tokens)


class MlpFusion(nn.Module):
    """The side network with every token of the tapped LPM blocks appended, mapped to its width by an MLP."""

    def __init__(self, vit: VisionTransformer, tapped_layers: tuple[int, ...], side: SideNetwork) -> None:
        super().__init__()
        self.vit = vit.requires_grad_(False).eval()
        self.tapped_layers, self.side = tapped_layers, side
        wide, narrow = vit.embed_dim, side.norm.normalized_shape[0]
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(wide, narrow), nn.GELU(), nn.Linear(narrow, narrow)) for _ in tapped_layers
        )

    def train(self, mode: bool = True) -> "MlpFusion":
        """Train the side network; the LPM stays in evaluation mode."""
        super().train(mode)
        self.vit.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) for images (B, 3, H, W)."""
        tokens = self.side.embed(images)
        for layer, features in enumerate(self._features(images)):
            tokens = self.side.layer(layer, tokens, self.mlps[layer](features))
        return self.side.classify(tokens)

    @torch.no_grad()
    def _features(self, images: Tensor) -> list[Tensor]:
        """Return the tapped blocks' output tokens, each (B, N, D)."""
        vit, features = self.vit, []
        x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
        for index, block in enumerate(vit.blocks):
            x = block(x)
            if index in self.tapped_layers:
                features.append(x)
        return features


@dataclass(frozen=True)
class SideComponents(ImageMethod):
    config: fptplus.FPTConfig
    """FPT+'s hyperparameters, except that the side network has the LPM's resolution."""

    title: str
    with_lpm: bool
    """Whether the LPM's tokens are appended through MLPs; otherwise the side network is trained alone."""

    source: str = SOURCE

    def build(self, vit: VisionTransformer, res: int) -> FineTuning:
        tapped = self.config.tapped_layers(len(vit.blocks))
        heads = vit.blocks[0].attn.num_heads
        side = SideNetwork(
            self.config.side_dim(vit.embed_dim, heads),
            heads,
            len(tapped),
            res,
            self.config.side_patch_size,
            vit.num_classes,
            layer_kind=layer_kind_of(vit) if self.with_lpm else "plain",
            fused_attention=uses_fused_attention(vit),
        )
        if not self.with_lpm:
            return image_fine_tuning(SideNetworkAlone(side), res)
        lpm_params = published_params(vit)
        model = MlpFusion(vit, tapped, side)
        learnable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        return FineTuning(
            model=model,
            example_inputs=lambda batch_size: (torch.randn(batch_size, 3, res, res),),
            total_params=lpm_params + learnable,
        )
