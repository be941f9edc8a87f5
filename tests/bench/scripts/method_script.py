"""Trains one of the benchmark's methods as a script that anybody could have written would: METHOD."""

import sys

import torch

from bench.cells.building import build_on
from bench.cells.config import CellConfig
from bench.cells.work import work_without_values
from bench.predict.emulated import WARMUP_STEPS

cell = CellConfig(method=sys.argv[1], model="test_vit", res=64, batch_size=8, device="cuda")
work = work_without_values(cell, build_on("meta", cell)[0])
for _ in range(WARMUP_STEPS):
    work()
torch.cuda.reset_peak_memory_stats()
work()
print(torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())
