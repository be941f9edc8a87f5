"""Time and power, which only a real GPU has: CUDA and NVML are fake, the steps are real ones on the CPU.

Everything else that is measured is tested on the emulated device (test_measured_path.py).
"""

import io
import json
import re
import time
from dataclasses import replace
from unittest import mock

import pytest
import torch

from bench.cells.config import CellConfig
from bench.cells.work import work_on_device
from bench.measure import measure as module
from bench.measure.environment import device_facts
from bench.measure.journal import Journal, Story, read_journal
from bench.measure.measure import Budget, measure
from bench.predict.predictor import predict
from bench.sweep.harness import _why_not_on_cpu

MIB, GIB = 2**20, 2**30
CELL = CellConfig(method="linear", model="test_vit", res=64, batch_size=2, device="cuda")
ON_CPU = replace(CELL, device="cpu")
QUICK = Budget(cuda_s=0.05, idle_s=0.01, power_window_s=0.1, loader_s=0.0)


class FakeEvent:
    def __init__(self, enable_timing):
        pass

    def record(self):
        self.at_s = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return 1e3 * (other.at_s - self.at_s)


@pytest.fixture
def cuda(monkeypatch, faked_nvml):
    """A CUDA device of 8 GiB whose steps run on the CPU."""
    properties = mock.Mock(total_memory=8 * GIB, uuid="cc")
    properties.name = "a GPU"
    fakes = {
        "synchronize": lambda: None,
        "get_device_properties": lambda _: properties,
        "is_initialized": lambda: True,
        "max_memory_allocated": lambda: 100 * MIB,
        "max_memory_reserved": lambda: 120 * MIB,
        "memory_reserved": lambda: 120 * MIB,
        "reset_peak_memory_stats": lambda: None,
        "Event": FakeEvent,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(module, "work_on_device", lambda cell: work_on_device(replace(cell, device="cpu")))


@pytest.fixture
def run(tmp_path):
    """Measure a cell; gives the story that its journal tells."""

    def measured(cell=CELL, budget=QUICK):
        file = io.StringIO()
        measure(cell, budget, tmp_path, Journal(file))
        return list(read_journal(file.getvalue().splitlines()) or [Story()])[-1]

    return measured


def test_a_gpu_has_counters_time_and_power(cuda, run, faked_nvml):
    columns = run().columns
    assert "status" not in columns
    assert (columns["measured_peak_allocated_bytes"], columns["measured_peak_reserved_bytes"]) == (100 * MIB, 120 * MIB)
    assert (columns["measured_process_bytes"], columns["measured_device_bytes"]) == (3 * GIB, 5 * GIB)
    assert columns["measured_context_bytes"] == 3 * GIB - 120 * MIB
    assert columns["measured_fragmentation_bytes"] == 20 * MIB
    assert columns["throughput_img_s"] == pytest.approx(2 / columns["step_time_s"])
    assert (columns["mean_power_w"], columns["idle_power_w"], columns["power_limit_w"]) == (200, 200, 300)
    assert re.search(r"window of 0\.[1-9] s, under 5 s", columns["power_quality"])
    assert (columns["device"], columns["gpu_uuid"], columns["driver_version"]) == ("a GPU", "cc", "570.1")
    assert (columns["sm_clock_mhz"], columns["max_sm_clock_mhz"], columns["ecc_enabled"]) == (1410, 1980, True)
    faked_nvml.nvmlShutdown.assert_called_once()
    faked_nvml.nvmlDeviceGetHandleByUUID.assert_called_with("GPU-cc")


def test_without_nvml_its_columns_are_empty_and_the_reason_is_noted(cuda, run, faked_nvml):
    faked_nvml.nvmlInit.side_effect = faked_nvml.NVMLError(faked_nvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    story = run()
    assert story.columns["measured_process_bytes"] is None
    assert "mean_power_w" not in story.columns
    assert story.columns["measured_peak_allocated_bytes"] == 100 * MIB
    assert story.notes == [
        "NVML counters not measured: there is no NVIDIA driver here; install one, or pass it into the container"
    ]


def test_any_error_that_is_no_outcome_is_not_swallowed(run, monkeypatch):
    monkeypatch.setattr(module, "work_on_device", mock.Mock(side_effect=RuntimeError("device-side assert triggered")))
    with pytest.raises(RuntimeError, match="device-side assert"):
        run(ON_CPU)


def test_a_part_beyond_the_steps_that_runs_out_of_memory_leaves_the_rest(run, monkeypatch):
    oom = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has")
    monkeypatch.setattr(module, "_measure_loader", mock.Mock(side_effect=oom))
    story = run(ON_CPU, Budget(cpu_s=1.0))
    assert "status" not in story.columns and story.columns["step_time_s"] > 0
    assert story.notes == ["timing steps from disk did not work: CUDA out of memory. Tried to allocate 3.00 GiB"]


def test_the_preloading_pass_has_time_and_disk(run):
    cell = CellConfig(method="fptplus_preloading", model="test_vit", res=64, batch_size=2, device="cpu")
    columns = run(cell, Budget(cpu_s=1.0)).columns
    keys, values, *_ = work_on_device(cell)()
    assert columns["disk_bytes_per_img"] == 4 * (keys.numel() + values.numel()) / 2
    assert columns["throughput_img_s"] > 0
    assert "loader_throughput_img_s" not in columns


def test_epochs_are_whole_and_leave_out_what_is_no_whole_batch(tmp_path):
    cell = replace(ON_CPU, epochs=2, epoch_images=7)
    work, batches = work_on_device(cell), []
    counted = replace(work, step=lambda inputs, targets: batches.append(len(targets)))
    assert module._measure_epochs(tmp_path, cell, counted)["measured_training_time_s"] > 0
    assert batches == [2] * 6


def test_epochs_that_were_asked_for_are_found(run):
    cell = replace(ON_CPU, epochs=1, epoch_images=4)
    assert run(cell, Budget(cpu_s=1.0, loader_s=0)).columns["measured_training_time_s"] > 0


def test_a_cpu_s_facts_are_its_own():
    facts = device_facts("cpu")
    assert set(facts) == {"device", "device_memory_bytes"}


def test_a_cell_that_does_not_fit_this_computer_is_not_timed():
    cell = CellConfig(method="full", model="vit_s", res=224, device="cpu")
    with mock.patch("bench.sweep.harness.psutil.virtual_memory", return_value=mock.Mock(available=2**28)):
        assert "GiB of memory are free" in _why_not_on_cpu(predict(cell), 30.0)


def test_the_journal_is_one_json_object_a_line():
    file = io.StringIO()
    journal = Journal(file)
    journal.begin("a", 1)
    journal.found({"x": None})
    journal.end()
    assert [json.loads(line) for line in file.getvalue().splitlines()] == [
        {"phase": "a", "peak_allocated_bytes": 1},
        {"found": {"x": None}},
        {"end": True},
    ]
