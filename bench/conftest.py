"""Options of the benchmarks: `pytest bench/ --benchmark-only --model vit_b --res 512`."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench")
    group.addoption("--model", help="vit_s, vit_b, vit_l or a timm name; default vit_b on a GPU, vit_s on a CPU")
    group.addoption("--res", type=int, help="image height and width in pixels; default 512 on a GPU, 224 on a CPU")
    group.addoption("--batch-size", type=int, help="images a step; default 16 on a GPU, 4 on a CPU")
    group.addoption("--profile", choices=("paper", "fast"), default="paper", help="precision, attention, optimizer")
