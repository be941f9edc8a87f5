"""Device errors that are outcomes of a cell: memory runs out, or a kernel is missing."""

import re

import torch

from bench.cells.config import CellConfig
from bench.emulate.device_state import is_emulated, unanswered
from bench.records.measured_columns import Reading

_OOM_SIGNS = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
_FACTORS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def outcome_of(error: RuntimeError, cell: CellConfig, phase: str) -> Reading | None:
    """Return the columns of the record of a cell that ended in an error; None if the error is a fault.

    Args:
        error: the step's error; torch.OutOfMemoryError is a RuntimeError.
        cell: the cell that was measured.
        phase: phase in which the error was raised.
    """
    message = str(error)
    if any(sign in message for sign in _OOM_SIGNS):
        return _out_of_memory(message, phase, cell.device)
    if "No available kernel" in message:
        return {"status": "unsupported", "status_detail": f"attention {cell.attention}: {message}"}
    if cell.device == "cuda" and is_emulated() and (names := unanswered()):
        detail = f"the emulated device has no answer to {names}, which {cell.method} calls during {phase}"
        return {"status": "unsupported", "status_detail": detail, "ended_in_phase": phase}
    return None


def _out_of_memory(message: str, phase: str, device: str) -> Reading:
    """Return what is known of an allocation that failed."""
    asked = re.search(r"allocate (([\d.]+) (KiB|MiB|GiB|bytes))", message)
    asked_bytes = None if asked is None else round(float(asked[2]) * _FACTORS[asked[3]])
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    detail = f"out of memory during {phase}" + ("" if asked is None else f", asked for {asked[1]}")
    detail += "" if peak is None else f", last peak {peak / 2**20:,.0f} MiB allocated"
    return {
        "status": "oom",
        "status_detail": detail,
        "ended_in_phase": phase,
        "oom_asked_bytes": asked_bytes,
        "last_peak_allocated_bytes": peak,
    }
