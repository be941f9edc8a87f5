"""Memory of fine-tuning ViTs that others have measured and published, row by row as they state it."""

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
    "ran",  # the largest batch that fitted the GPU's capacity
    "did not run",  # the next larger batch of the same script, which did not fit
    "not stated",
]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One published figure. Text fields say what the source says."""

    source: str
    """Who published it: repository and file, issue, or data set."""

    model: str
    """As timm, torchvision or transformers name it."""

    res: int
    """Pixels a side."""

    batch: int
    """Images in a step of one GPU."""

    method: str
    """What is trained."""

    precision: str
    attention: str
    optimizer: str
    gpu: str

    torch: str
    """Version of PyTorch, as exactly as it is known; empty where it is not."""

    counter: Counter

    measured_mib: float
    """What the counter showed; for `ran` and `did not run` the capacity of the GPU."""

    rounding_mib: float
    """How far off the figure can be because it is printed with a few digits."""

    card: str
    """In the catalogue: on which the row is emulated; empty where it is not."""

    not_stated: str
    """What the source leaves open of its script, so that the figure can be emulated on an assumption only, or not."""

    note: str
    """Where its script is, and what is remarkable."""

    def __post_init__(self) -> None:
        if self.counter not in get_args(Counter):
            raise InvalidInput(f"counter must be one of {', '.join(get_args(Counter))}, got {self.counter!r}.")

    @property
    def is_bound(self) -> bool:
        """Whether it says that something ran or not, in place of how much it took."""
        return self.counter in ("ran", "did not run")


def read_measurements(path: Path = MEMORY_CSV) -> list[Measurement]:
    """All rows in the file's order."""
    numbers = {"res": int, "batch": int, "measured_mib": float, "rounding_mib": float}
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Measurement(**{column: numbers.get(column, str)(text) for column, text in row.items()})
            for row in csv.DictReader(file)
        ]
