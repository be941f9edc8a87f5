"""`python -m bench published`: memory that others measured, compared with the same scripts on emulated cards."""

from dataclasses import dataclass
from itertools import groupby

from bench.published.comparison import HeldMeasurement, Summary, comparison_row, summarize, write_comparisons
from bench.published.figure import draw_comparisons
from bench.published.measurements import read_measurements
from bench.report.table_formats import Column, FormatOption, TableView, number, printing
from fptplus.output_folder import writable_folder

_SHORT = {
    "max_memory_allocated": "allocated",
    "max_memory_reserved": "reserved",
    "nvidia-smi process": "process",
    "NVML device": "device",
}


@dataclass(frozen=True, kw_only=True)
class PublishedConfig(FormatOption):
    """Emulate 66 published measurements of fine-tuning Vision Transformers (ViTs) with their scripts' options.

    Writes memory.csv and a figure. The exit status is 1 if a number whose script is known is off by more than its bar.
    """

    out: str = "results/published"
    """Folder for the results."""


def main(config: PublishedConfig) -> int:
    """Print the table of all rows and its summary."""
    from bench.published.rerun import emulate  # it imports torchvision and transformers, unlike other commands

    folder, rows = writable_folder(config.out), read_measurements()
    emulated = emulate(rows)
    comparisons = [HeldMeasurement(measurement=row, emulated=emulated.get(row)) for row in rows]
    write_comparisons(comparisons, folder / "memory.csv")
    draw_comparisons(comparisons, folder / "memory")
    with printing(config.format) as printer:
        groups = groupby(comparisons, key=lambda one: one.measurement.source)
        printer.show(map(comparison_row, comparisons), *(_view(source, list(group)) for source, group in groups))
        printer.note(_sentence(summarize(comparisons)))
    return int(any(one.is_met is False for one in comparisons))


def _view(source: str, comparisons: list[HeldMeasurement]) -> TableView:
    """Return the table of the rows of one source."""
    return TableView(
        title=source,
        columns=(
            Column(heading="Model", show=lambda one: one.measurement.model),
            Column(heading="Batch", show=lambda one: str(one.measurement.batch), is_number=True),
            Column(heading="Counter", show=_counter),
            Column(heading="Measured\nMiB", show=lambda one: f"{one.measurement.measured_mib:,.0f}", is_number=True),
            number("Emulated\nMiB", "emulated_mib"),
            Column(heading="Error %", show=_error, is_number=True),
        ),
        items=comparisons,
        notes=[f"not met: {_called(one)}" for one in comparisons if one.is_met is False],
    )


def _error(one: HeldMeasurement) -> str:
    """Return the error in percent; for a bound, what the emulated card did."""
    if one.measurement.is_bound:
        return one.verdict
    return "" if one.error_pct is None else f"{one.error_pct:+.2f}"


def _counter(one: HeldMeasurement) -> str:
    return _SHORT.get(one.measurement.counter, one.measurement.counter)


def _called(one: HeldMeasurement) -> str:
    return f"{one.measurement.model}, batch {one.measurement.batch}, {_counter(one)}"


def _sentence(summary: Summary) -> str:
    return (
        f"MiB. {summary.num_within} of {summary.num_held} figures with a known script within their bar "
        f"(allocated 0.2 %, reserved 1 %), median error {summary.median_error_pct:.2f} %;\n"
        f"{summary.num_bounds_met} of {summary.num_bounds} runs at capacity as published, "
        f"{summary.num_bounds_undecided} that the CUDA context decides;\n"
        f"{summary.num_open} rows whose source leaves something open are not judged."
    )
