"""`python -m bench [run] ...`: the command line; wrong input becomes one sentence and a status here, nowhere else."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from fptplus import InvalidInput

from .config import SweepConfig
from .report.terminal import make_console, print_tables
from .results_store import ResultsStore
from .sweep import Progress, checked_cells, run_sweep


def run(arguments: list[str]) -> int:
    """Predict, and measure where there is a GPU. Returns 1 if a cell failed."""
    config = tyro.cli(SweepConfig, args=arguments, prog="python -m bench run")
    cells, gpu = checked_cells(config), config.gpu_to_predict
    store = ResultsStore(config.out)
    with _progress_bar(len(cells)) as progress:
        records = run_sweep(cells, store, progress, cpu_budget_s=config.cpu_budget_s)
    print_tables(records, console := make_console(), gpu)
    console.print(f"{len(records)} records in {config.out}/records, table in {config.out}/results.csv", highlight=False)
    return int(any(record.status == "failed" for record in records))


@contextmanager
def _progress_bar(num_cells: int) -> Iterator[Progress]:
    """A bar on the error stream while cells run."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with ProgressBar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=num_cells)
        yield Progress(
            begin=lambda cell: bar.update(task, description=f"{cell.method} {cell.model} {cell.res} px"),
            end=lambda _: bar.advance(task),
        )


COMMANDS: dict[str, Callable[[list[str]], int]] = {"run": run}


def main(arguments: list[str]) -> int:
    """Run a command; `run` where none is named."""
    warnings.filterwarnings("ignore", message=".*torch.jit.script. is deprecated.*")  # fvcore's import
    name, rest = (arguments[0], arguments[1:]) if arguments and arguments[0] in COMMANDS else ("run", arguments)
    try:
        return COMMANDS[name](rest)
    except InvalidInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
