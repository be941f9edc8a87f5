"""The commands `reproduce` and `verify`: the paper's tables and figures, and each of its numbers against ours."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import track

from .paper.check import check
from .paper.evidence import Evidence
from .report.check_table import print_check
from .report.terminal import make_console
from .reproduce import predict_missing, write_everything


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
    results, console = Path(config.results), make_console()
    progress = Console(stderr=True)
    predicted = predict_missing(
        results, config.again, lambda items, what, total: track(items, what, total, console=progress, transient=True)
    )
    write_everything(results)
    console.print(
        f"{predicted} predictions made, all others were there; tables, figures and findings in {results}/paper, "
        f"report in {results}/report.html",
        highlight=False,
        soft_wrap=True,
    )
    return 0


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Hold every number that the paper prints against ours, from the records under `results/`.

    The exit status is 1 where a cell left the band in which it is known to be.
    """

    results: str = "results"
    """Folder of the records."""


def verify(arguments: list[str]) -> int:
    """Each printed cell: ours, differences, the ratio to full fine-tuning in both, verdict and reason."""
    config = tyro.cli(VerifyConfig, args=arguments, prog="python -m bench verify")
    comparisons = check(Evidence(config.results))
    print_check(comparisons, make_console())
    return int(any(one.left_band for one in comparisons))
