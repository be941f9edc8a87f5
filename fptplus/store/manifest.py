"""What a feature store holds, and which files it consists of: `manifest.json`, written once the store is complete."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from fptplus.data import Example
from fptplus.data.dataset import SPLITS
from fptplus.data.greys import EACH_BY_ITSELF, GreyScale
from fptplus.errors import InvalidInput
from fptplus.whole_file import whole_file

from .layout import RowLayout, StoreDtype
from .source_files import SourceFile

MANIFEST = "manifest.json"
FORMAT = "fptplus feature store 1"
DIGEST_HEX_DIGITS = 16
"""Number of hexadecimal digits of a row's SHA-256 that are kept."""


def row_digest(row: np.ndarray) -> str:
    """Return the checksum of one contiguous row: the first 64 bits of its SHA-256, in hex."""
    return hashlib.sha256(row).hexdigest()[:DIGEST_HEX_DIGITS]


@dataclass(frozen=True)
class DataFile:
    """A file with rows of equal size."""

    name: str
    row_bytes: int
    digests: str
    """Checksums of its rows, concatenated."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.digests) // DIGEST_HEX_DIGITS

    @property
    def num_bytes(self) -> int:
        """Length that the file must have, in bytes."""
        return self.rows * self.row_bytes

    def digest(self, row: int) -> str:
        """Return the checksum of a row."""
        return self.digests[row * DIGEST_HEX_DIGITS : (row + 1) * DIGEST_HEX_DIGITS]


@dataclass(frozen=True)
class Shard:
    """The rows that one process wrote, in two files."""

    images: DataFile
    features: DataFile | None

    @property
    def files(self) -> tuple[DataFile, ...]:
        """The files that exist."""
        return (self.images,) if self.features is None else (self.images, self.features)


@dataclass(frozen=True, kw_only=True)
class StoreManifest:
    """What a store holds; the fields from `model` on are None if it holds images only."""

    dataset: str
    classes: tuple[str, ...]
    dataset_fingerprint: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Mean and standard deviation of the colour channels, in 0 to 1, that normalised the input of the large pre-trained
    model (LPM); side images are stored without normalisation."""

    image_res: int
    """Height and width in pixels of the stored side images."""

    model: str | None = None
    res: int | None = None
    """Height and width in pixels of the LPM's input."""

    precision: str | None = None
    """Precision that the LPM ran in."""

    token_ratio: float | None = None
    layers: tuple[int, ...] | None = None
    """Indices of the tapped blocks."""

    heads: int | None = None
    tokens: int | None = None
    """n, number of important tokens per layer and head."""

    head_dim: int | None = None
    dtype: StoreDtype | None = None
    weights_sha256: str | None = None

    greys: GreyScale = EACH_BY_ITSELF
    """Which values of deep grey images became black and white, one range for all images of a kind. Without ranges the
    images have 8 bits, or the store is of an earlier version, which scaled each image by its own values."""

    decoding: int = 1
    """Version of the decoding of image files, see `fptplus.data.images.DECODING`; earlier versions have 1."""

    examples: tuple[Example, ...] = ()
    """The example of each row, in row order."""

    sizes: tuple[tuple[int, int], ...] = ()
    """Width and height in pixels of each example's original image; empty in stores of earlier versions."""

    skipped: tuple[tuple[str, str], ...] = ()
    """Name of each image that could not be decoded, and why."""

    sources: tuple[tuple[str, SourceFile], ...] = ()
    """Names of images, and the files that they were read from; empty in stores of earlier versions."""

    shards: tuple[Shard, ...] = ()
    """Shards of the store; their rows follow one another."""

    @property
    def layout(self) -> RowLayout | None:
        """Layout of a row of features; None if there are no features."""
        if self.layers is None:
            return None
        return RowLayout(
            layers=len(self.layers),
            heads=self.heads,
            tokens=self.tokens,
            head_dim=self.head_dim,
            dtype=self.dtype,
        )

    @property
    def image_bytes(self) -> int:
        """Bytes of one stored side image."""
        return 3 * self.image_res * self.image_res

    @property
    def images_sha256(self) -> str:
        """SHA-256 of the checksums of all stored side images in row order; the number of files does not matter."""
        return hashlib.sha256("".join(shard.images.digests for shard in self.shards).encode()).hexdigest()

    def settings(self) -> dict[str, Any]:
        """Return what was asked for, without the outcome: two runs with equal settings make the same store."""
        made = ("decoding", "examples", "sizes", "skipped", "sources", "shards")
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name not in made}

    def write(self, folder: Path) -> None:
        """Write the manifest into a folder atomically."""
        body = self.settings() | {
            "decoding": self.decoding,
            "examples": [[example.name, example.label, example.split] for example in self.examples],
            "sizes": [list(size) for size in self.sizes],
            "skipped": [list(entry) for entry in self.skipped],
            "sources": {name: source.plain() for name, source in self.sources},
            "shards": [asdict(shard) for shard in self.shards],
        }
        content = json.dumps({"format": FORMAT, "sha256": _body_digest(body), "store": body}, indent=1)
        with whole_file(folder / MANIFEST) as beside:
            beside.write_text(content)

    @classmethod
    def read(cls, folder: Path) -> "StoreManifest":
        """Read the manifest of a store.

        Raises:
            InvalidInput: naming the file, if there is none or it is truncated or altered.
        """
        path = folder / MANIFEST
        if not path.is_file():
            unfinished = sorted(folder.glob("progress-*.jsonl"))
            raise InvalidInput(
                f"{folder} must hold {MANIFEST}, which is missing; "
                + (
                    "its preloading is not finished: repeat the command to resume it."
                    if unfinished
                    else "preload the images first."
                )
            )
        try:
            content = json.loads(path.read_text())
            body = content["store"]
            whole = content["format"] == FORMAT and content["sha256"] == _body_digest(body)
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"{path} must be a feature store's manifest, it is truncated or damaged.") from error
        if not whole:
            raise InvalidInput(f"{path} must be as it was written, it has been altered; preload again.")
        try:
            manifest = cls(**_from_plain(body))
            wrong = _contradiction(manifest)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InvalidInput(
                f"{path} must have the fields of a store, it does not ({error}); preload again."
            ) from error
        if wrong is not None:
            raise InvalidInput(f"{path} must agree with itself, {wrong}; preload again.")
        return manifest


def _contradiction(manifest: StoreManifest) -> str | None:
    """What would lead reading out of the store's folder, or out of its files and classes; None if all is well."""
    sizes = ["image_res", *(("res", "heads", "tokens", "head_dim") if manifest.layers is not None else ())]
    for name in sizes:
        if not (_is_count(value := getattr(manifest, name)) and value > 0):
            return f"{name} is {value!r}"
    classes, layout = len(manifest.classes), manifest.layout
    for example in manifest.examples:
        if not (isinstance(example.name, str) and example.split in SPLITS):
            return f"image {example.name!r} is of split {example.split!r}"
        if not (_is_count(example.label) and example.label < classes):
            return f"image {example.name!r} has label {example.label!r} of {classes} classes"
    row_bytes = {"images": manifest.image_bytes} | ({"features": layout.row_bytes} if layout else {})
    for shard in manifest.shards:
        files = {"images": shard.images} | ({"features": shard.features} if shard.features else {})
        if files.keys() != row_bytes.keys():
            return f"a shard holds {' and '.join(files)} instead of {' and '.join(row_bytes)}"
        for kind, file in files.items():
            if not _is_plain_name(file.name):
                return f"file name {file.name!r} is not one of its folder"
            if file.row_bytes != row_bytes[kind]:
                return f"rows of {file.name} have {file.row_bytes!r} bytes instead of {row_bytes[kind]}"
            if len(file.digests) % DIGEST_HEX_DIGITS or file.rows != shard.images.rows:
                return f"{file.name} has {file.rows} rows and not one for each of {shard.images.rows} images"
    if (rows := sum(shard.images.rows for shard in manifest.shards)) != len(manifest.examples):
        return f"it lists {len(manifest.examples)} images for {rows} rows"
    if manifest.sizes and len(manifest.sizes) != len(manifest.examples):
        return f"it lists {len(manifest.sizes)} sizes of {len(manifest.examples)} images"
    for size in manifest.sizes:
        if not all(_is_count(pixels) and pixels > 0 for pixels in size):
            return f"an image has size {size!r}"
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_plain_name(name: Any) -> bool:
    """Whether a text names a file inside a folder, on any system."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\:\0")


def _body_digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Return a value as it comes back from JSON."""
    if isinstance(value, GreyScale):
        return value.plain()
    return list(value) if isinstance(value, tuple) else value


def _from_plain(body: dict[str, Any]) -> dict[str, Any]:
    """Convert what JSON gives to the fields of a manifest."""
    made = {name: tuple(value) if isinstance(value, list) else value for name, value in body.items()}
    made["greys"] = GreyScale.from_plain(body.get("greys"))
    made["examples"] = tuple(Example(*entry) for entry in body["examples"])
    made["sizes"] = tuple((width, height) for width, height in body.get("sizes", ()))
    made["skipped"] = tuple((name, reason) for name, reason in body["skipped"])
    made["sources"] = tuple((name, SourceFile(*source)) for name, source in body.get("sources", {}).items())
    made["shards"] = tuple(
        Shard(
            images=DataFile(**shard["images"]),
            features=DataFile(**shard["features"]) if shard["features"] else None,
        )
        for shard in body["shards"]
    )
    return made
