"""FPT and FPT+: a side network reads a frozen large pre-trained model (LPM) through fine-grained prompts.

Huang et al., FPT 2024 and FPT+ 2025.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from timm.models.vision_transformer import VisionTransformer

import fptplus
from fptplus.network.features import Features, Inputs
from fptplus.network.layer_kind import LayerKind
from fptplus.network.selection import num_important_tokens
from fptplus.store.layout import TORCH_DTYPE, StoreDtype
from fptplus.training.fine_tuning import FineTuning

from .backbone import published_params, token_count, uses_checkpointing, uses_fused_attention
from .method import ImageMethod


@dataclass(frozen=True)
class FineGrainedPrompts:
    config: fptplus.FPTConfig
    """Hyperparameters, including whether this is FPT or FPT+."""

    title: str
    source: str

    live: bool = False
    """Whether the frozen LPM runs in every step, on images; otherwise features are preloaded once."""

    symmetric: bool = False
    """Whether the side network gets images of the LPM's resolution: FPT+ before its asymmetric input."""

    features: StoreDtype = "fp32"
    """Dtype in which preloaded keys and values are stored."""

    @property
    def reads_features(self) -> bool:
        """Whether it reads features: it does unless the LPM runs in every step."""
        return not self.live

    def input_res(self, res: int) -> int:
        """Return the side network's resolution if features are preloaded; a live LPM takes the images itself."""
        return self.config.side_res if self.reads_features else res

    def for_training(self, total_steps: int) -> Self:
        """Return itself: nothing in it depends on the length of a training."""
        return self

    def build(self, vit: VisionTransformer, res: int) -> FineTuning:
        config = replace(self.config, side_res=res) if self.symmetric else self.config
        attention, depth = vit.blocks[0].attn, len(vit.blocks)
        fused_attention = uses_fused_attention(vit)  # asked for by the caller; the frozen pass uses it anyway
        lpm_params = published_params(vit)
        tapped = config.tapped_layers(depth)
        trained = fptplus.build_fpt(
            config,
            lpm_dim=vit.embed_dim,
            lpm_heads=attention.num_heads,
            lpm_depth=depth,
            num_classes=vit.num_classes,
            layer_kind=layer_kind_of(vit),
            fused_attention=fused_attention,
            checkpointing=uses_checkpointing(vit),
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
        heads = attention.num_heads
        shape = (len(tapped), heads, num_tokens, vit.embed_dim // heads)
        side_res = config.side_res

        def example_inputs(batch_size: int) -> Inputs:
            images = torch.randn(batch_size, 3, side_res, side_res)
            return images, _example_features(self.features, batch_size, shape, by_image=fused_attention)

        return FineTuning(model=trained, example_inputs=example_inputs, total_params=total_params, preloader=backbone)


def layer_kind_of(vit: VisionTransformer) -> LayerKind:
    """Return the layer kind of a ViT's side network: lean with fused attention, which lean layers need, else plain."""
    return "lean" if uses_fused_attention(vit) else "plain"


@dataclass(frozen=True)
class Preloading(ImageMethod):
    """The frozen pass that makes a method's features once, as a separate cost (FPT+, Sec. III-F, Table II)."""

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


def _example_features(dtype: StoreDtype, batch_size: int, shape: tuple[int, ...], *, by_image: bool) -> Features:
    """Make random keys and values, with their scales if they are int8.

    Args:
        dtype: dtype of the store.
        batch_size: number of images.
        shape: numbers of layers, heads and tokens n, and head_dim.
        by_image: whether each image's numbers are contiguous, as in a store, which is how fused attention reads them;
            otherwise each layer's numbers are, which is how explicit attention takes them.
    """
    layers, heads, tokens, head_dim = shape
    numbers = torch.randn(2, layers, batch_size, heads, tokens, head_dim)
    parts = [numbers.mul(32).clamp(-127, 127).to(torch.int8) if dtype == "int8" else numbers.to(TORCH_DTYPE[dtype])]
    if dtype == "int8":
        parts.append(torch.full((2, layers, batch_size, heads, head_dim), 1 / 32, dtype=torch.float16))
    if by_image:
        parts = [part.movedim(2, 0).contiguous().movedim(0, 2) for part in parts]
    return Features(*(half for part in parts for half in part))
