"""One real training step of each method: `pytest bench/ --benchmark-only`.

Times in the table are per step; `img/s` and what was run are in the saved results (`--benchmark-json FILE`).
"""

import pytest
import torch

from bench.config import PROFILES, CellConfig
from bench.measure import training_on_device
from methods import METHODS

ON_CPU = {"model": "vit_s", "res": 224, "batch_size": 4}
ON_CUDA = {"model": "vit_b", "res": 512, "batch_size": 16}
"""What is timed where nothing is asked for: all ten methods within about a minute."""


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
    take_step = training_on_device(cell)
    wait = torch.cuda.synchronize if cell.device == "cuda" else lambda: None

    def step():
        take_step()
        wait()

    benchmark.group = f"{cell.model} {cell.res} px, batch {cell.batch_size}, {cell.precision}, {cell.device}"
    benchmark.pedantic(step, warmup_rounds=1, rounds=5)
    benchmark.extra_info.update(
        method=cell.method, model=cell.model, res=cell.res, throughput_img_s=cell.batch_size / benchmark.stats["median"]
    )
