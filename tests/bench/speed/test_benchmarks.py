"""`pytest bench/ --benchmark-only`: the contents of its saved results."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import on_emulated_gpu as on_gpu
import torch

from bench.measure.meters.memory import MemoryReading
from bench.measure.meters.power import PowerReading

ROOT = Path(__file__).parents[3]


def test_saved_results_have_speed_memory_and_power_null_where_not_measured(tmp_path):
    saved = tmp_path / "saved.json"
    command = [sys.executable, "-m", "pytest", "bench/speed/", "--benchmark-only", "-k", "linear", "-q"]
    command += ["--model", "test_vit", "--res", "64", "--benchmark-json", str(saved)]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    result = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout
    (benchmark,) = json.loads(saved.read_text())["benchmarks"]
    info = benchmark["extra_info"]
    assert (info["method"], info["model"], info["res"]) == ("linear", "test_vit", 64)
    batch_size = int(benchmark["group"].partition("batch ")[2].partition(",")[0])
    assert abs(info["throughput_img_s"] * benchmark["stats"]["median"] / batch_size - 1) < 1e-6
    columns = {field.name for kind in (MemoryReading, PowerReading) for field in fields(kind)}
    assert columns <= info.keys()
    if not torch.cuda.is_available():
        assert {info[name] for name in columns} == {None}


def test_on_an_emulated_device_steps_run_with_all_meters(on_card):
    status, printed = on_card(on_gpu.benchmarks, "--benchmark-disable")
    assert status == 0 and "1 passed" in printed, printed


def test_on_an_emulated_device_nothing_is_timed(on_card):
    status, printed = on_card(on_gpu.benchmarks, "--benchmark-only")
    assert status == 0 and "1 skipped" in printed, printed
    assert "the GPU is emulated, its times mean nothing" in printed
