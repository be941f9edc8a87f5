"""Class folders: `train/ val/ test/` with one folder per class, or class folders alone and a random split.

    root/train/cat/1.png                 root/cat/1.png
    root/val/cat/2.png           or      root/cat/2.png
    root/test/dog/3.png                  root/dog/3.png

Images may be deeper inside a class folder, where a folder may stand for a patient. Hidden files, and files that are not
images, are passed over and accounted for.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fptplus.errors import InvalidInput

from .dataset import SPLITS, Example, ImageDataset, Split
from .dicom import patient_of
from .doubts import counted, doubts_about_classes, doubts_about_copies, doubts_about_groups, looks_like_a_split, named
from .images import FileReader, is_dicom_file, split_frame
from .splits import SPLIT_NAMES, draw_splits
from .walk import PassedOver, copies_among, images_below, loose_images, visible_folders


def open_folders(root: Path, *, seed: int, group_level: int | None = None) -> ImageDataset:
    """Open the images of a folder; the seed decides the random split if the folders give none.

    Args:
        root: the folder.
        seed: random seed of the split.
        group_level: which folder below a class folder is a patient's, 1 for the first; None if there is no such folder.

    Raises:
        InvalidInput: if there are no class folders, a split is missing or there twice, images are outside the class
            folders, or an image is not as deep as `group_level`.
    """
    passed_over = PassedOver()
    split_folders = _split_folders(root)
    notes = _outside(root, split_folders, passed_over) if split_folders else []
    folders = split_folders or {None: root}
    found = [(split, *item) for split, folder in folders.items() for item in _class_images(folder, passed_over)]
    class_names = _class_names(name for folder in folders.values() for name in _subfolder_names(folder))
    inner = [_folders_inside(root, path, split is not None) for split, _, path in found]
    if group_level is not None:
        groups = [_group(root, parts, group_level) for parts in inner]
    else:
        groups = patients_of([path for _, _, path in found], notes)
        if not split_folders and not any(groups):
            notes += _doubts_about_folders(inner)
    return dataset_of_files(
        root.name,
        class_names,
        root,
        [path.relative_to(root).as_posix() for _, _, path in found],
        [class_names.index(class_name) for _, class_name, _ in found],
        splits=[split for split, _, _ in found] if split_folders else None,
        groups=groups,
        notes=[*notes, *passed_over.sentences()],
        seed=seed,
    )


def dataset_of_files(
    name: str,
    classes: tuple[str, ...],
    root: Path,
    names: Sequence[str],
    labels: Sequence[int],
    *,
    splits: Sequence[Split] | None,
    groups: Sequence[str | None],
    notes: Sequence[str],
    seed: int,
) -> ImageDataset:
    """Make a dataset of image files below a root.

    Args:
        name, classes: name and classes of the dataset.
        root: folder that the names are relative to.
        names, labels: name and label of each image.
        splits: split of each image; None to draw them at random.
        groups: group of each image; None for one that stands for itself.
        notes: notes on how the images were found.
        seed: random seed of the split.

    Raises:
        InvalidInput: if a file has two names, or a split lacks a class because groups are kept whole.
    """
    _refuse_files_named_twice(root, names)
    groups = _with_frames_together(root, names, groups)
    drawn = splits is None
    splits = draw_splits(labels, classes, groups, seed, name=name) if drawn else splits
    examples = tuple(Example(*fields) for fields in zip(names, labels, splits, groups, strict=True))
    doubts = [
        *doubts_about_classes(classes, examples),
        *doubts_about_groups(examples),
        *doubts_about_copies(copies_among([root / name for name in names]), examples),
    ]
    if drawn and (whole := {group for group in groups if group is not None}):
        doubts.insert(0, f"the random split keeps each of {len(whole)} patients or groups whole")
    return ImageDataset(name, classes, examples, FileReader(root), (*notes, *doubts))


def patients_of(paths: Sequence[Path], notes: list[str]) -> list[str | None]:
    """Return the patient that each DICOM file names; None for all if they name just one, which is noted."""
    files = [split_frame(path)[0] for path in paths]
    candidates = {file for file in files if is_dicom_file(file)}
    with ThreadPoolExecutor() as pool:
        patients = dict(zip(candidates, pool.map(patient_of, candidates), strict=True))
    if len(patients) > 1 and len(set(patients.values())) == 1 and None not in patients.values():
        notes.append("all DICOM files name the same patient: images are taken to be of different ones")
        return [None] * len(paths)
    return [patients.get(file) for file in files]


def _refuse_files_named_twice(root: Path, names: Sequence[str]) -> None:
    """Refuse a file with two names, relative, absolute or by a link; frames of a file count as different images."""
    first: dict[tuple, str] = {}
    twice = []
    for name in names:
        path, frame = split_frame(root / name)
        status = path.stat()
        known = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)
        other = first.setdefault((known, frame), name)
        if other != name:
            twice.append((other, name))
    if twice:
        more = f" (and {len(twice) - 1} others do)" if len(twice) > 1 else ""
        raise InvalidInput(
            f"each image must appear once, {twice[0][0]} appears again as {twice[0][1]}, which is the same file{more}; "
            "remove one of the names."
        )


def _with_frames_together(root: Path, names: Sequence[str], groups: Sequence[str | None]) -> list[str | None]:
    """Return the groups, with several frames of one file made a group if they are in none."""
    files = [split_frame(root / name) for name in names]
    return [
        str(file) if group is None and frame is not None else group
        for (file, frame), group in zip(files, groups, strict=True)
    ]


def _split_folders(root: Path) -> dict[Split, Path]:
    """Return the folder of each split, in the order of SPLITS; empty if the subfolders are the classes."""
    folders: dict[Split, Path] = {}
    for folder in visible_folders(root, PassedOver()):
        split = SPLIT_NAMES.get(folder.name.lower())
        if split in folders:
            raise InvalidInput(
                f"{root} must have one folder a split, it has {folders[split].name} and {folder.name} for {split}."
            )
        if split is not None:
            folders[split] = folder
    missing = [split for split in SPLITS if split not in folders]
    if folders and missing:
        similar = [
            name for name in _subfolder_names(root) if name.lower() not in SPLIT_NAMES and looks_like_a_split(name)
        ]
        raise InvalidInput(
            f"{root} must have train, val and test folders, it lacks {' and '.join(missing)}; "
            + (f"{named(similar)} may be meant, then rename; " if similar else "")
            + "make them, or give the class folders alone for a random 70/10/20 split."
        )
    return {split: folders[split] for split in SPLITS if folders}


def _outside(root: Path, split_folders: dict[Split, Path], passed_over: PassedOver) -> list[str]:
    """List what lies next to the folders of the splits and is not used."""
    others = [path for path in visible_folders(root, passed_over) if path not in split_folders.values()]
    counts = {path.name: len(images_below(path, PassedOver())) for path in others}
    sentences = [
        f"not used, being of no split: folder {name} with {counted(count, 'image')}" for name, count in counts.items()
    ]
    if loose := loose_images(root, passed_over):
        sentences.append(f"not used, lying in no split: {named([path.name for path in loose])}")
    return sentences


def _class_images(folder: Path, passed_over: PassedOver) -> list[tuple[str, Path]]:
    """Return (class name, file) of every image in the class folders of a folder."""
    loose = loose_images(folder, passed_over)
    if loose:
        raise InvalidInput(
            f"images must lie in one folder a class, {folder} holds {loose[0].name}"
            + (f" and {len(loose) - 1} others" if len(loose) > 1 else "")
            + " outside any."
        )
    classes = visible_folders(folder, passed_over)
    if not classes:
        raise InvalidInput(f"{folder} must hold one folder of images a class, it holds no folder.")
    return [(class_folder.name, path) for class_folder in classes for path in images_below(class_folder, passed_over)]


def _folders_inside(root: Path, path: Path, has_split: bool) -> tuple[str, ...]:
    """Return the names of the folders between an image and its class folder."""
    return path.relative_to(root).parts[2 if has_split else 1 : -1]


def _doubts_about_folders(inner: Sequence[tuple[str, ...]]) -> list[str]:
    """Report folders inside class folders, which may be patients but are not treated as such."""
    folders = sorted({"/".join(parts) for parts in inner if parts})
    if not folders:
        return []
    return [
        f"images lie in {counted(len(folders), 'folder')} inside the class folders ({named(folders)}); "
        "if these are patients, give --group-level, or the random split separates them"
    ]


def _group(root: Path, parts: tuple[str, ...], level: int) -> str:
    if not 1 <= level <= len(parts):
        raise InvalidInput(
            f"group_level must be a folder that every image has below its class folder, counted from 1, got {level}; "
            f"{root} has an image only {len(parts)} deep."
        )
    return "/".join(parts[:level])


def _subfolder_names(folder: Path) -> list[str]:
    return [path.name for path in visible_folders(folder, PassedOver())]


def _class_names(names) -> tuple[str, ...]:
    """Return each name once: sorted by value if all are numbers, else by name."""
    unique = sorted(set(names))
    return tuple(sorted(unique, key=int) if all(name.isdecimal() for name in unique) else unique)
