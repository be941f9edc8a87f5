"""Data feeding of the plain FPT and FPT+ (fptplus/reference.py), against which our feeding is timed.

It follows the paper and what is known of the official code: the features of a batch are one fp32 tensor read from a
file per image in every step, and images are augmented one by one with PIL. It shares no code with `fptplus`.
"""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2


class PlainFiles(Dataset):
    """Examples, each an image file and a feature file, (2, layers, heads, n, head_dim) in fp32; augmented with PIL."""

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
