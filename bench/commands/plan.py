"""`python -m bench plan`: what a sweep would do, and how long it would take; nothing is run or written."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.grid import SweepConfig
from bench.measure import Budget
from bench.plan import make_plan
from bench.report.plan import plan_summary, plan_table
from bench.report.terminal import make_console
from bench.results_store import ResultsStore
from bench.sweep import Redo, checked_cells

from .progress import in_words, say_engine, tracking


@dataclass(frozen=True, kw_only=True)
class PlanConfig(SweepConfig):
    """List the cells that `run` would run with the same options: predicted memory, what does not fit, time.

    Nothing is run or written. --device cuda plans for a machine that has one.
    """


def main(config: PlanConfig) -> int:
    """The table of a plan, and its sum."""
    cells = checked_cells(config, device=None if config.device == "auto" else config.device)
    store = ResultsStore(config.out) if (Path(config.out) / "records").is_dir() else None
    redo = Redo(what=config.redo, before=datetime.now(UTC))
    say_engine(config.engine)
    with tracking("predicting") as track:
        made = make_plan(cells, store, redo, budget_of(config), config.engine, track)
    console, gpu = make_console(), config.gpu_to_predict
    console.print(plan_table(made, gpu))
    console.print(plan_summary(made, gpu, in_words(made.left_s)), highlight=False)
    return 0


def budget_of(config: SweepConfig) -> Budget:
    """The time that each cell may take."""
    return Budget(cpu_s=config.cpu_budget_s, timeout_s=config.timeout_s)
