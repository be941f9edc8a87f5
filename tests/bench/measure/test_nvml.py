"""Match CUDA's device with NVML's on the emulated device; MIG slices, meters and errors use a fake NVML."""

import os
import subprocess
import sys
from pathlib import Path

import on_emulated_gpu as on_gpu
import pynvml
import pytest

from bench.cards.gpus import GPUS
from bench.emulate.pool import Job
from bench.measure.meters.nvml import ERRORS, NvmlDevice, NvmlSilent, all_devices, explain, find_device, nvml_session

A, B = "GPU-aaaa1111", "GPU-bbbb2222"


def error(name):
    return pynvml.NVMLError(getattr(pynvml, f"NVML_ERROR_{name}"))


CODES = {name: value for name, value in vars(pynvml).items() if name.startswith("NVML_ERROR_")}


@pytest.mark.parametrize("name", CODES)
def test_every_error_code_has_a_sentence_of_its_own(name):
    sentence = explain(pynvml.NVMLError(CODES[name]))
    assert sentence == ERRORS[CODES[name]]
    assert len(sentence) > 20 and not sentence.endswith(".")
    assert list(ERRORS.values()).count(sentence) == 1


def test_another_distribution_of_pynvml_may_lack_names(tmp_path):
    """The package `pynvml` has had several authors; an early one knows few codes and no reasons for slow clocks."""
    (tmp_path / "pynvml.py").write_text(
        "class NVMLError(Exception): pass\n"
        "class NVMLError_Uninitialized(NVMLError): pass\n"
        "NVML_ERROR_UNINITIALIZED = 1\n"
    )
    code = "import bench.measure.meters.power, bench.measure.meters.nvml as nvml; print(len(nvml.ERRORS))"
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])])
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert run.stdout == "1\n", run.stderr


def test_a_code_of_a_later_driver_is_named():
    assert "code 4711" in explain(pynvml.NVMLError(4711))


@pytest.fixture
def two_gpus(faked_nvml):
    faked_nvml.nvmlDeviceGetCount.return_value = 2
    faked_nvml.nvmlDeviceGetUUID.side_effect = {"board 0": A, "board 1": B}.get
    return faked_nvml


@pytest.fixture(scope="module")
def found(emulated_pool):
    """What find_device() gives on a machine with two emulated GPUs, of which CUDA may see the second."""

    def run(*environments):
        two = {"EMULATED_GPU_COUNT": "2", "CUDA_VISIBLE_DEVICES": "1"}
        job = Job(gpu=GPUS["a6000"], arguments=(environments,), environment=two)
        (answer,) = emulated_pool.map(on_gpu.found_devices, [job])
        return answer

    return run


def test_cuda_s_own_uuid_finds_the_device_whatever_the_order(found):
    first, by_cuda, of_cuda = found({"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    assert by_cuda == of_cuda != first


def test_without_cuda_the_environment_finds_it(found):
    in_order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    visible = ("1,0", "0", None)
    second, first, default, *_ = found(
        *(in_order | ({} if v is None else {"CUDA_VISIBLE_DEVICES": v}) for v in visible)
    )
    assert (second, default) == (found()[-1], first) and first != second
    asked = (second, second[:-1], first[: len("GPU-")])
    assert found(*({"CUDA_VISIBLE_DEVICES": uuid} for uuid in asked))[:3] == [
        second,
        f"CUDA_VISIBLE_DEVICES must begin with one GPU's UUID, {asked[1]!r} fits 2 GPUs",
        "CUDA_VISIBLE_DEVICES must begin with one GPU's UUID, 'GPU-' fits 2 GPUs",
    ]


def test_cuda_s_order_by_speed_says_nothing_about_nvml_s(found):
    assert "set CUDA_DEVICE_ORDER=PCI_BUS_ID" in found({"CUDA_VISIBLE_DEVICES": "0"})[0]


@pytest.mark.parametrize("visible", ["", "-1", "none"])
def test_an_environment_that_hides_all_gpus_is_said_so(found, visible):
    reason = found({"CUDA_VISIBLE_DEVICES": visible})[0]
    assert reason.startswith("CUDA_VISIBLE_DEVICES must begin with a GPU's number or UUID")


def test_one_gpu_has_only_one_order(on_card):
    found, by_cuda, of_cuda = on_card(on_gpu.found_devices, [{}])
    assert found == by_cuda == of_cuda


def test_what_the_emulated_device_does_not_have_is_none_and_never_0(on_card):
    quantities, reading = on_card(on_gpu.power_without_a_meter)
    assert set(quantities.values()) == {None}
    assert set(vars(reading).values()) == {None}


@pytest.mark.parametrize("cuda_uuid", [None, "whatever CUDA says"])
def test_a_mig_slice_is_metered_itself_and_its_power_on_the_board(two_gpus, cuda_uuid):
    two_gpus.nvmlDeviceGetDeviceHandleFromMigDeviceHandle.side_effect = {"handle of MIG-cc": "board 1"}.get
    device = find_device({"CUDA_VISIBLE_DEVICES": "MIG-cc"}, cuda_uuid)
    assert (device.handle, device.board, device.is_mig) == ("handle of MIG-cc", "board 1", True)
    assert device.power_w == 200
    two_gpus.nvmlDeviceGetPowerUsage.assert_called_with("board 1")


def test_a_uuid_that_is_no_gpu_s_is_a_mig_slice_s(two_gpus):
    def by_uuid(uuid):
        if uuid.startswith("GPU-"):
            raise error("NOT_FOUND")
        return f"handle of {uuid}"

    two_gpus.nvmlDeviceGetHandleByUUID.side_effect = by_uuid
    assert find_device({}, "cc").handle == "handle of MIG-cc"


def test_a_device_that_nvml_does_not_know_is_said_in_words(two_gpus):
    two_gpus.nvmlDeviceGetHandleByUUID.side_effect = error("NOT_FOUND")
    with pytest.raises(NvmlSilent, match="the CUDA device was not found by NVML: NVML does not know it"):
        find_device({}, "cc")


def test_slices_are_devices_too(two_gpus):
    two_gpus.nvmlDeviceGetMaxMigDeviceCount.side_effect = {"board 0": 0, "board 1": 2}.get

    def slice_of(board, number):
        if number:
            raise error("NOT_FOUND")
        return f"slice {number} of {board}"

    two_gpus.nvmlDeviceGetMigDeviceHandleByIndex.side_effect = slice_of
    assert [device.handle for device in all_devices()] == ["board 0", "board 1", "slice 0 of board 1"]


def test_without_a_driver_the_session_says_why(faked_nvml):
    faked_nvml.nvmlInit.side_effect = error("LIBRARY_NOT_FOUND")
    with pytest.raises(NvmlSilent, match="there is no NVIDIA driver here"), nvml_session():
        pass


def test_the_session_is_closed_whatever_happens(faked_nvml):
    with pytest.raises(ZeroDivisionError), nvml_session():
        raise ZeroDivisionError
    faked_nvml.nvmlShutdown.assert_called_once()


def test_what_is_not_answered_is_none_and_never_0(faked_nvml):
    for name in dir(pynvml):
        if name.startswith("nvmlDeviceGet"):
            getattr(faked_nvml, name).side_effect = error("NOT_SUPPORTED")
    device = NvmlDevice("handle", "board")
    quantities = ("uuid", "used_bytes", "process_bytes", "power_w", "energy_j", "temperature_c", "power_limit_w")
    assert [getattr(device, name) for name in quantities] == [None] * len(quantities)
    assert device.why_not(faked_nvml.nvmlDeviceGetPowerUsage) == "this GPU does not have it"


def test_units_are_watts_and_joules(faked_nvml):
    faked_nvml.nvmlDeviceGetTotalEnergyConsumption.side_effect = None
    faked_nvml.nvmlDeviceGetTotalEnergyConsumption.return_value = 1_500
    device = NvmlDevice("handle", "board")
    assert (device.power_w, device.energy_j, device.power_limit_w) == (200.0, 1.5, 300.0)
