"""The search is held against trying every size."""

from dataclasses import replace

import pytest

from bench.advise import advise
from bench.config import CellConfig
from bench.predict.devices import GPUS
from bench.predict.extrapolate import TraceFamily
from bench.predict.predictor import trace_cell
from bench.predict.replay import fits, replay
from bench.units import MIB
from fptplus import InvalidInput

CELL = CellConfig(method="lora", model="test_vit", res=128, batch_size=4)
PATCH = 16


def gpu_with(mebibytes):
    gpu = GPUS["a6000"]
    return replace(gpu, memory_bytes=gpu.context_bytes + mebibytes * MIB)


@pytest.mark.parametrize("method", ["lora", "full", "fptplus"])
@pytest.mark.parametrize("mebibytes", [44, 60])
def test_the_largest_batch_fits_and_the_next_does_not(method, mebibytes):
    cell = replace(CELL, method=method)
    found = advise(cell, gpu_with(mebibytes), PATCH).largest_batch
    assert fits(trace_cell(replace(cell, batch_size=found)), mebibytes * MIB)
    assert not fits(trace_cell(replace(cell, batch_size=found + 1)), mebibytes * MIB)


@pytest.mark.parametrize(("method", "precision"), [("fpt", "fp32"), ("fptplus", "bf16")])
def test_a_step_that_takes_a_few_images_at_a_time_is_searched_too(method, precision):
    cell = replace(CELL, method=method, attention="sdpa", precision=precision)
    found = advise(cell, gpu_with(44), PATCH).largest_batch
    assert fits(trace_cell(replace(cell, batch_size=found)), 44 * MIB)
    assert not fits(trace_cell(replace(cell, batch_size=found + 1)), 44 * MIB)


@pytest.mark.parametrize("mebibytes", [44, 60])
def test_the_largest_resolution_fits_and_the_next_does_not(mebibytes):
    found = advise(CELL, gpu_with(mebibytes), PATCH).largest_res
    assert fits(trace_cell(replace(CELL, res=found)), mebibytes * MIB)
    assert not fits(trace_cell(replace(CELL, res=found + PATCH)), mebibytes * MIB)


def test_headroom_is_what_the_process_leaves():
    gpu = gpu_with(60)
    advice = advise(CELL, gpu, PATCH)
    assert advice.process_bytes == replay(trace_cell(CELL)).reserved_bytes + gpu.context_bytes
    assert advice.headroom_bytes == gpu.memory_bytes - advice.process_bytes
    assert advice.fits and not advice.remedies


def test_remedies_are_the_smallest_sets_of_changes_that_fit():
    cell = CellConfig(method="full", model="vit_s", res=512, batch_size=16)
    capacity = replay(trace_cell(replace(cell, attention="sdpa", precision="bf16"))).reserved_bytes
    gpu = gpu_with(-(-capacity // MIB))
    advice = advise(cell, gpu, PATCH)
    assert not advice.fits
    assert {len(remedy) for remedy in advice.remedies} == {min(len(remedy) for remedy in advice.remedies)}
    for remedy in advice.remedies:
        assert fits(trace_cell(replace(cell, **remedy)), gpu.memory_bytes - gpu.context_bytes)


def test_a_gpu_that_holds_nothing_is_told_so():
    advice = advise(CELL, gpu_with(3), PATCH)
    assert not advice.fits
    assert advice.largest_batch is None and advice.largest_res is None and advice.remedies == ()


def test_memory_below_the_context_is_refused():
    with pytest.raises(InvalidInput, match="gpu-memory must be more than the CUDA context's"):
        advise(CELL, replace(GPUS["a6000"], memory_bytes=MIB), PATCH)


@pytest.mark.parametrize(("method", "error"), [("full", 0.01), ("lora", 0.01), ("fptplus", 0.05)])
def test_extrapolated_traces_are_those_that_tracing_gives(method, error):
    """FPT+ keeps a whole number of tokens, which no polynomial does."""
    cell = CellConfig(method=method, model="vit_s", res=224, batch_size=4)
    family = TraceFamily([2, 4], [trace_cell(replace(cell, batch_size=size)) for size in (2, 4)])
    true = replay(trace_cell(replace(cell, batch_size=32)))
    assert replay(family.at(32)).allocated_bytes == pytest.approx(true.allocated_bytes, rel=error)

    grids = (14, 18, 20)
    family = TraceFamily([g * g for g in grids], [trace_cell(replace(cell, res=16 * g)) for g in grids])
    true = replay(trace_cell(replace(cell, res=16 * 32)))
    assert replay(family.at(32 * 32)).allocated_bytes == pytest.approx(true.allocated_bytes, rel=error)


def test_traces_of_different_steps_are_no_family():
    with pytest.raises(ValueError, match="same sequence"):
        TraceFamily([1, 2], [trace_cell(CELL), trace_cell(replace(CELL, method="full"))])
