"""The measured half without a GPU: outcomes, budgets, and NVML's answers from a faked NVML."""

import os
from unittest import mock

import pynvml
import pytest
import torch

from bench import measure
from bench.config import CellConfig
from bench.meters import memory
from bench.meters.throughput import time_steps
from bench.predict.predictor import predict

CELL = CellConfig(method="linear", model="test_vit", res=64, device="cuda")
BUDGET = measure.TimingBudget()


@pytest.fixture
def failing_with(monkeypatch):
    def set_error(error):
        monkeypatch.setattr(measure, "_measure_on_cuda", mock.Mock(side_effect=error))
        monkeypatch.setattr(measure, "device_facts", lambda device: {"device": "a GPU"})

    return set_error


def test_out_of_memory_is_an_outcome(failing_with):
    failing_with(
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has a total of ...")
    )
    reading = measure.measure(CELL, predict(CELL), BUDGET)
    assert reading["status"] == "oom"
    assert reading["status_detail"] == "CUDA out of memory. Tried to allocate 3.00 GiB"
    assert reading["device"] == "a GPU"


def test_a_kernel_the_device_does_not_have_is_an_outcome(failing_with):
    failing_with(RuntimeError("No available kernel. Aborting execution."))
    assert measure.measure(CELL, predict(CELL), BUDGET)["status"] == "unsupported"


def test_any_other_error_is_not_swallowed(failing_with):
    failing_with(RuntimeError("device-side assert triggered"))
    with pytest.raises(RuntimeError, match="device-side assert"):
        measure.measure(CELL, predict(CELL), BUDGET)


def test_a_cell_that_does_not_fit_this_computer_is_not_timed():
    cell = CellConfig(method="full", model="vit_s", res=224, device="cpu")
    with mock.patch.object(measure.psutil, "virtual_memory", return_value=mock.Mock(available=2**28)):
        assert "GiB of memory are free" in measure.measure(cell, predict(cell), BUDGET)["status_detail"]


def test_the_number_of_timed_steps_is_bounded_from_both_sides():
    steps = []
    reading = time_steps(lambda: steps.append(1), batch_size=8, device="cpu", budget_s=0.0, min_steps=3, max_steps=20)
    assert len(steps) == 3
    assert reading.throughput_img_s == pytest.approx(8 / reading.step_time_s)
    time_steps(lambda: steps.append(1), batch_size=8, device="cpu", budget_s=60.0, min_steps=1, max_steps=5)
    assert len(steps) == 8


@pytest.fixture
def nvml(monkeypatch):
    """NVML with one GPU on which this process uses 3 GiB of 5."""
    fake = mock.create_autospec(pynvml)
    fake.NVMLError = pynvml.NVMLError
    fake.nvmlDeviceGetMemoryInfo.return_value = mock.Mock(used=5 * 2**30)
    fake.nvmlDeviceGetComputeRunningProcesses.return_value = [
        mock.Mock(pid=1, usedGpuMemory=2**31),
        mock.Mock(pid=os.getpid(), usedGpuMemory=3 * 2**30),
    ]
    monkeypatch.setattr(memory, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: mock.Mock(uuid="1234"))
    return fake


def test_nvml_tells_this_process_from_the_device(nvml):
    assert memory._nvml_bytes() == (3 * 2**30, 5 * 2**30)
    nvml.nvmlDeviceGetHandleByUUID.assert_called_once_with("GPU-1234")
    nvml.nvmlShutdown.assert_called_once()


def test_where_process_ids_are_invisible_the_process_is_not_measured(nvml):
    nvml.nvmlDeviceGetComputeRunningProcesses.return_value = []
    assert memory._nvml_bytes() == (None, 5 * 2**30)


def test_without_nvml_nothing_is_measured(nvml):
    nvml.nvmlInit.side_effect = pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    assert memory._nvml_bytes() == (None, None)
