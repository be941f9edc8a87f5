"""`python -m bench reproduce`: the paper's tables and figures, the findings and the report, from records."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from bench.report.terminal import make_console
from bench.reproduce import predict_missing, write_everything


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """Make the paper's tables and figures, the findings and the HTML report from the records under `results/`."""

    again: bool = False
    """Predict every cell again, also those that have a record; takes some minutes."""

    results: str = "results"
    """Folder of the records; tables and figures go to its `paper/`, the report to `report.html`."""


def main(config: ReproduceConfig) -> int:
    """Tables, figures, findings, report."""
    results, console = Path(config.results), make_console()
    progress = Console(stderr=True)
    shown = {"console": progress, "transient": True, "disable": not progress.is_terminal}
    predicted = predict_missing(results, config.again, lambda items, what, total: track(items, what, total, **shown))
    write_everything(results)
    console.print(
        f"{predicted} predictions made, all others were there; tables, figures and findings in {results}/paper, "
        f"report in {results}/report.html",
        highlight=False,
        soft_wrap=True,
    )
    return 0
