import shutil

import pytest
import torch

from fptplus import build_cache, cpu_kernels


@pytest.fixture
def cpu_kernel():
    """The CPU's kernels, without which the test has nothing to test."""
    if not any(map(shutil.which, build_cache.COMPILERS)):
        pytest.skip("the CPU's kernels need a C++ compiler")
    assert cpu_kernels.can_run_on(torch.zeros(1))


@pytest.fixture(params=["kernel", "operators"])
def either_way(request, monkeypatch):
    """By the CPU's kernels, and by PyTorch's operators as where there is no compiler."""
    if request.param == "kernel":
        request.getfixturevalue("cpu_kernel")
    else:
        monkeypatch.setattr(cpu_kernels, "_library", lambda: None)
