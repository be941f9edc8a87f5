"""Printed memory next to what the paper's software reserves when emulated: rows of results/paper/paper_stack.csv.

Printed less reserved memory is what a process holds besides PyTorch's segments: the CUDA context with its kernels. It
is the same for all cells if the emulation is right.
"""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from statistics import median

from fptplus import InvalidInput
from fptplus.whole_file import whole_file

FILE = "paper_stack.csv"
"""Name of the file under results/paper."""

SEGMENT_MIB = 2
"""Granularity in MiB: PyTorch reserves memory in multiples of 2 MiB."""


@dataclass(frozen=True, kw_only=True)
class StackRow:
    """One printed cell; memory in MiB."""

    table: str
    row: str
    """Row of the paper's table."""

    method: str
    model: str
    res: int
    printed_mib: float
    training_reserved_mib: float
    """Peak reserved memory in the first epoch, before the first evaluation."""

    reserved_mib: float
    allocated_mib: float
    """Peak of the whole training, evaluations included."""

    block_mib: float
    """Size of one stored block: the keys of a batch."""

    torch_version: str
    cuda_version: str
    gpu: str

    @property
    def printed_less_training_mib(self) -> float:
        """Return the printed memory less what is reserved before the first evaluation."""
        return self.printed_mib - self.training_reserved_mib

    @property
    def printed_less_reserved_mib(self) -> float:
        """Return the printed memory less what is reserved, evaluations included."""
        return self.printed_mib - self.reserved_mib

    @property
    def block_segment_mib(self) -> float:
        """Return the memory that PyTorch reserves for a stored block."""
        return -(-self.block_mib // SEGMENT_MIB) * SEGMENT_MIB


@dataclass(frozen=True)
class Stack:
    """All rows."""

    rows: Sequence[StackRow]

    @cached_property
    def context_mib(self) -> float:
        """Return the typical constant: the median of printed less reserved memory before the first evaluation."""
        return median(row.printed_less_training_mib for row in self.rows)

    def process_mib(self, row: StackRow) -> float:
        """Return the memory of the whole process in training: reserved memory plus the constant."""
        return row.training_reserved_mib + self.context_mib

    def constants_mib(self, *, evaluated: bool) -> tuple[float, float]:
        """Return the lowest and highest constant that is within one stored block of each cell's printed less reserved.

        There is no such constant if the lowest is above the highest.

        Args:
            evaluated: whether to take what is reserved with evaluations, instead of before the first.
        """
        left = [(_left_mib(row, evaluated=evaluated), row.block_segment_mib) for row in self.rows]
        return max(mib - block for mib, block in left), min(mib + block for mib, block in left)

    def counts_evaluation(self, row: StackRow) -> bool:
        """Whether the print is closer to what is reserved after an evaluation than to that before the first."""
        return abs(self._off_mib(row, evaluated=True)) < abs(self._off_mib(row, evaluated=False))

    def unexplained_mib(self, row: StackRow) -> float:
        """Return the print less the constant and less what was reserved at the closer of the two moments."""
        return self._off_mib(row, evaluated=self.counts_evaluation(row))

    def _off_mib(self, row: StackRow, *, evaluated: bool) -> float:
        return _left_mib(row, evaluated=evaluated) - self.context_mib


def _left_mib(row: StackRow, *, evaluated: bool) -> float:
    return row.printed_less_reserved_mib if evaluated else row.printed_less_training_mib


_DERIVED = ("printed_less_training_mib", "printed_less_reserved_mib")
"""Derived columns, written for readers."""


def write_stack(path: Path, stack: Stack) -> None:
    """Write the rows to a CSV file, with printed less reserved memory for both moments."""
    names = [field.name for field in fields(StackRow)]
    with whole_file(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*names, *_DERIVED], lineterminator="\n")
        writer.writeheader()
        for row in stack.rows:
            numbers = asdict(row) | {name: getattr(row, name) for name in _DERIVED}
            writer.writerow({n: f"{v:.15g}" if isinstance(v, float) else v for n, v in numbers.items()})


def read_stack(path: Path) -> Stack:
    """Return the rows of a CSV file; none if there is no file.

    Raises:
        InvalidInput: if a column is missing or holds something other than a number.
    """
    if not path.exists():
        return Stack(())
    with path.open(encoding="utf-8") as file:
        try:
            rows = [
                StackRow(**{field.name: field.type(line[field.name]) for field in fields(StackRow)})
                for line in csv.DictReader(file)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(
                f"{str(path)!r} must have the columns of results/paper/{FILE} with a number in each of memory, got "
                f"{error}; make it again by `nox -s paper_stack`."
            ) from error
    return Stack(tuple(rows))
