"""What is known of a published row after its script has run on an emulated card."""

from dataclasses import dataclass

from bench.cards.contexts import ContextSize


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """PyTorch's counters at a script's end."""

    allocated_bytes: int
    reserved_bytes: int
    ran: bool
    """Whether it ran; False if PyTorch raised its OutOfMemoryError."""

    unknown_workspaces: str
    """Kinds of operators whose scratch memory inside cuDNN is not known; empty if all is known."""


@dataclass(frozen=True, kw_only=True)
class Emulated:
    """A published row on its emulated card."""

    peaks: Peaks
    """Peaks on a card with enough memory."""

    context: ContextSize | None
    """CUDA context of its process, for the source's CUDA version, if the counter includes it."""

    ran_with: tuple[bool, bool] | None
    """For a bound, whether it ran at the GPU's capacity with the CUDA context that is harder on its claim, and whether
    with the other; one run stands for both if the first confirms the claim."""
