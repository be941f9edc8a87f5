"""A simulation of PyTorch's CUDA caching allocator (c10/cuda/CUDACachingAllocator.cpp, default settings).

    request ─ round to 512 B ─ ≤ 1 MiB: small pool │ else: large pool
            ─ best fit among the pool's free blocks (smallest, then lowest address)
            ─ none: a new segment of 2 MiB │ 20 MiB (below 10 MiB) │ the size rounded up to 2 MiB
            ─ split off the rest if it is ≥ 512 B (small) or > 1 MiB (large); else the whole block counts as allocated
    free    ─ merge with free neighbours of the same segment; segments stay until memory runs out

Requested ≤ allocated (blocks in use) ≤ reserved (segments). One stream, as in training.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass, field

from bench.units import MIB

BLOCK_BYTES = 512
SMALL_REQUEST_BYTES = 1 * MIB
SMALL_SEGMENT_BYTES = 2 * MIB
LARGE_SEGMENT_BYTES = 20 * MIB
LARGE_SEGMENT_LIMIT_BYTES = 10 * MIB
SEGMENT_ROUNDING_BYTES = 2 * MIB


class OutOfMemory(Exception):
    """No segment is available for a request, even after returning the free ones."""

    def __init__(self, requested_bytes: int, reserved_bytes: int) -> None:
        super().__init__(f"{requested_bytes} bytes requested with {reserved_bytes} bytes reserved")
        self.requested_bytes, self.reserved_bytes = requested_bytes, reserved_bytes


@dataclass(eq=False)
class Block:
    """A stretch of one segment, in use or free; neighbours are linked."""

    address: int
    size: int
    is_small: bool
    requested: int = 0
    is_free: bool = False
    previous: "Block | None" = field(default=None, repr=False)
    next: "Block | None" = field(default=None, repr=False)


@dataclass
class Counter:
    """A quantity, mostly of bytes, with its peak."""

    current: int = 0
    peak: int = 0

    def add(self, amount: int) -> None:
        """Change the quantity by an amount of either sign."""
        self.current += amount
        self.peak = max(self.peak, self.current)

    def reset_peak(self) -> None:
        """Start a new peak at the present quantity."""
        self.peak = self.current


class CachingAllocator:
    """Allocator of one device.

    Args:
        capacity_bytes: limit of the sum of all segments; None for no limit.
    """

    def __init__(self, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.requested, self.allocated, self.reserved = Counter(), Counter(), Counter()
        self.segments = Counter()
        self._next_address = 0
        self._free: dict[bool, list[tuple[int, int, Block]]] = {True: [], False: []}

    def allocate(self, num_bytes: int) -> Block | None:
        """Return a block for a request; None for an empty request, which takes nothing.

        Raises:
            OutOfMemory: if it exceeds the capacity.
        """
        if num_bytes == 0:
            return None
        size = round_up(num_bytes, BLOCK_BYTES)
        is_small = size <= SMALL_REQUEST_BYTES
        block = self._best_fit(size, is_small) or self._new_segment(size, is_small)
        block.is_free, block.requested = False, num_bytes
        self._split(block, size)
        self.requested.add(num_bytes)
        self.allocated.add(block.size)
        return block

    def free(self, block: Block | None) -> None:
        """Take a block back into its pool, merged with its free neighbours."""
        if block is None:
            return
        self.requested.add(-block.requested)
        self.allocated.add(-block.size)
        block.is_free, block.requested = True, 0
        if block.previous is not None and block.previous.is_free:
            block = self._absorb_next(self._take(block.previous))
        if block.next is not None and block.next.is_free:
            self._take(block.next)
            block = self._absorb_next(block)
        insort(self._free[block.is_small], _entry(block))

    def reset_peaks(self) -> None:
        """Start new peaks, as torch.cuda.reset_peak_memory_stats does."""
        for counter in (self.requested, self.allocated, self.reserved, self.segments):
            counter.reset_peak()

    def empty_cache(self) -> None:
        """Give back every segment that is one free block."""
        for pool in self._free.values():
            whole = [entry for entry in pool if entry[2].previous is None and entry[2].next is None]
            for entry in whole:
                pool.remove(entry)
                self.reserved.add(-entry[2].size)
                self.segments.add(-1)

    def _best_fit(self, size: int, is_small: bool) -> Block | None:
        pool = self._free[is_small]
        index = bisect_left(pool, (size, -1))
        return pool.pop(index)[2] if index < len(pool) else None

    def _new_segment(self, size: int, is_small: bool) -> Block:
        segment_bytes = segment_size(size)
        if not self._has_room(segment_bytes):
            self.empty_cache()
            if not self._has_room(segment_bytes):
                raise OutOfMemory(size, self.reserved.current)
        block = Block(self._next_address, segment_bytes, is_small)
        self._next_address += segment_bytes
        self.segments.add(1)
        self.reserved.add(segment_bytes)
        return block

    def _has_room(self, segment_bytes: int) -> bool:
        return self.capacity_bytes is None or self.reserved.current + segment_bytes <= self.capacity_bytes

    def _split(self, block: Block, size: int) -> None:
        """Cut a block to size if the rest is worth keeping."""
        rest = block.size - size
        if not (rest >= BLOCK_BYTES if block.is_small else rest > SMALL_REQUEST_BYTES):
            return
        remainder = Block(block.address + size, rest, block.is_small, is_free=True, previous=block, next=block.next)
        if block.next is not None:
            block.next.previous = remainder
        block.next, block.size = remainder, size
        insort(self._free[block.is_small], _entry(remainder))

    def _take(self, block: Block) -> Block:
        """Remove a free block from its pool."""
        pool = self._free[block.is_small]
        del pool[bisect_left(pool, (block.size, block.address))]
        return block

    def _absorb_next(self, block: Block) -> Block:
        """Merge a block with the next one."""
        after = block.next
        block.size += after.size
        block.next = after.next
        if block.next is not None:
            block.next.previous = block
        block.is_free = True
        return block


def _entry(block: Block) -> tuple[int, int, Block]:
    """Return the key of a free block: addresses are unique, so the blocks themselves are never compared."""
    return block.size, block.address, block


def segment_size(size: int) -> int:
    """Return the bytes of the segment made for a rounded request."""
    if size <= SMALL_REQUEST_BYTES:
        return SMALL_SEGMENT_BYTES
    if size < LARGE_SEGMENT_LIMIT_BYTES:
        return LARGE_SEGMENT_BYTES
    return round_up(size, SEGMENT_ROUNDING_BYTES)


def round_up(value: int, multiple: int) -> int:
    """Return the smallest multiple at or above a value."""
    return -(-value // multiple) * multiple
