"""What the records say: a measured record where there is one, else a predicted one, and always which of the two."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from bench.cards.gpus import GPUS, PAPER_GPU
from bench.cells.config import CellConfig
from bench.cells.step_options import AXES
from bench.paper.stack.stack_rows import FILE as PAPER_STACK
from bench.paper.stack.stack_rows import read_stack
from bench.records.record import Record
from bench.records.results_store import ResultsStore
from bench.units import MIB
from fptplus import InvalidInput

from .settings import paper_cell

Source = Literal["predicted", "emulated", "measured", "counted", "printed", "trained", "computed"]
"""Predicted, emulated, measured or counted by us; printed in the paper; trained by us; computed from the columns beside
it."""

PAPER_FOLDER = "paper"
"""Predictions of the paper's cells, under the results folder; every other folder of records there is a machine's."""

TRAINING_GLOB = "*/training/*.csv"
"""Training records under the results folder: columns method, dataset, auc (percent); optionally weights, model, res."""

_KEY = ("method", "model", "res", "batch_size", *AXES)


@dataclass(frozen=True, kw_only=True)
class Number:
    """A value with where it comes from."""

    value: float | None
    """None: out of memory."""

    source: Source
    record: str = ""
    """The cell_id of its record, or the file it stands in."""


class Evidence:
    """All records, by what they are of.

    Args:
        results: folder with `paper/` and one folder a machine.

    Raises:
        InvalidInput: if a record or a training table is damaged.
    """

    def __init__(self, results: str | Path) -> None:
        self.results = Path(results)
        self._records: dict[tuple, Record] = {}
        for folder in sorted(self.results.glob("*/records")):
            for record in ResultsStore(folder.parent).records():
                if record.status != "ok" and not record.is_measured:
                    continue
                key = tuple(getattr(record, name) for name in _KEY)
                if key not in self._records or _is_measured_on_gpu(record):
                    self._records[key] = record
        self.training = _read_training(self.results)
        self._stack = read_stack(self.results / PAPER_FOLDER / PAPER_STACK)

    def records(self) -> list[Record]:
        """One for each cell, the best that there is."""
        return sorted(self._records.values(), key=lambda r: tuple(str(getattr(r, name)) for name in _KEY))

    def record(self, cell: CellConfig) -> Record:
        """The record of a cell.

        Raises:
            InvalidInput: if there is none.
        """
        key = tuple(getattr(cell, name) for name in _KEY)
        if key not in self._records:
            raise InvalidInput(
                f"results must hold a record of {cell.method}, {cell.model}, {cell.res} px, found none in "
                f"{str(self.results)!r}; run `python -m bench reproduce`."
            )
        return self._records[key]

    def params_pct(self, cell: CellConfig) -> Number:
        """Learnable parameters in percent of all."""
        record = self.record(cell)
        return Number(value=record.params_pct, source="counted", record=record.cell_id)

    def memory_mib(self, cell: CellConfig) -> Number:
        """Memory of the process in MiB; None where the paper's card cannot hold it."""
        record = self.record(cell)
        if record.status == "oom":
            return Number(value=None, source="measured", record=record.cell_id)
        if record.measured_process_bytes is not None:
            return Number(value=record.measured_process_bytes / MIB, source="measured", record=record.cell_id)
        needed_bytes = record.predicted_process_bytes
        too_much = needed_bytes > GPUS[PAPER_GPU].memory_bytes
        return Number(value=None if too_much else needed_bytes / MIB, source=_source(record), record=record.cell_id)

    def paper_memory_mib(self, cell: CellConfig) -> Number:
        """Memory of the process in MiB as the paper could read it: FPT and FPT+ on the paper's PyTorch 2.0.0.

        Emulated; the CUDA context is the one constant that the print has besides (bench/paper/stack/). Measured on the
        paper's card where it was; as `memory_mib` for other cells.
        """
        ordinary = self.memory_mib(cell)
        found = [
            row for row in self._stack.rows if (row.method, row.model, row.res) == (cell.method, cell.model, cell.res)
        ]
        if ordinary.source == "measured" or not found or cell != paper_cell(cell.method, cell.model, cell.res):
            return ordinary
        return Number(value=self._stack.process_mib(found[0]), source="emulated", record=PAPER_STACK)

    def needed_mib(self, cell: CellConfig) -> Number:
        """Memory of the process in MiB, more than the paper's card has included."""
        record = self.record(cell)
        if record.measured_process_bytes is not None:
            return Number(value=record.measured_process_bytes / MIB, source="measured", record=record.cell_id)
        return Number(value=record.predicted_process_bytes / MIB, source=_source(record), record=record.cell_id)

    def measured(self, cell: CellConfig, field: str) -> Number | None:
        """A measured column of a cell that ran on a GPU, or None."""
        record = self.record(cell)
        value = getattr(record, field)
        if value is None or not _is_measured_on_gpu(record):
            return None
        return Number(value=value, source="measured", record=record.cell_id)

    def auc(
        self, method: str, dataset: str, weights: str = "supervised", model: str = "vit_b", res: int = 512
    ) -> Number | None:
        """Mean AUC in percent over the training records of a method on a dataset, or None."""
        rows = self.training.query(
            "method == @method and dataset == @dataset and weights == @weights and model == @model and res == @res"
        )
        if rows.empty:
            return None
        return Number(value=float(rows.auc.mean()), source="trained", record=str(rows.file.iloc[0]))


def _source(record: Record) -> Source:
    """Of a record's predicted memory: a trace is a prediction."""
    return "emulated" if record.predicted_by == "emulated" else "predicted"


def _is_measured_on_gpu(record: Record) -> bool:
    return record.measured_peak_allocated_bytes is not None or (record.status == "oom" and record.is_measured)


def _read_training(results: Path) -> pd.DataFrame:
    defaults = {"weights": "supervised", "model": "vit_b", "res": 512}
    tables = [pd.DataFrame(columns=["method", "dataset", "auc", *defaults, "file"])]
    for path in sorted({*results.glob(TRAINING_GLOB), *results.glob("training/*.csv")}):
        table = pd.read_csv(path)
        if missing := {"method", "dataset", "auc"} - set(table):
            raise InvalidInput(
                f"training table {str(path)!r} must have the columns method, dataset and auc, "
                f"it lacks {', '.join(sorted(missing))}; move it away or add them."
            )
        for name, value in defaults.items():
            if name not in table:
                table[name] = value
        tables.append(table.assign(file=path.relative_to(results).as_posix()))
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else tables[0]
