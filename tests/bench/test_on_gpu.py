"""One true cell on the CUDA device of this machine; skipped where there is none."""

import pytest
import torch

from bench.config import CellConfig
from bench.harness import run_cell
from bench.measure import Budget

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
BUDGET = Budget(cuda_s=1.0, idle_s=0.5, power_window_s=1.0, loader_s=1.0)


def test_the_counters_are_in_their_order():
    record = run_cell(CellConfig(method="lora", model="vit_s", res=224, device="cuda"), BUDGET)
    assert record.status == "ok", record.status_detail
    assert record.measured_peak_allocated_bytes <= record.measured_peak_reserved_bytes
    assert record.measured_peak_reserved_bytes <= record.measured_run_peak_reserved_bytes
    if record.measured_process_bytes is not None:
        assert record.measured_peak_reserved_bytes < record.measured_process_bytes <= record.measured_device_bytes
    assert record.step_time_p10_s <= record.step_time_s <= record.step_time_p90_s
    assert not torch.cuda.is_initialized(), "CUDA is started in the cell's process only"


def test_a_card_that_is_too_small_runs_out_of_memory_in_a_phase():
    cell = CellConfig(method="full", model="vit_b", res=512, device="cuda", vram_bytes=4 * 2**30)
    record = run_cell(cell, BUDGET)
    assert record.status == "oom"
    assert record.ended_in_phase and record.oom_asked_bytes > 0 and record.last_peak_allocated_bytes < 4 * 2**30
