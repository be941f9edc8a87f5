"""A CSV of images: columns `path` and `label`, and `split` where the split is not to be drawn at random.

Paths are relative to the CSV's folder, or absolute. Labels are class names, or class indices from 0 on if every one is
a whole number.
"""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from fptplus.errors import InvalidInput

from .dataset import Example, ImageDataset, Split
from .folders import FolderReader
from .splits import SPLIT_NAMES, random_split


def open_table(path: Path, *, seed: int) -> ImageDataset:
    """The images that a CSV lists; the seed decides the random split where there is no column of splits.

    Raises:
        InvalidInput: naming the column or the line that is wrong, or an image that is not there.
    """
    rows = _rows(path)
    names = [os.path.normpath(_cell(row, "path", line, path)) for line, row in rows]
    _check_files(path, names)
    classes, labels = _labels([_cell(row, "label", line, path) for line, row in rows], path)
    if "split" in rows[0][1]:
        splits = [_split(_cell(row, "split", line, path), line, path) for line, row in rows]
    else:
        splits = random_split(labels, seed)
    examples = tuple(Example(*fields) for fields in zip(names, labels, splits, strict=True))
    return ImageDataset(path.name, classes, examples, FolderReader(path.parent))


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line number, cells by column name) of every row that is not blank."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [(name or "").strip().lower() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{path} must be a CSV in UTF-8, it cannot be read as one ({error}).") from error
    missing = [name for name in ("path", "label") if name not in columns]
    if missing:
        raise InvalidInput(
            f"{path} must have the columns path and label (and split, if any), it has "
            f"{', '.join(filter(None, columns)) or 'none'}; its first line must name them."
        )
    if not rows:
        raise InvalidInput(f"{path} must list at least one image, it lists none.")
    return rows


def _cell(row: dict[str, str], column: str, line: int, path: Path) -> str:
    value = (row[column] or "").strip()
    if not value:
        raise InvalidInput(f"every line of {path} must have a {column}, line {line} has none.")
    return value


def _check_files(path: Path, names: Sequence[str]) -> None:
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise InvalidInput(
            f"{len(missing)} of the {len(names)} images in {path} do not exist, the first is {missing[0]}; "
            f"paths are relative to {path.parent}."
        )


def _labels(values: Sequence[str], path: Path) -> tuple[tuple[str, ...], list[int]]:
    """Classes, and the class index of every value."""
    try:
        indices = [_whole_number(value) for value in values]
    except ValueError:
        classes = tuple(sorted(set(values)))
        position = {name: index for index, name in enumerate(classes)}
        return classes, [position[value] for value in values]
    if min(indices) < 0:
        raise InvalidInput(f"labels that are numbers must count from 0, {path} has {min(indices)}.")
    if max(indices) >= len(indices):
        raise InvalidInput(
            f"labels that are numbers must be class indices from 0 on, {path} has {max(indices)} "
            f"and only {len(indices)} images."
        )
    return tuple(map(str, range(max(indices) + 1))), indices


def _whole_number(value: str) -> int:
    """Of `3` and of the `3.0` that tables turn it into."""
    return int(value.removesuffix(".0"))


def _split(value: str, line: int, path: Path) -> Split:
    if value.lower() not in SPLIT_NAMES:
        raise InvalidInput(f"split must be train, val or test, line {line} of {path} has {value!r}.")
    return SPLIT_NAMES[value.lower()]
