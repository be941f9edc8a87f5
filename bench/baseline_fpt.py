"""FPT and FPT+ written down plainly, as a baseline: what our training step and our feeding are timed against.

It follows the paper and what is known of the official code: fp32, every operation by itself, queries, keys and values
by a layer each, score matrices in full, a copy of the prompts for every image, PyTorch's default AdamW, the features of
a batch one fp32 tensor read from a file per image in every step, and augmentation image by image with PIL. It shares
no code with `fptplus`; the tests hold both to the same logits, losses and gradients.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import v2


class PlainSelfAttention(nn.Module):
    """Multi-head self-attention with its score matrix."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, -1).permute(0, 2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self._heads(self.query(x)), self._heads(self.key(x)), self._heads(self.value(x))
        scores = torch.matmul(queries, keys.transpose(-1, -2)) / math.sqrt(queries.shape[-1])
        context = torch.matmul(scores.softmax(dim=-1), values)
        return self.out(context.permute(0, 2, 1, 3).reshape(x.shape))


class PlainBlock(nn.Module):
    """A transformer layer of the side network."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-12), nn.LayerNorm(dim, eps=1e-12)
        self.attention = PlainSelfAttention(dim, num_heads)
        self.intermediate, self.output = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(self.norm1(x)) + x
        return self.output(F.gelu(self.intermediate(self.norm2(x)))) + x


class PlainFusion(nn.Module):
    """Cross-attention of one layer's prompts over its stored keys and values, and the projection down."""

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

    def forward(self, layer: int, keys: Tensor, values: Tensor) -> Tensor:
        """Fused prompts (B, P, dim) from keys and values (B, heads, n, head_dim)."""
        prompts = self.prompts[layer].repeat(len(keys), 1, 1)
        queries = self.prompt_proj(prompts) if self.projects_up else self.layer_norm(prompts)
        queries = queries.view(*prompts.shape[:2], self.num_heads, -1).permute(0, 2, 1, 3)
        scores = torch.matmul(queries, keys.transpose(-1, -2)) / math.sqrt(queries.shape[-1])
        context = torch.matmul(scores.softmax(dim=-1), values).permute(0, 2, 1, 3).flatten(2)
        fused = self.out_proj(context) + prompts if self.projects_up else self.out_proj(context + prompts)
        return self.dropout(fused)


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
    ) -> None:
        super().__init__()
        self.fusion = PlainFusion(variant, num_layers, num_prompts, lpm_dim, num_heads, dim)
        self.projection = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.position_embeddings = nn.Parameter(torch.randn(1, (res // patch_size) ** 2 + 1, dim) * 0.02)
        self.layers = nn.ModuleList(PlainBlock(dim, num_heads) for _ in range(num_layers))
        self.layernorm = nn.LayerNorm(dim, eps=1e-12)
        self.classifier = nn.Linear(dim, num_classes)

    def forward(self, images: Tensor, features: Tensor) -> Tensor:
        """Logits (B, classes) from images (B, 3, res, res) and features (2, layers, B, heads, n, head_dim)."""
        x = self.projection(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.position_embeddings
        tokens = x.shape[1]
        for index, layer in enumerate(self.layers):
            prompts = self.fusion(index, *features[:, index])
            x = layer(torch.cat([x, prompts], dim=1))[:, :tokens]
        return self.classifier(self.layernorm(x)[:, 0])


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


@torch.no_grad()
def plain_features(
    vit: VisionTransformer, images: Tensor, tapped_layers: tuple[int, ...], token_ratio: float
) -> Tensor:
    """Features (2, layers, B, heads, n, head_dim) from the N x N attention matrices of a whole forward pass in fp32."""
    tokens, taken = vit._pos_embed(vit.patch_embed(images)), []
    for index, block in enumerate(vit.blocks):
        normed, attention = block.norm1(tokens), block.attn
        qkv = attention.qkv(normed).view(*normed.shape[:2], 3, attention.num_heads, -1)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)
        probabilities = (torch.matmul(queries, keys.transpose(-1, -2)) * queries.shape[-1] ** -0.5).softmax(dim=-1)
        if index in tapped_layers:
            important = probabilities.mean(dim=-2).topk(int(keys.shape[2] * token_ratio), dim=-1).indices
            important = important.unsqueeze(-1).expand(-1, -1, -1, keys.shape[-1])
            taken.append(torch.stack([keys.gather(2, important), values.gather(2, important)]))
        context = torch.matmul(probabilities, values).transpose(1, 2).reshape(tokens.shape)
        tokens = tokens + attention.proj(context)
        tokens = tokens + block.mlp(block.norm2(tokens))
    return torch.stack(taken, dim=1)


class PlainFiles(Dataset):
    """An image file and a feature file, (2, layers, heads, n, head_dim) in fp32, an example; augmented with PIL."""

    def __init__(self, images: list[Path], features: list[Path], labels: list[int], res: int) -> None:
        self.images, self.features, self.labels = images, features, labels
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(res, scale=(0.8, 1.0), ratio=(0.7, 1.3)),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(brightness=0.2, contrast=0.2),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.5,) * 3, (0.5,) * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        with Image.open(self.images[index]) as image:
            view = self.transform(image.convert("RGB"))
        return view, torch.load(self.features[index], weights_only=True), self.labels[index]
