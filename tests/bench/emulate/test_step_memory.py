"""How each option of the training step changes memory, derived from the parameters' sizes, with both engines."""

from dataclasses import replace

import pytest

from bench.cards.gpus import GPUS
from bench.cells.building import build_on
from bench.cells.config import CellConfig
from bench.emulate.pool import EmulatedPool, Job
from bench.predict.emulated import predict_cell
from bench.predict.predictor import dissect, why_traced
from fptplus import InvalidInput

CELL = CellConfig(method="full", model="test_vit", res=160, batch_size=8, attention="sdpa")
BLOCK_BYTES = 512

needs_emulation = pytest.mark.skipif(why_traced("auto") is not None, reason=str(why_traced("auto")))
ENGINES = [pytest.param("emulated", marks=needs_emulation), "traced"]

both_engines = pytest.mark.parametrize("engine", ENGINES)


def blocks(num_bytes):
    """Bytes of the block that the allocator gives for a tensor."""
    return -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES


def parameter_bytes(cell=CELL):
    return sum(blocks(parameter.nbytes) for parameter in build_on("meta", cell)[0].model.parameters())


def peak(engine, **changes):
    return dissect(replace(CELL, **changes), engine)[0].peak


@both_engines
def test_gradients_live_through_the_forward_pass_where_they_are_released_after_it(engine):
    alive = {}
    for where in ("before_forward", "after_forward"):
        _, anatomy = dissect(replace(CELL, zero_grad=where), engine)
        forward = anatomy.timeline[anatomy.phases["forward"] : anatomy.phases["loss"]]
        alive[where] = {state["gradients"] for state in forward[1:]}
    assert alive == {"before_forward": {0}, "after_forward": {parameter_bytes()}}


@both_engines
def test_a_moving_average_is_a_second_copy_of_the_weights(engine):
    plain, averaged = (peak(engine, averaging=kind) for kind in ("none", "ema"))
    assert plain.by_kind["weights"] == parameter_bytes()
    assert averaged.by_kind["weights"] == 2 * plain.by_kind["weights"]
    assert averaged.allocated_bytes == plain.allocated_bytes + plain.by_kind["weights"]


@both_engines
def test_bf16_weights_halve_weights_inputs_and_the_optimizer_s_state(engine):
    whole, half = peak(engine), peak(engine, precision="bf16_weights")
    halved = parameter_bytes(replace(CELL, precision="bf16_weights"))
    assert half.by_kind["weights"] == halved < 0.6 * whole.by_kind["weights"]
    assert 2 * half.by_kind["inputs"] - BLOCK_BYTES == whole.by_kind["inputs"], "targets stay integers"
    assert half.by_kind["optimizer"] < 0.6 * whole.by_kind["optimizer"]


@both_engines
def test_sgd_without_momentum_has_no_state(engine):
    assert peak(engine, optimizer="sgd").by_kind["optimizer"] == parameter_bytes()
    assert peak(engine, optimizer="sgd_no_momentum").by_kind["optimizer"] == 0


@both_engines
def test_activations_of_four_micro_batches_are_those_of_a_batch_of_a_quarter(engine):
    small = peak(engine, batch_size=2, zero_grad="after_forward", optimizer="sgd_no_momentum")
    split = peak(engine, accumulation_steps=4, optimizer="sgd_no_momentum")
    assert split.by_kind["activations"] == pytest.approx(small.by_kind["activations"], rel=0.03)  # of other peaks
    assert split.by_kind["gradients"] == small.by_kind["gradients"] == parameter_bytes()
    assert split.by_kind["inputs"] == peak(engine).by_kind["inputs"], "the whole batch is on the device"


@both_engines
def test_lora_s_rank_and_targets_are_its_learnable_parameters(engine):
    width, classes = 64, CELL.num_classes
    lora = {"method": "lora", "lora_rank": 4, "lora_targets": "qkv,proj"}
    prediction, _ = dissect(replace(CELL, **lora), engine)
    depth = len(build_on("meta", CELL)[0].model.blocks)
    assert prediction.learnable_params == depth * 4 * (width + 3 * width + 2 * width) + classes * (width + 1)


@needs_emulation
def test_a_step_without_clipping_launches_fewer_kernels():
    norm, none = (dissect(replace(CELL, clipping=kind), "emulated")[0].kernel_launches for kind in ("norm", "none"))
    assert none < norm


@needs_emulation
def test_allocator_settings_that_are_asked_for_apply_and_the_environment_s_do_not(monkeypatch):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "roundup_power2_divisions:2")
    rounded = replace(CELL, alloc_conf="roundup_power2_divisions:2")
    gpu = GPUS[CELL.gpu]
    with EmulatedPool(parallel=2) as pool:
        (plain, _), (asked, _) = pool.map(
            predict_cell, [Job(gpu=gpu, arguments=(cell, gpu)) for cell in (CELL, rounded)]
        )
    assert plain.peak == peak("emulated")
    assert asked.peak.allocated_bytes > 1.1 * plain.peak.allocated_bytes
    assert asked.peak.requested_bytes == plain.peak.requested_bytes


@needs_emulation
def test_settings_that_pytorch_does_not_know_are_refused_with_its_reason():
    with pytest.raises(InvalidInput, match="alloc-conf must be settings that PyTorch knows, got 'foo:3': Unrecognized"):
        dissect(replace(CELL, alloc_conf="foo:3"), "emulated")


def test_the_trace_refuses_allocator_settings_by_name():
    with pytest.raises(InvalidInput, match="alloc-conf must be left out where memory is traced, .*'backend:native'"):
        dissect(replace(CELL, alloc_conf="backend:native"), "traced")
