"""`python -m bench run`: predict, and measure if there is a GPU."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from bench.cells.grid import SweepConfig
from bench.measure.measure import Budget
from bench.records.record import Record
from bench.records.results_store import ResultsStore
from bench.report.table_formats import FormatOption, printing
from bench.report.terminal import print_records
from bench.sweep.executor import Jobs, run_on_executor
from bench.sweep.harness import cell_runner
from bench.sweep.planning import Plan, make_plan
from bench.sweep.sweep import Redo, Rules, checked_cells, run_sweep
from fptplus import InvalidInput

from .plan import budget_of, plan_summary
from .progress import duration_in_words, say_engine, sweep_progress, tracked


@dataclass(frozen=True, kw_only=True)
class RunConfig(FormatOption, SweepConfig):
    __doc__ = SweepConfig.__doc__

    executor: Literal["none", "local", "slurm"] = "none"
    """Who runs the cells. none: this process, one after another. local: several processes on this machine, one per
    GPU. slurm: jobs on a cluster. The last two need submitit, and share one results folder."""

    jobs: int = 1
    """Number of processes or Slurm jobs that share the cells."""

    partition: str | None = None
    """Slurm partition. Default: the cluster's."""

    job_minutes: int = 60
    """Time limit of each process or Slurm job, in minutes."""

    def check(self) -> None:
        """Refuse numbers that are out of range.

        Raises:
            InvalidInput: if a number is.
        """
        super().check()
        for name in ("jobs", "job_minutes"):
            if (value := getattr(self, name)) < 1:
                raise InvalidInput(f"{name.replace('_', '-')} must be at least 1, got {value}.")


def main(config: RunConfig) -> int:
    """Predict, and measure if there is a GPU. Return 1 if a cell failed."""
    elsewhere = config.executor != "none" and config.device != "auto"
    cells = checked_cells(config, **({"device": config.device} if elsewhere else {}))
    say_engine(config.engine)
    store, gpu, budget = ResultsStore(config.out), config.gpu_to_predict, budget_of(config)
    rules = Rules(
        redo=Redo(what=config.redo, before=datetime.now(UTC)), skip_larger_after_oom=config.skip_larger_after_oom
    )
    plan = make_plan(cells, store, rules.redo, budget, config.engine, partial(tracked, what="predicting"))
    with printing(config.format) as printer:
        if cells[0].device != "nothing":
            printer.note(plan_summary(plan, gpu, duration_in_words(plan.left_s)))
        records = _run(config, plan, store, rules, budget)
        print_records(records, printer, gpu)
        printer.note(f"{len(records)} records in {config.out}/records, table in {config.out}/results.csv")
    return int(any(record.status == "failed" for record in records))


def _run(config: RunConfig, plan: Plan, store: ResultsStore, rules: Rules, budget: Budget) -> list[Record]:
    """Run the cells of a plan, in this process or by an executor."""
    cells = [planned.cell for planned in plan.cells]
    with sweep_progress(cells, plan.eta) as progress:
        if config.executor == "none":
            runner = cell_runner(
                budget, config.num_images, progress.phase, plan.predictions, engine=config.engine, store=store
            )
            return run_sweep(cells, store, progress, runner, rules)
        jobs = Jobs(kind=config.executor, count=config.jobs, minutes=config.job_minutes, partition=config.partition)
        return run_on_executor(cells, store, progress, rules, budget, config.num_images, jobs)
