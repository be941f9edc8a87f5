"""The four memory counters on the emulated device, and with a fake NVML for what it lacks: other containers."""

import os
from unittest import mock

import on_emulated_gpu as on_gpu
import pynvml
import pytest

from bench.cards.gpus import GPUS
from bench.measure.meters.memory import (
    BY_APPEARANCE,
    BY_DIFFERENCE,
    BY_PROCESS_ID,
    Usage,
    foreign_processes,
    process_memory,
)
from bench.measure.meters.nvml import NvmlDevice
from bench.units import GIB, MIB

CONTEXT_BYTES = GPUS["a6000"].context_bytes
DEVICE = NvmlDevice("handle", "handle")
BEFORE = Usage(1 * GIB, frozenset({7}))


def process(pid, used_bytes):
    return mock.Mock(pid=pid, usedGpuMemory=used_bytes)


@pytest.fixture
def reading(on_card):
    """8 MiB held, 64 in the warm-up, on a device where another process holds 30 since before."""
    return on_card(on_gpu.blocks_beside_another, 30 * MIB, 64 * MIB, 8 * MIB)


def test_peaks_are_kept_after_the_warm_up_and_over_the_whole_run(reading):
    counters, _, _ = reading
    assert (counters.measured_peak_allocated_bytes, counters.measured_run_peak_allocated_bytes) == (8 * MIB, 64 * MIB)
    assert (counters.measured_peak_reserved_bytes, counters.measured_run_peak_reserved_bytes) == (20 * MIB, 64 * MIB)
    assert counters.measured_fragmentation_bytes == 12 * MIB


def test_the_device_has_what_all_processes_have_and_each_its_context(reading):
    counters, before, _ = reading
    assert before.used_bytes == CONTEXT_BYTES + 30 * MIB
    assert counters.measured_process_bytes == CONTEXT_BYTES + 20 * MIB
    assert counters.measured_device_bytes == before.used_bytes + counters.measured_process_bytes
    assert counters.measured_context_bytes == CONTEXT_BYTES
    assert counters.process_memory_source == BY_PROCESS_ID


def test_the_other_process_is_foreign_by_its_name(reading):
    assert "python" in reading[2]


def test_a_process_that_was_killed_holds_no_memory_even_before_its_parent_has_asked(on_card):
    before, beside, after = on_card(on_gpu.free_bytes_around_another, 30 * MIB)
    assert before - beside == CONTEXT_BYTES + 30 * MIB
    assert after == before


def test_without_nvml_its_counters_are_empty(on_card):
    counters = on_card(on_gpu.counters_without_nvml)
    assert counters.measured_peak_allocated_bytes == on_gpu.BLOCK_BYTES
    assert counters.measured_process_bytes is counters.measured_device_bytes is counters.measured_context_bytes is None


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
