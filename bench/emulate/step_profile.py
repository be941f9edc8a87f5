"""One training step as PyTorch's own allocator and profiler see it.

The profile has each block that was allocated and freed, and the operator that asked for it. Nothing stands between the
step and the device, so the step takes the same memory as without a profile.

    allocator's history ─ (address, given | taken back), all of them, in order ─┐
    profiler ─ tree: phases, modules, autograd nodes, operators, blocks given ──┴─ the n-th block given, with its place
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch._C._profiler import _EventType
from torch.autograd.profiler import profile, record_function

from bench.cells.module_calls import following_modules

_PHASE, _MODULE = "phase: ", "module: "
_NODE, _OPERATOR = "autograd::engine::evaluate_function: ", "aten::"
_MOST_ENTRIES = 10_000_000
"""Largest number of entries in the allocator's history; a step has some thousand."""

_MAKES_MEMORY = ("empty", "resize", "new_empty")
"""Operators that only ask for memory, on behalf of the operator that calls them."""


@dataclass(frozen=True)
class Mark:
    """The beginning of a phase."""

    time_ns: int
    phase: str


@dataclass(frozen=True)
class Change:
    """A block that the allocator gave or took back."""

    time_ns: int
    address: int
    num_bytes: int
    """Size of the block; 0 if it is taken back."""

    op: str = ""
    """Name of the operator that asked, with the operator inside it in brackets."""

    op_ends_ns: int = 0
    module: str = ""
    is_recomputed: bool = False
    """Whether it is in a module's forward pass that the backward pass runs again."""


@dataclass(frozen=True)
class Profile:
    """What a step did, in order of time."""

    changes: list[Change]
    marks: list[Mark]


@contextmanager
def profiled(model: nn.Module) -> Iterator[Callable[[], Profile]]:
    """Profile what happens inside; afterwards, the function yielded returns the profile.

    Args:
        model: the model whose modules are named.
    """
    torch.cuda.memory._record_memory_history("all", context=None, max_entries=_MOST_ENTRIES)
    try:
        with profile(profile_memory=True) as profiler, _modules_marked(model):
            yield lambda: _read(profiler.kineto_results, history)
        history = torch.cuda.memory._snapshot()["device_traces"][torch.cuda.current_device()]
    finally:
        torch.cuda.memory._record_memory_history(None)


def mark_phase(phase: str) -> None:
    """Tell the profile that a phase begins."""
    with record_function(_PHASE + phase):
        pass


@contextmanager
def _modules_marked(model: nn.Module) -> Iterator[None]:
    open_marks: list[record_function] = []

    def enter(name: str) -> None:
        open_marks.append(record_function(_MODULE + name))
        open_marks[-1].__enter__()

    with following_modules(model, enter, lambda: open_marks.pop().__exit__(None, None, None)):
        yield


class _Place(NamedTuple):
    """Place of an event in the tree."""

    module: str = ""
    in_node: bool = False
    outer: str = ""
    """Name of the operator that no other operator calls."""

    inner: str = ""
    """Name of the innermost operator that does more than ask for memory."""

    ends_ns: int = 0
    """Time at which the outer operator ends, in nanoseconds."""

    @property
    def is_recomputed(self) -> bool:
        """Whether it is in a module's forward pass that the backward pass runs again."""
        return self.in_node and bool(self.module)


class _Reader:
    """Reads the tree of events."""

    def __init__(self) -> None:
        self.given: list[Change] = []
        self.marks: list[Mark] = []

    def walk(self, events: list, place: _Place) -> None:
        """Read events and everything below them."""
        stack = [(event, place) for event in reversed(events)]
        while stack:
            event, place = stack.pop()
            if event.tag == _EventType.Allocation:
                self._allocation(event, place)
            elif event.tag == _EventType.TorchOp:
                below = self._operator(event, place)
                stack.extend((child, below) for child in reversed(event.children))
            else:
                stack.extend((child, place) for child in reversed(event.children))

    def _allocation(self, event, place: _Place) -> None:
        fields = event.extra_fields
        if fields.device.type != "cuda" or fields.alloc_size < 0:
            return
        op = place.outer if place.inner in ("", place.outer) else f"{place.outer} ({place.inner})"
        self.given.append(
            Change(
                time_ns=event.start_time_ns,
                address=fields.ptr,
                num_bytes=fields.alloc_size,
                op=op,
                op_ends_ns=place.ends_ns,
                module=place.module,
                is_recomputed=place.is_recomputed,
            )
        )

    def _operator(self, event, place: _Place) -> _Place:
        """Return the place below an operator or a mark."""
        name = event.name
        if name.startswith(_OPERATOR):
            name = name.removeprefix(_OPERATOR)
            outer, ends_ns = (place.outer, place.ends_ns) if place.outer else (name, event.end_time_ns)
            inner = place.inner if name.startswith(_MAKES_MEMORY) else name
            return _Place(place.module, place.in_node, outer, inner, ends_ns)
        if name.startswith(_MODULE):
            return _Place(module=name.removeprefix(_MODULE), in_node=place.in_node)
        if name.startswith(_NODE):
            return _Place(in_node=True)
        if name.startswith(_PHASE):
            self.marks.append(Mark(event.start_time_ns, name.removeprefix(_PHASE)))
        return place


def _read(results, history: list[dict]) -> Profile:
    reader = _Reader()
    reader.walk(results.experimental_event_tree(), _Place())
    return Profile(
        changes=list(_changes(history, sorted(reader.given, key=lambda change: change.time_ns))),
        marks=sorted(reader.marks, key=lambda mark: mark.time_ns),
    )


def _changes(history: list[dict], given: list[Change]) -> Iterator[Change]:
    """Yield what the allocator did, in its order; the profiler knows the place of each block given.

    Raises:
        RuntimeError: if the two do not report the same blocks.
    """
    places = iter(given)
    for entry in history:
        if entry["action"] == "alloc":
            place = next(places, None)
            if place is None or place.address != entry["addr"]:
                raise RuntimeError("the allocator's history and the profile must tell of the same blocks")
            yield place
        elif entry["action"] == "free_requested":
            yield Change(time_ns=1000 * entry["time_us"], address=entry["addr"], num_bytes=0)
