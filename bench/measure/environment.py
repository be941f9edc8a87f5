"""Where a record was made: versions, commit and processor."""

import os
import platform
import subprocess
from pathlib import Path

import psutil
import pynvml
import torch

from bench.emulate.device_state import is_emulated
from bench.measure.meters.nvml import NvmlDevice
from bench.records.record import EMULATED

_ROOT = Path(__file__).resolve().parents[2]


def provenance() -> dict[str, str | bool | None]:
    """torch_version, git_commit and git_dirty of this checkout; None outside a git checkout.

    An environment inside another repository does not lend its commit, nor does a GIT_DIR that a hook has set.
    """
    is_checkout = (top := _git("rev-parse", "--show-toplevel")) is not None and Path(top).resolve() == _ROOT
    commit, changes = (_git("rev-parse", "HEAD"), _git("status", "--porcelain")) if is_checkout else (None, None)
    return {
        "torch_version": torch.__version__,
        "git_commit": commit,
        "git_dirty": None if changes is None else bool(changes),
    }


def device_facts(device: str) -> dict[str, str | int | None]:
    """Return name and memory of the processor that `cuda` or `cpu` stands for.

    For a GPU, also return its UUID and PyTorch's CUDA version.
    """
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        return {
            "device": properties.name + (EMULATED if is_emulated() else ""),
            "device_memory_bytes": properties.total_memory,
            "gpu_uuid": str(properties.uuid),
            "cuda_version": torch.version.cuda,
        }
    return {"device": _cpu_name(), "device_memory_bytes": psutil.virtual_memory().total}


def nvml_facts(device: NvmlDevice) -> dict[str, str | int | float | bool | None]:
    """Return whatever else makes two measurements on one kind of GPU differ; a value is None if NVML does not say."""
    ecc = device.ask(pynvml.nvmlDeviceGetEccMode, board=True)
    sm, memory = pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError:
        driver = None
    return {
        "driver_version": driver,
        "sm_clock_mhz": device.ask(pynvml.nvmlDeviceGetClockInfo, sm, board=True),
        "memory_clock_mhz": device.ask(pynvml.nvmlDeviceGetClockInfo, memory, board=True),
        "max_sm_clock_mhz": device.ask(pynvml.nvmlDeviceGetMaxClockInfo, sm, board=True),
        "power_limit_w": device.power_limit_w,
        "ecc_enabled": None if ecc is None else bool(ecc[0]),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def _git(*arguments: str) -> str | None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        result = subprocess.run(
            ["git", *arguments],
            cwd=_ROOT,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
