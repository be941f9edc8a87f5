"""Memory of fine-tuning Vision Transformers (ViTs) that others measured and published, row by row as they state it."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from fptplus import InvalidInput

MEMORY_CSV = Path(__file__).with_name("memory.csv")

Counter = Literal[
    "max_memory_allocated",  # PyTorch's peak of live blocks
    "max_memory_reserved",  # PyTorch's peak of segments
    "nvidia-smi process",  # segments, CUDA context and kernels of one process
    "NVML device",  # all that is used on the device
    "ran",  # the largest batch that fitted into the GPU's memory
    "did not run",  # the next larger batch of the same script, which did not fit
    "not stated",
]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One published figure. Text fields repeat the words of the source."""

    source: str
    """Publication: repository and file, issue, or data set."""

    model: str
    """Model name in timm, torchvision or transformers."""

    res: int
    """Image height and width in pixels."""

    batch: int
    """Images per step on one GPU."""

    method: str
    """Method: what is trained."""

    precision: str
    attention: str
    optimizer: str
    gpu: str

    torch: str
    """PyTorch version, as precisely as it is known; empty if unknown."""

    counter: Counter

    measured_mib: float
    """Reading of the counter; for `ran` and `did not run` the capacity of the GPU."""

    rounding_mib: float
    """Largest rounding error of the figure, which is printed with a few digits."""

    card: str
    """Card in the catalogue on which the row is emulated; empty if it is not."""

    not_stated: str
    """What the source leaves open about its script; the figure can then be emulated only on an assumption, or not at
    all."""

    note: str
    """Where its script is, and anything remarkable."""

    def __post_init__(self) -> None:
        if self.counter not in get_args(Counter):
            raise InvalidInput(f"counter must be one of {', '.join(get_args(Counter))}, got {self.counter!r}.")

    @property
    def is_bound(self) -> bool:
        """Whether it says that something ran or not, instead of how much memory it took."""
        return self.counter in ("ran", "did not run")


def read_measurements(path: Path = MEMORY_CSV) -> list[Measurement]:
    """Return all rows in the file's order."""
    numbers = {"res": int, "batch": int, "measured_mib": float, "rounding_mib": float}
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Measurement(**{column: numbers.get(column, str)(text) for column, text in row.items()})
            for row in csv.DictReader(file)
        ]
