"""Advice compared with running it, and with trying every size."""

from dataclasses import replace
from functools import cache

import pytest

from bench.cards.gpus import GPUS
from bench.cells.config import CellConfig
from bench.emulate.build import CannotEmulate
from bench.emulate.pool import Job
from bench.predict.advice import TracedProber, advise, advise_all
from bench.predict.emulated import run_out
from bench.predict.predictor import predict, predict_all, why_traced
from bench.predict.processes import shared_pool
from bench.predict.traced import trace_cell
from bench.trace.replay import fits, replay
from bench.units import MIB
from fptplus import InvalidInput

CELL = CellConfig(method="lora", model="test_vit", res=128, batch_size=4)
PATCH = 16
GPU = GPUS["a6000"]

needs_emulation = pytest.mark.skipif(why_traced("auto") is not None, reason=str(why_traced("auto")))


def gpu_with(mebibytes):
    return replace(GPU, memory_bytes=GPU.context_bytes + mebibytes * MIB)


@cache
def traced_advice(cell, gpu):
    """Takes seconds: what several tests look at is searched once."""
    return advise(cell, gpu, PATCH, TracedProber(gpu))


@pytest.mark.parametrize(("method", "mebibytes"), [("lora", 44), ("lora", 60), ("full", 44), ("fptplus", 44)])
def test_the_largest_batch_fits_and_the_next_does_not(method, mebibytes):
    cell = replace(CELL, method=method)
    found = traced_advice(cell, gpu_with(mebibytes)).largest_batch
    assert fits(trace_cell(replace(cell, batch_size=found)), mebibytes * MIB)
    assert not fits(trace_cell(replace(cell, batch_size=found + 1)), mebibytes * MIB)


@pytest.mark.parametrize(("method", "precision"), [("fpt", "fp32"), ("fptplus", "bf16")])
def test_a_step_that_takes_a_few_images_at_a_time_is_searched_too(method, precision):
    cell = replace(CELL, method=method, attention="sdpa", precision=precision)
    found = traced_advice(cell, gpu_with(44)).largest_batch
    assert fits(trace_cell(replace(cell, batch_size=found)), 44 * MIB)
    assert not fits(trace_cell(replace(cell, batch_size=found + 1)), 44 * MIB)


@pytest.mark.parametrize("mebibytes", [44, 60])
def test_the_largest_resolution_fits_and_the_next_does_not(mebibytes):
    found = traced_advice(CELL, gpu_with(mebibytes)).largest_res
    assert fits(trace_cell(replace(CELL, res=found)), mebibytes * MIB)
    assert not fits(trace_cell(replace(CELL, res=found + PATCH)), mebibytes * MIB)


def test_headroom_is_what_the_process_leaves():
    gpu = gpu_with(160)
    advice = traced_advice(CELL, gpu)
    assert advice.process_bytes == replay(trace_cell(CELL)).reserved_bytes + gpu.context_bytes
    assert advice.headroom_bytes == gpu.memory_bytes - advice.process_bytes
    assert advice.fits == "yes" and not advice.remedies


def test_remedies_are_the_smallest_sets_of_changes_that_fit():
    cell = CellConfig(method="full", model="vit_s", res=512, batch_size=16)
    capacity = replay(trace_cell(replace(cell, attention="sdpa", precision="bf16"))).reserved_bytes
    gpu = gpu_with(-(-capacity // MIB))
    advice = traced_advice(cell, gpu)
    assert advice.fits == "no"
    assert {len(remedy) for remedy in advice.remedies} == {min(len(remedy) for remedy in advice.remedies)}
    for remedy in advice.remedies:
        assert fits(trace_cell(replace(cell, **remedy)), gpu.memory_bytes - gpu.context_bytes)


def test_a_gpu_that_holds_nothing_is_told_so():
    advice = traced_advice(CELL, gpu_with(3))
    assert advice.fits == "no"
    assert advice.largest_batch is None and advice.largest_res is None and advice.remedies == ()


def test_memory_below_the_context_is_refused():
    with pytest.raises(InvalidInput, match="gpu-memory must be more than the CUDA context's"):
        traced_advice(CELL, replace(GPU, memory_bytes=MIB))


@needs_emulation
@pytest.mark.parametrize("mebibytes", [44, 60])
def test_what_is_advised_runs_on_the_emulated_card_and_one_step_more_does_not(mebibytes):
    cells = [replace(CELL, method=method) for method in ("lora", "full", "fptplus")]
    for cell, advice in zip(cells, emulated_advice(cells, mebibytes), strict=True):
        assert advice.largest_batch > 4 and advice.largest_res > 128
        sizes = [{"batch_size": advice.largest_batch + more} for more in (0, 1)]
        sizes += [{"res": advice.largest_res + more} for more in (0, PATCH)]
        assert run_on_card([replace(cell, **size) for size in sizes], mebibytes) == [True, False, True, False]


@needs_emulation
def test_a_batch_in_micro_batches_grows_by_whole_ones():
    (advice,) = emulated_advice([cell := replace(CELL, accumulation_steps=4, batch_size=8)], 44)
    sizes = [replace(cell, batch_size=advice.largest_batch + more) for more in (0, 4)]
    assert run_on_card(sizes, 44) == [True, False], "4 does not divide what is between"


@needs_emulation
def test_remedies_run_on_the_emulated_card_and_the_cell_without_them_does_not():
    cell = CellConfig(method="full", model="vit_s", res=256, batch_size=8)
    needs = predict(replace(cell, attention="sdpa", precision="bf16"), "emulated").peak.reserved_bytes
    (advice,) = emulated_advice([cell], mebibytes := -(-needs // MIB))
    assert advice.fits == "no" and advice.remedies and advice.headroom_bytes < 0
    assert {len(remedy) for remedy in advice.remedies} == {min(len(remedy) for remedy in advice.remedies)}
    cells = [cell, *(replace(cell, **remedy) for remedy in advice.remedies)]
    assert run_on_card(cells, mebibytes) == [False] + [True] * len(advice.remedies)


@needs_emulation
def test_advice_says_of_the_asked_cell_what_its_prediction_says():
    cells = [replace(CELL, method=method, vram_bytes=gpu_with(60).memory_bytes) for method in ("linear", "vpt", "full")]
    for prediction, advice in zip(predict_all(cells, "emulated"), advise_all(cells, PATCH, "emulated"), strict=True):
        assert (advice.fits, advice.process_bytes) == (prediction.fits, prediction.process_bytes)
        assert advice.headroom_bytes == gpu_with(60).memory_bytes - prediction.process_bytes


def test_the_engine_that_is_asked_for_advises():
    cells = [replace(CELL, vram_bytes=gpu_with(60).memory_bytes)]
    assert list(advise_all(cells, PATCH, "traced")) == [traced_advice(CELL, gpu_with(60))]


def test_a_step_that_the_emulated_device_cannot_answer_is_traced_only_where_it_may_be(monkeypatch):
    refusal = CannotEmulate("the emulated device has no answer to cusolver")
    monkeypatch.setattr("bench.predict.advice.why_traced", lambda engine: None)
    monkeypatch.setattr("bench.predict.advice.on_emulated_cards", lambda function, cells, *_: [refusal for _ in cells])
    cells = [replace(CELL, vram_bytes=gpu_with(60).memory_bytes)]
    with pytest.warns(UserWarning, match="memory of lora is traced, not emulated: the emulated device has no answer"):
        assert list(advise_all(cells, PATCH, "auto")) == [traced_advice(CELL, gpu_with(60))]
    with pytest.raises(CannotEmulate, match="no answer to cusolver"):
        list(advise_all(cells, PATCH, "emulated"))


def emulated_advice(cells, mebibytes):
    """Advice for a card of which so much is left beside the typical CUDA context."""
    return list(
        advise_all([replace(cell, vram_bytes=gpu_with(mebibytes).memory_bytes) for cell in cells], PATCH, "emulated")
    )


def run_on_card(cells, mebibytes):
    """Whether each cell's step runs on such a card, tried in a process that has never seen another cell."""
    jobs = [Job(gpu=gpu_with(mebibytes), arguments=(cell,)) for cell in cells]
    return [message is None for message in shared_pool().map(run_out, jobs)]
