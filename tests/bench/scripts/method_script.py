"""Trains some of the benchmark's methods as a script that anybody could have written would: ANSWER METHOD …"""

import gc
import json
import sys
from pathlib import Path

import torch

from bench.cells.building import build_on
from bench.cells.config import CellConfig
from bench.cells.work import work_without_values
from bench.predict.emulated import WARMUP_STEPS


def peaks_of(method):
    """Allocated and reserved bytes."""
    cell = CellConfig(method=method, model="test_vit", res=64, batch_size=8, device="cuda")
    work = work_without_values(cell, build_on("meta", cell)[0])
    for _ in range(WARMUP_STEPS):
        work()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


found = {}
for method in sys.argv[2:]:
    found[method] = peaks_of(method)
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
Path(sys.argv[1]).write_text(json.dumps(found))
