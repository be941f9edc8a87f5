"""Class folders: `train/ val/ test/` with one folder a class, or the class folders alone and a random split.

    root/train/cat/1.png                 root/cat/1.png
    root/val/cat/2.png           or      root/cat/2.png
    root/test/dog/3.png                  root/dog/3.png

Images may lie deeper inside a class folder. Files that are no images, and hidden ones, are passed over.
"""

from pathlib import Path

from fptplus.errors import InvalidInput

from .dataset import SPLITS, Example, ImageDataset, Split
from .images import is_image_file, read_image
from .splits import SPLIT_NAMES, random_split


def open_folders(root: Path, *, seed: int) -> ImageDataset:
    """The images of a folder; the seed decides the random split where the folders give none.

    Raises:
        InvalidInput: if there are no class folders, a split is missing or twice there, or images lie outside the class
            folders.
    """
    split_folders = _split_folders(root)
    if split_folders:
        found = [(split, *item) for split, folder in split_folders.items() for item in _class_images(folder)]
        class_names = _class_names(name for folder in split_folders.values() for name in _subfolder_names(folder))
        splits = [split for split, _, _ in found]
    else:
        found = [(None, *item) for item in _class_images(root)]
        class_names = _class_names(_subfolder_names(root))
        splits = random_split([class_names.index(class_name) for _, class_name, _ in found], seed)
    examples = tuple(
        Example(path.relative_to(root).as_posix(), class_names.index(class_name), split)
        for split, (_, class_name, path) in zip(splits, found, strict=True)
    )
    return ImageDataset(root.name, class_names, examples, FolderReader(root))


class FolderReader:
    """Reads an example whose name is a path under a root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, example: Example):
        return read_image(self.root / example.name)


def _split_folders(root: Path) -> dict[Split, Path]:
    """The folder of each split, in the order of SPLITS; empty where the subfolders are the classes."""
    folders: dict[Split, Path] = {}
    for folder in _subfolders(root):
        split = SPLIT_NAMES.get(folder.name.lower())
        if split in folders:
            raise InvalidInput(
                f"{root} must have one folder a split, it has {folders[split].name} and {folder.name} for {split}."
            )
        if split is not None:
            folders[split] = folder
    missing = [split for split in SPLITS if split not in folders]
    if folders and missing:
        raise InvalidInput(
            f"{root} must have train, val and test folders, it lacks {' and '.join(missing)}; "
            "make them, or give the class folders alone for a random 70/10/20 split."
        )
    return {split: folders[split] for split in SPLITS if folders}


def _class_images(folder: Path) -> list[tuple[str, Path]]:
    """(class name, file) of every image in the class folders of a folder."""
    loose = [path.name for path in sorted(folder.iterdir()) if path.is_file() and is_image_file(path)]
    if loose:
        raise InvalidInput(
            f"images must lie in one folder a class, {folder} holds {loose[0]}"
            + (f" and {len(loose) - 1} others" if len(loose) > 1 else "")
            + " outside any."
        )
    classes = _subfolders(folder)
    if not classes:
        raise InvalidInput(f"{folder} must hold one folder of images a class, it holds no folder.")
    return [
        (class_folder.name, path)
        for class_folder in classes
        for path in sorted(class_folder.rglob("*"))
        if is_image_file(path) and path.is_file()
    ]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _subfolder_names(folder: Path) -> list[str]:
    return [path.name for path in _subfolders(folder)]


def _class_names(names) -> tuple[str, ...]:
    """Each name once: numbers by value, else by name."""
    unique = set(names)
    return tuple(sorted(unique, key=int if all(name.isdecimal() for name in unique) else str))
