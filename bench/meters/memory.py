"""Peak memory of a CUDA device by four counters (all in bytes).

allocated ≤ reserved ≤ process ≤ device
live blocks   + cached   + context and   + other
                blocks     kernels         processes
"""

import os
from dataclasses import dataclass

import pynvml
import torch


@dataclass(frozen=True, kw_only=True)
class MemoryReading:
    """Peaks since the meter was reset, and NVML's view at the end. None where NVML cannot say."""

    measured_peak_allocated_bytes: int
    measured_peak_reserved_bytes: int
    measured_process_bytes: int | None
    measured_device_bytes: int | None


class MemoryMeter:
    """Reads the current CUDA device."""

    def reset(self) -> None:
        """Begin a new peak; cached blocks stay, as they do in training."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()

    def read(self) -> MemoryReading:
        """The peaks since reset()."""
        torch.cuda.synchronize()
        process_bytes, device_bytes = _nvml_bytes()
        return MemoryReading(
            measured_peak_allocated_bytes=torch.cuda.max_memory_allocated(),
            measured_peak_reserved_bytes=torch.cuda.max_memory_reserved(),
            measured_process_bytes=process_bytes,
            measured_device_bytes=device_bytes,
        )


def _nvml_bytes() -> tuple[int | None, int | None]:
    """What NVML says this process and the whole device use; each None where it does not say."""
    try:
        pynvml.nvmlInit()
        try:
            uuid = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            device_bytes = pynvml.nvmlDeviceGetMemoryInfo(handle).used
            own = [p for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle) if p.pid == os.getpid()]
            return (own[0].usedGpuMemory if own else None), device_bytes
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None, None
