"""What a feature store is of, and which files it consists of: `manifest.json`, written once all of it is there."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from fptplus.data import Example
from fptplus.data.greys import EACH_BY_ITSELF, GreyScale
from fptplus.errors import InvalidInput
from fptplus.whole_file import whole_file

from .layout import RowLayout, StoreDtype
from .source_files import SourceFile

MANIFEST = "manifest.json"
FORMAT = "fptplus feature store 1"
DIGEST_HEX_DIGITS = 16
"""Of a row's SHA-256, that are kept."""


def row_digest(row: np.ndarray) -> str:
    """Checksum of one contiguous row: the first 64 bits of its SHA-256, in hex."""
    return hashlib.sha256(row).hexdigest()[:DIGEST_HEX_DIGITS]


@dataclass(frozen=True)
class DataFile:
    """A file of rows of equal size."""

    name: str
    row_bytes: int
    digests: str
    """Checksums of its rows, one after the other."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.digests) // DIGEST_HEX_DIGITS

    @property
    def num_bytes(self) -> int:
        """What the file must be long."""
        return self.rows * self.row_bytes

    def digest(self, row: int) -> str:
        """Checksum of a row."""
        return self.digests[row * DIGEST_HEX_DIGITS : (row + 1) * DIGEST_HEX_DIGITS]


@dataclass(frozen=True)
class Shard:
    """The rows that one process wrote, in two files."""

    images: DataFile
    features: DataFile | None

    @property
    def files(self) -> tuple[DataFile, ...]:
        """Those there are."""
        return (self.images,) if self.features is None else (self.images, self.features)


@dataclass(frozen=True, kw_only=True)
class StoreManifest:
    """What a store is of; the fields from `model` on are None where it holds images only."""

    dataset: str
    classes: tuple[str, ...]
    dataset_fingerprint: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Of the colour channels in 0 to 1; the LPM's input was normalised with them, side images are stored without."""

    image_res: int
    """Height and width in pixels of the stored side images."""

    model: str | None = None
    res: int | None = None
    """Height and width in pixels of the LPM's input."""

    precision: str | None = None
    """That the LPM ran in."""

    token_ratio: float | None = None
    layers: tuple[int, ...] | None = None
    """Indices of the tapped blocks."""

    heads: int | None = None
    tokens: int | None = None
    """n, important tokens per layer and head."""

    head_dim: int | None = None
    dtype: StoreDtype | None = None
    weights_sha256: str | None = None

    greys: GreyScale = EACH_BY_ITSELF
    """What values of deep grey images became black and white, one range for all images of a kind. Without any the
    images have 8 bits, or the store is of an earlier version, which scaled each image by itself."""

    decoding: int = 1
    """Version of the decoding of image files, `fptplus.data.images.DECODING`; 1 is that of earlier versions."""

    examples: tuple[Example, ...] = ()
    """What each row is of, in row order."""

    skipped: tuple[tuple[str, str], ...] = ()
    """Images that could not be decoded, and why."""

    sources: tuple[tuple[str, SourceFile], ...] = ()
    """Names of images, and the files that they were read from; empty in stores of earlier versions."""

    shards: tuple[Shard, ...] = ()
    """Whose rows follow each other."""

    @property
    def layout(self) -> RowLayout | None:
        """How a row of features lies in its file; None where there are none."""
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
        """Of one stored side image."""
        return 3 * self.image_res * self.image_res

    @property
    def images_sha256(self) -> str:
        """Of all stored side images, by their checksums in row order, in however many files they lie."""
        return hashlib.sha256("".join(shard.images.digests for shard in self.shards).encode()).hexdigest()

    def settings(self) -> dict[str, Any]:
        """What was asked for, without what came of it: two runs with equal settings make the same store."""
        made = ("decoding", "examples", "skipped", "sources", "shards")
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name not in made}

    def write(self, folder: Path) -> None:
        """Write atomically into a folder."""
        body = self.settings() | {
            "decoding": self.decoding,
            "examples": [[example.name, example.label, example.split] for example in self.examples],
            "skipped": [list(entry) for entry in self.skipped],
            "sources": {name: source.plain() for name, source in self.sources},
            "shards": [asdict(shard) for shard in self.shards],
        }
        content = json.dumps({"format": FORMAT, "sha256": _body_digest(body), "store": body}, indent=1)
        with whole_file(folder / MANIFEST) as beside:
            beside.write_text(content)

    @classmethod
    def read(cls, folder: Path) -> "StoreManifest":
        """The manifest of a store.

        Raises:
            InvalidInput: naming the file, if there is none or it is truncated or altered.
        """
        path = folder / MANIFEST
        if not path.is_file():
            unfinished = sorted(folder.glob("progress-*.jsonl"))
            raise InvalidInput(
                f"{folder} must hold {MANIFEST}, which is missing; "
                + ("its preloading is not finished: repeat it to go on." if unfinished else "preload the images first.")
            )
        try:
            content = json.loads(path.read_text())
            body = content["store"]
            whole = content["format"] == FORMAT and content["sha256"] == _body_digest(body)
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"{path} must be a feature store's manifest, it is truncated or damaged.") from error
        if not whole:
            raise InvalidInput(f"{path} must be as it was written, it has been altered; preload again.")
        return cls(**_from_plain(body))


def _body_digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    if isinstance(value, GreyScale):
        return value.plain()
    return list(value) if isinstance(value, tuple) else value


def _from_plain(body: dict[str, Any]) -> dict[str, Any]:
    """Fields of a manifest from what JSON gives."""
    made = {name: tuple(value) if isinstance(value, list) else value for name, value in body.items()}
    made["greys"] = GreyScale.from_plain(body.get("greys"))
    made["examples"] = tuple(Example(*entry) for entry in body["examples"])
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
