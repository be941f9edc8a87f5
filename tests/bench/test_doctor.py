"""The doctor, on this machine and on faked ones."""

from unittest import mock

import pynvml
import pytest
import torch

from bench import doctor
from bench.__main__ import main
from bench.predict import devices
from bench.probe import Properties

PROPERTIES = Properties(
    name="NVIDIA H200",
    uuid="cc",
    memory_bytes=140 * 2**30,
    compute_capability=(9, 0),
    num_sms=132,
    max_threads_per_sm=2048,
)


@pytest.fixture
def gpu(monkeypatch, faked_nvml):
    for module in (doctor, devices):
        monkeypatch.setattr(module, "present_properties", lambda: PROPERTIES)
    faked_nvml.nvmlDeviceGetComputeRunningProcesses.return_value = []
    return faked_nvml


def findings(out="results"):
    return {finding.what: finding for finding in doctor.examine(out)}


def silent(name):
    return pynvml.NVMLError(getattr(pynvml, f"NVML_ERROR_{name}"))


def test_a_gpu_that_answers_everything_can_be_measured(gpu):
    gpu.nvmlDeviceGetTotalEnergyConsumption.side_effect = None
    found = findings()
    for what in ("CUDA", "NVML", "an undisturbed GPU", "sampled power", "energy counter"):
        assert found[what].verdict == "yes"
    assert "driver_version 570.1" in found["NVML"].detail


def test_a_counter_that_is_not_there_is_said_in_words(gpu):
    assert findings()["energy counter"] == doctor.Finding("energy counter", "no", "this GPU does not have it")


def test_other_processes_are_named_with_the_cure(gpu):
    gpu.nvmlDeviceGetComputeRunningProcesses.return_value = [mock.Mock(pid=7, usedGpuMemory=1)]
    finding = findings()["an undisturbed GPU"]
    assert finding.verdict == "no" and "(7); end them" in finding.detail


def test_a_container_without_processes_is_limited(gpu):
    gpu.nvmlDeviceGetComputeRunningProcesses.side_effect = silent("NO_PERMISSION")
    assert findings()["process memory"].verdict == "limited"


def test_without_nvml_the_allocator_s_counters_remain(gpu):
    gpu.nvmlInit.side_effect = silent("LIB_RM_VERSION_MISMATCH")
    found = findings()
    assert found["time on the GPU, allocated and reserved memory"].verdict == "yes"
    assert found["process and device memory, power"].detail.startswith("driver and library differ in version")


def test_without_submitit_the_cure_is_named(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'fptplus-bench[slurm]'" in findings()["several GPUs or machines"].detail


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_command_says_so(capsys, tmp_path):
    assert main(["doctor", "--out", str(tmp_path / "nowhere" / "results")]) == 0
    printed = capsys.readouterr().out
    assert "prediction" in printed and "CUDA" in printed and "no" in printed
    assert not (tmp_path / "nowhere").exists()
