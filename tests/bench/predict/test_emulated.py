"""Cells on emulated cards: memory agrees with PyTorch's counters, multiply-accumulates (MACs) with its counter, and
verdicts with runs.
"""

from dataclasses import fields, replace

import on_emulated_cell
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.cards.gpus import GPUS, endless
from bench.cells.anatomy import KINDS
from bench.cells.building import build_on
from bench.cells.config import CellConfig
from bench.emulate.build import CannotEmulate, why_not
from bench.emulate.pool import Job
from bench.predict import predictor
from bench.predict.contributions import taken_by_operators
from bench.predict.counts import Counts, count_anew
from bench.predict.emulated import StepFails, peak_of, run_out
from bench.predict.predictor import dissect, dissect_all, predict, predict_all
from bench.units import GIB, MIB
from fptplus.training.step import make_optimizer
from methods import METHODS

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

A6000 = GPUS["a6000"]
SMALL = CellConfig(method="full", model="test_vit", res=64, batch_size=4)
AXES = (
    {},
    {"attention": "sdpa", "optimizer": "adamw_fused"},
    {"checkpointing": "block"},
    {"precision": "fp16"},
    {"precision": "bf16_weights", "optimizer": "sgd"},
    {"averaging": "ema", "clipping": "none"},
    {"accumulation_steps": 2, "zero_grad": "after_forward", "precision": "bf16"},
)
BLOCK_BYTES = 512


@pytest.fixture(scope="module", autouse=True)
def pool(emulated_pool):
    """Processes that find this folder's functions; the predictor's in this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor, "shared_pool", lambda: emulated_pool)
        yield emulated_pool


def on_card(pool, function, *arguments, gpu):
    (answer,) = pool.map(function, [Job(gpu=gpu, arguments=arguments)])
    if isinstance(answer, Exception):
        raise answer
    return answer


def all_methods(**axes):
    return [replace(SMALL, method=method, **axes) for method in METHODS]


def of_each(answers):
    """The answers, none of which is a refusal."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
        yield answer


def test_a_card_counts_what_meta_tensors_count(pool):
    cells = all_methods(attention="eager") + all_methods(attention="sdpa")
    on_cards = of_each(pool.map(count_anew, [Job(gpu=A6000, arguments=(cell, "cuda")) for cell in cells]))
    assert list(on_cards) == [count_anew(cell) for cell in cells]


@pytest.mark.skipif(not torch.__version__.startswith("2.14."), reason="the figure is PyTorch 2.14's")
def test_full_fine_tuning_of_vit_l_at_640_px_allocates_what_it_is_known_to():
    prediction = predict(CellConfig(method="full", model="vit_l", res=640), "emulated")
    assert prediction.peak.allocated_bytes / MIB == pytest.approx(108_658, abs=1)
    assert prediction.fits == "no" and prediction.out_of_memory.startswith("step 1, forward: CUDA out of memory.")
    assert f"capacity of {A6000.memory_bytes / GIB:.2f} GiB" in prediction.out_of_memory


@pytest.mark.parametrize("axes", AXES, ids=str)
def test_the_six_parts_add_up_to_the_allocated_peak(axes):
    for cell, (prediction, anatomy) in zip(
        all_methods(**axes), of_each(dissect_all(all_methods(**axes), "emulated")), strict=True
    ):
        peak = prediction.peak
        assert tuple(peak.by_kind) == KINDS and min(peak.by_kind.values()) >= 0
        assert sum(peak.by_kind.values()) == peak.allocated_bytes == sum(a.num_bytes for a in anatomy.alive)
        assert peak.requested_bytes < peak.allocated_bytes <= peak.reserved_bytes
        assert max(sum(state.values()) for state in anatomy.timeline) == peak.allocated_bytes
        model = build_on("meta", cell)[0].model
        sizes = [tensor.nbytes for tensor in (*model.parameters(), *model.buffers())]
        copies = 2 if cell.averaging == "ema" else 1
        assert peak.by_kind["weights"] - copies * sum(sizes) in range(copies * len(sizes) * BLOCK_BYTES)


@pytest.mark.parametrize("axes", AXES, ids=str)
def test_a_step_has_the_same_peaks_where_nobody_watches(pool, axes):
    cells = [replace(SMALL, method=method, **axes) for method in ("full", "lora", "fptplus")]
    watched = of_each(predict_all(cells, "emulated"))
    alone = of_each(pool.map(peak_of, [Job(gpu=endless(A6000), arguments=(cell,)) for cell in cells]))
    for prediction, peak in zip(watched, alone, strict=True):
        assert replace(prediction.peak, by_kind={}) == peak


def test_two_questions_that_are_asked_side_by_side_each_get_their_own_answers():
    cells = [replace(SMALL, batch_size=size) for size in (1, 2, 3, 4)]
    one, other = (predict_all(order, "emulated") for order in (cells, cells[::-1]))
    inputs = [(a.peak.by_kind["inputs"], b.peak.by_kind["inputs"]) for a, b in zip(one, other, strict=True)]
    rising = sorted({first for first, _ in inputs})
    assert inputs == list(zip(rising, rising[::-1], strict=True))


def macs_by_torch(cell):
    """MACs of a step by PyTorch's counter, on meta tensors."""
    tuning, _ = build_on("meta", cell)
    with torch.device("meta"):
        inputs, targets = tuning.example_inputs(cell.batch_size), torch.zeros(cell.batch_size, dtype=torch.long)
    step = tuning.training_step(make_optimizer(cell.optimizer, tuning.model.parameters()))
    with FlopCounterMode(display=False) as counter:
        step(inputs, targets)
    return counter.get_total_flops() // 2


def test_macs_of_a_step_are_those_that_pytorch_s_counter_says():
    for cell, prediction in zip(all_methods(), of_each(predict_all(all_methods(), "emulated")), strict=True):
        assert prediction.train_step_macs == macs_by_torch(cell), cell.method


@pytest.mark.parametrize("axes", [{"attention": "sdpa"}, {"precision": "bf16", "checkpointing": "block"}], ids=str)
def test_both_engines_count_the_same(axes):
    counted = [field.name for field in fields(Counts)] + ["train_step_macs"]
    engines = [of_each(predict_all(all_methods(**axes), engine)) for engine in ("emulated", "traced")]
    for one, other in zip(*engines, strict=True):
        assert (one.by, other.by) == ("emulated", "traced")
        assert [getattr(one, name) for name in counted] == [getattr(other, name) for name in counted]


def test_what_operators_take_is_named_with_its_bytes():
    """Softmax's backward pass on CUDA multiplies gradient and output into one more score matrix."""
    cell = CellConfig(method="full", model="vit_s", res=512, batch_size=2)
    tokens, heads = (512 // 16) ** 2 + 1, 6
    _, anatomy = dissect(cell, "emulated")
    taken = {group.where: group for group in taken_by_operators(anatomy)}
    product = taken["softmax backward, grad·output"]
    scores_bytes = 4 * cell.batch_size * heads * tokens * tokens
    assert product.count == 1 and 0 <= product.num_bytes - scores_bytes < 2 * MIB
    assert taken["kept by PyTorch: workspaces of matrix products"].num_bytes >= 8_519_680


@pytest.mark.parametrize(
    ("mebibytes", "changes", "place"),
    [
        (40, {}, "building the step"),
        (200, {}, "step 1, optimizer"),
        (200, {"batch_size": 256}, "step 1, forward"),
        (130, {"optimizer": "sgd_no_momentum"}, "step 1, backward"),
    ],
)
def test_a_cell_that_does_not_fit_ends_with_pytorch_s_message_and_its_place(mebibytes, changes, place):
    cell = CellConfig(
        **{"method": "full", "model": "vit_s", "res": 64, "batch_size": 1, **changes},
        vram_bytes=A6000.context.high_bytes + mebibytes * MIB,
    )
    prediction = predict(cell, "emulated")
    assert prediction.fits == "no"
    assert prediction.out_of_memory.startswith(f"{place}: CUDA out of memory. Tried to allocate ")
    assert f"GPU 0 has a total capacity of {cell.vram_bytes / MIB:.2f} MiB of which" in prediction.out_of_memory


def smallest_capacity_bytes(pool, cell):
    """Bytes beside the CUDA context in which the cell's step runs, and two MiB less is too little."""
    low, high = 0, predict(cell, "emulated").peak.reserved_bytes // (2 * MIB)
    while high - low > 1:
        middle = (low + high) // 2
        card = replace(A6000, memory_bytes=A6000.context_bytes + middle * 2 * MIB)
        low, high = (low, middle) if on_card(pool, run_out, cell, gpu=card) is None else (middle, high)
    return high * 2 * MIB


def test_a_verdict_is_a_run_and_maybe_where_the_cuda_context_decides(pool):
    context = A6000.context
    assert context.low_bytes < context.high_bytes
    cell = replace(SMALL, res=128, batch_size=16)
    needed_bytes = smallest_capacity_bytes(pool, cell)
    assert predict(cell, "emulated").peak.allocated_bytes <= needed_bytes
    edges = [needed_bytes + size for size in (context.high_bytes, context.low_bytes, context.low_bytes - 2 * MIB)]
    found = [predict(replace(cell, vram_bytes=edge), "emulated") for edge in edges]
    assert [prediction.fits for prediction in found] == ["yes", "maybe", "no"]
    assert [prediction.out_of_memory is None for prediction in found] == [True, False, False]
    assert len({prediction.peak.allocated_bytes for prediction in found}) == 1, "a peak is with ample memory"


def test_kernel_launches_are_the_same_in_two_runs_and_several_in_each_block():
    first, second = (predict(SMALL, "emulated").kernel_launches for _ in range(2))
    depth = len(build_on("meta", SMALL)[0].model.blocks)
    assert first == second > 20 * depth


def test_kernel_launches_do_not_grow_with_the_batch():
    small, large = (predict(replace(SMALL, batch_size=size), "emulated").kernel_launches for size in (4, 8))
    assert small == large


@pytest.fixture
def without_answer(monkeypatch):
    monkeypatch.setattr(predictor.emulated, "predict_cell", on_emulated_cell.predict_with_sparse_product)
    return replace(SMALL, method="linear")


def test_a_cell_with_an_operator_that_has_no_answer_is_traced_and_says_so(without_answer):
    with pytest.warns(
        UserWarning, match="linear is traced, not emulated: the emulated device has no answer to cusparseSpGEMM"
    ):
        (prediction,) = predict_all([without_answer], "auto")
    assert prediction.by == "traced" and prediction.kernel_launches is None
    assert "no answer to cusparseSpGEMM" in prediction.remark


def test_an_operator_that_has_no_answer_is_refused_by_name_where_nothing_may_be_traced(without_answer):
    with pytest.raises(CannotEmulate, match=r"no answer to cusparseSpGEMM\w+, which linear calls; use --engine"):
        predict(without_answer, "emulated")


def test_a_step_that_pytorch_itself_refuses_is_traced_with_its_words_or_refused_with_them():
    """Its LayerNorm's backward pass over more than 65,536 rows cannot make the bias's gradient alone."""
    runs, fails = (
        CellConfig(method="bitfit", model="test_vit", res=512, batch_size=size, attention="sdpa") for size in (63, 64)
    )
    words = "fails in this step on a6000: Function NativeLayerNormBackward0 returned an invalid gradient"
    assert predict(runs, "emulated").by == "emulated"
    try:
        predict(fails, "emulated")
    except StepFails as error:
        assert words in str(error)
    else:
        pytest.skip("this PyTorch can")
    with pytest.warns(UserWarning, match=f"memory of bitfit is traced, not emulated: PyTorch .* {words}"):
        prediction = predict(fails, "auto")
    assert prediction.by == "traced" and words in prediction.remark


def test_allocator_settings_of_a_cell_change_what_is_reserved_and_not_what_is_requested():
    cell = replace(SMALL, batch_size=64, res=128)
    plain, expandable = (
        predict(replace(cell, alloc_conf=settings), "emulated").peak for settings in (None, "expandable_segments:True")
    )
    assert plain.requested_bytes == expandable.requested_bytes < expandable.reserved_bytes < plain.reserved_bytes


def test_an_attention_kernel_that_the_card_lacks_is_refused():
    cell = replace(SMALL, attention="flash", precision="bf16", gpu="t4")
    with pytest.raises(ValueError, match="attention flash has no kernel for bf16 on t4; use sdpa or eager"):
        predict(cell, "emulated")
