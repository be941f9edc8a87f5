"""Why a method needs its memory: the largest tensors at the peak, operators' own memory, each traced rule's part."""

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
"""Names of aten operators in words, where the operators' own names say little."""


@dataclass(frozen=True)
class TensorGroup:
    """Blocks in use at the peak that were made at the same place in every transformer block."""

    where: str
    """Module, with * for the number of the transformer block, and the operator."""

    kind: str
    count: int
    num_bytes: int


def largest_tensors(anatomy: Anatomy, count: int = 5) -> list[Allocation]:
    """Return the largest blocks in use at the allocated peak, largest first."""
    return sorted(anatomy.alive, key=lambda allocation: -allocation.num_bytes)[:count]


def largest_groups(anatomy: Anatomy, count: int = 5) -> list[TensorGroup]:
    """Return groups of blocks in use at the peak, all transformer blocks taken together, largest first."""
    return _grouped(anatomy.alive, count)


def taken_by_operators(anatomy: Anatomy, count: int = 5) -> list[TensorGroup]:
    """Return what operators hold for themselves at the peak, until they end or for good, largest first."""
    return _grouped((a for a in anatomy.alive if a.is_scratch or (a.step < 0 and a.kind == "temporary")), count)


def _grouped(allocations: Iterable[Allocation], count: int) -> list[TensorGroup]:
    num_bytes, number = Counter(), Counter()
    for allocation in allocations:
        key = re.sub(r"\.\d+\b", ".*", place(allocation)), allocation.kind
        num_bytes[key] += allocation.num_bytes
        number[key] += 1
    return [TensorGroup(*key, number[key], size) for key, size in num_bytes.most_common(count)]


def place(allocation: Allocation) -> str:
    """Return where a tensor was made, as `blocks.3.attn: _softmax`; a parameter's or input's own name otherwise."""
    op = OPERATORS.get(allocation.op, allocation.op)
    return f"{allocation.module}: {op}" if allocation.module else op


@dataclass(frozen=True)
class Contribution:
    """What one rule adds to a prediction: the prediction with all rules, less the one without that rule."""

    rule: str
    allocated_bytes: int
    reserved_bytes: int
    """Added reserved memory. It can be 0 for a rule that adds to allocated memory, since cached blocks may have
    room."""


def contributions(cell: CellConfig) -> list[Contribution]:
    """Return what each rule adds to the peaks of a cell."""
    whole, added = replay(trace_cell(cell)), []
    for name in RULES:
        without = replay(trace_cell(cell, rules=[rule for other, rule in RULES.items() if other != name]))
        allocated_bytes = whole.allocated_bytes - without.allocated_bytes
        added.append(Contribution(name, allocated_bytes, whole.reserved_bytes - without.reserved_bytes))
    return added
