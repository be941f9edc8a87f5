"""Features pass through everything that handles a model's inputs, and keep their meaning."""

import pytest
import torch

from fptplus import FPTConfig, build_fpt
from fptplus.network.features import Features, map_tensors, tensors_of

LAYERS, IMAGES, HEADS, TOKENS, HEAD_DIM = 2, 5, 3, 7, 4
ROWS = torch.tensor([4, 0, 4])


def stored_as_int8():
    torch.manual_seed(0)
    numbers = torch.randint(-127, 128, (2, LAYERS, IMAGES, HEADS, TOKENS, HEAD_DIM), dtype=torch.int8)
    scales = torch.rand(2, LAYERS, IMAGES, HEADS, HEAD_DIM).half()
    return Features(*numbers, *scales)


def test_of_a_larger_whole_the_batch_is_the_rows_that_are_named():
    whole = stored_as_int8()
    batch = whole._replace(rows=ROWS).of_batch()
    assert batch.rows is None
    for part, all_rows in zip(batch[:4], whole[:4], strict=True):
        assert torch.equal(part, all_rows[:, ROWS])


def test_without_rows_the_batch_is_all_there_is_and_is_not_copied():
    whole = stored_as_int8()
    assert whole.of_batch() is whole


def test_layers_are_views_whose_rows_stay():
    whole = stored_as_int8()._replace(rows=ROWS)
    one, some = whole.of_layers(1), whole.of_layers(slice(0, 1))
    assert one.keys.shape == (IMAGES, HEADS, TOKENS, HEAD_DIM) and some.values.shape[0] == 1
    assert one.keys.data_ptr() == whole.keys[1].data_ptr()
    assert one.rows is ROWS and some.rows is ROWS


def test_int8_is_brought_back_by_the_scale_of_its_channel():
    stored = stored_as_int8()
    keys, values = stored.keys_and_values(torch.float32)
    assert torch.equal(keys, stored.keys.float() * stored.key_scales.float()[..., None, :])
    assert torch.equal(values, stored.values.float() * stored.value_scales.float()[..., None, :])


def test_a_function_reaches_each_tensor_and_leaves_out_what_is_not_there():
    inputs = torch.zeros(3), Features(torch.zeros(2), torch.zeros(1))
    images, features = map_tensors(lambda tensor: tensor + 1, inputs)
    assert isinstance(features, Features) and features[2:] == (None, None, None)
    assert [tensor.tolist() for tensor in tensors_of((images, features))] == [[1, 1, 1], [1, 1], [1]]


@pytest.mark.parametrize("layer_kind", ["lean", "plain"])
def test_a_model_takes_a_plain_tuple_for_features(layer_kind):
    """As a tracer hands them over, and as somebody with two tensors has them."""
    config = FPTConfig(variant="fptplus", side_res=32, tapped_share=1.0, num_prompts=4, reduction_factor=1)
    model = build_fpt(config, lpm_dim=12, lpm_heads=3, lpm_depth=2, num_classes=2, layer_kind=layer_kind).eval()
    images, keys, values = torch.randn(2, 3, 32, 32), *torch.randn(2, 2, 2, 3, 7, 4)
    assert torch.equal(model(images, (keys, values)), model(images, Features(keys, values)))
