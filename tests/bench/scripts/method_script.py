"""Trains some of the benchmark's methods as scripts that anybody could have written would, each in a fork: METHOD …."""

import os
import sys

import torch

from bench.cells.building import build_on
from bench.cells.config import CellConfig
from bench.cells.work import work_without_values
from bench.predict.emulated import WARMUP_STEPS


def peaks(method):
    cell = CellConfig(method=method, model="test_vit", res=64, batch_size=8, device="cuda")
    work = work_without_values(cell, build_on("meta", cell)[0])
    for _ in range(WARMUP_STEPS):
        work()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


for name in sys.argv[1:]:
    if os.fork() == 0:
        print(name, *peaks(name), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"{name} has failed")
