"""Whether a process fits a GPU whose CUDA context is known only within a range."""

from dataclasses import dataclass
from typing import Literal

from bench.units import MIB

from .contexts import ContextSize
from .gpus import Gpu

Word = Literal["yes", "no", "maybe"]
"""A verdict in one word; `maybe` where the size of the CUDA context decides."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """An answer and its reason."""

    word: Word

    sentence: str


def verdict(reserved_bytes: int, gpu: Gpu, context: ContextSize | None = None) -> Verdict:
    """Whether a process fits, given what PyTorch reserves at its peak.

    Args:
        reserved_bytes: size of PyTorch's segments.
        gpu: the card, with the memory that may be used.
        context: size of the process's CUDA context; by default that of the installed PyTorch.
    """
    context = context or gpu.context
    left_bytes = gpu.memory_bytes - reserved_bytes
    if context.high_bytes <= left_bytes:
        spare = f"{(left_bytes - context.high_bytes) / MIB:,.0f} MiB stay free"
        return Verdict(word="yes", sentence=f"fits: {spare} with a CUDA context of {context.high_bytes / MIB:,.0f} MiB")
    if context.low_bytes > left_bytes:
        lacking = f"{(context.low_bytes - left_bytes) / MIB:,.0f} MiB are lacking"
        return Verdict(
            word="no", sentence=f"does not fit: {lacking} with a CUDA context of {context.low_bytes / MIB:,.0f} MiB"
        )
    known = f"{context.low_bytes / MIB:,.0f} and {context.high_bytes / MIB:,.0f} MiB"
    return Verdict(
        word="maybe",
        sentence=f"fits if the CUDA context takes no more than {left_bytes / MIB:,.0f} MiB; known between {known}",
    )
