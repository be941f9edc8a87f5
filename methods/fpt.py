"""FPT and FPT+: a side network reads a frozen LPM through fine-grained prompts (Huang et al., FPT 2024, FPT+ 2025)."""

from dataclasses import dataclass, replace

import torch
from timm.models.vision_transformer import VisionTransformer

import fptplus
from fptplus.selection import num_important_tokens

from .backbone import published_params, token_count, uses_fused_attention
from .method import FineTuning


@dataclass(frozen=True)
class FineGrainedPrompts:
    config: fptplus.FPTConfig
    """FPT or FPT+, and its hyperparameters."""

    title: str
    source: str

    live: bool = False
    """Run the frozen LPM in every step, on images, instead of reading features preloaded once."""

    symmetric: bool = False
    """Give the side network images of the LPM's resolution: FPT+ before its asymmetric input."""

    def build(self, vit: VisionTransformer, res: int) -> FineTuning:
        config = replace(self.config, side_res=res) if self.symmetric else self.config
        attention, depth = vit.blocks[0].attn, len(vit.blocks)
        lpm_params = published_params(vit)
        tapped = config.tapped_layers(depth)
        trained = fptplus.build_fpt(
            config,
            lpm_dim=vit.embed_dim,
            lpm_heads=attention.num_heads,
            lpm_depth=depth,
            num_classes=vit.num_classes,
            fused_attention=uses_fused_attention(vit),
        )
        num_tokens = num_important_tokens(token_count(vit), config.token_ratio)
        backbone = fptplus.FrozenBackbone(vit, tapped, config.token_ratio)
        total_params = lpm_params + sum(parameter.numel() for parameter in trained.parameters())
        if self.live:
            return FineTuning(
                model=fptplus.LiveFineGrainedPromptTuning(backbone, trained),
                example_inputs=lambda batch_size: (torch.randn(batch_size, 3, res, res),),
                total_params=total_params,
            )
        side_res, heads = config.side_res, attention.num_heads

        def example_inputs(batch_size: int) -> tuple[torch.Tensor, ...]:
            features = (len(tapped), batch_size, heads, num_tokens, vit.embed_dim // heads)
            return torch.randn(batch_size, 3, side_res, side_res), torch.randn(features), torch.randn(features)

        return FineTuning(model=trained, example_inputs=example_inputs, total_params=total_params, preloader=backbone)


@dataclass(frozen=True)
class Preloading:
    """The frozen pass that makes a method's features once, as a cost of its own (FPT+, Sec. III-F, Table II)."""

    of: FineGrainedPrompts
    title: str
    source: str

    def build(self, vit: VisionTransformer, res: int) -> FineTuning:
        total_params = published_params(vit)
        return FineTuning(
            model=self.of.build(vit, res).preloader,
            example_inputs=lambda batch_size: (torch.randn(batch_size, 3, res, res),),
            total_params=total_params,
        )
