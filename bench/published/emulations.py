"""What is known of a published row once its script has run on an emulated card."""

from dataclasses import dataclass

from bench.cards.contexts import ContextSize


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """What PyTorch's counters show at a script's end."""

    allocated_bytes: int
    reserved_bytes: int
    ran: bool
    """False where PyTorch raised its OutOfMemoryError."""

    unknown_workspaces: str
    """Kinds of operators whose scratch memory inside cuDNN is not known; empty where all is."""


@dataclass(frozen=True, kw_only=True)
class Emulated:
    """A published row on its emulated card."""

    peaks: Peaks
    """On a card with enough memory."""

    context: ContextSize | None
    """Of its process, with the CUDA version of the source, where the counter asks for it."""

    ran_with: tuple[bool, bool] | None
    """For a bound: whether it ran at the GPU's capacity with the CUDA context that is harder on its claim, and whether
    with the other; one run stands for both where the first bears the claim out."""
