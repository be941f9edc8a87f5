"""Scratch memory of sums, compared with PyTorch's own on the emulated cards."""

import random

import on_emulated_pytorch as on_device
import pytest
import torch

from bench.cards.gpus import GPUS
from bench.emulate.pool import Job
from bench.trace.reductions import reduction_scratch_bytes

SIZES = (1, 2, 3, 5, 16, 64, 96, 197, 384, 1000, 3072)


def random_sums():
    """Shape, strides and summed dimensions of sums over tensors whose dimensions lie in any order."""
    generator = random.Random(0)
    while True:
        count = generator.randint(1, 4)
        shape = [generator.choice(SIZES) for _ in range(count)]
        order = generator.sample(range(count), count)
        tensor = torch.empty([shape[axis] for axis in order], device="meta").permute(
            [order.index(axis) for axis in range(count)]
        )
        if tensor.numel() < 2**28:
            yield shape, tensor.stride(), generator.sample(range(count), generator.randint(1, count))


CASES = [case for case, _ in zip(random_sums(), range(1500), strict=False)]


@pytest.mark.parametrize("card", ["t4", "a6000", "h100"])
def test_a_sum_takes_what_it_takes_on_the_device(emulated_pool, card):
    (taken,) = emulated_pool.map(on_device.sums, [Job(gpu=GPUS[card], arguments=(CASES,))])
    for (shape, strides, dims), sizes in zip(CASES, taken, strict=True):
        expected = reduction_scratch_bytes(shape, strides, dims, GPUS[card])
        assert list(expected or ()) == sizes, (shape, strides, dims)
    assert sum(map(bool, taken)) > 100
