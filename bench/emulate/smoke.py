"""A small training on the emulated device with any PyTorch: `python smoke.py`, in an environment for that device.

It needs nothing but PyTorch.

    images ─ patch embedding ─ 2 × (LayerNorm, attention, MLP) ─ head ─ loss ─ backward, clip, AdamW

It prints its results as JSON: versions, counters, and the bytes of weights and optimizer by arithmetic.
"""

import json

import torch
import torch.nn.functional as F
from torch import nn

DIM, HEADS, RES, PATCH, BATCH = 192, 3, 128, 16, 4
BLOCK_BYTES = 512
"""Granularity of the allocator in bytes."""


class TransformerBlock(nn.Module):
    """A plain pre-norm transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.mlp = nn.Sequential(nn.Linear(DIM, 4 * DIM), nn.GELU(), nn.Linear(4 * DIM, DIM))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class SmallViT(nn.Module):
    """A Vision Transformer that averages its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, DIM, PATCH, PATCH)
        self.blocks = nn.Sequential(TransformerBlock(), TransformerBlock())
        self.head = nn.Linear(DIM, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.embed(images).flatten(2).transpose(1, 2)).mean(1))


def main() -> None:
    """Take three steps in fp32 and three in half precision, and make an allocation that is too large."""
    model = SmallViT().cuda()
    weights_bytes = torch.cuda.memory_allocated()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    images, targets = torch.zeros(BATCH, 3, RES, RES).cuda(), torch.zeros(BATCH, dtype=torch.long).cuda()
    for dtype in (torch.float32, torch.float16):
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
                loss = F.cross_entropy(model(images), targets)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    try:
        torch.empty(2**45, dtype=torch.uint8, device="cuda")
        out_of_memory = ""
    except RuntimeError as error:  # OutOfMemoryError is a RuntimeError
        out_of_memory = str(error)
    blocks = sum(-(-p.numel() * p.element_size() // BLOCK_BYTES) * BLOCK_BYTES for p in model.parameters())
    found = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "card": torch.cuda.get_device_name(),
        "weights_bytes": weights_bytes,
        "weights_bytes_by_arithmetic": blocks,
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
        "loss": loss.item(),
        "out_of_memory": out_of_memory,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
