"""What a sweep will do: which cells it will run, which of them should run out of memory, how long it takes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench.cards.verdict import Word
from bench.cells.config import CellConfig
from bench.measure.measure import Budget
from bench.predict.prediction import Prediction
from bench.predict.predictor import Engine, predict_all
from bench.records.results_store import ResultsStore
from fptplus import InvalidInput

from .duration import Eta
from .harness import cpu_flops_per_s
from .sweep import Redo, is_settled

Track = Callable[[Iterable, int], Iterable]
"""Shows progress over an iterable with the given number of items."""


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """One cell of a plan."""

    cell: CellConfig
    is_settled: bool
    """Whether it was measured before and is not to be measured again."""

    prediction: Prediction | None
    """The prediction; None if the cell is settled or cannot be predicted."""

    refusal: Exception | None = None
    """Why it cannot be predicted, e.g. the method cannot drive this model at this resolution."""

    @property
    def fits(self) -> Word | None:
        """Whether it should fit its card; None if that is not known."""
        return None if self.prediction is None else self.prediction.fits


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Plan of a whole sweep."""

    cells: list[PlannedCell]
    eta: Eta

    @property
    def to_run(self) -> list[CellConfig]:
        """Return the cells that will be run."""
        return [planned.cell for planned in self.cells if not planned.is_settled]

    @property
    def predictions(self) -> dict[str, Prediction | Exception]:
        """Return the predictions, or what refuses a cell, by cell_id; settled cells have none."""
        return {p.cell.cell_id: p.prediction or p.refusal for p in self.cells if not p.is_settled}

    @property
    def left_s(self) -> float:
        """Return the seconds that the whole plan should take."""
        return sum(map(self.eta.cell_s, self.to_run))


def make_plan(
    cells: list[CellConfig],
    store: ResultsStore | None,
    redo: Redo,
    budget: Budget,
    engine: Engine = "auto",
    track: Track = lambda items, count: items,
) -> Plan:
    """Predict what is not settled.

    Args:
        cells: cells of the sweep.
        store: store for the sweep's records; None if the folder does not exist yet.
        redo: measured cells to measure again.
        budget: time limits of each cell.
        engine: engine that predicts.
        track: shows progress over an iterable with the given number of items.

    Raises:
        CannotEmulate: if the engine is asked for but does not run here.
    """
    records = {} if store is None else {record.cell_id: record for record in store.records()}
    settled = {cell.cell_id for cell in cells if is_settled(records.get(cell.cell_id), redo)}
    to_run = [cell for cell in cells if cell.cell_id not in settled]
    answers = dict(zip((cell.cell_id for cell in to_run), track(predict_all(to_run, engine), len(to_run)), strict=True))
    planned = []
    for cell in cells:
        answer = answers.get(cell.cell_id)
        is_refused = isinstance(answer, Exception)
        planned.append(
            PlannedCell(
                cell=cell,
                is_settled=cell.cell_id in settled,
                prediction=None if is_refused else answer,
                refusal=answer if is_refused else None,
            )
        )
    macs = {name: answer.train_step_macs for name, answer in answers.items() if isinstance(answer, Prediction)}
    flops_per_s = cpu_flops_per_s() if any(cell.device == "cpu" for cell in to_run) else None
    return Plan(cells=planned, eta=Eta(budget, records.values(), macs, flops_per_s))


def in_words(refusal: Exception | None) -> str:
    """Return why a cell cannot be predicted; an error that is not the input's fault keeps its type."""
    if refusal is None:
        return ""
    return str(refusal) if isinstance(refusal, InvalidInput) else f"{type(refusal).__name__}: {refusal}"
