"""The doctor, on this machine, on an emulated card, and with a fake NVML for what that card cannot answer."""

from unittest import mock

import on_emulated_gpu as on_gpu
import pynvml
import pytest
import torch

from bench.__main__ import main
from bench.cards import gpus as devices
from bench.cards.gpus import GPUS
from bench.cards.probe import Properties
from bench.commands import doctor
from bench.emulate.build import CannotEmulate
from bench.emulate.pool import Job

EMULATED, KERNELS = "memory by PyTorch itself, on emulated cards", "kernels for all cards of the catalogue"
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


def findings(found=None):
    return {finding.what: finding for finding in found or doctor.examine("results")}


@pytest.fixture(scope="module")
def on_emulated(emulated_pool, tmp_path_factory):
    """Findings on an emulated card, and where another process uses it too."""
    state = str(tmp_path_factory.mktemp("machine") / "processes")
    job = Job(gpu=GPUS["a6000"], arguments=("results",), environment={"EMULATED_GPU_STATE": state})
    (answer,) = emulated_pool.map(on_gpu.doctor_alone_and_beside_another, [job])
    alone, pid, beside_another = answer
    return findings(alone), pid, findings(beside_another)


def test_an_emulated_card_answers_but_is_not_measured(on_emulated):
    found, _, _ = on_emulated
    assert found["CUDA"].detail.startswith("NVIDIA RTX A6000, 47.5 GiB, predicted as a6000")
    assert found["time on the GPU, measured memory"].verdict == "no"
    assert "driver_version emulated" in found["NVML"].detail
    assert found["an undisturbed GPU"].verdict == "yes"
    assert found["sampled power"] == doctor.Finding("sampled power", "no", "this GPU does not have it")


def test_other_processes_are_named_with_the_cure(on_emulated):
    _, pid, found = on_emulated
    finding = found["an undisturbed GPU"]
    assert finding.verdict == "no" and f"({pid}); end them" in finding.detail


def test_the_emulated_device_is_told_with_the_versions_it_is_made_of(on_emulated):
    finding = findings()[EMULATED]
    assert finding.verdict == "yes"
    assert f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, compiled by " in finding.detail
    assert "/" not in finding.detail


def test_where_the_device_cannot_be_emulated_the_reason_and_the_cure_are_told(monkeypatch):
    reason = "the emulated device cannot be compiled: there is no C++ compiler; install g++."
    monkeypatch.setattr(doctor, "device_libraries", mock.Mock(side_effect=CannotEmulate(reason)))
    found = findings()
    assert found[EMULATED] == doctor.Finding(EMULATED, "no", reason)
    assert KERNELS not in found


def test_cards_that_this_pytorch_has_no_kernels_for_are_named(monkeypatch, on_emulated):
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90", "compute_90"])
    finding = findings()[KERNELS]
    assert finding.verdict == "limited" and finding.detail.startswith("none for v100-16gb, v100-32gb: ")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_70", "compute_70"])
    assert KERNELS not in findings()


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


def test_a_container_without_processes_is_limited(gpu):
    gpu.nvmlDeviceGetComputeRunningProcesses.side_effect = silent("NO_PERMISSION")
    assert findings()["process memory"].verdict == "limited"


def test_without_nvml_the_allocator_s_counters_remain(gpu):
    gpu.nvmlInit.side_effect = silent("LIB_RM_VERSION_MISMATCH")
    found = findings()
    assert found["time on the GPU, allocated and reserved memory"].verdict == "yes"
    assert found["process and device memory, power"].detail.startswith("driver and library differ in version")


def test_without_submitit_the_cure_is_named(monkeypatch):
    find = doctor.importlib.util.find_spec
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "submitit" else find(name))
    assert "pip install 'fptplus-bench[slurm]'" in findings()["several GPUs or machines"].detail


def test_encodings_of_dicom_are_listed_and_the_extra_that_brings_the_missing_ones(monkeypatch):
    finding = findings()["DICOM images"]
    assert finding.verdict in ("yes", "limited") and finding.detail.startswith("uncompressed, RLE")
    monkeypatch.setattr(doctor, "decodable_encodings", lambda: {"uncompressed": True, "JPEG-LS": False})
    expected = "uncompressed; not JPEG-LS: pip install 'fptplus-bench[dicom]'"
    assert findings()["DICOM images"] == doctor.Finding("DICOM images", "limited", expected)
    monkeypatch.setattr(doctor, "decodable_encodings", lambda: {"uncompressed": True, "RLE": True})
    assert findings()["DICOM images"] == doctor.Finding("DICOM images", "yes", "uncompressed, RLE")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_command_says_so(capsys, tmp_path):
    assert main(["doctor", "--out", str(tmp_path / "nowhere" / "results")]) == 0
    printed = capsys.readouterr().out
    assert "prediction" in printed and "CUDA" in printed and "no" in printed
    assert not (tmp_path / "nowhere").exists()
