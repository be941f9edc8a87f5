"""`python -m bench published`: memory that others measured, against the same scripts on emulated cards."""

from dataclasses import dataclass
from itertools import groupby

from rich import box
from rich.table import Table

from bench.published.comparison import HeldMeasurement, Summary, summarize, write_comparisons
from bench.published.figure import draw_comparisons
from bench.published.measurements import read_measurements
from bench.records.output_folder import writable_folder
from bench.report.terminal import make_console

_SHORT = {
    "max_memory_allocated": "allocated",
    "max_memory_reserved": "reserved",
    "nvidia-smi process": "process",
    "NVML device": "device",
}


@dataclass(frozen=True, kw_only=True)
class PublishedConfig:
    """Emulate 66 published measurements of fine-tuning ViTs with their scripts' options.

    Writes memory.csv and the figure; the exit status is 1 if a figure with a known script is further off than its bar.
    """

    out: str = "results/published"
    """Folder of the results."""


def main(config: PublishedConfig) -> int:
    """The table of all rows, and what it comes to."""
    from bench.published.emulate import emulate  # it imports torchvision and transformers: no other command waits

    folder, rows = writable_folder(config.out), read_measurements()
    emulated = emulate(rows)
    comparisons = [HeldMeasurement(measurement=row, emulated=emulated.get(row)) for row in rows]
    write_comparisons(comparisons, folder / "memory.csv")
    draw_comparisons(comparisons, folder / "memory")
    console = make_console()
    for source, group in groupby(comparisons, key=lambda one: one.measurement.source):
        console.print(_table(source, list(group)))
    console.print(_sentence(summarize(comparisons)), highlight=False)
    return int(any(one.is_met is False for one in comparisons))


def _table(source: str, comparisons: list[HeldMeasurement]) -> Table:
    """The rows of one source, 80 columns wide at most."""
    table = Table(title=source, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("Model", width=28)
    table.add_column("Batch", justify="right")
    table.add_column("Counter", width=11)
    for heading in ("Measured", "Emulated", "Error %"):
        table.add_column(heading, justify="right")
    for one in comparisons:
        row = one.measurement
        value = "" if one.emulated_mib is None else f"{one.emulated_mib:,.0f}"
        error = one.verdict if row.is_bound else "" if one.error_pct is None else f"{one.error_pct:+.2f}"
        table.add_row(
            row.model,
            str(row.batch),
            _SHORT.get(row.counter, row.counter),
            f"{row.measured_mib:,.0f}",
            value,
            _marked(one, error),
        )
    return table


def _marked(one: HeldMeasurement, text: str) -> str:
    """Red where it is not met, dim where it is not judged."""
    style = {True: "", False: "red", None: "dim"}[one.is_met]
    return f"[{style}]{text}[/]" if style and text else text


def _sentence(summary: Summary) -> str:
    return (
        f"MiB. {summary.num_within} of {summary.num_held} figures with a known script within their bar "
        f"(allocated 0.2 %, reserved 1 %), median error {summary.median_error_pct:.2f} %;\n"
        f"{summary.num_bounds_met} of {summary.num_bounds} runs at capacity as published, "
        f"{summary.num_bounds_undecided} that the CUDA context decides;\n"
        f"{summary.num_open} rows whose source leaves something open are not judged."
    )
