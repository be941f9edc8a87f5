"""What the records say: measured on the card in question, else predicted for it, always with its source.

A record never answers for a cell that differs in card, seed, classes or any other identifying field.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from bench.cards.gpus import GPUS, PAPER_GPU, card_name, short_title
from bench.cells.config import CellConfig
from bench.cells.identity import identity_of
from bench.paper.stack.stack_rows import FILE as PAPER_STACK
from bench.paper.stack.stack_rows import read_stack
from bench.records.record import Record
from bench.records.results_store import ResultsStore
from bench.units import MIB
from fptplus import InvalidInput
from fptplus.paper_training import EPOCHS, TABLE2_EPOCH_IMAGES

from .settings import paper_cell
from .table2_time import FILE as TABLE2_TIME
from .table2_time import PRELOADING, read_table2

Source = Literal["predicted", "emulated", "measured", "counted", "printed", "trained", "computed"]
"""Source of a number: predicted, emulated, measured or counted by us; printed in the paper; trained by us; computed
from the columns next to it."""

PAPER_FOLDER = "paper"
"""Folder for predictions of the paper's cells, under the results folder; every other folder of records there belongs to
a machine."""

PUBLISHED_FOLDER = "published"
"""Folder for what was held to published measurements, under the results folder."""

TRAINING_GLOB = "*/training/*.csv"
"""Pattern of training records under the results folder: columns method, dataset, auc (percent); optionally weights,
model, res."""

PAPER_CARD = short_title(GPUS[PAPER_GPU].title)


@dataclass(frozen=True, kw_only=True)
class Number:
    """A value with its source."""

    value: float | None
    """The value; None means out of memory."""

    source: Source
    record: str = ""
    """The cell_id of its record, or the file that holds it."""

    card: str | None = None
    """Card that it holds for; None if it holds for any, as a count does."""


class Evidence:
    """All records, by the cell that they answer for.

    Args:
        results: folder with `paper/` and one folder per machine.

    Raises:
        InvalidInput: if a record or a training table is damaged.
    """

    def __init__(self, results: str | Path) -> None:
        self.results = Path(results)
        self._records: dict[tuple, list[Record]] = defaultdict(list)
        """Records by what identifies a cell and its card, the best first."""
        folders = sorted(folder.parent for folder in self.results.glob("*/records"))
        for folder in sorted(folders, key=lambda folder: folder.name != PAPER_FOLDER):
            for record in ResultsStore(folder, read_only=True).records():
                if record.status == "ok" or record.is_measured:
                    self._records[_question(record)].append(record)
        for found in self._records.values():
            found.sort(key=_rank)
        self.training = _read_training(self.results)
        self._stack = read_stack(self.results / PAPER_FOLDER / PAPER_STACK)
        self._table2 = read_table2(self.results / PUBLISHED_FOLDER / TABLE2_TIME)

    def records(self) -> list[Record]:
        """Return one record for each cell and card, the best there is."""
        found = [record for records in self._records.values() for record in _one_a_card(records)]
        return sorted(found, key=lambda record: (*map(str, _question(record)), record.device or ""))

    def record(self, cell: CellConfig) -> Record:
        """Return the best record of a cell on its card.

        Raises:
            InvalidInput: if there is no record.
        """
        if not (found := self._records.get(_question(cell))):
            raise InvalidInput(
                f"results must hold a record of {cell.method}, {cell.model}, {cell.res} px on {cell.gpu}, found none "
                f"in {str(self.results)!r}; run `python -m bench reproduce`."
            )
        return found[0]

    def params_pct(self, cell: CellConfig) -> Number:
        """Return the learnable parameters in percent of all parameters."""
        record = self.record(cell)
        return Number(value=record.params_pct, source="counted", record=record.cell_id)

    def memory_mib(self, cell: CellConfig) -> Number:
        """Return the memory of the process in MiB; None if the cell's card, from the catalogue, cannot hold it."""
        record, needed = self.record(cell), self.needed_mib(cell)
        if record.status == "oom":
            return replace(needed, value=None, source="measured", card=measured_card(record))
        if needed.source == "measured" or needed.value * MIB <= GPUS[cell.gpu].memory_bytes:
            return needed
        return replace(needed, value=None)

    def paper_memory_mib(self, cell: CellConfig) -> Number:
        """Return the memory of the process in MiB as the paper's authors could read it: FPT and FPT+ on PyTorch 2.0.0.

        It is emulated; the CUDA context is the one constant that the print contains in addition (bench/paper/stack/). A
        measurement on the paper's card takes precedence. For other cells it is `memory_mib`.
        """
        ordinary = self.memory_mib(cell)
        found = [
            row for row in self._stack.rows if (row.method, row.model, row.res) == (cell.method, cell.model, cell.res)
        ]
        if ordinary.source == "measured" or not found or cell != paper_cell(cell.method, cell.model, cell.res):
            return ordinary
        return Number(value=self._stack.process_mib(found[0]), source="emulated", record=PAPER_STACK, card=PAPER_CARD)

    def needed_mib(self, cell: CellConfig) -> Number:
        """Return the memory of the process in MiB, even if it exceeds the cell's card."""
        record = self.record(cell)
        if (measured_bytes := record.measured_process_bytes) is not None:
            source, card = "measured", measured_card(record)
        else:
            source, card = predicted_source(record.predicted_by), predicted_card(record.gpu)
        size = record.predicted_process_bytes if measured_bytes is None else measured_bytes
        return Number(value=size and size / MIB, source=source, record=record.cell_id, card=card)

    def measured(self, cell: CellConfig, field: str) -> Number | None:
        """Return a measured column of a cell that ran on a GPU, or None."""
        record = self.record(cell)
        value = getattr(record, field)
        if value is None or not _is_measured_on_gpu(record):
            return None
        return Number(value=value, source="measured", record=record.cell_id, card=measured_card(record))

    def table2(self, method: str, column: str) -> Number | None:
        """Return time, throughput or power as Table II has them: measured if they were, otherwise predicted.

        Args:
            method: a method, or `preloading`.
            column: a numeric field of TimedRow.
        """
        if method != PRELOADING and (measured := self._measured_for_table2(paper_cell(method), column)) is not None:
            return measured
        if (row := self._table2.get(method)) is None:
            return None
        return Number(value=getattr(row, column), source="predicted", record=TABLE2_TIME, card=PAPER_CARD)

    def _measured_for_table2(self, cell: CellConfig, column: str) -> Number | None:
        if column != "train_time_s":
            return self.measured(cell, column)
        throughput = self.measured(cell, "throughput_img_s")
        return throughput and replace(throughput, value=EPOCHS * TABLE2_EPOCH_IMAGES / throughput.value)

    def measured_or_predicted(self, cell: CellConfig, field: str) -> Number | None:
        """Return a column for time or power, measured on a GPU if there is one, otherwise predicted; None without both.

        Args:
            cell: the cell asked about.
            field: name of the measured column; the predicted one has `predicted_` before it.
        """
        if (measured := self.measured(cell, field)) is not None:
            return measured
        record = self.record(cell)
        if (value := getattr(record, f"predicted_{field}")) is None:
            return None
        return Number(value=value, source="predicted", record=record.cell_id, card=predicted_card(record.gpu))

    def auc(
        self, method: str, dataset: str, weights: str = "supervised", model: str = "vit_b", res: int = 512
    ) -> Number | None:
        """Return the mean AUC in percent over the training records of a method on a dataset, or None."""
        rows = self.training.query(
            "method == @method and dataset == @dataset and weights == @weights and model == @model and res == @res"
        )
        if rows.empty:
            return None
        return Number(value=float(rows.auc.mean()), source="trained", record=str(rows.file.iloc[0]))


def predicted_source(predicted_by: str | None) -> Source:
    """Return the source of memory that an engine predicted: a trace is a prediction, an emulation more than that."""
    return "emulated" if predicted_by == "emulated" else "predicted"


def predicted_card(gpu: str) -> str:
    """Return the title of a card by its name."""
    return short_title(GPUS[gpu].title) if gpu in GPUS else gpu


def measured_card(record: Record) -> str:
    """Return the title of the card that a record was measured on."""
    return short_title(record.device)


def _question(one: CellConfig | Record) -> tuple:
    """Return what a cell asks and a record answers: all identifying fields except whether it is measured."""
    return identity_of(one, without=("device",))


def _rank(record: Record) -> int:
    """Rank records that could answer for a cell; the first with the lowest rank does."""
    if not _is_measured_on_gpu(record):
        return 1
    return 0 if card_name(record.device) == record.gpu else 2  # measured elsewhere than it was predicted for


def _one_a_card(records: list[Record]) -> list[Record]:
    """Return the best record, and one for each further card that the cell was measured on."""
    best = records[0]
    elsewhere = {record.device: record for record in records if _rank(record) == 2 and record.device != best.device}
    return [best, *elsewhere.values()]


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
