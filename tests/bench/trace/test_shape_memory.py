"""A remembered result is what the operator would have returned."""

from unittest import mock

import pytest
import torch

from bench.cells.config import CellConfig
from bench.predict.traced import trace_cell
from bench.trace.shape_memory import ShapeMemory

aten = torch.ops.aten
FUSED = {"precision": "bf16", "attention": "sdpa", "checkpointing": "block"}


def meta(*shape, dtype=torch.float32):
    return torch.empty(*shape, device="meta", dtype=dtype)


def called(func, *calls):
    """What each call returns, and how often the operator itself was called."""
    operator = mock.Mock(side_effect=func, _schema=func._schema)
    memory = ShapeMemory()
    return [memory(operator, args, {}) for args in calls], operator.call_count


def told(trace):
    """A trace in which allocations are known by their order."""
    order = {}
    return (
        trace.step_starts,
        trace.train_step_macs,
        [(order.setdefault(id(e.allocation), len(order)), vars(e.allocation), e.is_free) for e in trace.events],
    )


@pytest.mark.parametrize(
    ("method", "axes"), [("full", FUSED), ("fptplus", {}), ("adalora", {"accumulation_steps": 2})], ids=str
)
def test_a_trace_is_the_same_as_one_that_asks_every_operator(method, axes):
    cell = CellConfig(method=method, model="test_vit", res=64, batch_size=4, **axes)
    with mock.patch.object(ShapeMemory, "__call__", lambda self, func, args, kwargs: func(*args, **kwargs)):
        asked = trace_cell(cell)
    assert told(trace_cell(cell)) == told(asked)


def test_what_looks_the_same_is_asked_once_and_each_result_is_new():
    (first, second), num_calls = called(aten.mm.default, (meta(2, 3), meta(3, 4)), (meta(2, 3), meta(3, 4)))
    assert num_calls == 1 and first is not second
    assert second.shape == (2, 4) and second.stride() == (4, 1) and second.dtype == torch.float32
    assert first.untyped_storage()._cdata != second.untyped_storage()._cdata


@pytest.mark.parametrize(
    "others",
    [
        (meta(4, 3, dtype=torch.float16), 1),
        (meta(3, 4).t(), 1),
        (meta(4, 3).to(torch.int32), 1.0),
        (meta(4, 3).to(torch.int32), True),
        (meta(3, 4), 1),
    ],
    ids=["type", "strides", "number's type", "bool", "shape"],
)
def test_what_looks_different_is_asked_again(others):
    results, num_calls = called(aten.add.Scalar, (meta(4, 3).to(torch.int32), 1), (meta(4, 3), 1), others)
    assert num_calls == 3
    expected = aten.add.Scalar(*others)
    assert (results[-1].dtype, results[-1].stride()) == (expected.dtype, expected.stride())


def test_a_view_of_an_argument_is_never_remembered_even_where_the_schema_hides_it():
    tensor = meta(2, 3)
    (_, second), num_calls = called(aten._unsafe_view.default, (meta(2, 3), [6]), (tensor, [6]))
    assert num_calls == 2 and second.untyped_storage()._cdata == tensor.untyped_storage()._cdata


def test_what_is_written_in_place_is_returned_itself():
    (_, second), num_calls = called(aten.mul_.Tensor, (meta(2), meta(2)), (tensor := meta(2), meta(2)))
    assert num_calls == 1 and second is tensor
    _, num_calls = called(aten.resize_.default, (meta(2), [4]), (resized := meta(2), [4]))
    assert num_calls == 2 and resized.shape == (4,)


def test_several_results_and_missing_ones_keep_their_places():
    args = (meta(2, 3), meta(2, 3), [3], meta(2, 1), meta(2, 1), meta(3), meta(3), [True, False, True])
    (first, second), num_calls = called(aten.native_layer_norm_backward.default, args, args)
    assert num_calls == 1 and type(second) is type(first) and second[1] is None
    assert [one.shape for one in (second[0], second[2])] == [(2, 3), (3,)]
