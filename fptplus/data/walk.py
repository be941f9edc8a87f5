"""The images of a folder, at any depth, and an account of every file that is passed over.

Hidden and system files and folders are passed over wherever they are: `.ipynb_checkpoints` holds copies of images,
which would count twice and could fall into another split. Linked folders are followed.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .dicom import holds_no_image
from .doubts import counted
from .images import is_dicom_file, is_image_file, split_frame

SYSTEM_NAMES = {
    "__macosx",
    "__pycache__",
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "thumbs.db",
    "desktop.ini",
}
"""Names that operating and storage systems leave in folders, in lower case."""

SAMPLE_BYTES = 4096
"""Number of bytes compared in files of the same size, before they are read as a whole."""


@dataclass
class PassedOver:
    """Files that were not taken as images."""

    endings: Counter[str] = field(default_factory=Counter)
    """Number of files by ending."""

    hidden: Counter[str] = field(default_factory=Counter)
    """Number of files by the name of the hidden or system folder, or of the system file; dotfiles share one entry."""

    def sentences(self) -> list[str]:
        """Return what to tell the user; nothing if nothing was passed over."""
        sentences = []
        if self.endings:
            found = ", ".join(
                f"{count} {ending or 'without an ending'}" for ending, count in self.endings.most_common()
            )
            sentences.append(f"passed over {counted(self.endings.total(), 'file')} that are not images: {found}")
        if self.hidden:
            found = ", ".join(f"{name} ({count})" for name, count in self.hidden.most_common())
            sentences.append(f"passed over {counted(self.hidden.total(), 'hidden or system file')}: {found}")
        return sentences


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or belongs to an operating or storage system."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def visible_folders(folder: Path, passed_over: PassedOver) -> list[Path]:
    """Return the folders directly in a folder, sorted by name."""
    hidden = [path for path in folder.iterdir() if path.is_dir() and is_hidden(path.name)]
    for path in hidden:
        passed_over.hidden[path.name] += _count_files(path)
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))


def loose_images(folder: Path, passed_over: PassedOver) -> list[Path]:
    """Return the images directly in a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.is_file() and _is_taken(path, passed_over))


def images_below(folder: Path, passed_over: PassedOver) -> list[Path]:
    """Return the images in a folder at any depth, sorted by path."""
    return sorted(
        path for path in _files_below(folder, (folder.resolve(),), passed_over) if _is_taken(path, passed_over)
    )


def copies_among(paths: Sequence[Path]) -> list[list[int]]:
    """Return positions of files with the same content; only files of equal size are read, most of them in part.

    Frames of one file are not copies of each other.
    """
    positions: dict[Path, int] = {}
    for position, path in enumerate(paths):
        positions.setdefault(split_frame(path)[0], position)
    alike: dict[Path, tuple] = dict.fromkeys(positions, ())
    with ThreadPoolExecutor() as pool:
        for trait in (_size, _middle, _sha256):
            traits = zip(alike.items(), pool.map(trait, alike), strict=True)
            alike = {path: (*known, found) for (path, known), found in traits}
            counts = Counter(alike.values())
            alike = {path: known for path, known in alike.items() if counts[known] > 1}
    same = defaultdict(list)
    for path, known in alike.items():
        same[known].append(positions[path])
    return list(same.values())


def _size(path: Path) -> int:
    return path.stat().st_size


def _middle(path: Path) -> bytes | Path:
    """Return some bytes of a file; if it cannot be read, its path, which no other file has."""
    try:
        with path.open("rb") as file:
            file.seek(_size(path) // 2)
            return file.read(SAMPLE_BYTES)
    except OSError:
        return path


def _sha256(path: Path) -> bytes | Path:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return path


def _files_below(folder: Path, above: tuple[Path, ...], passed_over: PassedOver) -> Iterator[Path]:
    """Yield the files at any depth; a link to a folder that contains it is not followed."""
    for path in folder.iterdir():
        if not path.is_dir():
            yield path
        elif is_hidden(path.name):
            passed_over.hidden[path.name] += _count_files(path)
        elif (real := path.resolve()) not in above:
            yield from _files_below(path, (*above, real), passed_over)


def _is_taken(path: Path, passed_over: PassedOver) -> bool:
    if is_hidden(path.name):
        passed_over.hidden["files that begin with a dot" if path.name.startswith(".") else path.name] += 1
        return False
    if not (path.is_file() and is_image_file(path)):
        passed_over.endings[path.suffix.lower()] += 1
    elif is_dicom_file(path) and holds_no_image(path):
        passed_over.endings["DICOM without an image"] += 1
    else:
        return True
    return False


def _count_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))
