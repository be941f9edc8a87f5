"""`python -m bench verify`: each number that the paper prints, compared with ours."""

from dataclasses import dataclass

from bench.paper.check import check
from bench.paper.evidence import Evidence
from bench.report.check_table import print_check
from bench.report.table_formats import FormatOption, printing


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(FormatOption):
    """Check every number that the paper prints against ours, from the records under `results/`.

    These include the performance-to-parameter and performance-to-memory efficiency (PPE, PME). The exit status is 1 if
    a number has left the band in which it is known to be.
    """

    results: str = "results"
    """Results folder with the records."""


def main(config: VerifyConfig) -> int:
    """Print each cell of the paper with ours, the differences, both ratios to full fine-tuning, verdict and reason."""
    comparisons = check(Evidence(config.results))
    with printing(config.format) as printer:
        print_check(comparisons, printer)
    return int(any(one.left_band for one in comparisons))
