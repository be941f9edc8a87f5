"""Write a feature store so that no finished row is lost if it is interrupted at any moment.

    images-R-of-W.bin, features-R-of-W.bin   rows, appended by process R of W
    progress-R-of-W.jsonl                    the settings, then a line per image: its rows' checksums, or why skipped
    manifest.json                            takes the place of the progress files once every process has finished

A line is appended after its rows. Files are synced to disk every few seconds, not after every row: after a crash of the
machine the checksums tell which rows arrived.
"""

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from fptplus.data import Example, ImageDataset
from fptplus.distributed import Processes
from fptplus.errors import InvalidInput
from fptplus.held_lock import held, holder_note
from fptplus.whole_file import clear_unfinished

from .manifest import MANIFEST, DataFile, Shard, StoreManifest, row_digest
from .source_files import SourceFile

SYNC_INTERVAL_S = 5.0

MERGE_LIMIT_S = 600.0
"""Writing the manifest of a million images takes seconds; whoever needs longer hangs."""

_PROGRESS_NAME = re.compile(r"progress-[0-9]+-of-[0-9]+\.jsonl")


class AlreadyFinished(InvalidInput):
    """Another process has finished the store in the meantime."""


def shard_of(examples: Sequence[Example], rank: int, world_size: int) -> Sequence[Example]:
    """Return the examples that one of several processes preloads: contiguous, so that shards follow one another."""
    return examples[Processes(rank, world_size).share(len(examples))]


class ShardWriter:
    """Appends one process's rows; opened on unfinished files, it keeps the complete rows.

    Args:
        folder: the store's folder; created if it does not exist.
        settings: what the store is to hold.
        examples: this process's examples, in order.
        rank, world_size: which process this is, of how many.

    Raises:
        AlreadyFinished: if the store has its manifest; its rows are left alone.
        InvalidInput: if another process is writing the same files, they were begun with other settings, or they are
            not of preloading.
    """

    def __init__(
        self, folder: Path, settings: StoreManifest, examples: Sequence[Example], rank: int, world_size: int
    ) -> None:
        with disk_errors_said(folder, "any of it"):
            folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.settings, self.examples = folder, settings, examples
        self.done = 0
        """Number of images written or skipped."""

        self.rows = 0
        """Number of images written."""

        self.begun_with: dict[str, SourceFile] = {}
        """Files of the images that were done before, by name."""

        self._kinds = row_sizes(settings)
        self._paths = {kind: folder / f"{kind}-{rank}-of-{world_size}.bin" for kind in self._kinds}
        self._progress_path = progress_path(folder, rank, world_size)
        self._lock = ExitStack()
        self._lock.enter_context(held(self._progress_path.with_suffix(".lock"), limit_s=0))
        try:
            if (folder / MANIFEST).exists():
                self._progress_path.with_suffix(".lock").unlink(missing_ok=True)
                raise AlreadyFinished(f"{folder} must be unfinished to be written to, it holds {MANIFEST}; open it.")
            _refuse_other_world_size(folder, world_size)
            self._refuse_foreign_files()
            self._resume()
        except BaseException:
            self._lock.close()
            raise
        self._files = {kind: FileIO(path, "ab") for kind, path in self._paths.items()}
        self._progress = FileIO(self._progress_path, "ab")
        self._synced_at = time.monotonic()
        if self._progress.tell() == 0:
            self._append({self._progress: [_line({"settings": settings.settings()})]})

    def write(
        self,
        content: dict[str, np.ndarray],
        sizes: Sequence[tuple[int, int]],
        sources: Sequence[SourceFile | None],
    ) -> None:
        """Append the rows of some images.

        Args:
            content: by kind, `images` and for a store with features `features`: (B, row_bytes) uint8, contiguous.
            sizes: width and height in pixels of the originals.
            sources: the files that the images were read from, where they are of any.

        Raises:
            InvalidInput: if the disk is full; the files are left as they were before these rows.
        """
        count = len(content["images"])
        lines = [
            _line(
                {kind: row_digest(rows[index]) for kind, rows in content.items()} | {"size": size} | _source_entry(of)
            )
            for index, size, of in zip(range(count), sizes, sources, strict=True)
        ]
        self._append({**{self._files[kind]: [rows] for kind, rows in content.items()}, self._progress: lines})
        self.done, self.rows = self.done + count, self.rows + count
        if time.monotonic() - self._synced_at > SYNC_INTERVAL_S:
            self.sync()

    def skip(self, reason: str, source: SourceFile | None) -> None:
        """Note that the next image could not be decoded."""
        self._append({self._progress: [_line({"skipped": reason} | _source_entry(source))]})
        self.done += 1

    def sync(self) -> None:
        """Sync everything written to disk, the rows before the lines that list them."""
        with self._disk_errors_said():
            for file in (*self._files.values(), self._progress):
                os.fsync(file.fileno())
        self._synced_at = time.monotonic()

    def close(self) -> None:
        """Sync everything and let other processes write."""
        try:
            self.sync()
        finally:
            for file in (*self._files.values(), self._progress):
                file.close()
            self._lock.close()

    def _append(self, contents: dict[FileIO, list]) -> None:
        """Append to each file in order, or leave all of them as they were."""
        sizes = {file: os.fstat(file.fileno()).st_size for file in contents}
        with self._disk_errors_said():
            try:
                for file, pieces in contents.items():
                    for piece in pieces:
                        write_all(file, piece)
            except OSError:
                for file, size in sizes.items():
                    os.ftruncate(file.fileno(), size)
                raise

    def _disk_errors_said(self) -> AbstractContextManager:
        return disk_errors_said(self.folder, f"{self.done} of {len(self.examples)} images")

    def _resume(self) -> None:
        """Keep the lines whose rows are complete, and the rows that a kept line lists; cut off what comes after."""
        good_bytes = 0
        for path in (self._progress_path, *self._paths.values()):
            path.touch()
        with ExitStack() as stack:
            files = {kind: stack.enter_context(path.open("rb")) for kind, path in self._paths.items()}
            for number, (line, entry) in enumerate(complete_lines(self._progress_path)):
                if number == 0:
                    self._refuse_other_settings(begun_settings(entry, self._progress_path))
                elif "skipped" in entry:
                    self.done += 1
                elif all(row_digest(file.read(self._kinds[kind])) == entry[kind] for kind, file in files.items()):
                    self.done, self.rows = self.done + 1, self.rows + 1
                else:
                    break
                if number and (source := _source_in(entry)):
                    self.begun_with[self.examples[number - 1].name] = source
                good_bytes += len(line)
        for kind, path in self._paths.items():
            os.truncate(path, self.rows * self._kinds[kind])
        os.truncate(self._progress_path, good_bytes)

    def _refuse_foreign_files(self) -> None:
        """What no progress file tells of was not written by preloading, and is not cut."""
        for path in () if self._progress_path.exists() else self._paths.values():
            if path.exists() and path.stat().st_size:
                raise InvalidInput(
                    f"{path} must come with {self._progress_path.name}, which is missing; choose another folder, or "
                    "move the file away."
                )

    def _refuse_other_settings(self, begun: dict) -> None:
        for field, value in self.settings.settings().items():
            if begun.get(field) != value:
                raise InvalidInput(
                    f"{self._progress_path} was begun with {field} {begun.get(field)}, it cannot be resumed with "
                    f"{value}; choose another folder, or delete this one."
                )


@contextmanager
def disk_errors_said(folder: Path, taken: str) -> Iterator[None]:
    """Turn a full disk and similar errors into a sentence: what was written, why no more, and how to resume."""
    try:
        yield
    except OSError as error:
        raise InvalidInput(
            f"{folder} took no more than {taken} ({error.strerror}); make room and repeat the command, "
            "which resumes there."
        ) from error


def row_sizes(settings: StoreManifest) -> dict[str, int]:
    """Return the bytes of one row, by kind of file."""
    sizes = {"images": settings.image_bytes}
    return sizes | {"features": settings.layout.row_bytes} if settings.layout else sizes


def progress_path(folder: Path, rank: int, world_size: int) -> Path:
    """Return the path of the file in which a process notes what it has written."""
    return folder / f"progress-{rank}-of-{world_size}.jsonl"


def progress_files(folder: Path) -> list[Path]:
    """Those of all processes, and no file that only looks alike."""
    return [path for path in folder.glob("progress-*.jsonl") if _PROGRESS_NAME.fullmatch(path.name)]


def begun_settings(first: dict, path: Path) -> dict:
    """The settings in the first entry of a progress file.

    Raises:
        InvalidInput: if the file is not of preloading.
    """
    settings = first.get("settings") if isinstance(first, dict) else None
    if not isinstance(settings, dict):
        raise InvalidInput(
            f"{path} must begin with the settings of a store, it does not; choose another folder, or move it away."
        )
    return settings


def settings_of_store(folder: Path) -> dict[str, Any]:
    """Return the settings (`StoreManifest.settings`) of the finished or unfinished store in a folder; {} without one.

    Raises:
        InvalidInput: if its manifest is damaged, or a progress file is not of preloading.
    """
    if (folder / MANIFEST).exists():
        return StoreManifest.read(folder).settings()
    for path in sorted(progress_files(folder)):
        if lines := complete_lines(path):
            return begun_settings(lines[0][1], path)
    return {}


def merge_shards(folder: Path, settings: StoreManifest, dataset: ImageDataset, world_size: int) -> bool:
    """Write the manifest and remove what only resuming needs, if all processes have finished; return whether they have.

    Raises:
        InvalidInput: if not one image could be decoded, or another process is at it for ever.
    """
    with held(folder / "manifest.lock", limit_s=MERGE_LIMIT_S):
        if not (folder / MANIFEST).exists():
            merged = _merged(folder, settings, dataset, world_size)
            if merged is None:
                return False
            with disk_errors_said(folder, "the images without their manifest"):
                merged.write(folder)
        for progress in progress_files(folder):
            progress.unlink(missing_ok=True)
            progress.with_suffix(".lock").unlink(missing_ok=True)
            holder_note(progress.with_suffix(".lock")).unlink(missing_ok=True)
        clear_unfinished(folder, MANIFEST)  # left by a process that was killed; the lock is ours
        (folder / "manifest.lock").unlink(missing_ok=True)
    return True


def _merged(folder: Path, settings: StoreManifest, dataset: ImageDataset, world_size: int) -> StoreManifest | None:
    """What the progress of all processes adds up to; None if one of them is not done."""
    examples, sizes, skipped, sources, shards = [], [], [], [], []
    for rank in range(world_size):
        lines = complete_lines(progress_path(folder, rank, world_size))
        planned = shard_of(dataset.examples, rank, world_size)
        if len(lines) < 1 + len(planned):
            return None
        entries = [entry for _, entry in lines[1:]]
        for example, entry in zip(planned, entries, strict=True):
            if source := _source_in(entry):
                sources.append((example.name, source))
            if "skipped" in entry:
                skipped.append((example.name, entry["skipped"]))
            else:
                examples.append(example)
                sizes.append(entry.get("size"))
        shards.append(_shard(settings, entries, rank, world_size))
    if not examples:
        raise InvalidInput(f"at least one image must be readable, none of the {len(skipped)} is: {skipped[0][1]}")
    if None in sizes:  # begun by an earlier version
        sizes = []
    made = {"examples": examples, "sizes": map(tuple, sizes), "skipped": skipped, "sources": sources, "shards": shards}
    return replace(settings, **{name: tuple(entries) for name, entries in made.items()})


def _shard(settings: StoreManifest, entries: list[dict], rank: int, world_size: int) -> Shard:
    """Return the files that a process's progress lists, as a shard."""
    files = {
        kind: DataFile(
            name=f"{kind}-{rank}-of-{world_size}.bin",
            row_bytes=row_bytes,
            digests="".join(entry[kind] for entry in entries if "skipped" not in entry),
        )
        for kind, row_bytes in row_sizes(settings).items()
    }
    return Shard(images=files["images"], features=files.get("features"))


def write_all(file: FileIO, content: bytes | np.ndarray) -> None:
    """Write every byte; a single call of `write` may write fewer."""
    view = memoryview(content).cast("B")
    while len(view):
        view = view[file.write(view) :]


def _line(entry: dict) -> bytes:
    return (json.dumps(entry) + "\n").encode()


def _source_entry(source: SourceFile | None) -> dict:
    return {"source": source.plain()} if source else {}


def _source_in(entry: dict) -> SourceFile | None:
    """What `_source_entry` noted; None in lines of earlier versions too."""
    return SourceFile(*entry["source"]) if "source" in entry else None


def complete_lines(path: Path) -> list[tuple[bytes, dict]]:
    """Return the lines of a progress file with their content, up to one cut off by an interruption."""
    lines = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        if not line.endswith(b"\n"):
            break
        try:
            lines.append((line, json.loads(line)))
        except ValueError:
            break
    return lines


def _refuse_other_world_size(folder: Path, world_size: int) -> None:
    for path in progress_files(folder):
        begun = int(path.stem.rsplit("-", 1)[1])
        if begun != world_size:
            raise InvalidInput(
                f"{path} was begun by {begun} processes, {world_size} cannot resume it; start as many again, "
                "or choose another folder."
            )
