"""FPT and FPT+ as one model: fusion modules feeding a side network (FPT+, Fig. 3, Eq. 6)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .fpt_config import FPTConfig
from .frozen_backbone import FrozenBackbone
from .fusion import FineGrainedFusion, ProjectedFusion
from .side_network import SideNetwork


class FineGrainedPromptTuning(nn.Module):
    """All that FPT or FPT+ trains; the LPM's features are inputs (Sec. III-F, preloading).

    With checkpointing, the backward pass runs each layer of the side network again instead of keeping what it computed.
    """

    def __init__(
        self, side: SideNetwork, fusion: FineGrainedFusion | ProjectedFusion, *, checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.side, self.fusion, self.checkpointing = side, fusion, checkpointing

    def forward(
        self,
        side_images: Tensor,
        keys: Tensor,
        values: Tensor,
        key_scales: Tensor | None = None,
        value_scales: Tensor | None = None,
        chosen: Tensor | None = None,
    ) -> Tensor:
        """Classify.

        Args:
            side_images: (B, 3, side_res, side_res).
            keys, values: (layers, B, heads, n, head_dim), the important tokens of the tapped LPM layers, of any type.
            key_scales, value_scales: (layers, B, heads, head_dim), where keys and values are int8.
            chosen: (B,) indices of the batch's images among those of keys, values and scales, if they hold more.

        Returns:
            Logits (B, classes).
        """
        tokens = self.side.embed(side_images)
        fused = self.fusion.of_each_layer(keys, values, key_scales, value_scales, chosen=chosen)
        for layer, prompts in enumerate(fused):
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(self.side.layer, layer, tokens, prompts, use_reentrant=False)
            else:
                tokens = self.side.layer(layer, tokens, prompts)
        return self.side.classify(tokens)


class LiveFineGrainedPromptTuning(nn.Module):
    """The same with the frozen LPM run at every step, instead of features preloaded once."""

    def __init__(self, backbone: FrozenBackbone, trained: FineGrainedPromptTuning) -> None:
        super().__init__()
        self.backbone, self.trained = backbone, trained

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) from images (B, 3, H, W) at the LPM's resolution."""
        keys, values = self.backbone(images)
        res = self.trained.side.res
        in_fp32 = images.float()  # the only type that a CPU interpolates smoothly
        side_images = F.interpolate(in_fp32, size=(res, res), mode="bilinear", antialias=True).to(images.dtype)
        return self.trained(side_images, keys, values)


def build_fpt(
    config: FPTConfig,
    *,
    lpm_dim: int,
    lpm_heads: int,
    lpm_depth: int,
    num_classes: int,
    fused_attention: bool = True,
    checkpointing: bool = False,
) -> FineGrainedPromptTuning:
    """The trainable part of FPT or FPT+ for an LPM of the given width, heads and depth, with random weights.

    Raises:
        InvalidInput: if the reduction factor does not suit the LPM.
    """
    side_dim = config.side_dim(lpm_dim, lpm_heads)
    num_layers = len(config.tapped_layers(lpm_depth))
    fusion_type = {"fpt": ProjectedFusion, "fptplus": FineGrainedFusion}[config.variant]
    fusion = fusion_type(num_layers, config.num_prompts, lpm_dim, lpm_heads, side_dim, fused_attention=fused_attention)
    side = SideNetwork(
        side_dim,
        lpm_heads,
        num_layers,
        config.side_res,
        config.side_patch_size,
        num_classes,
        fused_attention=fused_attention,
    )
    return FineGrainedPromptTuning(side, fusion, checkpointing=checkpointing)
