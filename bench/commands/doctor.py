"""`python -m bench doctor`: what can be measured here and what not, with the cure."""

from dataclasses import dataclass

from rich import box
from rich.table import Table

from bench.doctor import examine
from bench.report.terminal import make_console

_COLORS = {"yes": "green", "limited": "yellow", "no": "red"}


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """What can be measured on this machine, what cannot, and what would cure it."""

    out: str = "results"
    """Results folder that is meant, for its free space."""


def main(config: DoctorConfig) -> int:
    """The table of findings."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("What", "Here", "Why"):
        table.add_column(heading)
    for finding in examine(config.out):
        table.add_row(finding.what, f"[{_COLORS[finding.verdict]}]{finding.verdict}[/]", finding.detail)
    make_console().print(table)
    return 0
