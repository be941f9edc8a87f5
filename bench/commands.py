"""The commands of `python -m bench`: each reads its options, does its work and prints it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from fptplus import InvalidInput
from methods import find_method, patch_size_of

from .advise import advise_all
from .config import Setting, SweepConfig
from .measure import TimingBudget
from .predict.devices import present_gpu
from .predict.predictor import trace_cell, trace_preloading
from .predict.replay import replay
from .report.figures import draw_breakdown, draw_timeline
from .report.terminal import advice_table, errors_table, make_console, print_tables, rules_table, tensors_table
from .results_store import ResultsStore
from .sweep import Progress, checked_cells, run_sweep
from .units import MIB
from .validate import measure_cells, validation_cells, write_validation
from .why import contributions, largest_groups, largest_tensors


def run(arguments: list[str]) -> int:
    """Predict, and measure where there is a GPU. Returns 1 if a cell failed."""
    config = tyro.cli(SweepConfig, args=arguments, prog="python -m bench run")
    cells, gpu = checked_cells(config), config.gpu_to_predict
    store = ResultsStore(config.out)
    with _progress(len(cells)) as progress:
        records = run_sweep(cells, store, progress, TimingBudget(cpu_s=config.cpu_budget_s))
    print_tables(records, console := make_console(), gpu)
    console.print(f"{len(records)} records in {config.out}/records, table in {config.out}/results.csv", highlight=False)
    return int(any(record.status == "failed" for record in records))


@dataclass(frozen=True, kw_only=True)
class AdviseConfig(Setting):
    """Which methods fit a GPU, how large a batch and a resolution they could have, and what would make the others fit.

    Example: --gpu rtx3090 --model vit_b --res 1024, or --gpu-memory 11GiB.
    """


def advise(arguments: list[str]) -> int:
    """Verdicts for a GPU, from predictions alone."""
    config = tyro.cli(AdviseConfig, args=arguments, prog="python -m bench advise")
    cells, gpu, console = checked_cells(config), config.gpu_to_predict, make_console()
    for model, res in dict.fromkeys((cell.model, cell.res) for cell in cells):
        asked = [cell for cell in cells if (cell.model, cell.res) == (model, res)]
        with _progress(len(asked)) as progress:
            advice = []
            for cell, one in zip(asked, advise_all(asked, gpu, patch_size_of(model)), strict=True):
                progress.begin(cell)
                advice.append(one)
                progress.end(one)
        console.print(advice_table(asked[0], gpu, advice))
        for cell in asked:
            if (trace := trace_preloading(cell)) is not None:
                needs = (replay(trace).reserved_bytes + gpu.context_bytes) / MIB
                console.print(f"{cell.method}: preloading its features takes {needs:,.0f} MiB, one image at a time")
    return 0


@dataclass(frozen=True, kw_only=True)
class WhyConfig(Setting):
    """Draw where the memory of each method goes: over one training step, and at the peak; PNG and SVG."""

    rules: bool = False
    """Also print what each rule of the prediction adds; takes a few seconds a method."""

    out: str = "results/why"
    """Folder for the figures."""


def why(arguments: list[str]) -> int:
    """Timelines, a breakdown and the largest tensors."""
    config = tyro.cli(WhyConfig, args=arguments, prog="python -m bench why")
    cells, gpu, console = checked_cells(config), config.gpu_to_predict, make_console()
    for model, res in dict.fromkeys((cell.model, cell.res) for cell in cells):
        peaks = {}
        asked = [cell for cell in cells if (cell.model, cell.res) == (model, res)]
        setting = f"{model}, {res} px, batch {config.batch_size}, {asked[0].precision}, {asked[0].attention} attention"
        folder = Path(config.out)
        for cell in asked:
            trace, title = trace_cell(cell), find_method(cell.method).title
            peaks[title] = peak = replay(trace)
            name = f"timeline_{cell.method}_{model}_{res}"
            draw_timeline(folder / name, f"{title}: {setting}", trace, peak)
            console.print(tensors_table(title, peak, largest_tensors(trace), largest_groups(trace)))
            if config.rules:
                console.print(rules_table(title, contributions(cell)))
        draw_breakdown(folder / f"breakdown_{model}_{res}", f"Memory at the peak: {setting}", peaks, gpu.context_bytes)
    console.print(f"figures in {config.out}", highlight=False)
    return 0


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
    with _progress(len(cells)) as progress:
        records = measure_cells(cells, store, progress, config.limit_s)
    console = make_console()
    console.print(errors_table(write_validation(records, folder), len(records), len(cells)))
    console.print(f"records, validation.csv and validation.png in {folder}", highlight=False)
    return int(any(record.status == "failed" for record in records))


@contextmanager
def _progress(num_cells: int) -> Iterator[Progress]:
    """A bar on the error stream while cells run."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with ProgressBar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=num_cells)
        yield Progress(
            begin=lambda cell: bar.update(task, description=f"{cell.method} {cell.model} {cell.res} px"),
            end=lambda _: bar.advance(task),
        )
