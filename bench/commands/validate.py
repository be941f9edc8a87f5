"""`python -m bench validate`: memory as measured, as emulated and as traced."""

from dataclasses import dataclass
from pathlib import Path

from bench.predict.devices import present_gpu
from bench.report.terminal import make_console
from bench.report.validation import errors_table, validation_table
from bench.results_store import ResultsStore
from bench.validate import measure_cells, summarize, trace_cells, validation_cells, write_validation
from fptplus import InvalidInput

from .progress import progress_bar, tracking


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """Measure all methods on this machine's CUDA device in many settings, and hold what PyTorch takes on that card
    emulated, and what the meta trace says, against it.

    Call it again to go on where the time was up.
    """

    limit_s: float = 480.0
    """No further cell begins to be measured after so many seconds; tracing comes after."""

    out: str | None = None
    """Folder for the records, table and plot. Default: results/<name of the GPU>."""


def main(config: ValidateConfig) -> int:
    """Predictions against measurements."""
    if (gpu := present_gpu()) is None:
        raise InvalidInput("validate must run on a machine with a CUDA device, found none; use a GPU machine.")
    folder = Path(config.out or f"results/{gpu.name}")
    cells, store = validation_cells(gpu.name), ResultsStore(folder)
    with progress_bar(len(cells)) as progress:
        records = measure_cells(cells, store, progress, config.limit_s)
    measured = {record.cell_id for record in records if record.is_measured}
    with tracking("tracing") as track:
        traced = trace_cells([cell for cell in cells if cell.cell_id in measured], folder / "traced", track)
    console, table = make_console(), write_validation(records, traced, folder)
    console.print(validation_table(table))
    console.print(errors_table(summarize(table), len(measured), len(cells)))
    if emulated := len(records) - len(measured):
        console.print(f"{emulated} cells ran on an emulated device, where nothing is measured", highlight=False)
    console.print(f"records, validation.csv and validation.png in {folder}", highlight=False)
    return int(any(record.status == "failed" for record in records))
