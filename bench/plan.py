"""What a sweep is going to do: which cells it will run, which of them should run out of memory, how long it takes."""

from collections.abc import Iterator
from dataclasses import dataclass

from fptplus import InvalidInput

from .config import CellConfig
from .duration import Eta
from .harness import cpu_flops_per_s
from .measure import Budget
from .predict.devices import Gpu
from .predict.predictor import Prediction, predict
from .processors import on_all_processors
from .results_store import ResultsStore
from .sweep import Redo, is_settled


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """One cell of a plan."""

    cell: CellConfig
    is_settled: bool
    """Measured before, and not to be measured again."""

    prediction: Prediction | None
    """None where it is settled, or cannot be predicted."""

    refusal: str | None = None
    """Why it cannot be predicted: the method cannot drive this model at this resolution."""

    def fits(self, gpu: Gpu) -> bool | None:
        """Whether it should fit a GPU; None where that is not known."""
        return None if self.prediction is None else self.prediction.process_bytes <= gpu.memory_bytes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Of a whole sweep."""

    cells: list[PlannedCell]
    eta: Eta

    @property
    def to_run(self) -> list[CellConfig]:
        """Cells that will be run."""
        return [planned.cell for planned in self.cells if not planned.is_settled]

    @property
    def predictions(self) -> dict[str, Prediction]:
        """By cell_id."""
        return {p.cell.cell_id: p.prediction for p in self.cells if p.prediction is not None}

    @property
    def left_s(self) -> float:
        """Seconds that all of it should take."""
        return sum(map(self.eta.cell_s, self.to_run))


def make_plan(cells: list[CellConfig], store: ResultsStore | None, redo: Redo, budget: Budget) -> Plan:
    """Predict what is not settled.

    Args:
        cells: of the sweep.
        store: where it will go; None if the folder does not exist yet.
        redo: what would be measured again.
        budget: of each cell.
    """
    records = {} if store is None else {record.cell_id: record for record in store.records()}
    settled = {cell.cell_id for cell in cells if is_settled(records.get(cell.cell_id), redo)}
    to_run = [cell for cell in cells if cell.cell_id not in settled]
    answers = dict(zip((cell.cell_id for cell in to_run), predict_all(to_run), strict=True))
    planned = []
    for cell in cells:
        answer = answers.get(cell.cell_id)
        is_refused = isinstance(answer, str)
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


def predict_all(cells: list[CellConfig]) -> Iterator[Prediction | str]:
    """The prediction of each cell, or the sentence that refuses it; on all processors if there are many."""
    if len(cells) < 4:
        yield from map(_predict, cells)
        return
    yield from on_all_processors(_predict, cells)


def _predict(cell: CellConfig) -> Prediction | str:
    try:
        return predict(cell)
    except InvalidInput as error:
        return str(error)
    except Exception as error:  # what breaks here breaks in the cell's turn, and goes into its record
        return f"{type(error).__name__}: {error}"
