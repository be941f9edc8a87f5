"""Jobs of submitit share the cells of one folder among themselves."""

import shutil
import subprocess
import sys
from dataclasses import replace
from unittest import mock

import pytest

from bench.cells.config import CellConfig
from bench.measure.measure import Budget
from bench.records.results_store import ResultsStore
from bench.sweep import executor
from bench.sweep.executor import Jobs, Share, run_on_executor
from bench.sweep.sweep import SILENT, Progress, Rules
from fptplus import InvalidInput

pytest.importorskip("submitit")

CELL = CellConfig(method="linear", model="test_vit", res=64, batch_size=2)
QUICK = Budget(cpu_s=1.0, loader_s=0.0)


def run(cells, store, progress=SILENT, *, kind="local", count=1, **options):
    jobs = Jobs(kind=kind, count=count, minutes=5, **options)
    return run_on_executor(cells, store, progress, Rules(), QUICK, 1049, jobs)


def test_two_local_jobs_measure_every_cell_once_into_one_folder(tmp_path):
    store, told = ResultsStore(tmp_path / "results"), []
    cells = [replace(CELL, device="cpu"), replace(CELL, res=32)]
    progress = Progress(begin=lambda cell: told.append(cell), end=lambda record: None)
    records = run(cells, store, progress, count=2)
    assert [record.res for record in records] == [64, 32]
    assert records[0].throughput_img_s > 0 and records[0].derived_training_time_s > 0
    assert told == [cells[0]], "only what is measured is settled"
    assert store.csv_path.exists() and len(store.records()) == 2


def test_a_job_that_fails_is_told_with_the_place_of_its_log(tmp_path, monkeypatch):
    job = mock.Mock(job_id="7", **{"done.return_value": True, "paths.stderr": "jobs/7.err"})
    job.exception.return_value = RuntimeError("Traceback\n  the reason\n")
    monkeypatch.setattr(executor, "_executor", lambda *_: mock.Mock(**{"submit.return_value": job}))
    with pytest.raises(InvalidInput, match="jobs must end well, 7 said 'the reason'; see jobs/7.err"):
        run([CELL], ResultsStore(tmp_path))


def test_ctrl_c_ends_the_jobs(tmp_path, monkeypatch):
    job = mock.Mock(**{"done.side_effect": KeyboardInterrupt})
    monkeypatch.setattr(executor, "_executor", lambda *_: mock.Mock(**{"submit.return_value": job}))
    with pytest.raises(KeyboardInterrupt):
        run([CELL], ResultsStore(tmp_path))
    job.cancel.assert_called_once()
    job.wait.assert_called_once()


def test_jobs_on_one_machine_take_its_gpus_in_turn(monkeypatch):
    monkeypatch.setattr(executor.torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [executor._visible_gpu(number) for number in range(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa, MIG-bb")
    assert [executor._visible_gpu(number) for number in range(3)] == ["GPU-aa", "MIG-bb", "GPU-aa"]
    monkeypatch.setattr(executor.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert executor._visible_gpu(0) == ""


def test_a_share_sees_the_gpu_that_it_was_given(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    share = Share(cells=[], folder=str(tmp_path), rules=Rules(), budget=QUICK, num_images=1, visible_gpu="MIG-bb")
    assert share() == 0
    assert executor.os.environ["CUDA_VISIBLE_DEVICES"] == "MIG-bb"


def test_without_submitit_the_cure_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InvalidInput, match=r"executor local needs submitit.*pip install 'fptplus-bench\[slurm\]'"):
        run([CELL], ResultsStore(tmp_path))


def test_without_slurm_the_rule_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InvalidInput, match="executor slurm must be called where Slurm's commands are"):
        run([CELL], ResultsStore(tmp_path), kind="slurm")


@pytest.mark.slurm
def test_a_slurm_cluster_measures_every_cell_once(tmp_path):
    """Opt-in: `pytest --slurm` where `srun hostname` works, as on one machine with slurmctld, slurmd and munged."""
    assert shutil.which("srun"), "there is no Slurm here"
    subprocess.run(["srun", "hostname"], check=True, timeout=60)
    store = ResultsStore(tmp_path / "results")
    cells = [replace(CELL, device="cpu", res=res) for res in (32, 64)]
    records = run(cells, store, kind="slurm", count=2)
    assert [record.res for record in records] == [cell.res for cell in cells]
    assert all(record.throughput_img_s > 0 for record in records)
