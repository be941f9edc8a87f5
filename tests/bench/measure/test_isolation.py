"""The cause of death of a cell's process becomes its status; the processes here are small ones that write a journal."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from bench.cells.config import CellConfig
from bench.measure import isolation
from bench.measure.isolation import run_isolated
from bench.measure.journal import Journal
from bench.measure.measure import Budget
from bench.predict.predictor import predict
from bench.records.record import COLUMNS
from bench.records.results_store import ResultsStore

ROOT = Path(__file__).parents[3]
CELL = CellConfig(method="linear", model="test_vit", res=64, batch_size=2, device="cpu")
FOUND = 'say(found={"device": "a GPU", "step_time_s": 0.5})'


@pytest.fixture
def process_that(monkeypatch):
    """Let the cell's process be a script, which can `say` lines of the journal."""

    def use(script):
        prelude = "import json, os, signal, sys, time\njob = json.loads(sys.stdin.readline())\n"
        prelude += "def say(**line): print(json.dumps(line), flush=True)\n"
        monkeypatch.setattr(isolation, "COMMAND", (sys.executable, "-c", prelude + script))

    return use


def test_what_was_found_comes_back_with_what_was_left_out(process_that):
    process_that(f"{FOUND}\nsay(note='no disk')\nsay(end=True)")
    assert run_isolated(CELL, Budget()) == {"device": "a GPU", "step_time_s": 0.5, "status_detail": "no disk"}


def test_the_process_is_told_its_cell_and_budget(process_that):
    process_that("say(found={'status_detail': json.dumps(job)})\nsay(end=True)")
    job = json.loads(run_isolated(CELL, Budget(cpu_s=7.0))["status_detail"])
    assert CellConfig(**job["cell"]) == CELL
    assert Budget(**job["budget"]) == Budget(cpu_s=7.0)


def test_the_process_has_the_allocator_settings_of_its_cell_and_else_those_it_finds(process_that, monkeypatch):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    process_that("found = {k: v for k, v in os.environ.items() if 'ALLOC_CONF' in k}\nsay(found=found)\nsay(end=True)")
    assert run_isolated(CELL, Budget()) == {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}
    asked = replace(CELL, alloc_conf="expandable_segments:True")
    assert run_isolated(asked, Budget()) == {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}


@pytest.mark.parametrize(
    ("name", "hint"), [("SIGSEGV", "killed by SIGSEGV, during"), ("SIGKILL", "as the system does when the computer")]
)
def test_a_signal_is_named_with_the_phase_and_the_last_peak(process_that, name, hint):
    process_that(
        f"{FOUND}\nsay(phase='warm-up, backward', peak_allocated_bytes=3 * 2**20)\n"
        f"os.kill(os.getpid(), signal.{name})\ntime.sleep(60)"
    )
    reading = run_isolated(CELL, Budget())
    assert reading["status"] == "failed"
    assert f"killed by {name}" in reading["status_detail"] and hint in reading["status_detail"]
    assert "during warm-up, backward, last peak 3 MiB allocated" in reading["status_detail"]
    assert reading["ended_in_phase"] == "warm-up, backward"
    assert reading["last_peak_allocated_bytes"] == 3 * 2**20
    assert reading["step_time_s"] == 0.5, "what was found before the death stays found"


def test_a_status_without_a_result_is_told_with_the_last_line_of_its_errors(process_that):
    process_that("print('first', file=sys.stderr)\nprint('the reason', file=sys.stderr)\nsys.exit(3)")
    reading = run_isolated(CELL, Budget())
    assert "its process ended with status 3: the reason" in reading["status_detail"]


LAST_WORDS = "print('the whole traceback', file=sys.stderr, flush=True)\n"


@pytest.mark.parametrize(
    "end",
    [
        "sys.exit(3)",
        "os.kill(os.getpid(), 9)",
        "time.sleep(60)",
        "say(found={'status': 'failed', 'status_detail': 'a fault'})\nsay(end=True)",
    ],
    ids=["a status", "a signal", "a timeout", "a fault that it tells"],
)
def test_a_failed_cell_keeps_its_error_stream_where_its_status_detail_says(process_that, tmp_path, end):
    process_that(LAST_WORDS + end)
    store = ResultsStore(tmp_path)
    reading = run_isolated(CELL, Budget(timeout_s=3.0), keep_log=partial(store.keep_log, CELL.cell_id))
    assert reading["status"] == "failed"
    assert reading["status_detail"].endswith(f"; see records/logs/{CELL.cell_id}.txt")
    assert (tmp_path / f"records/logs/{CELL.cell_id}.txt").read_text() == "the whole traceback\n"


def test_a_cell_that_ran_or_said_nothing_has_no_log(process_that, tmp_path):
    keep_log = partial(ResultsStore(tmp_path).keep_log, CELL.cell_id)
    process_that(f"{LAST_WORDS}{FOUND}\nsay(end=True)")
    assert "status_detail" not in run_isolated(CELL, Budget(), keep_log=keep_log)
    process_that("sys.exit(3)")
    assert "see" not in run_isolated(CELL, Budget(), keep_log=keep_log)["status_detail"]
    assert not (tmp_path / "records/logs").exists()


def test_a_log_that_cannot_be_written_costs_nothing_else(process_that):
    def keep_log(text):
        raise OSError(28, "No space left on device")

    process_that(f"{FOUND}\n{LAST_WORDS}sys.exit(3)")
    reading = run_isolated(CELL, Budget(), keep_log=keep_log)
    assert reading["step_time_s"] == 0.5
    assert reading["status_detail"].endswith("its log could not be kept (No space left on device)")


def test_a_column_that_a_record_does_not_have_is_an_error_where_it_is_found():
    journal = Journal()
    journal.known = frozenset(COLUMNS)
    journal.found({"step_time_s": 0.5})
    with pytest.raises(TypeError, match="a record has no column step_tiem_s"):
        journal.found({"step_tiem_s": 0.5})


def test_an_end_that_was_not_announced_is_a_failure(process_that):
    process_that(FOUND)
    assert run_isolated(CELL, Budget())["status"] == "failed"


def test_a_line_that_was_cut_off_is_left_out(process_that):
    process_that(f"{FOUND}\nprint('{{\"found\": {{\"step_ti', end='', flush=True)\nos.kill(os.getpid(), 9)")
    assert run_isolated(CELL, Budget())["step_time_s"] == 0.5


def test_a_process_that_dies_before_it_reads_is_a_failure(monkeypatch):
    monkeypatch.setattr(isolation, "COMMAND", (sys.executable, "-c", "raise SystemExit(5)"))
    assert "status 5" in run_isolated(CELL, Budget())["status_detail"]


def test_a_cell_that_takes_too_long_is_ended_with_all_it_started(process_that):
    process_that(
        "import subprocess\nchild = subprocess.Popen(['sleep', '60'])\n"
        "say(found={'num': child.pid})\nsay(phase='building', peak_allocated_bytes=None)\ntime.sleep(60)"
    )
    reading = run_isolated(CELL, Budget(timeout_s=1.5))
    assert reading["status"] == "failed"
    assert "took longer than 1.5 s (--timeout-s), during building" in reading["status_detail"]
    assert _is_gone(reading["num"])


def test_a_cell_that_is_cut_leaves_nothing(process_that):
    process_that(f"{FOUND}\ntime.sleep(60)")
    assert run_isolated(CELL, Budget(), cut_s=0.5) is None


def test_phases_are_told_as_they_begin(process_that):
    process_that("for name in ('a', 'a', 'b'): say(phase=name, peak_allocated_bytes=None)\nsay(end=True)")
    phases = []
    run_isolated(CELL, Budget(), phases.append)
    assert phases == ["a", "b"]


def test_nothing_is_left_on_disk(process_that):
    process_that("open(job['scratch'] + '/big', 'w').write('x')\nsay(found={'s': job['scratch']})\nsay(end=True)")
    assert not Path(run_isolated(CELL, Budget())["s"]).exists()


def test_the_real_process_measures_a_cell_on_the_cpu():
    phases = []
    reading = run_isolated(CELL, Budget(cpu_s=24.0, loader_s=6.0), phases.append)
    assert reading["step_time_p10_s"] <= reading["step_time_s"] <= reading["step_time_p90_s"]
    assert reading["throughput_img_s"] == pytest.approx(2 / reading["step_time_s"])
    assert reading["loader_throughput_img_s"] > 0
    assert not [name for name in reading if "bytes" in name and name != "device_memory_bytes"], "a CPU has no such"
    assert phases[:3] == ["importing", "building", "warm-up"]
    assert {"warm-up, forward", "warm-up, backward", "warm-up, optimizer", "timing steps"} <= set(phases)


def test_the_real_process_measures_a_cell_on_the_emulated_device(emulated_card, monkeypatch):
    """It has the cell's allocator settings, which change every size, and gives what the predictor finds."""
    for name, value in emulated_card("a6000").items():
        monkeypatch.setenv(name, value)
    cell, phases = replace(CELL, device="cuda", alloc_conf="roundup_power2_divisions:2"), []
    reading = run_isolated(cell, Budget(loader_s=0.0), phases.append)
    assert (reading["device"], reading["alloc_conf"]) == ("NVIDIA RTX A6000, emulated", cell.alloc_conf)
    peak, plain = predict(cell, "emulated").peak, predict(replace(cell, alloc_conf=None), "emulated").peak
    assert reading["measured_peak_allocated_bytes"] == peak.allocated_bytes > plain.allocated_bytes
    assert reading["measured_peak_reserved_bytes"] == peak.reserved_bytes
    assert phases[:4] == ["importing", "starting the device", "building", "warm-up"]
    assert not [name for name in reading if name.endswith(("_s", "_w"))]


def test_the_real_process_says_what_it_cannot_import(monkeypatch, tmp_path):
    (tmp_path / "peft.py").write_text("raise ImportError('no peft here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    shadowed = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from bench.measure.cell_process import main; main()"
    monkeypatch.setattr(isolation, "COMMAND", (sys.executable, "-c", shadowed))
    reading = run_isolated(CELL, Budget())
    assert reading["status"] == "failed"
    assert reading["status_detail"].startswith("import error during importing: no peft here; install what is missing")
    store = ResultsStore(tmp_path / "results")
    run_isolated(CELL, Budget(), keep_log=partial(store.keep_log, "cell"))
    assert "Traceback (most recent call last)" in (store.records_folder / "logs" / "cell.txt").read_text()


def test_the_real_process_can_fork_workers_that_load_data(monkeypatch):
    script = "import multiprocessing, bench.measure.cell_process as c\n"
    script += "def work(job, journal):\n"
    script += "    worker = multiprocessing.get_context('fork').Process(target=int)\n"
    script += (
        "    worker.start()\n    worker.join(10)\n    journal.found({'epochs': worker.exitcode})\n    worker.kill()\n"
    )
    monkeypatch.setattr(isolation, "COMMAND", (sys.executable, "-c", script + "c._measure = work; c.main()"))
    assert run_isolated(CELL, Budget())["epochs"] == 0


def test_no_process_outlives_its_parent(tmp_path):
    """kill -9 of the parent closes the process's input, and that ends it."""
    job = {"cell": {}, "budget": {}, "scratch": str(tmp_path / "scratch")}
    (tmp_path / "scratch").mkdir()
    hang = "import sys, time; sys.modules['bench.cells.config'] = None\n"
    hang += "import bench.measure.cell_process as c; c._measure = lambda *_: time.sleep(60); c.main()"
    child = subprocess.Popen([sys.executable, "-c", hang], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdin.write(json.dumps(job).encode() + b"\n")
    child.stdin.flush()
    assert child.stdout.readline()  # it is at work
    child.stdin.close()
    assert child.wait(10) == 1
    child.stdout.close()
    assert not (tmp_path / "scratch").exists()


def _is_gone(pid):
    for _ in range(50):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    return False
