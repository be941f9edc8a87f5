"""The environment of a process that runs on an emulated card."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from bench.predict.devices import Gpu

from .build import device_libraries


def environment(
    gpu: Gpu,
    *,
    count: int = 1,
    state: Path | None = None,
    torch_folder: Path | None = None,
    base: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """Variables for a process whose CUDA devices are emulated cards.

    Args:
        gpu: the card, with the memory that processes may use.
        count: how many of them the machine has.
        state: file in which the machine's processes find each other; without one each has the cards to itself.
        torch_folder: `torch` in the site-packages of the process's Python; this one's by default.
        base: variables to add to.

    Raises:
        CannotEmulate: if the device cannot be compiled here.
    """
    folder = device_libraries(torch_folder)
    preload = [str(folder / "libemulated.so"), *filter(None, [base.get("LD_PRELOAD")])]
    path = [str(folder), *filter(None, [base.get("LD_LIBRARY_PATH")])]
    added = {
        "LD_PRELOAD": ":".join(preload),
        "LD_LIBRARY_PATH": ":".join(path),
        "EMULATED_GPU": describe(gpu),
        "EMULATED_GPU_COUNT": str(count),
    }
    if state is not None:
        added["EMULATED_GPU_STATE"] = str(state)
    return {**base, **added}


def describe(gpu: Gpu, context_bytes: int | None = None) -> str:
    """A card as the device reads it (device/card.cpp).

    Args:
        gpu: the card.
        context_bytes: of each process; what is typical of the card by default.
    """
    (major, minor), limits = gpu.compute_capability, gpu.limits
    facts = {
        "name": gpu.title,
        "uuid": uuid.uuid5(uuid.NAMESPACE_DNS, gpu.name),
        "memory_bytes": gpu.memory_bytes,
        "context_bytes": gpu.context_bytes if context_bytes is None else context_bytes,
        "major": major,
        "minor": minor,
        "num_sms": gpu.num_sms,
        "max_threads_per_sm": gpu.max_threads_per_sm,
        "max_blocks_per_sm": limits.max_blocks_per_sm,
        "registers_per_sm": limits.registers_per_sm,
        "shared_per_block_bytes": limits.shared_bytes_per_block,
        "shared_per_block_optin_bytes": limits.shared_bytes_per_block_optin,
        "shared_per_sm_bytes": limits.shared_bytes_per_sm,
        "l2_bytes": gpu.l2_bytes or 0,
        "memory_bus_bits": gpu.memory_bus_bits or 0,
        "clock_khz": 1000 * (gpu.sm_clock_mhz or 0),
        "memory_clock_khz": 1000 * (gpu.memory_clock_mhz or 0),
    }
    return ";".join(f"{name}={value}" for name, value in facts.items())
