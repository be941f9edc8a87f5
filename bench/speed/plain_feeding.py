"""What the plain FPT and FPT+ (plain_fpt.py) are fed with: our preloading and our feeding are timed against it.

It follows the paper and what is known of the official code: the features of a batch one fp32 tensor read from a file
per image in every step, and augmentation image by image with PIL. It shares no code with `fptplus`; the tests hold both
to the same features.
"""

from pathlib import Path

import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2


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
