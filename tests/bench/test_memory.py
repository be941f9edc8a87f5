"""The four memory counters, with a faked CUDA and NVML."""

import os
from unittest import mock

import pynvml
import pytest
import torch

from bench.meters.memory import (
    BY_APPEARANCE,
    BY_DIFFERENCE,
    BY_PROCESS_ID,
    MemoryMeter,
    Usage,
    foreign_processes,
    process_memory,
    usage_of_all,
)
from bench.meters.nvml import NvmlDevice

GIB = 2**30
DEVICE = NvmlDevice("handle", "handle")
BEFORE = Usage(1 * GIB, frozenset({7}))


def process(pid, used_bytes):
    return mock.Mock(pid=pid, usedGpuMemory=used_bytes)


@pytest.fixture
def peaks(monkeypatch):
    """Allocated and reserved peaks of a faked CUDA, to be changed by the test."""
    values = {"allocated": 10, "reserved": 20}
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: values["allocated"])
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: values["reserved"])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: values["reserved"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: values.update(allocated=1, reserved=15))
    return values


def test_peaks_are_kept_after_the_warm_up_and_over_the_whole_run(peaks):
    meter = MemoryMeter()
    meter.reset()
    peaks["allocated"] = 8
    reading = meter.read()
    assert (reading.measured_peak_allocated_bytes, reading.measured_peak_reserved_bytes) == (8, 15)
    assert (reading.measured_run_peak_allocated_bytes, reading.measured_run_peak_reserved_bytes) == (10, 20)
    assert reading.measured_fragmentation_bytes == 7
    assert reading.measured_process_bytes is reading.measured_device_bytes is reading.measured_context_bytes is None


def test_context_is_process_less_reserved(peaks, faked_nvml):
    reading = MemoryMeter(DEVICE, BEFORE).read()
    assert reading.measured_process_bytes == 3 * GIB
    assert reading.measured_device_bytes == 5 * GIB
    assert reading.measured_context_bytes == 3 * GIB - 20
    assert reading.process_memory_source == BY_PROCESS_ID


def test_in_a_container_the_process_is_the_one_that_appeared(faked_nvml):
    faked_nvml.nvmlDeviceGetComputeRunningProcesses.return_value = [process(7, GIB), process(4711, 2 * GIB)]
    assert process_memory(DEVICE, BEFORE) == (2 * GIB, BY_APPEARANCE)


@pytest.mark.parametrize("listed", [[], [process(4711, None)], [process(os.getpid(), None)]])
def test_where_processes_say_nothing_it_is_the_difference(faked_nvml, listed):
    faked_nvml.nvmlDeviceGetComputeRunningProcesses.return_value = listed
    assert process_memory(DEVICE, Usage(GIB, frozenset())) == (4 * GIB, BY_DIFFERENCE)


def test_where_several_appeared_nobody_can_tell(faked_nvml):
    faked_nvml.nvmlDeviceGetComputeRunningProcesses.return_value = [process(1, GIB), process(2, GIB)]
    assert process_memory(DEVICE, BEFORE) == (None, None)


def test_where_nobody_looked_before_there_is_no_difference(faked_nvml):
    faked_nvml.nvmlDeviceGetComputeRunningProcesses.return_value = []
    assert process_memory(DEVICE, None) == (None, None)


def test_processes_from_before_and_later_ones_are_foreign(faked_nvml):
    own = process(os.getpid(), GIB)
    faked_nvml.nvmlDeviceGetComputeRunningProcesses.return_value = [own, process(7, GIB), process(8, GIB)]
    assert dict(foreign_processes(DEVICE, BEFORE)) == {7: "python", 8: "python"}


def test_this_process_is_not_foreign_under_its_id_outside_the_container(faked_nvml):
    faked_nvml.nvmlDeviceGetComputeRunningProcesses.return_value = [process(4711, GIB)]
    assert dict(foreign_processes(DEVICE, Usage(GIB, frozenset()))) == {}


def test_a_process_whose_name_is_hidden_is_still_foreign(faked_nvml):
    faked_nvml.nvmlSystemGetProcessName.side_effect = pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)
    assert dict(foreign_processes(DEVICE, BEFORE)) == {7: "unknown"}


def test_usage_is_noted_for_every_device(faked_nvml):
    (usage,) = usage_of_all().values()
    assert usage == Usage(5 * GIB, frozenset({os.getpid()}))
