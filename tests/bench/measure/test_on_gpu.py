"""Real cells, each in a process of its own, on this machine's CUDA device, or an emulated one if there is none."""

import on_emulated_gpu as on_gpu
import pytest
import torch

from bench.cells.config import CellConfig
from bench.measure.measure import Budget
from bench.predict.predictor import predict_all
from bench.units import GIB, MIB

BUDGET = Budget(cuda_s=1.0, idle_s=0.5, power_window_s=1.0, loader_s=1.0, timeout_s=200.0)
FITS = CellConfig(method="lora", model="vit_s", res=224, device="cuda")
TOO_LARGE = CellConfig(method="full", model="vit_b", res=512, device="cuda", vram_bytes=4 * GIB)


@pytest.fixture(scope="module")
def records(request):
    """The records of both cells, and whether CUDA was started in the process that asked for them."""
    cells = [FITS, TOO_LARGE]
    arguments = cells, BUDGET, list(predict_all(cells))
    if torch.cuda.is_available():
        return on_gpu.records_of(*arguments)
    (answer,) = request.getfixturevalue("emulated_pool").map(on_gpu.records_of, [on_gpu.job(*arguments)])
    return answer


def test_the_counters_are_in_their_order(records):
    record = records[0][0]
    assert record.status == "ok", record.status_detail
    if not record.is_emulated:
        assert record.measured_peak_allocated_bytes <= record.measured_peak_reserved_bytes
        assert record.measured_peak_reserved_bytes <= record.measured_run_peak_reserved_bytes
        if record.measured_process_bytes is not None:
            assert record.measured_peak_reserved_bytes < record.measured_process_bytes <= record.measured_device_bytes
        assert record.step_time_p10_s <= record.step_time_s <= record.step_time_p90_s


def test_cuda_is_started_in_the_cell_s_process_only(records):
    assert not records[1]


def test_a_card_that_is_too_small_runs_out_of_memory_in_a_phase(records):
    record = records[0][1]
    assert record.status == "oom"
    assert record.ended_in_phase and record.oom_asked_bytes > 0 and record.last_peak_allocated_bytes < 4 * GIB


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_an_emulated_device_s_counters_are_those_predicted_for_it(records):
    record = records[0][0]
    counters = ("peak_allocated", "peak_reserved", "process")
    told = ", ".join(f"{c.split('_')[-1]} {getattr(record, f'predicted_{c}_bytes') / MIB:,.0f} MiB" for c in counters)
    assert record.status_detail == f"ran on NVIDIA RTX A6000, emulated ({told}), where nothing is measured"
