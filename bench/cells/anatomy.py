"""What memory is for: over one training step, and at the moment of its peak. Both engines say it in these words."""

from dataclasses import dataclass
from typing import Literal

from fptplus.training.step import Phase

Kind = Literal["weights", "gradients", "optimizer", "activations", "inputs", "temporary"]
KINDS: tuple[Kind, ...] = ("weights", "gradients", "optimizer", "activations", "inputs", "temporary")


@dataclass(eq=False)
class Allocation:
    """One block of device memory from its allocation to its release."""

    num_bytes: int
    """As the allocator counts it where it is known, else as requested."""

    step: int
    """The training step it was made in, from 0; -1 for what was there before."""

    phase: Phase | Literal["before"]
    kind: Kind | None = None
    """What it is for; None until that can be told."""

    recomputed: bool = False
    """Made in the backward pass by running a checkpointed forward again."""

    op: str = ""
    """The operator that made it, or the parameter's name."""

    module: str = ""
    """The module in whose forward pass, or its gradient, it was made; empty elsewhere."""

    is_scratch: bool = False
    """Taken by an operator for itself, and given back before it ended."""


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The most memory that a training step has needed, once the optimizer's state is there."""

    requested_bytes: int
    """What the tensors themselves add up to."""

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
    """Where in the timeline the peak is reached."""

    phases: dict[str, int]
    """Where in the timeline each phase begins."""

    alive: list[Allocation]
    """What is allocated at the peak."""
