"""The environment of a process that runs on an emulated card."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .build import PRELOADED, device_libraries

if TYPE_CHECKING:
    from bench.cards.gpus import Gpu

_OF_DEVICES = ("CUDA_VISIBLE_DEVICES", "EMULATED_GPU", "EMULATED_GPU_COUNT", "EMULATED_GPU_STATE")


def environment(
    gpu: "Gpu | None" = None,
    *,
    count: int = 1,
    state: Path | None = None,
    torch_folder: Path | None = None,
    base: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """Return the variables for a process whose CUDA devices are emulated cards.

    Args:
        gpu: the card, with the memory that processes may use; None if a process is given one before it starts CUDA.
        count: number of such cards in the machine.
        state: file through which the machine's processes find each other; without one each has the cards to itself.
        torch_folder: `torch` in the site-packages of the process's Python; this one's by default.
        base: variables to add to; those that choose among this machine's devices or emulate devices are left out.

    Raises:
        CannotEmulate: if the device cannot be compiled here.
    """
    folder = device_libraries(torch_folder)
    kept = _outside(base)
    added = {
        "LD_PRELOAD": ":".join(filter(None, [str(folder / PRELOADED), kept.get("LD_PRELOAD")])),
        "LD_LIBRARY_PATH": ":".join(filter(None, [str(folder), kept.get("LD_LIBRARY_PATH")])),
        "EMULATED_GPU_COUNT": str(count),
    }
    if gpu is not None:
        added["EMULATED_GPU"] = describe(gpu)
    if state is not None:
        added["EMULATED_GPU_STATE"] = str(state)
    return kept | added


def _outside(base: Mapping[str, str]) -> dict[str, str]:
    """Return variables without those about devices: a process on one emulated machine may start another."""
    preloaded = base.get("LD_PRELOAD", "").replace(" ", ":").split(":")
    folders = {str(Path(library).parent) for library in preloaded if Path(library).name == PRELOADED}
    lists = {
        "LD_PRELOAD": [library for library in preloaded if str(Path(library).parent) not in folders],
        "LD_LIBRARY_PATH": [path for path in base.get("LD_LIBRARY_PATH", "").split(":") if path not in folders],
    }
    others = {name: value for name, value in base.items() if name not in (*_OF_DEVICES, *lists)}
    return others | {name: ":".join(filter(None, entries)) for name, entries in lists.items() if name in base}


def describe(gpu: "Gpu", context_bytes: int | None = None) -> str:
    """Describe a card in the form that the device reads (device/card.cpp).

    Args:
        gpu: the card.
        context_bytes: size of each process's CUDA context; by default the card's typical size.
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
