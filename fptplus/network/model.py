"""FPT and FPT+ as one model: fusion modules feeding a side network (FPT+, Fig. 3, Eq. 6)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .features import Features
from .fpt_config import FPTConfig
from .frozen_backbone import FrozenBackbone
from .fusion import FineGrainedFusion, ProjectedFusion
from .layer_kind import LayerKind
from .side_network import SideNetwork


class FineGrainedPromptTuning(nn.Module):
    """Everything FPT or FPT+ trains; features of the frozen large pre-trained model (LPM) are inputs (Sec. III-F).

    With checkpointing, the backward pass recomputes each layer of the side network instead of keeping what it computed.
    """

    def __init__(
        self, side: SideNetwork, fusion: FineGrainedFusion | ProjectedFusion, *, checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.side, self.fusion, self.checkpointing = side, fusion, checkpointing

    def forward(self, side_images: Tensor, features: Features | tuple[Tensor | None, ...]) -> Tensor:
        """Classify images.

        Args:
            side_images: (B, 3, side_res, side_res).
            features: features of the images, or a tuple of the same tensors; keys and values suffice.

        Returns:
            Logits (B, classes).
        """
        tokens = self.side.embed(side_images)
        fused = self.fusion.of_each_layer(Features(*features))  # a tracer turns it into a plain tuple
        for layer, prompts in enumerate(fused):
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(self.side.layer, layer, tokens, prompts, use_reentrant=False)
            else:
                tokens = self.side.layer(layer, tokens, prompts)
        return self.side.classify(tokens)


class LiveFineGrainedPromptTuning(nn.Module):
    """FPT or FPT+ with the frozen LPM run at every step, instead of features preloaded once."""

    def __init__(self, backbone: FrozenBackbone, trained: FineGrainedPromptTuning) -> None:
        super().__init__()
        self.backbone, self.trained = backbone, trained

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) for images (B, 3, H, W) at the LPM's resolution."""
        features = self.backbone(images)
        res = self.trained.side.res
        in_fp32 = images.float()  # the only dtype in which a CPU interpolates with antialiasing
        side_images = F.interpolate(in_fp32, size=(res, res), mode="bilinear", antialias=True).to(images.dtype)
        return self.trained(side_images, features)


def build_fpt(
    config: FPTConfig,
    *,
    lpm_dim: int,
    lpm_heads: int,
    lpm_depth: int,
    num_classes: int,
    layer_kind: LayerKind = "lean",
    fused_attention: bool = True,
    checkpointing: bool = False,
) -> FineGrainedPromptTuning:
    """Build the trainable part of FPT or FPT+, with random weights.

    Args:
        config: FPT or FPT+, and its hyperparameters.
        lpm_dim, lpm_heads, lpm_depth: width, heads and blocks of the LPM.
        num_classes: outputs of the head.
        layer_kind: plain layers, or lean ones, which train the same model in less memory and time.
        fused_attention: whether attention computes no score matrices; explicit attention needs plain layers.
        checkpointing: whether the backward pass recomputes each layer of the side network.

    Raises:
        InvalidInput: if the reduction factor does not suit the LPM, or lean layers are asked for explicit attention.
    """
    side_dim = config.side_dim(lpm_dim, lpm_heads)
    num_layers = len(config.tapped_layers(lpm_depth))
    fusion_type = {"fpt": ProjectedFusion, "fptplus": FineGrainedFusion}[config.variant]
    kind = {"layer_kind": layer_kind, "fused_attention": fused_attention}
    fusion = fusion_type(num_layers, config.num_prompts, lpm_dim, lpm_heads, side_dim, **kind)
    side = SideNetwork(side_dim, lpm_heads, num_layers, config.side_res, config.side_patch_size, num_classes, **kind)
    return FineGrainedPromptTuning(side, fusion, checkpointing=checkpointing)
