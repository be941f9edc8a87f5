"""A sweep loses nothing and measures nothing twice, however it ends; cells here take milliseconds."""

import json
import os
import random
import signal
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pandas as pd
import pytest

from bench.cells.config import CellConfig
from bench.records.record import new_record
from bench.records.results_store import ResultsStore
from bench.sweep import sweep
from bench.sweep.sweep import SILENT, Progress, Redo, Rules, run_sweep
from fptplus import InvalidInput

EMULATED = "a GPU, emulated"
CELLS = [CellConfig(method="lora", model="vit_b", res=16 * n, device="cuda") for n in range(1, 21)]


@pytest.fixture
def store(tmp_path):
    return ResultsStore(tmp_path / "results")


class Device:
    """Measures a cell in no time: counts what it was asked for, and gives each measurement a number of its own."""

    def __init__(self, statuses=None, takes_s=0.0, device="a GPU"):
        self.asked, self.statuses, self.takes_s, self.device = [], statuses or {}, takes_s, device

    def __call__(self, cell):
        self.asked.append(cell.res)
        time.sleep(self.takes_s)
        made = replace(new_record(cell), device=self.device, status=self.statuses.get(cell.res, "ok"))
        return replace(
            made,
            throughput_img_s=random.random() if made.is_measured else None,
            started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )


def contents(store):
    return {path.name: path.read_text() for path in store.records_folder.glob("*.json")}


def test_a_record_is_on_disk_before_the_next_cell_begins(store):
    def run(cell):
        assert len(contents(store)) == CELLS.index(cell)
        return Device()(cell)

    assert len(run_sweep(CELLS[:5], store, SILENT, run)) == 5


def test_a_second_call_measures_nothing(store):
    first = run_sweep(CELLS, store, SILENT, Device())
    device = Device()
    assert run_sweep(CELLS, store, SILENT, device) == first
    assert device.asked == []


def test_ctrl_c_keeps_what_was_measured_and_the_csv_has_it(store):
    device = Device()

    def run(cell):
        if len(device.asked) == 3:
            raise KeyboardInterrupt
        return device(cell)

    with pytest.raises(KeyboardInterrupt):
        run_sweep(CELLS, store, SILENT, run)
    assert len(pd.read_csv(store.csv_path)) == 3
    run_sweep(CELLS, store, SILENT, device)
    assert device.asked == [cell.res for cell in CELLS]


def test_a_time_limit_leaves_cells_for_a_further_call(store):
    rules = Rules(end_by=time.monotonic() + 0.05)
    device = Device(takes_s=0.02)
    records = run_sweep(CELLS, store, SILENT, device, rules)
    assert 1 <= len(records) < 20
    assert run_sweep(CELLS, store, SILENT, lambda cell: None) == records, "a cell that was cut has no record"
    assert len(run_sweep(CELLS, store, SILENT, device)) == 20
    assert len(device.asked) == 20


@pytest.mark.parametrize(
    ("what", "expected"),
    [("nothing", []), ("failed", [16]), ("oom", [32]), ("all", [16, 32, 48])],
)
def test_redo_measures_again_and_keeps_the_earlier_measurement(store, what, expected):
    run_sweep(CELLS[:3], store, SILENT, Device({16: "failed", 32: "oom"}))
    earlier = contents(store)
    device = Device()
    records = run_sweep(CELLS[:3], store, SILENT, device, Rules(redo=Redo(what=what)))
    assert device.asked == expected
    aside = {path.name: path.read_text() for path in (store.records_folder / "superseded").glob("*")}
    names = {cell.cell_id: f"{cell.cell_id}.json" for cell in CELLS if cell.res in expected}
    assert aside == {f"{cell_id}.1.json": earlier[name] for cell_id, name in names.items()}
    assert all(record.status == "ok" for record in records if record.res in expected)
    assert len(store.records()) == 3


def test_a_measurement_redone_twice_is_kept_twice(store):
    for _ in range(3):
        run_sweep(CELLS[:1], store, SILENT, Device(), Rules(redo=Redo(what="all")))
    assert len(list((store.records_folder / "superseded").glob("*.json"))) == 2


def test_sweeps_that_share_a_redo_do_not_redo_each_other_s_cells(store):
    run_sweep(CELLS[:3], store, SILENT, Device())
    redo = Rules(redo=Redo(what="all", before=datetime.now(UTC) + timedelta(milliseconds=1)))
    time.sleep(0.01)
    devices = Device(), Device()
    for device in devices:
        run_sweep(CELLS[:3], store, SILENT, device, redo)
    assert (len(devices[0].asked), len(devices[1].asked)) == (3, 0)


@pytest.mark.parametrize("date", ["2999-01-01T00:00:00.000+00:00", "2020-01-01T00:00:00", "yesterday", None])
def test_a_record_of_an_impossible_date_is_redone_all_the_same(store, date):
    run_sweep(CELLS[:1], store, SILENT, Device())
    store.write(replace(store.find(CELLS[0].cell_id), started_at=date), supersede=True)
    rules = Rules(redo=Redo(what="all", before=datetime.now(UTC)))
    with pytest.warns(UserWarning, match="in the future") if date == "2999-01-01T00:00:00.000+00:00" else nullcontext():
        run_sweep(CELLS[:1], store, SILENT, device := Device(), rules)
    assert device.asked == [CELLS[0].res]


def test_two_sweeps_into_one_folder_share_its_cells_out(tmp_path):
    device = Device(takes_s=0.01)
    results = []

    def sweep():
        results.append(run_sweep(CELLS, ResultsStore(tmp_path), SILENT, device))

    threads = [threading.Thread(target=sweep) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(device.asked) == [cell.res for cell in CELLS]
    assert results[0] == results[1] == results[2] and len(results[0]) == 20


def test_larger_cells_are_marked_only_when_that_is_asked_for(store):
    device = Device({160: "oom"})
    shuffled = CELLS[10:] + CELLS[:10]
    records = run_sweep(shuffled, store, SILENT, device, Rules(skip_larger_after_oom=True))
    assert device.asked == [16 * n for n in range(1, 11)]
    assert [record.res for record in records] == [cell.res for cell in shuffled]
    skipped = [record for record in records if record.res > 160]
    assert {record.status for record in skipped} == {"oom"} and not any(record.is_measured for record in skipped)
    assert skipped[0].status_detail == (
        "not run (--skip-larger-after-oom): 160 px at batch 16 ran out of memory, and this is larger"
    )
    run_sweep(CELLS, store, SILENT, device)
    assert device.asked == [16 * n for n in range(1, 21)], "without the option each is run for itself"


@pytest.mark.parametrize(
    "change",
    [
        {"method": "full"},
        {"model": "vit_l"},
        {"precision": "bf16"},
        {"batch_size": 8},
        {"vram_bytes": 2**34},
        {"num_classes": 2},
        {"gpu": "h200"},
    ],
    ids=str,
)
def test_only_the_same_method_and_axes_say_that_a_cell_is_too_large(store, change):
    run_sweep(CELLS[:1], store, SILENT, Device({16: "oom"}))
    device = Device()
    run_sweep([replace(CELLS[1], **change)], store, SILENT, device, Rules(skip_larger_after_oom=True))
    assert device.asked == [32]


@pytest.mark.parametrize(("here", "expected"), [("a GPU", []), ("a larger GPU", [32])])
def test_only_a_device_like_this_one_says_that_a_cell_is_too_large(store, monkeypatch, here, expected):
    """Machines of a cluster may share a folder, and predict for one card."""
    run_sweep(CELLS[:1], store, SILENT, Device({16: "oom"}))
    monkeypatch.setattr(sweep, "present_properties", lambda: SimpleNamespace(name=here))
    run_sweep(CELLS[1:2], store, SILENT, device := Device(), Rules(skip_larger_after_oom=True))
    assert device.asked == expected


def test_progress_is_told_of_every_cell(store):
    told = []
    progress = Progress(begin=lambda cell: told.append(cell.res), end=lambda record: told.append(record.status))
    run_sweep(CELLS[:2], store, progress, Device())
    assert told == [16, "ok", 32, "ok"]


def test_what_a_dying_process_left_half_written_is_removed(store):
    for folder, name in ((store.records_folder, "abc.json"), (store.folder, "results.csv")):
        (folder / f".{name}.0123abcd.unfinished").write_text('{"half')
    run_sweep(CELLS[:1], store, SILENT, Device())
    assert not list(store.records_folder.glob(".*.json.*")) and not list(store.folder.glob(".results.csv.*"))


def test_what_others_left_in_the_results_folder_stays(store):
    foreign = [store.records_folder / ".abc.json.swp", store.folder / ".results.csv.swp", store.folder / "poetry.lock"]
    for path in foreign:
        path.write_text("mine")
    run_sweep(CELLS[:1], store, SILENT, Device())
    assert [path.read_text() for path in foreign] == ["mine"] * 3


def test_a_cell_in_hand_is_not_ours(store):
    with store.claim("a", wait=False) as first, ResultsStore(store.folder).claim("a", wait=False) as second:
        assert (first, second) == (True, False)


def test_a_record_is_superseded_only_on_purpose(store):
    made = Device()(CELLS[0])
    store.write(made)
    with pytest.raises(InvalidInput, match="must not be measured twice"):
        store.write(replace(made, throughput_img_s=2.0))
    store.write(replace(made, throughput_img_s=2.0), supersede=True)
    assert store.find(made.cell_id).throughput_img_s == 2.0


@pytest.fixture
def on_emulated_device(monkeypatch):
    """Let the device that is here be an emulated one, or a true one."""
    return lambda there: monkeypatch.setattr(sweep, "is_emulated", lambda: there)


def test_a_run_on_an_emulated_device_is_kept_there_and_measured_on_a_true_one(store, on_emulated_device):
    emulated, true = Device(device=EMULATED), Device()
    on_emulated_device(True)
    for _ in range(2):
        run_sweep(CELLS[:2], store, SILENT, emulated)
    assert emulated.asked == [16, 32]
    on_emulated_device(False)
    assert all(record.is_measured for record in run_sweep(CELLS[:2], store, SILENT, true))
    assert true.asked == [16, 32]
    on_emulated_device(True)
    assert all(record.is_measured for record in run_sweep(CELLS[:2], store, SILENT, emulated))
    assert emulated.asked == [16, 32], "what was measured needs no emulation"


def test_an_emulated_device_that_runs_out_of_memory_says_nothing_of_a_true_one(store, on_emulated_device):
    rules = Rules(skip_larger_after_oom=True)
    on_emulated_device(True)
    run_sweep(CELLS[:2], store, SILENT, device := Device({16: "oom"}, device=EMULATED), rules)
    assert device.asked == [16]
    on_emulated_device(False)
    run_sweep(CELLS[:2], store, SILENT, device := Device(), rules)
    assert device.asked == [16, 32]


def test_a_run_on_an_emulated_device_never_takes_the_place_of_a_measurement(store, on_emulated_device):
    run_sweep(CELLS[:1], store, SILENT, Device())
    before = contents(store)
    on_emulated_device(True)
    with pytest.raises(InvalidInput, match="must not take the place of a measurement"):
        run_sweep(CELLS[:1], store, SILENT, Device(device=EMULATED), Rules(redo=Redo(what="all")))
    assert contents(store) == before


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_sweep_killed_at_20_random_moments_ends_with_20_intact_records_and_none_measured_twice(tmp_path):
    """kill -9 hits in the middle of measuring, of writing a record, of the CSV; what has a record never runs again."""
    folder, log = tmp_path / "results", tmp_path / "begun"
    log.touch()
    store, moments, seen = ResultsStore(folder), random.Random(0), {}
    for _ in range(20):
        begun_before = len(log.read_text().split())
        child = os.fork()
        if child == 0:
            _sweep_and_exit(folder, log)
        cells_to_begin = moments.randint(1, 2) if len(seen) < 16 else 1
        give_up_at = time.monotonic() + 30
        while len(log.read_text().split()) < begun_before + cells_to_begin and time.monotonic() < give_up_at:
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.025))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "it must have been at work"
        begun, now = log.read_text().split()[begun_before:], contents(store)
        assert not {f"{cell_id}.json" for cell_id in begun} & seen.keys(), "what had a record was begun again"
        assert seen.items() <= now.items(), "what had a record has another one"
        assert all(json.loads(text)["throughput_img_s"] is not None for text in now.values())
        seen = now
    records = run_sweep(CELLS, store, SILENT, Device())
    assert 0 < len(seen) < 20
    assert len(records) == len(contents(store)) == len(pd.read_csv(store.csv_path)) == 20
    assert seen.items() <= contents(store).items()
    assert not (store.records_folder / "superseded").exists()


def _sweep_and_exit(folder, log):
    """The sweep of a child process; notes each cell that it begins, and lingers at the last ones to be killed there."""
    begun = os.open(log, os.O_WRONLY | os.O_APPEND)
    try:
        random.seed()
        store = ResultsStore(folder)

        def run(cell):
            os.write(begun, f"{cell.cell_id}\n".encode())
            return Device(takes_s=0.02 if len(contents(store)) < 18 else 60)(cell)

        run_sweep(CELLS, store, SILENT, run)
    finally:
        os._exit(0)
