"""Memory at many batch sizes from one step each is what all steps of each take."""

from dataclasses import replace

import on_emulated_batches as on_device
import pytest

from bench.cards.gpus import GPUS, endless
from bench.cells.config import CellConfig
from bench.emulate.build import why_not
from bench.emulate.pool import Job
from bench.emulate.requests import UnlikeSteps
from bench.predict.emulated import StepFails, peak_of
from bench.units import MIB
from methods import METHODS

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

A6000 = GPUS["a6000"]
SMALL = CellConfig(method="full", model="test_vit", res=64)
AXES = (
    {"attention": "eager"},
    {"attention": "sdpa", "precision": "bf16", "checkpointing": "block"},
    {"optimizer": "sgd", "averaging": "ema", "clipping": "none"},
)
UNLIKE = ({"zero_grad": "after_forward"}, {"precision": "fp16"})
"""Options with which a step differs from the others: gradients go in its middle, or it makes what only it needs."""


@pytest.fixture
def run(emulated_pool):
    """Call a function with each list of arguments, on a card that holds whatever they take."""

    def call(function, *calls):
        return list(emulated_pool.map(function, [Job(gpu=endless(A6000), arguments=one) for one in calls]))

    return call


@pytest.mark.parametrize("axes", AXES, ids=str)
def test_one_step_at_each_batch_size_tells_what_three_take(run, axes):
    sizes = (2, 1, 8, 5)
    cells = [replace(SMALL, method=method, **axes) for method in METHODS]
    many = run(on_device.checked_peaks_of, *((cell, sizes) for cell in cells))
    alone = run(peak_of, *((replace(cell, batch_size=size),) for cell in cells for size in sizes))
    assert [peak for peaks in many for peak in peaks] == alone


def test_a_model_that_is_far_larger_than_its_batches_is_no_exception(run):
    cell = CellConfig(method="adalora", model="vit_s", res=224, attention="sdpa", precision="bf16")
    (many,) = run(on_device.checked_peaks_of, (cell, (4, 1, 16)))
    alone = run(peak_of, *((replace(cell, batch_size=size),) for size in (4, 1, 16)))
    assert many == alone


@pytest.mark.parametrize("sizes", [(1, 2, 4, 5, 6, 8), (1, 4, 8, 2, 3)], ids=str)
def test_where_pytorch_fails_at_some_batch_sizes_the_others_are_known(run, sizes):
    (many,) = run(on_device.peaks_of_failing, (SMALL, sizes))
    alone = run(on_device.peak_of_failing, *((replace(SMALL, batch_size=size),) for size in sizes))
    assert many == [None if isinstance(one, StepFails) else one for one in alone]
    assert [size for size, peak in zip(sizes, many, strict=True) if peak is None] == [s for s in sizes if s in (4, 8)]


def test_where_pytorch_fails_at_the_first_batch_size_it_says_so(run):
    (answer,) = run(on_device.peaks_of_failing, (SMALL, (4, 1, 2)))
    assert isinstance(answer, StepFails) and "this batch size has no kernel" in str(answer)


@pytest.mark.parametrize("axes", UNLIKE, ids=str)
def test_steps_unlike_each_other_are_taken_and_not_guessed(run, axes):
    cell = replace(SMALL, **axes)
    (answer,) = run(on_device.checked_peaks_of, (cell, (1, 2, 5)))
    assert isinstance(answer, UnlikeSteps)
    (rows,) = run(on_device.rows_of_small_grid, (cell, A6000))
    alone = run(peak_of, *((replace(cell, batch_size=size),) for size in (1, 2, 5)))
    assert list(rows[0].reserved_mib) == [round(peak.reserved_bytes / MIB) for peak in alone]
