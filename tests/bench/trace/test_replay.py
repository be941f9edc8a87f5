import pytest

from bench.cells.anatomy import Allocation
from bench.cells.config import CellConfig
from bench.predict.traced import trace_cell, trace_preloading
from bench.trace.allocator import OutOfMemory
from bench.trace.replay import alive_at, fits, replay, timeline
from bench.trace.trace import Event, Trace

CELL = CellConfig(method="full", model="vit_s", res=224)
MIB = 2**20


@pytest.fixture(scope="module")
def trace():
    return trace_cell(CELL)


def test_the_counters_are_ordered_and_the_split_adds_up(trace):
    peak = replay(trace)
    assert peak.requested_bytes <= peak.allocated_bytes <= peak.reserved_bytes
    assert sum(peak.by_kind.values()) == peak.allocated_bytes


def test_the_peak_is_that_of_the_timeline(trace):
    peak = replay(trace)
    totals = [sum(state.values()) for state in timeline(trace)]
    assert max(totals) == peak.allocated_bytes
    assert totals.index(max(totals)) == peak.event_index - trace.step_starts[-1]


def test_what_is_alive_at_the_peak_is_what_was_requested_then(trace):
    peak = replay(trace)
    alive = sum(allocation.num_bytes for allocation in alive_at(trace, peak.event_index))
    assert peak.allocated_bytes * 0.98 <= alive <= peak.requested_bytes


def test_a_step_by_hand():
    """Weights of 3 MiB open a segment of 20, whose rest takes the activation; the small temporary opens one of 2."""
    kinds = {"weights": 3 * MIB, "activations": 10 * MIB, "temporary": MIB}
    made = {kind: Allocation(size, step=0, phase="forward", kind=kind) for kind, size in kinds.items()}
    order = [
        ("weights", False),
        ("activations", False),
        ("temporary", False),
        ("temporary", True),
        ("activations", True),
    ]
    trace = Trace(events=[Event(made[kind], free) for kind, free in order], step_starts=[1])
    peak = replay(trace)
    assert peak.requested_bytes == peak.allocated_bytes == 14 * MIB
    assert peak.reserved_bytes == (20 + 2) * MIB
    assert (peak.by_kind["activations"], peak.event_index, peak.num_segments) == (10 * MIB, 2, 2)
    assert fits(trace, 22 * MIB) and not fits(trace, 21 * MIB)


def test_a_step_that_reserves_less_when_it_must_still_fits(trace):
    """Cached segments are given back before memory runs out, so less than the reserved peak can do."""
    peak = replay(trace)
    assert fits(trace, peak.reserved_bytes)
    assert not fits(trace, peak.allocated_bytes - MIB)
    with pytest.raises(OutOfMemory):
        replay(trace, peak.allocated_bytes // 2)


def test_preloading_is_traced_for_the_methods_that_preload_and_needs_no_score_matrix_whole():
    assert trace_preloading(CELL) is None
    cell = CellConfig(method="fptplus", model="vit_s", res=1024, attention="sdpa")
    tokens = (1024 // 16) ** 2 + 1
    one_score_matrix = 6 * tokens * tokens * 4
    peak = replay(trace_preloading(cell))
    assert peak.allocated_bytes - peak.by_kind["weights"] < one_score_matrix
