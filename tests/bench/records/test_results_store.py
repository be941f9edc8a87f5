import json
import re
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock

from bench.cells.config import CellConfig
from bench.records import results_store
from bench.records.record import COLUMNS, Record, new_record
from bench.records.results_store import ResultsStore
from fptplus import InvalidInput

CONTRACT = """
method model res batch_size precision attention checkpointing optimizer status status_detail
learnable_params total_params params_pct forward_macs train_step_macs backbone_forward_macs
predicted_peak_allocated_bytes predicted_peak_reserved_bytes predicted_process_bytes
predicted_weights_bytes predicted_gradients_bytes predicted_optimizer_bytes
predicted_activations_bytes predicted_temporary_bytes predicted_inputs_bytes
measured_peak_allocated_bytes measured_peak_reserved_bytes measured_process_bytes
measured_device_bytes step_time_s step_time_p10_s step_time_p90_s throughput_img_s mean_power_w
peak_power_w idle_power_w energy_j_per_img power_source device device_memory_bytes torch_version
git_commit git_dirty started_at
"""
# the columns that every reader of results.csv may count on


@pytest.fixture
def store(tmp_path):
    return ResultsStore(tmp_path / "results")


def record(res=512, **columns):
    made = new_record(CellConfig(method="lora", model="vit_b", res=res))
    return replace(made, **columns)


def test_the_columns_begin_with_the_contract():
    assert list(COLUMNS[: len(CONTRACT.split())]) == CONTRACT.split()


def test_a_record_comes_back_as_it_was_written(store):
    store.write(written := record(learnable_params=7, params_pct=0.5))
    assert store.find(written.cell_id) == written


def test_what_was_not_measured_is_empty_in_the_csv_and_never_0(store):
    store.write(record(forward_macs=3))
    store.write_csv()
    row = pd.read_csv(store.csv_path, keep_default_na=False, dtype=str).iloc[0]
    assert row.forward_macs == "3"
    assert row.measured_peak_allocated_bytes == row.throughput_img_s == row.mean_power_w == ""


def test_whole_numbers_stay_whole_beside_empty_cells(store):
    store.write(record(res=128, measured_peak_allocated_bytes=2**40, device="a GPU"))
    store.write(record(res=256))
    store.write_csv()
    column = pd.read_csv(store.csv_path, keep_default_na=False, dtype=str).measured_peak_allocated_bytes
    assert sorted(column) == ["", str(2**40)]


def test_a_measured_record_is_never_replaced(store):
    store.write(record())
    store.write(measured := record(device="a GPU", throughput_img_s=9.0))
    with pytest.raises(InvalidInput, match="must not be measured twice"):
        store.write(record())
    assert store.find(measured.cell_id) == measured


def test_a_damaged_record_is_named_and_left_where_it_is(store):
    store.write(made := record())
    path = store.records_folder / f"{made.cell_id}.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(InvalidInput, match=made.cell_id):
        store.write_csv()
    assert path.exists()


def test_a_failed_write_leaves_the_old_record_and_no_rubbish(store, monkeypatch):
    store.write(made := record())
    before = sorted(path.name for path in store.records_folder.iterdir())
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InvalidInput, match="No space") as error:
        store.write(replace(made, forward_macs=1))
    monkeypatch.undo()
    kept = Path(re.search(r"its record is kept in '([^']+)'", str(error.value))[1])
    assert json.loads(kept.read_text())["forward_macs"] == 1, "what was just measured is not lost"
    kept.unlink()
    assert store.find(made.cell_id) == made
    assert sorted(path.name for path in store.records_folder.iterdir()) == before


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="out must be a folder that can be written"):
        ResultsStore(tmp_path / "file")


def test_a_lock_that_is_held_for_ever_is_named(store, monkeypatch):
    monkeypatch.setattr(results_store, "LOCK_LIMIT_S", 0.1)
    with (
        FileLock(store.records_folder / ".lock"),
        pytest.raises(InvalidInput, match="another process has held it for 0.1 s"),
    ):
        store.write(record())


def test_reading_needs_no_folder_that_can_be_written(store, monkeypatch, tmp_path):
    store.write(made := record())

    def read_only(**options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    assert ResultsStore(store.folder, read_only=True).records() == [made]
    assert ResultsStore(tmp_path / "none", read_only=True).records() == [] and not (tmp_path / "none").exists()
    with pytest.raises(InvalidInput, match="Read-only file system"):
        ResultsStore(store.folder)


def test_records_are_plain_json(store):
    store.write(made := record())
    content = json.loads((store.records_folder / f"{made.cell_id}.json").read_text())
    assert tuple(content) == COLUMNS


def test_a_record_of_another_version_is_told_from_a_damaged_one_and_left_as_it_is(store):
    store.write(made := record())
    path = store.records_folder / f"{made.cell_id}.json"
    path.write_text(text := json.dumps(json.loads(path.read_text()) | {"new_column": 1}))
    with pytest.raises(InvalidInput, match="it also has new_column; read it with the version that wrote it") as error:
        store.records()
    assert "\n" not in str(error.value) and path.read_text() == text


def test_a_column_that_a_record_lacks_is_not_known_in_it(store):
    store.write(made := record())
    path = store.records_folder / f"{made.cell_id}.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "weights"}))
    assert store.find(made.cell_id) == made


def test_a_wrong_column_name_is_an_error_where_it_is_written():
    with pytest.raises(TypeError, match="throughput"):
        record(throughput=1.0)
    with pytest.raises(FrozenInstanceError):
        record().throughput = 1.0


def test_logs_of_one_cell_are_kept_next_to_each_other(store):
    names = [store.keep_log("abc", text) for text in ("first", "second")]
    assert names == ["records/logs/abc.txt", "records/logs/abc.2.txt"]
    assert [(store.folder / name).read_text() for name in names] == ["first", "second"]
    assert store.records() == []


def test_an_unknown_status_is_refused():
    with pytest.raises(InvalidInput, match="status must be one of ok, oom, unsupported, failed, got 'fine'"):
        Record(**(vars(record()) | {"status": "fine"}))


def test_a_record_named_after_another_cell_is_named_and_not_obeyed(store):
    store.write(made := record())
    text = (store.records_folder / f"{made.cell_id}.json").read_text()
    (store.records_folder / f"{made.cell_id} (copy).json").write_text(text)
    with pytest.warns(UserWarning, match=f"another cell, {made.cell_id}; rename it"):
        assert store.records() == [made]
    (store.records_folder / "0123.json").write_text(text)
    with pytest.raises(InvalidInput, match=f"must be of the cell in its name, it is of {made.cell_id}"):
        store.find("0123")
    with pytest.raises(InvalidInput, match="must be of the cell in its name"):
        store.write(replace(made, cell_id="0123"))
    assert (store.records_folder / "0123.json").read_text() == text
