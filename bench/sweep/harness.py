"""Run one cell: predict it, measure it in a process of its own if asked, and make its record."""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from traceback import format_exception

import psutil
import torch

from bench.cells.config import CellConfig
from bench.measure.device_lock import device_lock
from bench.measure.environment import provenance
from bench.measure.failure_log import KeepLog, forget, with_log
from bench.measure.isolation import run_isolated
from bench.measure.measure import CPU_STEPS_WANTED, Budget
from bench.predict.prediction import Prediction
from bench.predict.predictor import Engine, predict
from bench.records.measured_columns import Reading, recordable
from bench.records.record import Record, new_record
from bench.records.results_store import ResultsStore
from bench.timing.estimate import StepEstimate
from fptplus import InvalidInput
from fptplus.held_lock import HeldByAnother

from .duration import derived_training_time_s


def run_cell(
    cell: CellConfig,
    budget: Budget,
    *,
    on_phase: Callable[[str], None] = lambda phase: None,
    prediction: Prediction | Exception | None = None,
    end_by: float | None = None,
    engine: Engine = "auto",
    store: ResultsStore | None = None,
) -> Record | None:
    """Predict and, if the cell names a device, measure; whatever goes wrong with one cell is in its record.

    Args:
        cell: the cell to run.
        budget: time limits.
        on_phase: is told what is being done.
        prediction: the cell's prediction, or what refuses it, if already known.
        end_by: moment of time.monotonic() at which a measurement is cut off; None for never.
        engine: engine that predicts.
        store: keeps the log of a cell that fails, but not its record; None keeps no log.

    Returns:
        The record; None if its measurement was cut off.

    Raises:
        HeldByAnother: if another process has the device for longer than `DEVICE_LIMIT_S`.
    """
    began, keep_log = time.monotonic(), forget if store is None else partial(store.keep_log, cell.cell_id)
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    record = replace(new_record(cell), started_at=started_at, **provenance())
    try:
        on_phase("predicting")
        if isinstance(prediction, Exception):
            raise prediction
        prediction = prediction or predict(cell, engine)
        record = replace(record, **columns_of(prediction))
        if cell.device == "nothing":
            return replace(record, status_detail=_why_unmeasured(prediction))
        if (reading := _measure(cell, prediction, budget, on_phase, end_by, keep_log)) is None:
            return None
        record = replace(record, **recordable(reading))
        return record if record.is_emulated else replace(record, wall_s=time.monotonic() - began)
    except HeldByAnother:  # nothing is known of the cell
        raise
    except InvalidInput as error:
        return replace(record, status="unsupported", status_detail=str(error))
    except Exception as error:  # one broken cell must not end a sweep; the record says what broke
        warnings.warn(f"{cell.method} at {cell.model} {cell.res}: {error!r}", stacklevel=2)
        return replace(record, **_failed(error, keep_log))


def _why_unmeasured(prediction: Prediction) -> str:
    said = prediction.remark or prediction.out_of_memory
    return said or f"{prediction.by}, nothing measured: no device was asked"


def _failed(error: Exception, keep_log: KeepLog) -> Reading:
    failed: Reading = {"status": "failed", "status_detail": f"{type(error).__name__}: {error}"}
    return with_log(failed, "".join(format_exception(error)), keep_log)


def cell_runner(
    budget: Budget,
    num_images: int,
    on_phase: Callable[[str], None] = lambda phase: None,
    predictions: Mapping[str, Prediction | Exception] | None = None,
    end_by: float | None = None,
    engine: Engine = "auto",
    store: ResultsStore | None = None,
) -> Callable[[CellConfig], Record | None]:
    """Return the function that a sweep calls for each cell: run_cell(), plus the training time derived from its steps.

    Args:
        budget, on_phase, end_by, engine, store: see run_cell.
        num_images: number of images of the derived training.
        predictions: known predictions, or what refuses a cell, by cell_id.
    """

    def run(cell: CellConfig) -> Record | None:
        prediction = (predictions or {}).get(cell.cell_id)
        shared = {"on_phase": on_phase, "end_by": end_by, "engine": engine, "store": store}
        record = run_cell(cell, budget, prediction=prediction, **shared)
        if record is None or (derived_s := derived_training_time_s(record, num_images)) is None:
            return record
        return replace(record, derived_training_time_s=derived_s, derived_num_images=num_images)

    return run


def _measure(
    cell: CellConfig,
    prediction: Prediction,
    budget: Budget,
    on_phase: Callable[[str], None],
    end_by: float | None,
    keep_log: KeepLog,
) -> Reading | None:
    """Return the columns of a measurement, without a device if the cell was not run; None if it was cut off."""
    if cell.device == "cpu" and (reason := _why_not_on_cpu(prediction, budget.cpu_s)):
        return {"status_detail": reason}
    on_phase("waiting for the device")
    with device_lock(cell.device):
        cut_s = None if end_by is None else end_by - time.monotonic()
        return None if cut_s is not None and cut_s <= 0 else run_isolated(cell, budget, on_phase, cut_s, keep_log)


def _why_not_on_cpu(prediction: Prediction, budget_s: float) -> str | None:
    """Return the reason why timing this cell would take too long or too much memory, or None."""
    needed, free = prediction.peak.allocated_bytes, psutil.virtual_memory().available
    if needed > 0.8 * free:
        return f"not timed: needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB of memory are free"
    expected_s = CPU_STEPS_WANTED * 2 * prediction.train_step_macs / cpu_flops_per_s()
    if expected_s > budget_s:
        steps = f"{CPU_STEPS_WANTED} steps would take about {expected_s:.0f} s"
        return f"not timed: {steps}, the CPU budget is {budget_s:g} s"
    return None


def cpu_flops_per_s() -> float:
    """Return the speed of a matrix product here in flops per second; a training step never exceeds it."""
    size = 1024
    matrix = torch.randn(size, size)
    matrix @ matrix  # the first one starts the threads
    start = time.perf_counter()
    for _ in range(3):
        matrix @ matrix
    return 3 * 2 * size**3 / (time.perf_counter() - start)


def columns_of(prediction: Prediction) -> dict[str, int | float | str | None]:
    """Return a prediction as columns of a record."""
    shared = (
        "learnable_params",
        "total_params",
        "params_pct",
        "forward_macs",
        "train_step_macs",
        "backbone_forward_macs",
        "fvcore_forward_macs",
    )
    split = {f"predicted_{kind}_bytes": size for kind, size in prediction.peak.by_kind.items()}
    return {
        **{name: getattr(prediction, name) for name in shared},
        "predicted_peak_allocated_bytes": prediction.peak.allocated_bytes,
        "predicted_peak_reserved_bytes": prediction.peak.reserved_bytes,
        "predicted_process_bytes": prediction.process_bytes,
        "predicted_by": prediction.by,
        "predicted_fits": {"yes": True, "no": False, "maybe": None}[prediction.fits],
        "kernel_launches": prediction.kernel_launches,
        **split,
        **({} if prediction.estimate is None else _estimated(prediction.estimate)),
    }


def _estimated(estimate: StepEstimate) -> dict[str, int | float | str]:
    """Return what is predicted of a step's time and energy, and the counts below it, as columns of a record."""
    return {
        "host_time_s": estimate.host_time_s,
        "bytes_moved": estimate.bytes_moved,
        "arithmetic_intensity": estimate.arithmetic_intensity,
        "predicted_step_time_s": estimate.step_time_s,
        "predicted_throughput_img_s": estimate.img_per_s,
        "predicted_energy_j_per_img": estimate.energy_j_per_img,
        "predicted_mean_power_w": estimate.mean_power_w,
        "predicted_peak_power_w": estimate.peak_power_w,
        "predicted_bound_by": estimate.bound_by,
    }
