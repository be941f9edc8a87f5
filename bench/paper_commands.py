"""The commands `reproduce` and `verify`: the paper's tables and figures, and each of its numbers against ours."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.progress import track

from .reproduce import predict_missing


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """Make the paper's tables and figures, the findings and the HTML report from the records under `results/`."""

    again: bool = False
    """Predict every cell again, also those that have a record; takes some minutes."""

    results: str = "results"
    """Folder of the records; tables and figures go to its `paper/`, the report to `report.html`."""


def reproduce(arguments: list[str]) -> int:
    """Tables, figures, findings, report."""
    config = tyro.cli(ReproduceConfig, args=arguments, prog="python -m bench reproduce")
    predict_missing(Path(config.results), config.again, lambda items, what, total: track(items, what, total))
    return 0
