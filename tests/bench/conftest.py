"""A real Chromium, processes on emulated cards, and a fake NVML for what those cards lack.

The fake NVML has every function of the real one, and answers for one GPU that runs only this process.
"""

import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pynvml
import pytest
from chromium import browser as browser

from bench.cards.gpus import GPUS, Gpu
from bench.commands import doctor
from bench.emulate import launch
from bench.emulate.build import why_not
from bench.emulate.pool import EmulatedPool, Job
from bench.measure import environment
from bench.measure.meters import memory, nvml, power

UUID = "11111111-2222-3333-4444-555555555555"


def process(pid, used_bytes):
    return mock.Mock(pid=pid, usedGpuMemory=used_bytes)


@pytest.fixture(scope="session")
def emulated_pool():
    """Processes on emulated cards; they find the functions of the modules that tests of cards and predictions have."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        folders = (Path(__file__).parent / name for name in ("emulate", "predict"))
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
        pool = EmulatedPool()
    with pool:
        yield pool


@pytest.fixture
def on_card(emulated_pool, tmp_path):
    """Call a function in a process on an emulated card, whose machine it shares with the others of this test."""

    def call(function: Callable, *arguments: object, card: Gpu = GPUS["a6000"], **variables: str):
        variables = {"EMULATED_GPU_STATE": str(tmp_path / "processes"), **variables}
        (answer,) = emulated_pool.map(function, [Job(gpu=card, arguments=arguments, environment=variables)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    return call


@pytest.fixture(scope="session")
def emulated_card(tmp_path_factory):
    """The environment of processes on a machine that has an emulated card, by the card's name."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    return lambda name: launch.environment(GPUS[name], state=tmp_path_factory.mktemp("machine") / "processes")


@pytest.fixture
def faked_nvml(monkeypatch):
    """pynvml with one GPU; a test changes what it answers, or lets it raise."""
    fake = mock.create_autospec(pynvml)
    for name in dir(pynvml):
        if name.startswith(("NVML_", "nvmlClocks")) or name == "NVMLError":
            setattr(fake, name, getattr(pynvml, name))
    fake.nvmlDeviceGetCount.return_value = 1
    fake.nvmlDeviceGetHandleByIndex.side_effect = lambda index: f"board {index}"
    fake.nvmlDeviceGetHandleByUUID.side_effect = lambda uuid: f"handle of {uuid}"
    fake.nvmlDeviceGetUUID.return_value = f"GPU-{UUID}"
    fake.nvmlDeviceGetMaxMigDeviceCount.return_value = 0
    fake.nvmlDeviceGetMemoryInfo.return_value = mock.Mock(used=5 * 2**30)
    fake.nvmlDeviceGetComputeRunningProcesses.return_value = [process(os.getpid(), 3 * 2**30)]
    fake.nvmlSystemGetProcessName.return_value = "python"
    fake.nvmlSystemGetDriverVersion.return_value = "570.1"
    fake.nvmlDeviceGetPowerUsage.return_value = 200_000
    fake.nvmlDeviceGetTotalEnergyConsumption.side_effect = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    fake.nvmlDeviceGetTemperature.return_value = 61
    fake.nvmlDeviceGetEnforcedPowerLimit.return_value = 300_000
    fake.nvmlDeviceGetCurrentClocksThrottleReasons.return_value = 0
    fake.nvmlDeviceGetEccMode.return_value = [1, 1]
    fake.nvmlDeviceGetClockInfo.side_effect = lambda handle, kind: {1: 1410, 2: 1593}[kind]
    fake.nvmlDeviceGetMaxClockInfo.return_value = 1980
    for module in (nvml, memory, power, environment, doctor):
        monkeypatch.setattr(module, "pynvml", fake)
    return fake
