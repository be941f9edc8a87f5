"""A CSV of images: columns `path` and `label`, `split` unless it is drawn at random, `group` to keep patients whole.

Paths are relative to the CSV's folder, or absolute; `path#3` is the third frame of a file. Labels are class names, or
class indices from 0 if all of them are whole numbers. A column `patient` or `patient_id` is read as `group`.
"""

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path

from fptplus.errors import InvalidInput

from .dataset import ImageDataset, Split
from .doubts import counted, named
from .folders import dataset_of_files, patients_of
from .images import split_frame
from .splits import SPLIT_NAMES

GROUP_COLUMNS = ("group", "patient", "patient_id", "patientid")
"""Names of the group column, in lower case; the first one present is used."""

_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,9}(\.0*)?")
"""Pattern of a whole number: `3`, and the `3.0` that spreadsheets turn it into."""


def open_table(path: Path, *, seed: int) -> ImageDataset:
    """Open the images that a CSV lists; the seed decides the random split if there is no `split` column.

    Raises:
        InvalidInput: naming the column or the line that is wrong, or an image that does not exist.
    """
    rows = _rows(path)
    columns = rows[0][1].keys()
    names = [os.path.normpath(_cell(row, "path", line, path)) for line, row in rows]
    _check_files(path, names)
    classes, labels = _labels([(line, _cell(row, "label", line, path)) for line, row in rows], path)
    splits, notes = None, []
    if "split" in columns:
        splits = [_split(_cell(row, "split", line, path), line, path) for line, row in rows]
    group_column = next((name for name in GROUP_COLUMNS if name in columns), None)
    if group_column is not None:
        groups = [(row[group_column] or "").strip() or None for _, row in rows]
        if count := groups.count(None):
            notes.append(f"no {group_column} in {counted(count, 'line')}: each such image is a group of its own")
    else:
        groups = patients_of([path.parent / name for name in names], notes)
    if unread := sorted(set(columns) - {"path", "label", "split", group_column, ""}):
        notes.append(f"columns that are not read: {named(unread)}; call the one that names patients group")
    return dataset_of_files(
        path.name, classes, path.parent, names, labels, splits=splits, groups=groups, notes=notes, seed=seed
    )


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return (line number, cells by column name) of every row that is not blank."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [(name or "").strip().lower() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]  # cells without a column are under None
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
    repeated = sorted({name for name in columns if name and columns.count(name) > 1})
    if repeated:
        raise InvalidInput(f"{path} must have each column once, it has {repeated[0]} more often; rename one.")
    longer = [line for line, row in rows if any(cell.strip() for cell in row.pop(None, []))]
    if longer:
        raise InvalidInput(
            f"every line of {path} must have {len(columns)} cells at most, line {longer[0]} has more; "
            "put a text with a comma in double quotes."
        )
    return rows


def _cell(row: dict[str, str], column: str, line: int, path: Path) -> str:
    value = (row[column] or "").strip()
    if not value:
        raise InvalidInput(f"every line of {path} must have a {column}, line {line} has none.")
    return value


def _check_files(path: Path, names: Sequence[str]) -> None:
    missing = [name for name in names if not os.path.isfile(split_frame(path.parent / name)[0])]  # noqa: PTH113 (no error)
    if missing:
        raise InvalidInput(
            f"{len(missing)} of the {len(names)} images in {path} do not exist, the first is {missing[0]}; "
            f"paths are relative to {path.parent}."
        )


def _labels(values: Sequence[tuple[int, str]], path: Path) -> tuple[tuple[str, ...], list[int]]:
    """Return the classes, and the class index of every value (line, label)."""
    others = [(line, value) for line, value in values if not _WHOLE_NUMBER.fullmatch(value)]
    if others and all(value.lower() == "nan" for _, value in others) and len(others) < len(values):
        raise InvalidInput(
            f"every line of {path} must have a label, line {others[0][0]} has nan; leave such lines out "
            f"({len(others)} of {len(values)})."
        )
    if others:
        classes = tuple(sorted({value for _, value in values}))
        position = {name: index for index, name in enumerate(classes)}
        return classes, [position[value] for _, value in values]
    indices = [int(value.partition(".")[0]) for _, value in values]
    _check_indices(indices, path)
    return tuple(map(str, range(max(indices) + 1))), indices


def _check_indices(indices: Sequence[int], path: Path) -> None:
    if min(indices) < 0:
        raise InvalidInput(f"labels that are numbers must count from 0, {path} has {min(indices)}.")
    if min(indices) > 0:
        raise InvalidInput(
            f"labels that are numbers must count from 0, those in {path} begin at {min(indices)}; "
            "subtract it from all, or write names."
        )
    if max(indices) >= len(indices):
        raise InvalidInput(
            f"labels that are numbers must be class indices from 0 on, {path} has {max(indices)} "
            f"and only {len(indices)} images."
        )


def _split(value: str, line: int, path: Path) -> Split:
    if value.lower() not in SPLIT_NAMES:
        raise InvalidInput(f"split must be train, val or test, line {line} of {path} has {value!r}.")
    return SPLIT_NAMES[value.lower()]
