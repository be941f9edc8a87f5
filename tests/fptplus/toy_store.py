"""A feature store in memory, for tests that only read from one."""

from types import SimpleNamespace

import numpy as np
import torch

from fptplus.store.layout import RowLayout

CLASSES = ("left", "right")


class ToyStore:
    """Images that are bright on one side, and features that say which; 2/3 train, 1/6 val, 1/6 test."""

    def __init__(self, count=48, res=40, layers=2, heads=2, tokens=5, head_dim=32, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(count) % 2
        self._images = torch.randint(0, 100, (count, 3, res, res), dtype=torch.uint8, generator=generator)
        for image, label in zip(self._images, self.labels, strict=True):
            image[:, : res // 2] += 120 * (label == 1).to(torch.uint8)
        shape = (layers, count, heads, tokens, head_dim)
        self._keys, self._values = (torch.randn(shape, generator=generator) for _ in range(2))
        self._splits = np.resize(np.array(["train"] * 8 + ["val"] * 2 + ["test"] * 2), count)
        self.has_features, self.sizes = True, None
        self.layout = RowLayout(layers=layers, heads=heads, tokens=tokens, head_dim=head_dim, dtype="fp32")
        self.manifest = SimpleNamespace(
            dataset="toy",
            classes=CLASSES,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            image_res=res,
            dataset_fingerprint="toy",
        )

    def __len__(self):
        return len(self.labels)

    def rows(self, split):
        return np.flatnonzero(self._splits == split)

    def images(self, rows):
        return self._images[torch.from_numpy(np.asarray(rows))]

    def feature_rows(self, rows):
        chosen = torch.from_numpy(np.asarray(rows))
        return self.layout.pack(self._keys[:, chosen], self._values[:, chosen])

    def features_in_place(self):
        """They lie in no file."""
