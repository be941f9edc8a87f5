"""MedMNIST and MedMNIST+ files: one .npz with images and labels of three splits (Yang et al., Scientific Data 2023).

`train_images` (N, H, W) grey or (N, H, W, 3) RGB, uint8; `train_labels` (N, 1); likewise `val_` and `test_`. The files
do not name their classes; here they are named by their numbers.
"""

import threading
import zipfile
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from fptplus.errors import InvalidInput

from .dataset import SPLITS, Example, ImageDataset, Split

MAX_LABEL_BYTES = 2**28
"""Most bytes of a split's unpacked labels: a hundred times what the largest MedMNIST file has."""


def open_medmnist(path: Path) -> ImageDataset:
    """Open the images of a MedMNIST file, named `train/0`, `train/1` and so on.

    Raises:
        InvalidInput: if the file is damaged, lacks an array, or holds volumes or several labels per image.
    """
    archive = MedMNISTArchive(path)
    labels = {split: archive.labels(split) for split in SPLITS}
    lowest, highest = min(map(np.min, labels.values())), max(map(np.max, labels.values()))
    if lowest < 0:
        raise InvalidInput(f"labels must count from 0, {path} has {lowest}.")
    if lowest > 0:
        raise InvalidInput(f"labels must count from 0, those in {path} begin at {lowest}; subtract it from all.")
    if highest >= (count := sum(map(len, labels.values()))):
        raise InvalidInput(f"labels must be class indices from 0 on, {path} has {highest} and only {count} images.")
    examples = tuple(
        Example(f"{split}/{index}", int(label), split) for split in SPLITS for index, label in enumerate(labels[split])
    )
    return ImageDataset(path.name, tuple(str(index) for index in range(highest + 1)), examples, archive)


class MedMNISTArchive:
    """Reader of a MedMNIST file; a split's images are unpacked into memory when the first of them is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._images: dict[Split, np.ndarray] = {}
        self._unpacking = threading.Lock()

    def __call__(self, example: Example) -> Image.Image:
        """The example as RGB."""
        with self._unpacking:  # threads decode at once; one of them unpacks, for all
            if example.split not in self._images:
                self._images[example.split] = self._checked_images(example.split)
        return Image.fromarray(self._images[example.split][int(example.name.partition("/")[2])]).convert("RGB")

    def file_of(self, example: Example) -> Path:
        """The file, which all examples are in."""
        return self.path

    def labels(self, split: Split) -> np.ndarray:
        """(N,) class indices of a split."""
        labels = self._array(f"{split}_labels", MAX_LABEL_BYTES)
        if labels.ndim == 2 and labels.shape[1] > 1:
            raise InvalidInput(
                f"{self.path} must have one label an image, it has {labels.shape[1]}; "
                "multi-label tasks are not supported."
            )
        if labels.size == 0 or labels.ndim not in (1, 2) or labels.dtype.kind not in "iu":
            raise InvalidInput(
                f"{split}_labels of {self.path} must hold class indices, got {labels.dtype}{labels.shape}."
            )
        return labels.reshape(len(labels))

    def _checked_images(self, split: Split) -> np.ndarray:
        limit = psutil.virtual_memory().available
        images, count = self._array(f"{split}_images", limit), len(self.labels(split))
        is_image = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] == 3)
        if images.dtype != np.uint8 or not is_image or len(images) != count:
            raise InvalidInput(
                f"{split}_images of {self.path} must be uint8 of shape ({count}, H, W) or ({count}, H, W, 3), "
                f"got {images.dtype} {images.shape}; volumes are not supported."
            )
        return images

    def _array(self, key: str, most_bytes: int) -> np.ndarray:
        """An array of the file, unless unpacking it would take more than some bytes."""
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                if key in archive.files:
                    self._refuse_larger(archive.zip, key, most_bytes)
                    return archive[key]
                found = archive.files
        except InvalidInput:
            raise
        except (
            OSError,
            MemoryError,
            OverflowError,
            ValueError,
            EOFError,
            KeyError,
            AttributeError,
            zipfile.BadZipFile,
            zipfile.zlib.error,
        ) as error:
            raise InvalidInput(f"{self.path} must be a MedMNIST .npz file, it cannot be read ({error}).") from error
        raise InvalidInput(
            f"{self.path} must hold {', '.join(f'{split}_images and {split}_labels' for split in SPLITS)}, "
            f"{key} is missing; it holds {', '.join(found) or 'nothing'}."
        )

    def _refuse_larger(self, archive: zipfile.ZipFile, key: str, most_bytes: int) -> None:
        names = {Path(info.filename).with_suffix("").name: info.file_size for info in archive.infolist()}
        if (size := names.get(key.removesuffix(".npy"), 0)) > most_bytes:
            raise InvalidInput(
                f"{key} of {self.path} must unpack to {most_bytes / 2**20:,.0f} MiB at most, it would take "
                f"{size / 2**20:,.0f} MiB; download it again, or use a machine with more memory."
            )
