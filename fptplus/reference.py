"""FPT and FPT+ written down plainly (FPT+, Sec. III), with PyTorch alone, any release since 2.0.

It follows the paper and what is known of the official code: fp32, every operation by itself, queries, keys and values
by a layer each, score matrices in full. It shares no code with `fptplus`; the tests hold both to the same logits,
losses and gradients. Our training step is timed against it, and the paper's memory is emulated with it (paper_stack/),
which is why it matters what is given a name: a named result lives until its function returns.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainSelfAttention(nn.Module):
    """Multi-head self-attention with its score matrix."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, -1).permute(0, 2, 1, 3)

    def _attend(self, x: Tensor) -> Tensor:
        queries, keys, values = self._heads(self.query(x)), self._heads(self.key(x)), self._heads(self.value(x))
        scores = torch.matmul(queries, keys.transpose(-1, -2)) / math.sqrt(queries.shape[-1])
        context = torch.matmul(scores.softmax(dim=-1), values)
        return context.permute(0, 2, 1, 3).reshape(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self._attend(x))


class PlainBlock(nn.Module):
    """A transformer layer of the side network."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-12), nn.LayerNorm(dim, eps=1e-12)
        self.attention = PlainSelfAttention(dim, num_heads)
        self.intermediate, self.output = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attention(self.norm1(x))
        x = attended + x
        return self.output(F.gelu(self.intermediate(self.norm2(x)))) + x


class PlainFusion(nn.Module):
    """Cross-attention of prompts over their layer's stored keys and values, and the projection down."""

    def __init__(self, variant: str, num_layers: int, num_prompts: int, lpm_dim: int, num_heads: int, dim: int) -> None:
        super().__init__()
        self.projects_up, self.num_heads = variant == "fpt", num_heads
        width = dim if self.projects_up else lpm_dim
        self.prompts = nn.Parameter(torch.randn(num_layers, 1, num_prompts, width) * 1e-6)
        if self.projects_up:
            self.prompt_proj = nn.Linear(dim, lpm_dim)
        else:
            self.layer_norm = nn.LayerNorm(lpm_dim)
        self.out_proj = nn.Linear(lpm_dim, dim)
        self.dropout = nn.Dropout(0.5)

    def one_layer(self, layer: int, keys: Tensor, values: Tensor) -> Tensor:
        """Fused prompts (B, P, dim) of one layer from its keys and values (B, heads, n, head_dim)."""
        return self._fuse(self.prompts[layer].repeat(len(keys), 1, 1), keys, values)

    def all_layers(self, keys: Tensor, values: Tensor) -> Tensor:
        """Fused prompts (layers, B, P, dim) of all layers from keys and values (layers, B, heads, n, head_dim)."""
        return self._fuse(self.prompts.expand(-1, keys.shape[1], -1, -1), keys, values)

    def _fuse(self, prompts: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        queries = self.prompt_proj(prompts) if self.projects_up else self.layer_norm(prompts)
        queries = queries.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)
        scores = torch.matmul(queries, keys.transpose(-1, -2)) / math.sqrt(queries.shape[-1])
        context = torch.matmul(scores.softmax(dim=-1), values).transpose(-2, -3).flatten(-2)
        if self.projects_up:
            return self.dropout(self.out_proj(context) + prompts)
        context = context + prompts
        return self.dropout(self.out_proj(context))


class PlainFPT(nn.Module):
    """The trainable part of FPT or FPT+.

    Args:
        variant: `fpt` or `fptplus`.
        num_layers: tapped layers.
        num_prompts: a layer.
        lpm_dim, num_heads: width and heads of the LPM.
        dim: width of the side network.
        res, patch_size: of the side network's images, in pixels.
        num_classes: of the head.
        fuses_at_once: fuse the prompts of all layers in one product before the side network, as the official code does,
            instead of each before its layer: the same numbers, other memory.
    """

    def __init__(
        self,
        *,
        variant: str,
        num_layers: int,
        num_prompts: int,
        lpm_dim: int,
        num_heads: int,
        dim: int,
        res: int,
        patch_size: int,
        num_classes: int,
        fuses_at_once: bool = False,
    ) -> None:
        super().__init__()
        self.fuses_at_once = fuses_at_once
        self.projection = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.position_embeddings = nn.Parameter(torch.randn(1, (res // patch_size) ** 2 + 1, dim) * 0.02)
        self.layers = nn.ModuleList(PlainBlock(dim, num_heads) for _ in range(num_layers))
        self.layernorm = nn.LayerNorm(dim, eps=1e-12)
        self.classifier = nn.Linear(dim, num_classes)
        self.fusion = PlainFusion(variant, num_layers, num_prompts, lpm_dim, num_heads, dim)

    def forward(self, images: Tensor, features: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """Logits (B, classes).

        Args:
            images: (B, 3, res, res).
            features: keys and values, each (layers, B, heads, n, head_dim).
        """
        keys, values = features
        fused = self.fusion.all_layers(keys, values) if self.fuses_at_once else None
        embedded = self._embed(images)
        x, tokens = embedded, embedded.shape[1]
        for index, layer in enumerate(self.layers):
            prompts = fused[index] if self.fuses_at_once else self.fusion.one_layer(index, keys[index], values[index])
            x = layer(torch.cat([x, prompts], dim=1))[:, :tokens]
        return self.classifier(self.layernorm(x)[:, 0])

    def _embed(self, images: Tensor) -> Tensor:
        x = self.projection(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return x + self.position_embeddings


_NAMES = {
    "side.patch_embed.": "projection.",
    "side.pos_embed": "position_embeddings",
    "side.cls_token": "cls_token",
    "side.blocks.": "layers.",
    ".attn.proj.": ".attention.out.",
    ".mlp.fc1.": ".intermediate.",
    ".mlp.fc2.": ".output.",
    "side.norm.": "layernorm.",
    "side.head.": "classifier.",
    "fusion.norm.": "fusion.layer_norm.",
}


def plain_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a FineGrainedPromptTuning, weights or gradients, under the names and shapes of a PlainFPT."""
    plain = {}
    for name, tensor in state.items():
        for ours, theirs in _NAMES.items():
            name = name.replace(ours, theirs)
        if ".attn.qkv." in name:
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                plain[name.replace(".attn.qkv.", f".attention.{part}.")] = rows
        else:
            plain[name] = tensor.unsqueeze(1) if name == "fusion.prompts" else tensor
    return plain


def plain_step(model: PlainFPT, optimizer: torch.optim.Optimizer, images: Tensor, features: Tensor, targets: Tensor):
    """One training step; the loss, a detached scalar."""
    loss = F.cross_entropy(model(images, features), targets)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach()
