"""NVML: which device CUDA computes on, what it reports, and each of its errors as a sentence.

NVML numbers GPUs by PCI bus, CUDA by speed unless CUDA_DEVICE_ORDER says otherwise, and CUDA_VISIBLE_DEVICES renumbers
what CUDA sees. Devices are therefore matched by UUID, never by index alone.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import pynvml

_SENTENCES: dict[str, str] = {
    "UNINITIALIZED": "NVML was not started; this is an error of the benchmark",
    "INVALID_ARGUMENT": "NVML did not accept the question; update the driver",
    "NOT_SUPPORTED": "this GPU does not have it",
    "NO_PERMISSION": "this user may not read it; ask the administrator",
    "ALREADY_INITIALIZED": "NVML was started twice; this is an error of the benchmark",
    "NOT_FOUND": "NVML does not know it; check CUDA_VISIBLE_DEVICES",
    "INSUFFICIENT_SIZE": "the answer was larger than expected; update nvidia-ml-py",
    "INSUFFICIENT_POWER": "the GPU's power cables are not plugged in; plug them in",
    "DRIVER_NOT_LOADED": "the NVIDIA driver is not loaded; load it, or restart the machine",
    "TIMEOUT": "the GPU did not answer in time; try again",
    "IRQ_ISSUE": "the GPU's interrupts do not arrive; restart the machine",
    "LIBRARY_NOT_FOUND": "there is no NVIDIA driver here; install one, or pass it into the container",
    "FUNCTION_NOT_FOUND": "the driver is too old to say; update it",
    "CORRUPTED_INFOROM": "the GPU's info ROM is damaged; the vendor can restore it",
    "GPU_IS_LOST": "the GPU has fallen off the bus; restart the machine",
    "RESET_REQUIRED": "the GPU needs a reset; the administrator can do it with nvidia-smi --gpu-reset",
    "OPERATING_SYSTEM": "the operating system blocked it; check the container's device permissions",
    "LIB_RM_VERSION_MISMATCH": "driver and library differ in version; restart after an update",
    "IN_USE": "another program uses it; try again",
    "MEMORY": "there was too little memory for the answer; free some",
    "NO_DATA": "the driver has no data of it yet; try again",
    "VGPU_ECC_NOT_SUPPORTED": "a virtual GPU with ECC does not have it",
    "INSUFFICIENT_RESOURCES": "the driver has run out of resources; try again",
    "FREQ_NOT_SUPPORTED": "the GPU does not have that clock frequency",
    "ARGUMENT_VERSION_MISMATCH": "driver and nvidia-ml-py differ in version; update both",
    "DEPRECATED": "the driver no longer answers this; update nvidia-ml-py",
    "NOT_READY": "the GPU is not ready; try again",
    "GPU_NOT_FOUND": "there is no such GPU; check CUDA_VISIBLE_DEVICES",
    "INVALID_STATE": "the GPU's state does not permit it",
    "RESET_TYPE_NOT_SUPPORTED": "the GPU does not have that kind of reset",
    "UNKNOWN": "the driver failed inside; the system log may say more",
}

ERRORS: dict[int, str] = {
    getattr(pynvml, f"NVML_ERROR_{name}"): sentence
    for name, sentence in _SENTENCES.items()
    if hasattr(pynvml, f"NVML_ERROR_{name}")  # not every distribution of pynvml has all of them
}
"""Meaning of each error code, and its cure."""


class NvmlSilent(Exception):
    """NVML cannot report on the device; the message says why, in words."""


def explain(error: pynvml.NVMLError) -> str:
    """Return an NVML error as a sentence without its full stop."""
    return ERRORS.get(error.value, f"NVML failed with code {error.value}, unknown to this benchmark; update it")


@contextmanager
def nvml_session() -> Iterator[None]:
    """Start NVML, and stop it at the end.

    Raises:
        NvmlSilent: if it does not start.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NvmlSilent(explain(error)) from error
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


@dataclass(frozen=True)
class NvmlDevice:
    """A GPU or a MIG slice of one. Each question returns None if NVML has no answer; `why_not` then says why."""

    handle: object
    """Handle of the device that CUDA computes on: memory and processes."""

    board: object
    """Handle of the whole GPU; only there are power, temperature and clocks metered."""

    is_mig: bool = False

    def ask(self, question: Callable, *arguments: object, board: bool = False) -> object | None:
        """Return NVML's answer, or None."""
        try:
            return question(self.board if board else self.handle, *arguments)
        except pynvml.NVMLError:
            return None

    def why_not(self, question: Callable, *arguments: object) -> str | None:
        """Return why the board does not answer a question; None if it does."""
        try:
            question(self.board, *arguments)
        except pynvml.NVMLError as error:
            return explain(error)
        return None

    @property
    def uuid(self) -> str | None:
        """Return the UUID: GPU-… or MIG-…."""
        return self.ask(pynvml.nvmlDeviceGetUUID)

    @property
    def used_bytes(self) -> int | None:
        """Return the memory in use by all processes and the driver."""
        memory = self.ask(pynvml.nvmlDeviceGetMemoryInfo)
        return None if memory is None else memory.used

    @property
    def process_bytes(self) -> dict[int, int | None] | None:
        """Return the memory of each compute process by id, None if unknown; None instead if NVML cannot list them."""
        processes = self.ask(pynvml.nvmlDeviceGetComputeRunningProcesses)
        return None if processes is None else {process.pid: process.usedGpuMemory for process in processes}

    @property
    def power_w(self) -> float | None:
        """Return the present power draw in watts (NVML reports mW)."""
        return _scaled(self.ask(pynvml.nvmlDeviceGetPowerUsage, board=True), 1e-3)

    @property
    def energy_j(self) -> float | None:
        """Return the energy since the driver was loaded in joules (NVML reports mJ)."""
        return _scaled(self.ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, board=True), 1e-3)

    @property
    def temperature_c(self) -> int | None:
        """Return the temperature of the chip in °C."""
        return self.ask(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU, board=True)

    @property
    def power_limit_w(self) -> float | None:
        """Return the power limit in force in watts (NVML reports mW)."""
        return _scaled(self.ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, board=True), 1e-3)


def _scaled(value: int | None, factor: float) -> float | None:
    return None if value is None else value * factor


def find_device(environ: Mapping[str, str], cuda_uuid: str | None = None) -> NvmlDevice:
    """Return the device that CUDA calls 0 in this environment; call it within nvml_session().

    Args:
        environ: environment with CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER.
        cuda_uuid: the device's UUID according to CUDA, without prefix; None if CUDA has not been asked.

    Raises:
        NvmlSilent: if it cannot be determined which device that is.
    """
    entry = environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    try:
        if entry.startswith("MIG-"):
            return _mig_device(pynvml.nvmlDeviceGetHandleByUUID(entry))
        if cuda_uuid is not None:
            return _by_cuda_uuid(cuda_uuid)
        if entry.startswith("GPU-"):
            return _by_uuid_prefix(entry)
        return _by_index(entry, environ.get("CUDA_DEVICE_ORDER", "FASTEST_FIRST"))
    except pynvml.NVMLError as error:
        raise NvmlSilent(f"the CUDA device was not found by NVML: {explain(error)}") from error


def all_devices() -> Iterator[NvmlDevice]:
    """Yield every GPU of the machine and every MIG slice; call it within nvml_session()."""
    for index in range(pynvml.nvmlDeviceGetCount()):
        board = pynvml.nvmlDeviceGetHandleByIndex(index)
        yield NvmlDevice(board, board)
        try:
            slices = range(pynvml.nvmlDeviceGetMaxMigDeviceCount(board))
        except pynvml.NVMLError:
            continue
        for number in slices:
            try:
                yield NvmlDevice(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(board, number), board, is_mig=True)
            except pynvml.NVMLError:
                continue  # slots of a GPU that is not partitioned


def _mig_device(handle: object) -> NvmlDevice:
    return NvmlDevice(handle, pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle), is_mig=True)


def _by_cuda_uuid(uuid: str) -> NvmlDevice:
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError:
        return _mig_device(pynvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}"))
    return NvmlDevice(handle, handle)


def _by_uuid_prefix(prefix: str) -> NvmlDevice:
    """Return the device whose UUID begins with a prefix; CUDA accepts any unique prefix."""
    found = [device for device in all_devices() if not device.is_mig and (device.uuid or "").startswith(prefix)]
    if len(found) != 1:
        raise NvmlSilent(f"CUDA_VISIBLE_DEVICES must begin with one GPU's UUID, {prefix!r} fits {len(found)} GPUs")
    return found[0]


def _by_index(entry: str, order: str) -> NvmlDevice:
    if not entry.isdigit():
        raise NvmlSilent(f"CUDA_VISIBLE_DEVICES must begin with a GPU's number or UUID, it begins with {entry!r}")
    count = pynvml.nvmlDeviceGetCount()
    if count > 1 and order != "PCI_BUS_ID":
        raise NvmlSilent(
            "CUDA numbers the fastest GPU first and NVML by PCI bus; set CUDA_DEVICE_ORDER=PCI_BUS_ID, "
            "or CUDA_VISIBLE_DEVICES to a UUID"
        )
    handle = pynvml.nvmlDeviceGetHandleByIndex(int(entry))
    return NvmlDevice(handle, handle)
