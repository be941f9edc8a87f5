"""`python -m bench validate`: predictions against measurements."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from bench.predict.devices import present_gpu
from bench.report.terminal import errors_table, make_console
from bench.results_store import ResultsStore
from bench.validate import measure_cells, validation_cells, write_validation
from fptplus import InvalidInput

from .progress import progress_bar


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """Measure all methods on this machine's CUDA device in many settings, and hold the predictions against it.

    Call it again to go on where the time was up.
    """

    limit_s: float = 480.0
    """No further cell begins after so many seconds."""

    out: str | None = None
    """Folder for the records, table and plot. Default: results/<name of the GPU>."""


def validate(arguments: list[str]) -> int:
    """Predictions against measurements."""
    config = tyro.cli(ValidateConfig, args=arguments, prog="python -m bench validate")
    if (gpu := present_gpu()) is None:
        raise InvalidInput("validate must run on a machine with a CUDA device, found none; use a GPU machine.")
    folder = Path(config.out or f"results/{gpu.name}")
    cells, store = validation_cells(gpu.name), ResultsStore(folder)
    with progress_bar(len(cells)) as progress:
        records = measure_cells(cells, store, progress, config.limit_s)
    console = make_console()
    console.print(errors_table(write_validation(records, folder), len(records), len(cells)))
    console.print(f"records, validation.csv and validation.png in {folder}", highlight=False)
    return int(any(record.status == "failed" for record in records))
