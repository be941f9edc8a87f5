"""What is known of a published row once its script has run on an emulated card."""

from dataclasses import dataclass

from bench.predict.contexts import ContextSize


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """What PyTorch's counters show at a script's end."""

    allocated_bytes: int
    reserved_bytes: int
    ran: bool
    """False where PyTorch raised its OutOfMemoryError."""


@dataclass(frozen=True, kw_only=True)
class Emulated:
    """A published row on its emulated card."""

    peaks: Peaks
    """On a card with enough memory, without scratch of cuDNN."""

    context: ContextSize | None
    """Of its process, with the CUDA version of the source, where the counter asks for it."""

    reserved_range_bytes: tuple[int, int]
    """Over sizes of scratch that cuDNN may take, none included; one and the same where it was not tried."""

    ran_with: tuple[bool, bool] | None
    """For a bound: whether it ran at the GPU's capacity with the largest and with the smallest context."""
