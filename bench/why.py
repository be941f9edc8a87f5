"""Why a method needs its memory: the largest tensors at the peak, and what each rule of the prediction adds."""

import re
from collections import Counter
from dataclasses import dataclass

from .config import CellConfig
from .predict.predictor import trace_cell
from .predict.replay import alive_at, replay
from .predict.rules import RULES
from .predict.trace import Allocation, Trace


@dataclass(frozen=True)
class TensorGroup:
    """Tensors alive at the peak that the same place in every block has made."""

    where: str
    """Module, with * for the number of the block, and the operator."""

    kind: str
    count: int
    num_bytes: int


def largest_tensors(trace: Trace, count: int = 5) -> list[Allocation]:
    """The largest tensors alive at the allocated peak, largest first."""
    return sorted(alive_at(trace, replay(trace).event_index), key=lambda a: -a.num_bytes)[:count]


def largest_groups(trace: Trace, count: int = 5) -> list[TensorGroup]:
    """The tensors alive at the peak, those of all blocks taken together, largest first."""
    num_bytes, number = Counter(), Counter()
    for allocation in alive_at(trace, replay(trace).event_index):
        key = re.sub(r"\.\d+\b", ".*", place(allocation)), allocation.kind
        num_bytes[key] += allocation.num_bytes
        number[key] += 1
    return [TensorGroup(*key, number[key], size) for key, size in num_bytes.most_common(count)]


def place(allocation: Allocation) -> str:
    """Where a tensor was made, as `blocks.3.attn: _softmax`; a parameter's or input's own name otherwise."""
    return f"{allocation.module}: {allocation.op}" if allocation.module else allocation.op


@dataclass(frozen=True)
class Contribution:
    """What one rule adds to a prediction: with all rules, less with that one switched off."""

    rule: str
    allocated_bytes: int
    reserved_bytes: int
    """Can be 0 for a rule that adds to allocated memory: what it needs may fit into blocks that are cached anyway."""


def contributions(cell: CellConfig) -> list[Contribution]:
    """What each rule adds to the peaks of a cell."""
    whole, added = replay(trace_cell(cell)), []
    for name in RULES:
        without = replay(trace_cell(cell, rules=[rule for other, rule in RULES.items() if other != name]))
        allocated_bytes = whole.allocated_bytes - without.allocated_bytes
        added.append(Contribution(name, allocated_bytes, whole.reserved_bytes - without.reserved_bytes))
    return added
