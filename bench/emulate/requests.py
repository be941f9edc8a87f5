"""What a training step asks of PyTorch's allocator: heard once, then asked of the allocator again without the step.

What a step asks for depends neither on the addresses that it gets nor on what was asked for before. So its memory is
found by asking alone, and the answers are the allocator's own. A step has three parts:

    start: gradients of the last step are given back
    body: forward, loss, backward; it depends on the batch size
    tail: optimizer, and what the method does after it; in the first step of a training the optimizer makes its state
"""

import ctypes
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from .build import requests_library


class UnlikeSteps(RuntimeError):
    """Steps that should ask for the same do not."""


@dataclass(frozen=True)
class Part:
    """Some requests in their order. Blocks are counted from 0: those that are there at first, then the new ones."""

    requests: array
    """Size in bytes of a new block, -1 - n to give back block n, or 0 for a new block that is never there."""

    num_new: int
    leaves: list[int]
    """Blocks that later parts know of, in the order in which they were asked for."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What one step asked for, or some other work, which then is all body."""

    replaced: list[int]
    """Blocks that the last step has left and this one gives back, such as gradients: their places in its tail's
    leaves."""

    start: Part
    """There at first: `replaced`. It leaves as many, of which some are not there any more."""

    body: Part
    """There at first: nothing that it knows of."""

    tail: Part
    """There at first: what the start leaves, then what the body leaves."""

    addresses: list[int]
    """Addresses of the blocks that the step leaves."""


class Listener:
    """A context manager that writes down what is asked of the allocator inside it, on this process's card.

    Args:
        last: the step before; None for a first step and for other work.

    Raises:
        CannotEmulate: if the listener cannot be compiled here.
    """

    def __init__(self, last: Heard | None = None) -> None:
        self._library = _library()
        self._last = [] if last is None else last.addresses
        self._tail_begins: int | None = None

    def __enter__(self) -> "Listener":
        self._library.requests_listen(1)
        return self

    def __exit__(self, *exc_info) -> None:
        numbers = self._library.requests_heard()[: 2 * self._library.requests_count()]
        self._events = list(zip(numbers[::2], numbers[1::2], strict=True))
        self._library.requests_listen(0)

    def enter(self, phase: str) -> None:
        """Note that a phase of the step begins."""
        if phase == "optimizer":
            self._tail_begins = self._library.requests_count()

    def heard(self) -> Heard:
        """Return what was asked for.

        Raises:
            UnlikeSteps: if a block was given back that neither this step nor the last has asked for, or in the middle
                of the body one of the last step.
        """
        return _read(self._events, self._tail_begins, self._last)


_Numbers = dict[int, int]
"""Blocks that are there: the number of each by its address, in the order in which they were asked for."""


def _read(events: list[tuple[int, int]], tail_begins: int | None, last: Sequence[int]) -> Heard:
    """Number the blocks of a step.

    Args:
        events: address and size in bytes of each block that is asked for; with a size of 0 it is given back.
        tail_begins: number of events before the tail; None if there is no tail.
        last: addresses of the blocks that the last step has left.
    """
    tail_begins = len(events) if tail_begins is None else tail_begins
    body_begins = next((place for place, (_, size) in enumerate(events) if size), tail_begins)
    replaced = _replaced(events, last)
    there = {last[place]: number for number, place in enumerate(replaced)}
    start, there = _read_part(events[:body_begins], there, len(replaced))
    start = Part(array("q", sorted(start.requests)), 0, list(range(len(replaced))))  # one after another, in any order
    body, new = _read_part(events[body_begins:tail_begins], {}, 0)
    there |= {address: number for number, address in enumerate(new, len(replaced))}
    tail, left = _read_part(events[tail_begins:], there, len(replaced) + len(new))
    return Heard(replaced=replaced, start=start, body=body, tail=tail, addresses=list(left))


def _replaced(events: list[tuple[int, int]], last: Sequence[int]) -> list[int]:
    """Return the places of the last step's blocks that are given back, before a new one has the same address."""
    places, found = {address: place for place, address in enumerate(last)}, []
    for address, size in events:
        place = places.pop(address, None)
        if place is not None and size == 0:
            found.append(place)
    return sorted(found)


def _read_part(events: list[tuple[int, int]], there: _Numbers, num_there: int) -> tuple[Part, _Numbers]:
    """Return a part, and the blocks that are there at its end."""
    blocks, count, requests = dict(there), num_there, array("q")
    for address, size in events:
        if size:
            blocks[address] = count
            count += 1
        elif address not in blocks:
            raise UnlikeSteps("a step gives back a block that neither it nor the last step has asked for.")
        requests.append(size or -1 - blocks.pop(address))
    return Part(requests, count - num_there, list(blocks.values())), blocks


class Training:
    """The first steps of a training, asked of the allocator without the training.

    Args:
        first: the first step of a training, at any batch size.
        second: the step after it.
        steady: a later step that asked for everything anew that steps share, such as the workspaces of cuBLAS.
        after_steady: the step after that one.

    Raises:
        UnlikeSteps: if these do not continue one another, or each step leaves more blocks.
    """

    def __init__(self, first: Heard, second: Heard, steady: Heard, after_steady: Heard) -> None:
        self._first, self._steady = first, steady
        self._replaced_first, self._replaced = second.replaced, after_steady.replaced
        num_replaced, num_left = len(self._replaced), len(steady.body.leaves)
        self._shared = [leaf - num_replaced for leaf in _others(steady.tail.leaves, self._replaced)]
        """Blocks that only the first step asks for: their places in what the body leaves."""

        if any(place not in range(num_left) for place in self._shared):
            raise UnlikeSteps("each step of a training leaves more blocks.")
        if {len(second.replaced), len(steady.replaced)} != {num_replaced} or len(first.body.leaves) != num_left:
            raise UnlikeSteps("the first step of a training leaves other blocks than those after it.")

    def ask(self, of_batch: Heard, num_steps: int) -> list[int]:
        """Ask for what the first steps ask for at a batch size; return the addresses of the blocks that they leave.

        Args:
            of_batch: a step at that batch size, the first of a training or like `steady`.
            num_steps: number of steps.

        Raises:
            UnlikeSteps: if that step is unlike the others in more than its batch.
        """
        body, tail = of_batch.body, self._steady.tail
        is_like = of_batch is self._first or (of_batch.tail == tail and of_batch.start == self._steady.start)
        if not is_like or len(body.leaves) != len(self._first.body.leaves):
            raise UnlikeSteps("the steps of two batch sizes differ in more than the batch.")
        later_body = _without(body, {body.leaves[place] for place in self._shared})
        left, replaced = _ask(self._first.tail, _ask(body, [])), self._replaced_first
        lasting = _others(left, replaced)
        for _ in range(num_steps - 1):
            old = _ask(self._steady.start, [left[place] for place in replaced])
            left, replaced = _ask(tail, old + _ask(later_body, [])), self._replaced
        return [block for block in (*lasting, *(left[place] for place in replaced)) if block]


def ask(work: Heard) -> list[int]:
    """Ask the allocator of this process's card for what some work asked for; return the addresses of what it leaves."""
    return _ask(work.body, [])


def take(sizes: Iterable[int]) -> list[int]:
    """Ask the allocator of this process's card for blocks of some sizes in bytes; return their addresses."""
    requests = array("q", sizes)
    return _ask(Part(requests, len(requests), list(range(len(requests)))), [])


def give_back(addresses: Sequence[int]) -> None:
    """Give blocks back to the allocator."""
    _ask(Part(array("q", [-1 - block for block in range(len(addresses))]), 0, []), addresses)


def _others(items: Sequence[int], places: Iterable[int]) -> list[int]:
    """Return the items at all places but some."""
    left_out = set(places)
    return [item for place, item in enumerate(items) if place not in left_out]


def _without(part: Part, left_out: set[int]) -> Part:
    """Return a part that does not ask for some of its blocks; the numbers of the others stay."""
    requests, block = array("q"), 0
    for request in part.requests:
        requests.append(0 if request > 0 and block in left_out else request)
        block += request > 0
    return Part(requests, part.num_new, part.leaves)


def _ask(part: Part, there: Sequence[int]) -> list[int]:
    """Make a part's requests; return the addresses of the blocks that it leaves, 0 for one that is not there.

    Args:
        part: the requests.
        there: addresses of the blocks that are there at first, 0 for one that is not.

    Raises:
        UnlikeSteps: if the allocator refuses one.
    """
    library, count = _library(), len(part.requests)
    blocks = (ctypes.c_int64 * (len(there) + part.num_new))(*there)
    requests = (ctypes.c_int64 * count).from_buffer(part.requests)
    if not library.requests_ask(requests, count, blocks, len(there)):
        raise UnlikeSteps("the allocator refuses what it has given before.")
    return [blocks[block] for block in part.leaves]


@cache
def _library() -> ctypes.CDLL:
    torch.cuda.init()  # before it, there is no allocator to listen to
    library = ctypes.CDLL(requests_library())
    library.requests_count.restype = ctypes.c_size_t
    library.requests_heard.restype = ctypes.POINTER(ctypes.c_int64)
    library.requests_ask.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t]
    return library
