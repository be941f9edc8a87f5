"""What a cell's process tells its parent: one JSON object per line, so that a death loses only what came after.

{"phase": "warm-up, backward", "peak_allocated_bytes": 123}     a phase begins
{"found": {"step_time_s": 0.1}}                                 columns of the record
{"note": "…"}                                                   what was left unmeasured, and why
{"end": true}                                                   the journal is complete
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TextIO

from bench.records.measured_columns import Reading


class Journal:
    """The writing end of a journal.

    Args:
        file: file to write lines to; None keeps nothing.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file
        self.phase = "importing"
        self.left_out: frozenset[str] = frozenset()
        """Columns that are not written even if they are found."""

        self.known: frozenset[str] | None = None
        """Names of a record's columns; None until they are imported, since even that import may fail."""

    def begin(self, phase: str, peak_allocated_bytes: int | None = None) -> None:
        """Write that a phase begins.

        Args:
            phase: its name.
            peak_allocated_bytes: peak of CUDA memory so far; None without CUDA.
        """
        self.phase = phase
        self._write({"phase": phase, "peak_allocated_bytes": peak_allocated_bytes})

    def found(self, columns: Reading) -> None:
        """Write columns of the record.

        Raises:
            TypeError: if the record has no such column.
        """
        if self.known is not None and (unknown := columns.keys() - self.known):
            raise TypeError(f"a record has no column {', '.join(sorted(unknown))}")
        self._write({"found": {name: value for name, value in columns.items() if name not in self.left_out}})

    def note(self, text: str) -> None:
        """Write that something was left unmeasured, and why."""
        self._write({"note": text})

    def end(self) -> None:
        """Write that the journal is complete."""
        self._write({"end": True})

    def _write(self, line: dict) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


@dataclass
class Story:
    """A journal as read, complete or cut off."""

    phase: str = "starting"
    """The last phase that began."""

    peak_allocated_bytes: int | None = None
    """Peak of CUDA memory when the last phase began; None without CUDA."""

    columns: Reading = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    has_ended: bool = False

    @property
    def where(self) -> str:
        """Return the last phase and its peak, in words."""
        peak = self.peak_allocated_bytes
        return f"during {self.phase}" + (f", last peak {peak / 2**20:,.0f} MiB allocated" if peak else "")


def read_journal(lines: Iterable[str]) -> Iterator[Story]:
    """Yield the story so far after each line. An incomplete line is the last one, and is ignored."""
    story = Story()
    for line in lines:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            return
        if "phase" in entry:
            story.phase, story.peak_allocated_bytes = entry["phase"], entry["peak_allocated_bytes"]
        story.columns |= entry.get("found", {})
        story.notes += [entry["note"]] if "note" in entry else []
        story.has_ended |= entry.get("end", False)
        yield story
