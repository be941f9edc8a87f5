"""Which image files a store was made from, so that it notices when one of them no longer is what it was.

A file of the same size and time is taken to be the same; of any other the contents are compared.
"""

import errno
import hashlib
import logging
import stat
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

from fptplus.data import Example, ImageDataset
from fptplus.data.doubts import counted, named
from fptplus.errors import InvalidInput

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceFile:
    """What an image file held when it was read."""

    num_bytes: int
    modified_ns: int
    """Time of its last change, in nanoseconds since 1970."""

    sha256: str

    @classmethod
    def read(cls, path: Path) -> "SourceFile":
        """Return that of a file as it is now."""
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # reading from a device may never end
            raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(found.st_size, found.st_mtime_ns, sha256)

    def is_still(self, path: Path) -> bool:
        """Whether a file still holds the same."""
        found = path.stat()
        if found.st_size != self.num_bytes:
            return False
        return found.st_mtime_ns == self.modified_ns or SourceFile.read(path).sha256 == self.sha256

    def plain(self) -> list[int | str]:
        """As JSON gives it back."""
        return list(astuple(self))


class SourceReader:
    """Reads each file of a data set once, whichever thread asks first: all images of an archive are in one file."""

    def __init__(self, dataset: ImageDataset) -> None:
        self._dataset = dataset
        self._lock = threading.Lock()
        self._locks: dict[Path, threading.Lock] = defaultdict(threading.Lock)
        self._known: dict[Path, SourceFile] = {}

    def __call__(self, example: Example) -> SourceFile | None:
        """The file of an example; None where it comes from no file, or from one that cannot be read."""
        path = self._dataset.file_of(example)
        if path is None:
            return None
        with self._lock:
            lock = self._locks[path]
        with lock:
            if path not in self._known:
                try:
                    self._known[path] = SourceFile.read(path)
                except OSError:  # decoding it says so
                    return None
            return self._known[path]


def refuse_changed(
    store: Path, dataset: ImageDataset, examples: Sequence[Example], known: Mapping[str, SourceFile]
) -> None:
    """Compare the files of a data set with those that a store was made from; files that are gone are passed over.

    Args:
        store: its folder.
        dataset: the images as they are now.
        examples: those that the store has.
        known: by name; without it, as of stores of earlier versions, an image cannot be compared, which is logged.

    Raises:
        InvalidInput: naming the first images that have changed.
    """
    files = {example.name: file for example in examples if (file := dataset.file_of(example)) is not None}
    if unknown := [name for name in files if name not in known]:
        log.warning(
            f"{store} does not tell what {counted(len(unknown), 'image')} held when it was made (earlier versions did "
            "not note it): that they are still the same cannot be checked"
        )
    then_and_now = {name: (known[name], file) for name, file in files.items() if name in known}
    pairs = set(then_and_now.values())  # one of an archive, for all its images
    with ThreadPoolExecutor(thread_name_prefix="compare") as pool:
        same = dict(zip(pairs, pool.map(_is_same, pairs), strict=True))
    if changed := [name for name, pair in then_and_now.items() if not same[pair]]:
        raise InvalidInput(
            f"{store} must be of the images that are there now, {counted(len(changed), 'image')} changed since it was "
            f"begun: {named(changed)}; preload into another folder."
        )


def _is_same(pair: tuple[SourceFile, Path]) -> bool:
    source, path = pair
    return not path.is_file() or source.is_still(path)
