"""Everything that a cell asks for reaches the model and the step that are built for it."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from bench.cells.building import build_on, make_step
from bench.cells.config import CellConfig
from fptplus import InvalidInput
from fptplus.network.features import tensors_of
from methods import METHODS, VARIANTS

CELL = CellConfig(method="full", model="test_vit", res=64, batch_size=4)


def step_of(**changes):
    """Two steps of the changed cell on the CPU; the step and its model."""
    cell = replace(CELL, **changes)
    torch.manual_seed(0)
    tuning, targets = build_on("cpu", cell)
    step = make_step(cell, tuning, autocast=nullcontext)
    for _ in range(2):
        step(tuning.example_inputs(cell.batch_size), targets)
    return step, tuning.model


def test_values_are_drawn_only_where_there_is_memory_for_them():
    drawn = torch.nn.init.kaiming_uniform_, torch.nn.init.zeros_
    assert all(parameter.is_meta for parameter in build_on("meta", CELL)[0].model.parameters())
    assert (torch.nn.init.kaiming_uniform_, torch.nn.init.zeros_) == drawn
    layers = [module for module in build_on("cpu", CELL)[0].model.modules() if isinstance(module, torch.nn.Linear)]
    assert len(layers) > 4 and all(layer.weight.std() > 0 for layer in layers)


def test_gradients_are_clipped_to_norm_1_unless_asked_otherwise():
    def norm(model):
        return torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in model.parameters()])).item()

    assert norm(step_of()[1]) == pytest.approx(1, rel=1e-3)
    assert norm(step_of(clipping="none")[1]) > 1.1


def test_a_moving_average_of_the_weights_is_kept_where_it_is_asked_for():
    assert step_of()[0].averaged is None
    step, model = step_of(averaging="ema")
    assert step.averaged.n_averaged == 2
    assert not torch.equal(step.averaged.module.head.weight, model.head.weight)


def test_a_batch_is_split_and_gradients_are_released_as_asked():
    step, _ = step_of(accumulation_steps=2, zero_grad="after_forward")
    assert (step.accumulation_steps, step.zero_grad, step.batch_axes) == (2, "after_forward", (0,))


def test_weights_and_inputs_are_in_bf16_and_smaller_features_stay_as_stored():
    tuning, _ = build_on("cpu", replace(CELL, method="fptplus_int8", precision="bf16_weights"))
    assert {parameter.dtype for parameter in tuning.model.parameters()} == {torch.bfloat16}
    dtypes = [tensor.dtype for tensor in tensors_of(tuning.example_inputs(2))]
    assert dtypes == [torch.bfloat16, torch.int8, torch.int8, torch.float16, torch.float16]


def test_lora_has_the_rank_and_targets_of_its_cell():
    tuning, _ = build_on("meta", replace(CELL, method="lora", lora_rank=3, lora_targets="fc2"))
    shapes = {tuple(p.shape) for name, p in tuning.model.named_parameters() if ".lora_A." in name}
    assert shapes == {(3, tuning.model.blocks[0].mlp.fc2.in_features)}


@pytest.mark.parametrize("method", METHODS | VARIANTS)
def test_drop_path_is_refused_where_no_block_could_be_skipped(method):
    cell = replace(CELL, method=method, drop_path=0.1)
    if method.startswith(("fpt", "side")):
        with pytest.raises(InvalidInput, match=f"drop-path must be 0 with method {method}, .* got 0.1"):
            build_on("meta", cell)
    else:
        build_on("meta", cell)
