"""Store of records: one JSON file per cell, written atomically, and one CSV file rebuilt from all of them.

Several processes on several machines may share one folder: file locks keep them apart, and end with their process.
"""

import json
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path

import pandas as pd

from fptplus import InvalidInput
from fptplus.held_lock import HeldByAnother, held
from fptplus.output_folder import writable_folder
from fptplus.whole_file import clear_unfinished, whole_file

from .record import COLUMNS, Record, check_types

LOCK_LIMIT_S = 60.0
"""Writing a record or the table takes a moment; whoever needs longer hangs."""

CLAIM_LIMIT_S = 2 * 3600.0
"""How long to wait for a cell that another process runs: it may itself wait an hour for the device."""


class ResultsStore:
    """Records under one folder: `records/<cell_id>.json` and `results.csv`.

    `records/superseded/` holds older ones, `records/logs/` what failed cells wrote to standard error.

    Args:
        folder: made where it is missing.
        read_only: whether only to read; the folder is then neither made nor written.

    Raises:
        InvalidInput: if the folder cannot be written to.
    """

    def __init__(self, folder: str | Path, *, read_only: bool = False) -> None:
        self.folder = Path(folder) if read_only else writable_folder(folder)
        self.records_folder = self.folder / "records"
        if not read_only:
            writable_folder(self.records_folder)
        self.csv_path = self.folder / "results.csv"

    def find(self, cell_id: str) -> Record | None:
        """Return the record of a cell, or None."""
        path = self.records_folder / f"{cell_id}.json"
        if not path.exists():
            return None
        record = _read(path)
        if _is_misnamed(record, path):
            raise InvalidInput(
                f"record {str(path)!r} must be of the cell in its name, it is of {record.cell_id}; rename it, or move "
                "it away."
            )
        return record

    @contextmanager
    def claim(self, cell_id: str, *, wait: bool) -> Iterator[bool]:
        """Claim a cell, so that nobody else runs it.

        Args:
            cell_id: id of the cell.
            wait: whether to wait until whoever is running it has ended.

        Yields:
            Whether the claim succeeded; always true after waiting.

        Raises:
            HeldByAnother: naming the process that is running it, if that has not ended within `CLAIM_LIMIT_S`.
        """
        locks = self.records_folder / ".claims"
        locks.mkdir(exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(held(locks / f"{cell_id}.lock", limit_s=CLAIM_LIMIT_S if wait else 0))
            except HeldByAnother:
                if wait:
                    raise
                stack.close()
                yield False
                return
            yield True

    def write(self, record: Record, *, supersede: bool = False) -> None:
        """Write a record. A measured record there stays, and only a measurement replaces a prediction.

        Args:
            record: the record of a cell.
            supersede: whether to move a measured record there to `records/superseded/`, instead of keeping it.

        Raises:
            InvalidInput: if the cell has been measured before and is not to be superseded; a run on an emulated device
                never supersedes a measurement.
        """
        path = self.records_folder / f"{record.cell_id}.json"
        with self._locked():
            if (earlier := self.find(record.cell_id)) is not None and earlier.is_measured:
                if record.is_emulated:
                    raise InvalidInput(
                        f"a run on {record.device!r} must not take the place of a measurement, {str(path)!r} holds "
                        "one; name another folder with --out."
                    )
                if not supersede:
                    raise InvalidInput(
                        f"cell {record.cell_id} must not be measured twice into one folder, {str(path)!r} holds it; "
                        "name another folder with --out, or --redo what is to be measured again."
                    )
                self._put_aside(path)
            try:
                _write(path, _as_text(record))
            except OSError as error:
                raise _kept_elsewhere(record, path, error) from error

    def _locked(self) -> AbstractContextManager[None]:
        """Be the only one to write records; nobody holds this longer than a moment."""
        return held(self.records_folder / ".lock", limit_s=LOCK_LIMIT_S)

    def _put_aside(self, path: Path) -> None:
        """Give a record a second name, so that it has a name at every moment."""
        aside = self.records_folder / "superseded"
        aside.mkdir(exist_ok=True)
        number = 1
        while (kept := aside / f"{path.stem}.{number}.json").exists():
            if kept.read_text() == path.read_text():
                return  # put aside already, by a process that then died
            number += 1
        _write(kept, path.read_text())

    def keep_log(self, cell_id: str, text: str) -> str:
        """Keep what a failed cell wrote, next to everything it wrote when it failed before.

        Args:
            cell_id: id of the cell, which the caller has claimed.
            text: the cell's standard error or traceback.

        Returns:
            The file, relative to the folder: `records/logs/<cell_id>.txt`, numbered from the second on.
        """
        logs = self.records_folder / "logs"
        logs.mkdir(exist_ok=True)
        names = (f"{cell_id}.{number}.txt" if number > 1 else f"{cell_id}.txt" for number in count(1))
        path = next(logs / name for name in names if not (logs / name).exists())
        _write(path, text)
        return path.relative_to(self.folder).as_posix()

    def records(self) -> list[Record]:
        """Return all records, in the order of their configurations. A file named after another cell is warned of.

        Raises:
            InvalidInput: if one is damaged.
        """
        read = {path: _read(path) for path in sorted(self.records_folder.glob("*.json"))}
        for path, record in read.items():
            if _is_misnamed(record, path):
                warnings.warn(
                    f"{str(path)!r} is passed over: it holds the record of another cell, {record.cell_id}; rename it, "
                    "or move it away",
                    stacklevel=2,
                )
        found = [record for path, record in read.items() if not _is_misnamed(record, path)]
        return sorted(found, key=lambda record: (record.model, record.res, record.method, record.cell_id))

    def write_csv(self) -> None:
        """Rebuild results.csv from the records, and remove what a process that died while writing has left."""
        with self._locked():
            clear_unfinished(self.records_folder, "*.json")
            clear_unfinished(self.folder, "results.csv")
            table = pd.DataFrame([asdict(record) for record in self.records()], columns=list(COLUMNS), dtype=object)
            _write(self.csv_path, table.to_csv(index=False))


def _is_misnamed(record: Record, path: Path) -> bool:
    """Whether a record is of another cell than its file says, as a copy or a backup is."""
    return record.cell_id not in (None, path.stem)


def _kept_elsewhere(record: Record, path: Path, error: OSError) -> Exception:
    """What to say of a record that its folder does not take; it is kept among temporary files, if these take it."""
    reason = error.strerror or str(error)
    try:
        with tempfile.NamedTemporaryFile("w", prefix=f"{path.stem}-", suffix=".json", delete=False) as file:
            file.write(_as_text(record))
    except OSError:
        return error
    return InvalidInput(
        f"{str(path)!r} must be written to the disk, it could not be ({reason}); its record is kept in {file.name!r}: "
        "make room, move it there and call it again."
    )


def _as_text(record: Record) -> str:
    return json.dumps(asdict(record), indent=1) + "\n"


def _read(path: Path) -> Record:
    try:
        columns = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(columns, dict):
            raise TypeError(f"it is a {type(columns).__name__}")
        unknown = [name for name in columns if name not in COLUMNS]
        if not unknown:
            check_types(columns)
            return Record(**columns)
    except (ValueError, TypeError, RecursionError) as error:  # damaged JSON or UTF-8, a number of too many digits
        raise InvalidInput(
            f"record {str(path)!r} must be a JSON object of results.csv's columns, it is damaged ({error}); "
            "move it away."
        ) from error
    raise InvalidInput(
        f"record {str(path)!r} must have only columns that this version knows, it also has {', '.join(unknown)}; "
        "read it with the version that wrote it (its git_commit), or move it away."
    )


def _write(path: Path, text: str) -> None:
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")
