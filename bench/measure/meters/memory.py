"""Peak memory of a CUDA device by four counters (all in bytes).

allocated ≤ reserved ≤ process ≤ device
live blocks   + cached   + context and   + other
                blocks     kernels         processes
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import pynvml
import torch

from .nvml import NvmlDevice, all_devices

BY_PROCESS_ID = "nvml process"
BY_APPEARANCE = "nvml process that appeared: ids are not those of this container"
BY_DIFFERENCE = "nvml device, less what was in use before: processes are invisible here"


@dataclass(frozen=True, kw_only=True)
class MemoryReading:
    """Peaks after the warm-up and over the whole run, and NVML's view at the end. None if NVML cannot say."""

    measured_peak_allocated_bytes: int
    measured_peak_reserved_bytes: int
    measured_run_peak_allocated_bytes: int
    measured_run_peak_reserved_bytes: int
    measured_process_bytes: int | None
    measured_device_bytes: int | None
    measured_context_bytes: int | None
    """Process less reserved memory: CUDA context and loaded kernels."""

    measured_fragmentation_bytes: int
    """Reserved less allocated memory, both at their peaks: blocks cached but not in use."""

    process_memory_source: str | None
    """How this process was distinguished from others."""


@dataclass(frozen=True)
class Usage:
    """Use of a device before this process touches it."""

    used_bytes: int | None
    process_ids: frozenset[int]


def usage_of_all() -> dict[str, Usage]:
    """Return the use of every device by its UUID; ask before CUDA starts, when its device is not yet known."""
    return {
        device.uuid: Usage(device.used_bytes, frozenset(device.process_bytes or ()))
        for device in all_devices()
        if device.uuid is not None
    }


class MemoryMeter:
    """Reads the current CUDA device.

    Args:
        device: the same device in NVML; None without NVML.
        before: use of the device before CUDA was started in this process; None if not known.
    """

    def __init__(self, device: NvmlDevice | None = None, before: Usage | None = None) -> None:
        self._device, self._before = device, before
        self._warmup_peaks = (0, 0)

    def reset(self) -> None:
        """Start a new peak; cached blocks stay, as they do in training."""
        torch.cuda.synchronize()
        self._warmup_peaks = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())
        torch.cuda.reset_peak_memory_stats()

    def read(self) -> MemoryReading:
        """Return the peaks since reset() and since the process began."""
        torch.cuda.synchronize()
        allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        process_bytes, source = (None, None) if self._device is None else process_memory(self._device, self._before)
        return MemoryReading(
            measured_peak_allocated_bytes=allocated,
            measured_peak_reserved_bytes=reserved,
            measured_run_peak_allocated_bytes=max(allocated, self._warmup_peaks[0]),
            measured_run_peak_reserved_bytes=max(reserved, self._warmup_peaks[1]),
            measured_process_bytes=process_bytes,
            measured_device_bytes=None if self._device is None else self._device.used_bytes,
            measured_context_bytes=None if process_bytes is None else process_bytes - torch.cuda.memory_reserved(),
            measured_fragmentation_bytes=reserved - allocated,
            process_memory_source=source,
        )


def process_memory(device: NvmlDevice, before: Usage | None) -> tuple[int | None, str | None]:
    """Return the memory of this process and how it was found; (None, None) if it cannot be told from others."""
    processes = device.process_bytes or {}
    if (own := processes.get(os.getpid())) is not None:
        return own, BY_PROCESS_ID
    if before is None:
        return None, None
    appeared = {pid: size for pid, size in processes.items() if pid not in before.process_ids}
    if len(appeared) == 1 and (size := next(iter(appeared.values()))) is not None:
        return size, BY_APPEARANCE
    if len(appeared) <= 1 and None not in (device.used_bytes, before.used_bytes):
        return device.used_bytes - before.used_bytes, BY_DIFFERENCE
    return None, None


def foreign_processes(device: NvmlDevice, before: Usage) -> Mapping[int, str]:
    """Return, by id, the names of other processes that computed on the device before this one or while it ran."""
    now = set(device.process_bytes or ())
    came = now - before.process_ids - {os.getpid()}
    if os.getpid() not in now and len(came) == 1:
        came = set()  # it is this process, under the id that it has outside its container
    return {pid: _name(pid) for pid in sorted((before.process_ids - {os.getpid()}) | came)}


def _name(pid: int) -> str:
    try:
        name = pynvml.nvmlSystemGetProcessName(pid)
    except pynvml.NVMLError:
        return "unknown"
    return name.decode(errors="replace") if isinstance(name, bytes) else name
