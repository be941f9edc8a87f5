"""How long things take: a training, worked out from its steps, and a sweep that has yet to run."""

from collections.abc import Iterable
from statistics import median

from bench.cells.config import CellConfig
from bench.measure.measure import CPU_STEPS_WANTED, Budget
from bench.records.record import Record
from fptplus.paper_training import EPOCHS

_START_S = 8.0
"""Seconds for the imports, the context and the model of one process."""


def derived_training_time_s(record: Record, num_images: int) -> float | None:
    """Return the seconds of the paper's 20 epochs at the measured step time; None without one.

    It is worked out, not measured: last incomplete batch dropped, data on the device, no validation, no preloading.
    """
    if record.step_time_s is None or record.learnable_params == 0:
        return None
    return EPOCHS * (num_images // record.batch_size) * record.step_time_s


class Eta:
    """Estimates the seconds that cells will take: a first guess from the budget, scaled by earlier cells' times here.

    Args:
        budget: time limits of each cell.
        past: earlier records, whose wall_s says how long they took.
        step_macs: known multiply-accumulates (MACs) of a training step, by cell_id; a CPU's time depends on them.
        flops_per_s: speed of the CPU; None if no cell runs on it.
    """

    def __init__(
        self,
        budget: Budget,
        past: Iterable[Record] = (),
        step_macs: dict[str, int] | None = None,
        flops_per_s: float | None = None,
    ) -> None:
        self._budget, self._step_macs, self._flops_per_s = budget, step_macs or {}, flops_per_s
        self._ratios: list[float] = []
        for record in past:
            self.learn(record)

    def learn(self, record: Record) -> None:
        """Take the time of a finished cell into account."""
        if record.wall_s is not None and record.status == "ok":
            device = "cuda" if record.gpu_uuid else "cpu"
            self._ratios.append(record.wall_s / self._guess_s(device, record.cell_id))

    def cell_s(self, cell: CellConfig) -> float:
        """Return the estimated seconds of one cell."""
        if cell.device == "nothing":
            return 1.0
        return self._guess_s(cell.device, cell.cell_id) * (median(self._ratios) if self._ratios else 1.0)

    def _guess_s(self, device: str, cell_id: str) -> float:
        budget = self._budget
        if device == "cuda":
            metered_s = budget.idle_s + budget.power_window_s if budget.power_window_s else 0.0
            return _START_S + budget.cuda_s + metered_s + budget.loader_s
        if None in (macs := self._step_macs.get(cell_id), self._flops_per_s):
            return _START_S + budget.cpu_s / 2
        steps_s = 2 * CPU_STEPS_WANTED * 2 * macs / self._flops_per_s
        return _START_S + steps_s if steps_s / 2 <= budget.cpu_s else 1.0
