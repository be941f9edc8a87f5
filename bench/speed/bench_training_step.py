"""One real training step of each method: `pytest bench/ --benchmark-only`.

Times in the table are per step. The saved results (`--benchmark-json FILE`) also have img/s, what was run, and, on a
CUDA device, memory and power by the suite's meters. null means not measured.
"""

import os
from contextlib import ExitStack
from dataclasses import asdict, fields

import pytest
import torch

from bench.cells.config import PROFILES, CellConfig
from bench.cells.work import work_on_device
from bench.measure.meters.memory import MemoryMeter, MemoryReading
from bench.measure.meters.nvml import NvmlSilent, find_device, nvml_session
from bench.measure.meters.power import PowerMeter, PowerReading
from methods import METHODS

ON_CPU = {"model": "vit_s", "res": 224, "batch_size": 4}
ON_CUDA = {"model": "vit_b", "res": 512, "batch_size": 16}
"""Default setting on a CUDA device: all ten methods take about a minute."""

_IDLE_S, _ROUNDS = 1.0, 5
_WARMUP_ROUNDS = 2


@pytest.fixture
def cell(request, method):
    has_cuda = torch.cuda.is_available()
    size = dict(ON_CUDA if has_cuda else ON_CPU)
    for name in size:
        size[name] = request.config.getoption(name) or size[name]
    axes = PROFILES[request.config.getoption("profile")]
    return CellConfig(method=method, device="cuda" if has_cuda else "cpu", **size, **axes)


@pytest.mark.parametrize("method", METHODS)
def test_training_step(benchmark, cell):
    on_cuda = cell.device == "cuda"
    with ExitStack() as stack:
        nvml = _nvml_device(stack) if on_cuda else None
        if nvml is not None:
            power = PowerMeter(nvml)
            power.idle(_IDLE_S)
        if on_cuda:
            torch.cuda.empty_cache()  # left by the method before
            torch.cuda.reset_peak_memory_stats()
        work = work_on_device(cell)
        wait = torch.cuda.synchronize if on_cuda else lambda: None

        def step():
            work()
            wait()

        for _ in range(_WARMUP_ROUNDS):
            step()
        memory = MemoryMeter(nvml) if on_cuda else None
        if on_cuda:
            memory.reset()
        if nvml is not None:
            power.start()
        benchmark.group = f"{cell.model} {cell.res} px, batch {cell.batch_size}, {cell.precision}, {cell.device}"
        benchmark.pedantic(step, rounds=_ROUNDS)
        reading = _nothing_measured()
        if nvml is not None:
            reading |= asdict(power.stop(_ROUNDS * cell.batch_size))
        if on_cuda:
            reading |= asdict(memory.read())
    speed = {"throughput_img_s": None if benchmark.disabled else cell.batch_size / benchmark.stats["median"]}
    benchmark.extra_info.update(method=cell.method, model=cell.model, res=cell.res, **speed, **reading)


def _nvml_device(stack):
    """Return the device in NVML until the stack ends; None if NVML is silent."""
    try:
        stack.enter_context(nvml_session())
        return find_device(os.environ, str(torch.cuda.get_device_properties(0).uuid))
    except NvmlSilent:
        return None


def _nothing_measured():
    return dict.fromkeys(field.name for kind in (MemoryReading, PowerReading) for field in fields(kind))
