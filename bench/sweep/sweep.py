"""Run the cells of a sweep, each record on disk before the next cell begins.

Nothing measured is lost: a sweep that was ended by Ctrl-C, by a time limit or by kill -9 resumes where it was.
Concurrent sweeps share the cells of one folder among themselves.
"""

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import torch

from bench.cards.probe import present_properties
from bench.cells import alloc_conf
from bench.cells.config import CellConfig, Selection
from bench.cells.identity import SIZE, identity_of
from bench.emulate.device_state import is_emulated
from bench.records.measured_columns import EMULATED
from bench.records.record import Record, new_record
from bench.records.results_store import ResultsStore
from methods import create_backbone

CLOCKS_APART = timedelta(days=1)
"""How far the clocks of machines that share a folder may differ; a record dated later is not believed."""

RunCell = Callable[[CellConfig], Record | None]
"""Makes the record of a cell; None if it was cut off by a time limit."""


@dataclass(frozen=True)
class Progress:
    """What a sweep reports as it runs."""

    begin: Callable[[CellConfig], None]
    end: Callable[[Record], None]
    phase: Callable[[str], None] = lambda phase: None
    """Is told each phase of the cell that runs."""


SILENT = Progress(begin=lambda cell: None, end=lambda record: None)


@dataclass(frozen=True, kw_only=True)
class Redo:
    """Which measured cells to measure again, each once."""

    what: str = "nothing"
    """Cells to measure again: nothing, failed, oom or all."""

    before: datetime | None = None
    """Only records from before this moment are redone. It is the start of the sweep, so that concurrent sweeps redo no
    cell twice."""

    def wants(self, record: Record) -> bool:
        """Whether the record's cell is to be measured again."""
        if self.what not in ("all", record.status):
            return False
        if self.before is None:
            return True
        if (started := _started(record)) > datetime.now(UTC) + CLOCKS_APART:
            warnings.warn(f"record {record.cell_id} is dated {record.started_at}, in the future", stacklevel=2)
            return True
        return started < self.before


def _started(record: Record) -> datetime:
    """When a record's cell began; before everything else where the record does not say."""
    try:
        found = datetime.fromisoformat(record.started_at)
    except (TypeError, ValueError):
        return datetime.min.replace(tzinfo=UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a sweep treats its cells."""

    redo: Redo = Redo()
    skip_larger_after_oom: bool = False
    end_by: float | None = None
    """Moment of time.monotonic() after which no cell begins."""


def run_sweep(
    cells: list[CellConfig], store: ResultsStore, progress: Progress, run: RunCell, rules: Rules = Rules()
) -> list[Record]:
    """Run every cell, or take its record if it was measured into this folder before.

    Args:
        cells: cells to run, in this order; with skip_larger_after_oom, smaller ones first.
        store: where records are kept.
        progress: is told of each cell.
        run: makes the record of a cell.
        rules: how to treat the cells.

    Returns:
        The records in the order of the cells, without those that a time limit left out.
    """
    found: dict[str, Record] = {}
    order = sorted(cells, key=lambda c: (c.res, c.batch_size)) if rules.skip_larger_after_oom else cells
    try:
        waiting = [cell for cell in order if not _settle(cell, store, progress, run, rules, found, wait=False)]
        for cell in waiting:  # another sweep was running them
            _settle(cell, store, progress, run, rules, found, wait=True)
    finally:
        store.write_csv()
    return [found[cell.cell_id] for cell in cells if cell.cell_id in found]


def is_settled(record: Record | None, redo: Redo) -> bool:
    """Whether a cell does not need to be run."""
    return record is not None and _is_answered(record) and not redo.wants(record)


def _is_answered(record: Record) -> bool:
    """Whether this machine's kind of device has answered: an emulated one never stands in for a GPU."""
    return record.is_measured or (record.is_emulated and is_emulated())


def _settle(
    cell: CellConfig,
    store: ResultsStore,
    progress: Progress,
    run: RunCell,
    rules: Rules,
    found: dict[str, Record],
    *,
    wait: bool,
) -> bool:
    """Find or make the record of one cell; False if another sweep has it in hand."""
    if wait:
        progress.phase(f"waiting for another process that runs {cell.method} {cell.model} {cell.res} px")
    with store.claim(cell.cell_id, wait=wait) as is_ours:
        if not is_ours:
            return False
        progress.begin(cell)
        record = store.find(cell.cell_id)
        if not is_settled(record, rules.redo):
            had_one = record is not None and record.is_measured
            record = _skipped(cell, store, rules) or _in_time(cell, run, rules)
            if record is not None:
                store.write(record, supersede=had_one)
        if record is not None:
            found[cell.cell_id] = record
            progress.end(record)
        return True


def _in_time(cell: CellConfig, run: RunCell, rules: Rules) -> Record | None:
    if rules.end_by is not None and time.monotonic() >= rules.end_by:
        return None
    return run(cell)


def _skipped(cell: CellConfig, store: ResultsStore, rules: Rules) -> Record | None:
    """Return the record of a cell that must run out of memory since a smaller one did; None if it has to be run."""
    if not rules.skip_larger_after_oom or cell.device != "cuda":
        return None
    for other in store.records():
        if other.status == "oom" and _is_answered(other) and _is_of_this_device(other) and _is_smaller(other, cell):
            why = (
                f"not run (--skip-larger-after-oom): {other.res} px at batch {other.batch_size} ran out of memory, "
                "and this is larger"
            )
            return replace(new_record(cell), status="oom", status_detail=why)
    return None


def _is_of_this_device(record: Record) -> bool:
    """Whether it was made on a device like this machine's, since several machines may share a folder."""
    here = present_properties()
    return here is None or record.device.removesuffix(EMULATED) == here.name


def _is_smaller(record: Record, cell: CellConfig) -> bool:
    """Whether a record is of the same cell except for fewer pixels or images."""
    asked = replace(cell, alloc_conf=alloc_conf.in_force(cell.alloc_conf))
    if identity_of(record, without=(*SIZE, "device")) != identity_of(asked, without=(*SIZE, "device")):
        return False
    sizes = [(getattr(record, name), getattr(cell, name)) for name in SIZE]
    return all(of_record <= of_cell for of_record, of_cell in sizes) and any(a < b for a, b in sizes)


def checked_cells(config: Selection, **options) -> list[CellConfig]:
    """Return the cells asked about, building each model once on meta tensors; warn of allocator settings found.

    Args:
        config: configuration of the command.
        options: arguments of its cells().

    Raises:
        InvalidInput: if a value is out of range, or a model, its resolution or its checkpoint is invalid.
    """
    cells = config.cells(**options)
    if (remark := alloc_conf.remark(config.alloc_conf)) is not None:
        print(remark, file=sys.stderr)
    for model, res, weights in dict.fromkeys((cell.model, cell.res, cell.weights) for cell in cells):
        with torch.device("meta"):
            create_backbone(model, res, config.num_classes, weights=weights)
    return cells
