"""A process set to keep freed memory still has it after a step; each test measures in its own process."""

import os
import subprocess
import sys

import pytest

BYTES = 128 * 2**20
"""In tensors of 1 MiB that are all freed at the end of a step."""

STEP = f"""
import psutil
import torch
from fptplus.training.cpu_memory import keep_freed_memory

def resident():
    return psutil.Process().memory_info().rss

def step():
    tensors = [torch.ones(2**18) for _ in range({BYTES // 2**20})]

KEEP
before = resident()
step()
print(resident() - before)
"""

GIVES_BACK_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""glibc's own values, held to: by itself it learns others as it goes, and what it keeps then depends on chance."""


def bytes_kept_after_a_step(keep):
    command = [sys.executable, "-c", STEP.replace("KEEP", keep)]
    environment = os.environ | GIVES_BACK_AT_ONCE
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's memory")
def test_the_memory_of_a_step_is_there_for_the_next():
    assert bytes_kept_after_a_step("keep_freed_memory()") > 0.9 * BYTES
    assert bytes_kept_after_a_step("") < 0.1 * BYTES
