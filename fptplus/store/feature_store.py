"""Images and their preloaded features on disk, read as memory-mapped rows (FPT+, Sec. III-F, preloading)."""

import mmap
import threading
import weakref
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fptplus import cpu_kernels
from fptplus.data import Split
from fptplus.errors import InvalidInput
from fptplus.network.features import Features

from .layout import RawFeatures, RowLayout
from .layout import StoreDtype as StoreDtype
from .manifest import DataFile, StoreManifest, row_digest

Rows = np.ndarray | list[int] | Tensor
"""Row indices (B,) in any of these forms."""


class FeatureStore:
    """The finished store in a folder; rows are read only when they are asked for."""

    def __init__(self, folder: Path, manifest: StoreManifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.layout: RowLayout | None = manifest.layout
        self.labels = torch.tensor([example.label for example in manifest.examples], dtype=torch.long)
        self.sizes = torch.tensor(manifest.sizes, dtype=torch.float32) if manifest.sizes else None
        """Width and height (rows, 2) of the original images in pixels; None in stores of earlier versions."""

        self._splits = np.array([example.split for example in manifest.examples], dtype=str)
        self._brought = np.zeros(len(manifest.examples), bool)
        self._images = _Rows([self._map(shard.images) for shard in manifest.shards])
        self._features = (
            _Rows([self._map(shard.features) for shard in manifest.shards if shard.features])
            if self.has_features
            else None
        )

    @classmethod
    def open(cls, folder: str | Path) -> "FeatureStore":
        """Open a store, and check its manifest and file sizes.

        Raises:
            InvalidInput: naming the file, if one is missing, truncated or altered.
        """
        folder = Path(folder)
        manifest = StoreManifest.read(folder)
        for file in (file for shard in manifest.shards for file in shard.files):
            path = folder / file.name
            if not path.is_file():
                raise InvalidInput(f"{path} must be there, it is missing; copy the store again, or preload again.")
            if (size := path.stat().st_size) != file.num_bytes:
                raise InvalidInput(
                    f"{path} must be {file.num_bytes} bytes long, it is {size}; copy the store again, or preload again."
                )
        return cls(folder, manifest)

    def __len__(self) -> int:
        return len(self.manifest.examples)

    @property
    def has_features(self) -> bool:
        """Whether there are keys and values besides the images."""
        return self.layout is not None

    def rows(self, split: Split) -> np.ndarray:
        """Return the indices of the rows of a split, in order."""
        return np.flatnonzero(self._splits == split)

    def images(self, rows: Rows) -> Tensor:
        """Read side images (B, 3, image_res, image_res) in uint8."""
        return self._images.read(rows).view(-1, 3, self.manifest.image_res, self.manifest.image_res)

    def feature_rows(self, rows: Rows) -> Tensor:
        """Read features as the stored bytes (B, row_bytes): one block to move, which `layout` unpacks.

        Raises:
            InvalidInput: if the store holds images only.
        """
        if self._features is None:
            raise InvalidInput(f"{self.folder} holds images without features; preload it for FPT or FPT+.")
        return self._features.read(rows)

    def features_in_place(self) -> RawFeatures | None:
        """Return the features of all rows, mapped into memory but not read yet; None if they are in several files.

        Raises:
            InvalidInput: if the store holds images only.
        """
        if self._features is None:
            raise InvalidInput(f"{self.folder} holds images without features; preload it for FPT or FPT+.")
        files = [shard.features for shard in self.manifest.shards if shard.features and shard.features.rows]
        if len(files) != 1:
            return None
        mapped = np.memmap(self.folder / files[0].name, np.uint8, "c", shape=(files[0].rows, files[0].row_bytes))
        return self.layout.unpack(torch.from_numpy(mapped))

    def bring_features(self, rows: Rows) -> None:
        """Read features into the kernel's cache once; for `features_in_place`, shortly before they are used."""
        for row in np.asarray(rows)[~self._brought[rows]]:
            self._features.touch(row)
            self._brought[row] = True

    def raw_features(self, rows: Rows) -> RawFeatures:
        """Read features as stored, for int8 with their scales; otherwise as `features` does."""
        packed = self.feature_rows(rows)
        return self.layout.unpack(packed)

    def features(self, rows: Rows, dtype: torch.dtype = torch.float32) -> Features:
        """Read dequantised keys and values of some images, in the form that the fusion modules take.

        Raises:
            InvalidInput: if the store holds images only.
        """
        return Features(*self.raw_features(rows).keys_and_values(dtype))

    def verify(self) -> None:
        """Check every row against its checksum.

        Raises:
            InvalidInput: naming the first file with an altered row, and the image of that row.
        """
        first = 0
        for shard in self.manifest.shards:
            for file in shard.files:
                for row, content in enumerate(self._map(file)):
                    if row_digest(content) != file.digest(row):
                        name = self.manifest.examples[first + row].name
                        raise InvalidInput(
                            f"{self.folder / file.name} must be as it was written, its row {row} ({name}) has been "
                            "altered; copy the store again, or preload again."
                        )
            first += shard.images.rows

    def check_matches(
        self,
        *,
        model: str | None = None,
        res: int | None = None,
        token_ratio: float | None = None,
        layers: tuple[int, ...] | None = None,
        weights_sha256: str | None = None,
        dataset_fingerprint: str | None = None,
    ) -> None:
        """Refuse a store made from something else; values that are None are not compared.

        Raises:
            InvalidInput: naming the first field that differs, the value needed and the value found.
        """
        needed = {
            "model": model,
            "res": res,
            "token_ratio": token_ratio,
            "layers": layers,
            "weights_sha256": weights_sha256,
            "dataset_fingerprint": dataset_fingerprint,
        }
        for field, value in needed.items():
            if value is not None and (found := getattr(self.manifest, field)) != value:
                raise InvalidInput(
                    f"the store {self.folder} must have {field} {value}, it has {found}; "
                    "preload into another folder, or use what it was made with."
                )

    def _map(self, file: DataFile) -> np.ndarray:
        """Map the rows (rows, row_bytes) of a file into memory."""
        shape = (file.rows, file.row_bytes)
        if not file.rows:
            return np.empty(shape, np.uint8)
        return np.memmap(self.folder / file.name, np.uint8, "r", shape=shape)


class _Rows:
    """Rows of equal size in several mapped files, one after another."""

    def __init__(self, parts: list[np.ndarray]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])
        self._room = _Room()

    def read(self, rows: Rows) -> Tensor:
        """Return a copy (B, row_bytes) of some rows."""
        rows = np.asarray(rows)
        if len(rows) and not -1 < rows.min() <= rows.max() < self._ends[-1]:
            raise IndexError(f"rows must lie in 0 to {self._ends[-1] - 1}, got {rows.min()} to {rows.max()}")
        out = torch.from_numpy(self._room.of_shape(len(rows), self._parts[0].shape[1]))
        wanted = [self._mapped(row) for row in rows]
        if cpu_kernels.can_run_on(out):
            cpu_kernels.run("gather", torch.tensor([row.ctypes.data for row in wanted], dtype=torch.int64), out)
        else:
            for to, row in zip(out.numpy(), wanted, strict=True):
                to[:] = row
        return out

    def touch(self, row: int) -> None:
        """Read a row from disk if it is not in memory yet."""
        self._mapped(row)[:: mmap.PAGESIZE].sum()

    def _mapped(self, row: int) -> np.ndarray:
        part = np.searchsorted(self._ends, row, side="right")
        return self._parts[part][row - self._ends[part]]  # negative: counted from the part's end


class _Room:
    """Memory for batches, reused once no tensor holds it: new pages cost more than the copy into them."""

    MOST = 8
    """Number of arrays kept. Two batches read ahead, the one being read and the one in use need four."""

    def __init__(self) -> None:
        self._kept: list[tuple[np.ndarray, weakref.ref]] = []
        self._lock = threading.Lock()

    def of_shape(self, *shape: int) -> np.ndarray:
        """Return an array of bytes; it is the caller's until the array, and all tensors made from it, are gone."""
        with self._lock:
            free = [kept for kept in self._kept if kept[0].shape == shape and kept[1]() is None]
            array = free[0][0] if free else torch.empty(shape, dtype=torch.uint8).numpy()  # torch's memory is aligned
            given = array[:]
            others = [kept for kept in self._kept if kept[0] is not array]
            self._kept = [*others[1 - self.MOST :], (array, weakref.ref(given))]
            return given
