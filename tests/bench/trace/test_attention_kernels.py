"""The choice of an attention kernel, compared with PyTorch's own on the emulated cards."""

from itertools import product

import on_emulated_pytorch as on_device
import pytest
import torch

from bench.cards.gpus import GPUS
from bench.emulate.pool import Job
from bench.predict.traced import HELD_TO_TORCH, INSTALLED_TORCH
from bench.trace.attention_kernels import choose_attention_kernel

of_this_release = pytest.mark.skipif(INSTALLED_TORCH < HELD_TO_TORCH, reason="an older PyTorch chooses otherwise")
CARDS = {gpu.compute_capability: gpu for gpu in GPUS.values()}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
HEAD_DIMS = (6, 8, 12, 16, 36, 64, 80, 96, 128, 136, 192, 200, 224, 232, 256, 264)
CASES = [
    *product(("sdpa",), DTYPES, HEAD_DIMS, (False, True), (False, True), (1, 50)),
    *product(("flash", "efficient"), DTYPES, HEAD_DIMS, (False,), (False, True), (50,)),
]


@pytest.fixture(scope="module")
def kernels(emulated_pool):
    """By compute capability, what PyTorch takes in each case."""
    jobs = [Job(gpu=gpu, arguments=(CASES,)) for gpu in CARDS.values()]
    return dict(zip(CARDS, emulated_pool.map(on_device.attention_kernels, jobs), strict=True))


@of_this_release
@pytest.mark.parametrize("capability", CARDS, ids=str)
def test_the_attention_kernel_is_the_one_that_pytorch_takes(kernels, capability):
    names = ("has_mask", "has_gradient", "num_queries")
    for (attention, dtype, head_dim, *others), taken in zip(CASES, kernels[capability], strict=True):
        options = dict(zip(names, others, strict=True))
        chosen = choose_attention_kernel(attention, dtype, head_dim, capability, **options)
        assert chosen == taken, (attention, dtype, head_dim, options)
