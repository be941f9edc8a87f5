"""Batches from disk contain the images that were stored, on whichever axis their model expects the batch."""

from itertools import islice

import on_emulated_gpu as on_gpu
import pytest
import torch

from bench.measure.loader import MappedExamples, mapped_batches, on_device
from fptplus.network.features import Features, tensors_of
from fptplus.training.fine_tuning import batch_axes
from methods import create_backbone, find_method


@pytest.fixture(params=["linear", "fptplus", "fptplus_bf16", "fptplus_int8"])
def tuning(request):
    return find_method(request.param).build(create_backbone("test_vit", 64, 5), 64)


def test_batches_are_what_was_stored(tuning, tmp_path):
    torch.manual_seed(0)
    examples = MappedExamples(tmp_path, tuning.example_inputs, num_stored=4, num_images=10, num_classes=5)
    torch.manual_seed(0)
    stored = tuning.example_inputs(4)
    batches = list(mapped_batches(examples, 4, "cpu", 0))
    assert len(batches) == 2, "the last two images are no whole batch"
    inputs, targets = batches[1]
    for tensor, expected in zip(tensors_of(inputs), tensors_of(stored), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0)
    assert targets.tolist() == [4, 0, 1, 2]
    assert tuning.model(*inputs).shape == (4, 5)


def test_the_batch_axis_is_the_one_that_grows():
    assert batch_axes(lambda n: (torch.empty(n, 3), torch.empty(2, n, 4), torch.empty(2, 2, n))) == (0, 1, 2)


def test_features_have_an_axis_for_each_tensor_that_they_hold():
    features = batch_axes(lambda n: (torch.empty(n, 3), Features(*torch.empty(2, 5, n, 4), rows=torch.empty(n))))
    assert features == (0, 1, 1, None, None, 0)


def test_epochs_follow_each_other_without_end(tuning, tmp_path):
    examples = MappedExamples(tmp_path, tuning.example_inputs, num_stored=2, num_images=4, num_classes=5)
    batches = list(islice(on_device(mapped_batches(examples, 2, "cpu", 0), "cpu"), 5))
    torch.testing.assert_close(tensors_of(batches[0][0]), tensors_of(batches[4][0]))


def test_worker_processes_give_the_same_batches(tuning, tmp_path):
    examples = MappedExamples(tmp_path, tuning.example_inputs, num_stored=2, num_images=6, num_classes=5)
    here, there = (list(mapped_batches(examples, 2, "cpu", workers)) for workers in (0, 1))
    torch.testing.assert_close(*([(tensors_of(i), t) for i, t in batches] for batches in (here, there)))


@pytest.mark.parametrize(("method", "num_workers"), [("linear", 0), ("fptplus", 2)])
def test_on_a_device_they_arrive_as_they_were_stored(on_card, method, num_workers):
    arrived, stored = on_card(on_gpu.batch_from_disk, method, num_workers)
    torch.testing.assert_close(arrived, stored, rtol=0, atol=0)
