"""Options of the speed benchmarks: `pytest bench/ --benchmark-only --model vit_b --res 512`."""

from pathlib import Path

import pytest

from bench.emulate.device_state import is_emulated

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench")
    group.addoption("--model", help="vit_s, vit_b, vit_l or a timm name; default vit_b on a GPU, vit_s on a CPU")
    group.addoption("--res", type=int, help="image height and width in pixels; default 512 on a GPU, 224 on a CPU")
    group.addoption("--batch-size", type=int, help="images a step; default 16 on a GPU, 4 on a CPU")
    group.addoption("--profile", choices=("paper", "fast"), default="paper", help="precision, attention, optimizer")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip benchmarks on an emulated device, where times mean nothing."""
    if is_emulated() and not config.getoption("benchmark_disable"):
        skip = pytest.mark.skip(
            reason="the GPU is emulated, its times mean nothing; --benchmark-disable runs the steps"
        )
        for item in items:
            if item.path.is_relative_to(HERE):
                item.add_marker(skip)
