"""What memory is used for over one training step and at the moment of its peak.

Both engines report it in these terms.
"""

from dataclasses import dataclass
from typing import Literal

from fptplus.training.step import Phase

Kind = Literal["weights", "gradients", "optimizer", "activations", "inputs", "temporary"]
KINDS: tuple[Kind, ...] = ("weights", "gradients", "optimizer", "activations", "inputs", "temporary")


@dataclass(eq=False)
class Allocation:
    """One block of device memory from its allocation to its release."""

    num_bytes: int
    """Size as the allocator counts it if that is known, else as requested."""

    step: int
    """Training step that made it, counted from 0; -1 if it was there before."""

    phase: Phase | Literal["before"]
    kind: Kind | None = None
    """Kind of memory; None until that is known."""

    recomputed: bool = False
    """Whether the backward pass made it by running a checkpointed forward pass again."""

    op: str = ""
    """Operator that made it, or the parameter's name."""

    module: str = ""
    """Module that made it in its forward pass or its gradient; empty if no module did."""

    is_scratch: bool = False
    """Whether an operator took it as scratch memory and gave it back before it ended."""


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Peak memory of a training step, once the optimizer's state exists."""

    requested_bytes: int
    """Sum of the tensors' own sizes."""

    allocated_bytes: int
    """Blocks in use, as torch.cuda.max_memory_allocated counts them."""

    reserved_bytes: int
    """Segments, as torch.cuda.max_memory_reserved counts them."""

    by_kind: dict[Kind, int]
    """Allocated bytes of each kind at the allocated peak; they add up to allocated_bytes."""


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """One training step, allocation by allocation."""

    peak: Peak
    timeline: list[dict[Kind, int]]
    """Allocated bytes by kind after each allocation and release."""

    peak_index: int
    """Index in the timeline at which the peak is reached."""

    phases: dict[str, int]
    """Index in the timeline at which each phase begins."""

    alive: list[Allocation]
    """Allocations in use at the peak."""
