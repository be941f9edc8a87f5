"""The simulated caching allocator: its invariants, the rules of its source, and the real one if there is a GPU."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from on_emulated_pytorch import counters_after_each

from bench.cards.gpus import GPUS, endless
from bench.emulate.pool import Job
from bench.trace.allocator import CachingAllocator, OutOfMemory, segment_size
from bench.units import MIB

KIB = 1024
sizes = st.one_of(st.integers(0, 4 * KIB), st.integers(1, 3 * MIB), st.integers(1, 64 * MIB))
programs = st.lists(st.tuples(sizes, st.booleans(), st.integers(0, 1000)), max_size=60)
"""Steps of a program: allocate a size, or (if True and there is one) free the live block of that index."""


def run(program, allocator):
    """Carry a program out; yields the live blocks with their requests after each step."""
    live = []
    for size, wants_free, index in program:
        if wants_free and live:
            block, _ = live.pop(index % len(live))
            allocator.free(block)
        else:
            live.append((allocator.allocate(size), size))
        yield live


def last(states):
    """The live blocks at the end of a program."""
    return [*([], *states)[-1]]


@settings(deadline=None, max_examples=200)
@given(program=programs)
def test_blocks_hold_their_requests_and_never_overlap(program):
    allocator = CachingAllocator()
    for live in run(program, allocator):
        blocks = sorted((block.address, block.address + block.size, size) for block, size in live if block)
        assert all(end - begin >= size for begin, end, size in blocks)
        assert all(begin % 512 == 0 for begin, _, _ in blocks)
        assert all(one[1] <= other[0] for one, other in pairwise(blocks))


@settings(deadline=None, max_examples=200)
@given(program=programs)
def test_requested_is_at_most_allocated_is_at_most_reserved(program):
    allocator = CachingAllocator()
    for live in run(program, allocator):
        counters = (allocator.requested, allocator.allocated, allocator.reserved)
        assert allocator.requested.current == sum(size for _, size in live)
        assert allocator.allocated.current == sum(block.size for block, _ in live if block)
        assert counters[0].current <= counters[1].current <= counters[2].current
        assert all(counter.current <= counter.peak for counter in counters)


@settings(deadline=None, max_examples=100)
@given(program=programs)
def test_everything_freed_leaves_one_free_block_a_segment_and_then_nothing(program):
    allocator = CachingAllocator()
    for block, _ in last(run(program, allocator)):
        allocator.free(block)
    assert allocator.allocated.current == allocator.requested.current == 0
    assert sum(len(pool) for pool in allocator._free.values()) == allocator.segments.current
    allocator.empty_cache()
    assert allocator.reserved.current == allocator.segments.current == 0


@settings(deadline=None, max_examples=100)
@given(program=programs)
def test_running_a_program_twice_reserves_nothing_new_the_second_time(program):
    """All blocks freed, the same requests fit where they fitted before or better."""
    allocator = CachingAllocator()
    peaks = []
    for _ in range(2):
        for block, _ in last(run(program, allocator)):
            allocator.free(block)
        peaks.append(allocator.reserved.peak)
    assert peaks[0] <= peaks[1] <= 2 * peaks[0]


@settings(deadline=None, max_examples=100)
@given(program=programs, capacity=st.integers(1, 200 * MIB))
def test_a_capacity_is_never_exceeded(program, capacity):
    allocator = CachingAllocator(capacity)
    try:
        for _ in run(program, allocator):
            assert allocator.reserved.current <= capacity
    except OutOfMemory as error:
        assert error.requested_bytes + error.reserved_bytes > capacity - 22 * MIB
    assert allocator.reserved.peak <= capacity


@pytest.mark.parametrize(
    ("size", "segment"),
    [
        (512, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 512, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (11 * MIB - 512, 12 * MIB),
    ],
)
def test_a_segment_s_size(size, segment):
    assert segment_size(size) == segment


def test_a_small_rest_stays_with_a_large_block_and_counts_as_allocated():
    allocator = CachingAllocator()
    allocator.free(allocator.allocate(12 * MIB))
    block = allocator.allocate(11 * MIB + 512)
    assert block.size == 12 * MIB, "a rest of less than 1 MiB is not worth a block"
    assert allocator.allocated.current == 12 * MIB
    allocator.free(block)
    assert allocator.allocate(11 * MIB - 512).size == 11 * MIB - 512


def test_the_smallest_fitting_block_is_taken_and_the_lower_address_of_two():
    allocator = CachingAllocator()
    blocks = [allocator.allocate(size * MIB) for size in (30, 40, 30)]
    for block in blocks:
        allocator.free(block)
    assert allocator.allocate(30 * MIB).address == blocks[0].address
    assert allocator.allocate(30 * MIB).address == blocks[2].address
    assert allocator.allocate(30 * MIB).address == blocks[1].address


def test_an_empty_request_takes_nothing():
    allocator = CachingAllocator()
    assert allocator.allocate(0) is None
    allocator.free(None)
    assert allocator.reserved.peak == 0


def test_free_segments_are_given_back_before_memory_runs_out():
    allocator = CachingAllocator(capacity_bytes=64 * MIB)
    allocator.free(allocator.allocate(40 * MIB))
    kept = allocator.allocate(512)
    assert allocator.allocate(50 * MIB).size == 50 * MIB
    with pytest.raises(OutOfMemory):
        allocator.allocate(20 * MIB)
    assert kept is not None


def random_program(seed):
    """Requests and releases of all sizes, as on_emulated_pytorch.counters_after_each takes them."""
    generator, num_live, program = random.Random(seed), 0, []
    for _ in range(600):
        if num_live and generator.random() < 0.45:
            program.append(-1 - generator.randrange(num_live))
            num_live -= 1
        else:
            program.append(generator.randint(1, generator.choice((4 * KIB, MIB, 3 * MIB, 64 * MIB))))
            num_live += 1
    return program


def simulated_counters(program, capacity_bytes=None):
    """What on_emulated_pytorch.counters_after_each gives, of the simulated allocator."""
    allocator, live, seen = CachingAllocator(capacity_bytes), [], []
    counters = (allocator.allocated, allocator.reserved, allocator.requested, allocator.segments)
    for step in program:
        try:
            if step < 0:
                allocator.free(live.pop(-1 - step))
            else:
                live.append(allocator.allocate(step))
        except OutOfMemory:
            seen.append("out of memory")
            break
        seen.append(tuple(counter.current for counter in counters))
    return seen, tuple(counter.peak for counter in counters)


SEEDS = range(12)


@pytest.mark.parametrize("capacity_bytes", [None, 600 * MIB, 300 * MIB])
def test_pytorch_s_own_allocator_agrees_step_by_step_and_when_memory_runs_out(emulated_pool, capacity_bytes):
    programs = [random_program(seed) for seed in SEEDS]
    card = endless(GPUS["a6000"])
    if capacity_bytes is not None:
        card = replace(card, memory_bytes=capacity_bytes + card.context_bytes)
    jobs = [Job(gpu=card, arguments=(program,)) for program in programs]
    answers = list(emulated_pool.map(counters_after_each, jobs))
    for program, answer in zip(programs, answers, strict=True):
        assert simulated_counters(program, capacity_bytes) == answer
    if capacity_bytes is not None:
        assert any(seen[-1] == "out of memory" for seen, _ in answers)
        assert any(gave_segments_back(seen) for seen, _ in answers)


def gave_segments_back(seen):
    reserved = [step[1] for step in seen if step != "out of memory"]
    return any(before > after for before, after in pairwise(reserved))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("seed", SEEDS)
def test_the_allocator_of_a_gpu_agrees_step_by_step(seed):
    """In a process that has allocated nothing else."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    assert torch.cuda.memory_reserved() == 0, "something else has allocated on the device"
    program = random_program(seed)
    assert simulated_counters(program) == counters_after_each(program)
    torch.cuda.empty_cache()
