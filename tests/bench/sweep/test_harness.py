"""One cell's record: a fault keeps its traceback, and a wrong column is a fault, not a record."""

import pytest

from bench.cells.config import CellConfig
from bench.measure.measure import Budget
from bench.records.results_store import ResultsStore
from bench.sweep import harness
from bench.sweep.harness import cell_runner, run_cell
from bench.sweep.sweep import SILENT, Redo, Rules, run_sweep

CELL = CellConfig(method="linear", model="test_vit", res=64, batch_size=2)


def broken():
    """An exception with a traceback."""
    try:
        raise RuntimeError("it broke")
    except RuntimeError as error:
        return error


@pytest.mark.filterwarnings("ignore:linear at test_vit")
def test_a_fault_of_this_process_keeps_its_traceback_and_nothing_is_written_elsewhere(tmp_path):
    store = ResultsStore(tmp_path / "out")
    record = run_cell(CELL, Budget(), prediction=broken(), store=store)
    path = f"records/logs/{CELL.cell_id}.txt"
    assert (record.status, record.status_detail) == ("failed", f"RuntimeError: it broke; see {path}")
    text = (store.folder / path).read_text()
    assert text.startswith("Traceback") and "in broken" in text
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert run_cell(CELL, Budget(), prediction=broken()).status_detail == "RuntimeError: it broke"


@pytest.mark.filterwarnings("ignore:linear at test_vit")
def test_a_later_success_leaves_the_log_and_a_later_failure_has_its_own(tmp_path, monkeypatch):
    store, answers = ResultsStore(tmp_path), [broken(), broken(), None]
    monkeypatch.setattr(harness, "_measure", lambda *_: {"device": "a GPU", "step_time_s": 1.0})
    for answer in answers:
        run = cell_runner(Budget(), 1000, predictions={CELL.cell_id: answer}, store=store)
        (record,) = run_sweep([CELL], store, SILENT, run, Rules(redo=Redo(what="all")))
    assert record.status == "ok"
    assert sorted(path.name for path in (store.records_folder / "logs").iterdir()) == [
        f"{CELL.cell_id}.2.txt",
        f"{CELL.cell_id}.txt",
    ]
