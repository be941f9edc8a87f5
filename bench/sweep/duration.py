"""How long things take: a training worked out from its steps, and a sweep that has yet to run."""

from collections.abc import Iterable
from statistics import median

from bench.cells.config import CellConfig
from bench.measure.measure import CPU_STEPS_WANTED, Budget
from bench.records.record import Record
from fptplus.paper_training import EPOCHS

_START_S = 8.0
"""Imports, context and model of one process."""


def derived_training_time_s(record: Record, num_images: int) -> float | None:
    """Seconds of the paper's 20 epochs at the measured step time, last incomplete batch dropped; None without one.

    Worked out, not measured: data on the device, without validation and without preloading.
    """
    if record.step_time_s is None or record.learnable_params == 0:
        return None
    return EPOCHS * (num_images // record.batch_size) * record.step_time_s


class Eta:
    """Seconds that cells will take: a first guess from the budget, scaled by what cells have taken here before.

    Args:
        budget: of each cell.
        past: records whose wall_s says how long they took.
        step_macs: MACs of a training step by cell_id, where known; what a CPU's time depends on.
        flops_per_s: of the CPU; None where no cell runs on it.
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
        """Seconds of one cell."""
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
