"""Why a method needs its memory: the largest tensors at the peak, what operators take for themselves, and what each
rule of a traced prediction adds.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from bench.cells.anatomy import Allocation, Anatomy
from bench.cells.config import CellConfig
from bench.trace.replay import replay
from bench.trace.rules import RULES

from .traced import trace_cell

OPERATORS = {
    "_softmax": "softmax",
    "softmax (_softmax)": "softmax",
    "_softmax_backward_data (mul)": "softmax backward, grad·output",
    "_softmax_backward_data": "softmax backward",
    "_scaled_dot_product_efficient_attention_backward": "efficient attention backward",
    "_scaled_dot_product_flash_attention_backward": "flash attention backward",
    "_scaled_dot_product_cudnn_attention_backward": "cuDNN attention backward",
    "_foreach_sqrt": "AdamW, denominators",
    "_foreach_div": "AdamW, denominators",
}
"""Operators of aten in words, where their names say little."""


@dataclass(frozen=True)
class TensorGroup:
    """Blocks in use at the peak that the same place in every transformer block has made."""

    where: str
    """Module, with * for the number of the block, and the operator."""

    kind: str
    count: int
    num_bytes: int


def largest_tensors(anatomy: Anatomy, count: int = 5) -> list[Allocation]:
    """The largest blocks in use at the allocated peak, largest first."""
    return sorted(anatomy.alive, key=lambda allocation: -allocation.num_bytes)[:count]


def largest_groups(anatomy: Anatomy, count: int = 5) -> list[TensorGroup]:
    """What is in use at the peak, that of all transformer blocks taken together, largest first."""
    return _grouped(anatomy.alive, count)


def taken_by_operators(anatomy: Anatomy, count: int = 5) -> list[TensorGroup]:
    """What operators hold for themselves at the peak, largest first: until they end, or for good."""
    return _grouped((a for a in anatomy.alive if a.is_scratch or (a.step < 0 and a.kind == "temporary")), count)


def _grouped(allocations: Iterable[Allocation], count: int) -> list[TensorGroup]:
    num_bytes, number = Counter(), Counter()
    for allocation in allocations:
        key = re.sub(r"\.\d+\b", ".*", place(allocation)), allocation.kind
        num_bytes[key] += allocation.num_bytes
        number[key] += 1
    return [TensorGroup(*key, number[key], size) for key, size in num_bytes.most_common(count)]


def place(allocation: Allocation) -> str:
    """Where a tensor was made, as `blocks.3.attn: _softmax`; a parameter's or input's own name otherwise."""
    op = OPERATORS.get(allocation.op, allocation.op)
    return f"{allocation.module}: {op}" if allocation.module else op


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
