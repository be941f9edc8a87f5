"""A labelled set of images with splits, which preloading, training and evaluation read, wherever images come from."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from PIL import Image

from fptplus.errors import InvalidInput

from .greys import GreyScale
from .images import FileReader

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Example:
    """One labelled image."""

    name: str
    """Name of the image within its dataset: a path relative to the root, or an index into a file."""

    label: int
    """Class index."""

    split: Split

    group: str | None = None
    """Patient, or anything else that several images may show; None if the image stands for itself. Never stored."""


@dataclass(frozen=True)
class ImageDataset:
    """Labelled images, each in one split.

    Raises:
        InvalidInput: at construction, if there are no examples, a label is not an index of `classes`, or two examples
            have the same name.
    """

    name: str
    classes: tuple[str, ...]
    examples: tuple[Example, ...]
    read: Callable[[Example], Image.Image]
    """Function that decodes an example to an RGB image; it raises InvalidInput naming the file if it cannot."""

    notes: tuple[str, ...] = ()
    """What a user must know about how it was read: files passed over, doubtful labels, patients in several splits."""

    def __post_init__(self) -> None:
        if not self.examples:
            raise InvalidInput(f"the dataset must hold at least one image, {self.name} holds none.")
        for example in self.examples:
            if not 0 <= example.label < len(self.classes):
                raise InvalidInput(
                    f"labels must lie in 0 to {len(self.classes) - 1}, {example.name} has {example.label}."
                )
        repeated = [name for name, count in Counter(example.name for example in self.examples).items() if count > 1]
        if repeated:
            raise InvalidInput(
                f"each image must appear once, {repeated[0]} appears more often in {self.name}"
                + (f" (and {len(repeated) - 1} others do)." if len(repeated) > 1 else ".")
            )

    def with_greys(self, greys: GreyScale) -> "ImageDataset":
        """Return the same data set with deep grey images scaled by a rule; it affects only images read from files."""
        if not isinstance(self.read, FileReader):
            return self
        return replace(self, read=replace(self.read, greys=greys))

    def file_of(self, example: Example) -> Path | None:
        """The file that holds an example; None where `read` does not tell."""
        file_of = getattr(self.read, "file_of", None)
        return None if file_of is None else file_of(example)

    def indices(self, split: Split) -> list[int]:
        """Return the positions in `examples` of the images of a split, in order."""
        return [index for index, example in enumerate(self.examples) if example.split == split]

    def labels(self, split: Split) -> list[int]:
        """Return the class indices of the images of a split, in order."""
        return [example.label for example in self.examples if example.split == split]

    def fingerprint(self) -> str:
        """Return the SHA-256 of the classes and of every example's name, label and split."""
        lines = ["\t".join(self.classes)] + [f"{e.name}\t{e.label}\t{e.split}" for e in self.examples]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
