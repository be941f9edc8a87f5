"""`python -m bench run`: predict, and measure where there is a GPU."""

import tyro

from bench.config import SweepConfig
from bench.measure import TimingBudget
from bench.report.terminal import make_console, print_tables
from bench.results_store import ResultsStore
from bench.sweep import checked_cells, run_sweep

from .progress import progress_bar


def run(arguments: list[str]) -> int:
    """Predict, and measure where there is a GPU. Returns 1 if a cell failed."""
    config = tyro.cli(SweepConfig, args=arguments, prog="python -m bench run")
    cells, gpu = checked_cells(config), config.gpu_to_predict
    store = ResultsStore(config.out)
    with progress_bar(len(cells)) as progress:
        records = run_sweep(cells, store, progress, TimingBudget(cpu_s=config.cpu_budget_s))
    print_tables(records, console := make_console(), gpu)
    console.print(f"{len(records)} records in {config.out}/records, table in {config.out}/results.csv", highlight=False)
    return int(any(record.status == "failed" for record in records))
