"""A sweep on several GPUs or machines through submitit: jobs share the cells of one folder among themselves."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from bench.cells.config import CellConfig
from bench.measure.measure import Budget
from bench.records.record import Record
from bench.records.results_store import ResultsStore
from fptplus import InvalidInput

from .harness import cell_runner
from .sweep import SILENT, Progress, Rules, is_settled, run_sweep

_POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """Where jobs run, and how many."""

    kind: Literal["local", "slurm"]
    count: int
    minutes: int
    """Time limit of a job in minutes; a further call resumes the sweep."""

    partition: str | None = None


@dataclass(frozen=True, kw_only=True)
class Share:
    """What each job is given: all the cells, of which it runs those that no other job is running."""

    cells: list[CellConfig]
    folder: str
    rules: Rules
    budget: Budget
    num_images: int
    visible_gpu: str | None = None
    """CUDA_VISIBLE_DEVICES of the job; None leaves the job's own setting."""

    def __call__(self) -> int:
        """Run the share, and return the number of records at its end."""
        if self.visible_gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.visible_gpu
        store = ResultsStore(self.folder)
        run = cell_runner(self.budget, self.num_images, store=store)
        return len(run_sweep(self.cells, store, SILENT, run, self.rules))


def run_on_executor(
    cells: list[CellConfig],
    store: ResultsStore,
    progress: Progress,
    rules: Rules,
    budget: Budget,
    num_images: int,
    jobs: Jobs,
) -> list[Record]:
    """Run a sweep in jobs, and wait for them; for the arguments, see run_sweep.

    Args:
        cells, store, progress, rules: see run_sweep; the jobs must see the store's folder under the same path.
        budget: time limits of each cell.
        num_images: number of images for the derived training time.
        jobs: where jobs run, and how many.

    Returns:
        The records in the order of the cells.

    Raises:
        InvalidInput: if submitit or Slurm is missing, or a job has failed.
    """
    folder = store.folder.resolve()
    submitted = []
    try:
        for number in range(jobs.count):
            share = Share(
                cells=cells,
                folder=str(folder),
                rules=rules,
                budget=budget,
                num_images=num_images,
                visible_gpu=_visible_gpu(number) if jobs.kind == "local" else None,
            )
            submitted.append(_submit(share, folder / "jobs", jobs))
        _wait(submitted, cells, store, progress, rules)
    except BaseException:
        for job in submitted:
            job.cancel(check=False)
        for job in submitted:
            job.wait()
        raise
    finally:
        store.write_csv()
    for job in submitted:
        if (error := job.exception()) is not None:
            raise InvalidInput(f"jobs must end well, {job.job_id} said {_last_line(error)!r}; see {job.paths.stderr}.")
    return [record for cell in cells if (record := store.find(cell.cell_id)) is not None]


def _wait(submitted: list, cells: list[CellConfig], store: ResultsStore, progress: Progress, rules: Rules) -> None:
    """Wait until all jobs have ended, reporting each cell as its record arrives."""
    still_open = {cell.cell_id: cell for cell in cells}
    while True:
        have_ended = all(job.done() for job in submitted)
        for cell_id, cell in list(still_open.items()):
            record = store.find(cell_id)
            if is_settled(record, rules.redo):
                progress.begin(still_open.pop(cell_id))
                progress.phase(f"done, {cell.device}")
                progress.end(record)
        if have_ended:
            return
        time.sleep(_POLL_S)


def _visible_gpu(number: int) -> str:
    """Return the GPU of the n-th job on this machine, for CUDA_VISIBLE_DEVICES; surplus jobs share the last."""
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    entries = (
        [entry.strip() for entry in mask.split(",")] if mask else [str(i) for i in range(torch.cuda.device_count())]
    )
    return entries[number % len(entries)] if entries else ""


def _submit(share: Share, folder: Path, jobs: Jobs):
    """Submit the job of a share.

    Raises:
        InvalidInput: if the job is not accepted.
    """
    executor = _executor(folder, jobs, share.cells[0].device)
    try:
        return executor.submit(share)
    except RuntimeError as error:  # submitit's FailedJobError is a RuntimeError
        raise InvalidInput(f"jobs must be accepted by {jobs.kind}, it says {_last_line(error)!r}.") from error


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def _executor(folder: Path, jobs: Jobs, device: str):
    """Return a submitit executor for one job.

    Raises:
        InvalidInput: if submitit is not installed, or there is no Slurm here.
    """
    try:
        import submitit
    except ImportError as error:
        raise InvalidInput(
            f"executor {jobs.kind} needs submitit, which is not installed; pip install 'fptplus-bench[slurm]'."
        ) from error
    if jobs.kind == "local":
        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=jobs.minutes)
        return executor
    if submitit.SlurmExecutor.affinity() <= 0:
        raise InvalidInput("executor slurm must be called where Slurm's commands are, found no srun; use a login node.")
    executor = submitit.SlurmExecutor(folder)
    options = {"time": jobs.minutes, "job_name": "fptplus-bench"}
    if jobs.partition is not None:
        options["partition"] = jobs.partition
    if device == "cuda":
        options["gpus_per_node"] = 1
    executor.update_parameters(**options)
    return executor
