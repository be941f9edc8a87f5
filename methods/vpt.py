"""Visual prompt tuning, deep: new prompt tokens in front of every block (Jia et al., Visual Prompt Tuning, 2022)."""

from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fptplus.training.fine_tuning import FineTuning

from .freezing import train_only
from .method import ImageMethod, image_fine_tuning


class PromptedBlock(nn.Module):
    """A transformer block that reads its own prompts and drops them afterwards.

    VPT-deep replaces the previous block's prompts with new ones, which is the same as dropping and inserting.
    """

    def __init__(self, block: nn.Module, num_prompts: int, dim: int, num_prefix_tokens: int, limit: float) -> None:
        super().__init__()
        self.block = block
        self.prompts = nn.Parameter(torch.empty(num_prompts, dim).uniform_(-limit, limit))
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D); the prompts are between the class token and the patches."""
        prefix, patches = x.split([self.num_prefix_tokens, x.shape[1] - self.num_prefix_tokens], dim=1)
        prompts = self.prompts.expand(len(x), -1, -1)
        out = self.block(torch.cat([prefix, prompts, patches], dim=1))
        prefix, _, patches = out.split([prefix.shape[1], prompts.shape[1], patches.shape[1]], dim=1)
        return torch.cat([prefix, patches], dim=1)


@dataclass(frozen=True)
class VPT(ImageMethod):
    num_prompts: int = 16
    """Number of prompt tokens per block (FPT+, Sec. IV-B1)."""

    title = "Prompt-tuning (VPT-deep)"
    source = "Jia et al., ECCV 2022, arXiv 2203.12119"

    def build(self, vit: VisionTransformer, res: int) -> FineTuning:
        patch_numbers = 3 * vit.patch_embed.patch_size[0] * vit.patch_embed.patch_size[1]
        limit = (6 / (patch_numbers + vit.embed_dim)) ** 0.5  # Xavier, as in the authors' code
        vit.blocks = nn.Sequential(
            *(
                PromptedBlock(block, self.num_prompts, vit.embed_dim, vit.num_prefix_tokens, limit)
                for block in vit.blocks
            )
        )
        train_only(vit, lambda name: name.endswith(".prompts"))
        return image_fine_tuning(vit, res)
