"""A process that keeps freed memory has few page faults in a step; counted in processes of their own."""

import subprocess
import sys

import pytest

PAGES = 2**15
"""Of 4 KiB, in tensors of 1 MiB that are all freed at the end of a step: twice what glibc keeps at most by itself."""

STEPS = f"""
import resource
import torch
from fptplus.cpu_memory import keep_freed_memory

def step():
    tensors = [torch.ones(2**18) for _ in range({PAGES} // 256)]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

step()
KEEP
step()
before = faults()
step()
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's memory")
def test_the_next_step_has_the_pages_of_the_last():
    faults = {
        keep: int(
            subprocess.run(
                [sys.executable, "-c", STEPS.replace("KEEP", keep)], check=True, capture_output=True, text=True
            ).stdout
        )
        for keep in ("keep_freed_memory()", "")
    }
    assert faults["keep_freed_memory()"] < PAGES / 10
    assert faults[""] > PAGES / 2
