"""The order of the tests, and options that enable tests that need more than this machine has."""

import gc
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST_FIRST = (
    "tests/bench/trace/test_trace_against_device.py",
    "tests/bench/scripts",
    "tests/bench/predict",
    "tests/bench/commands",
    "tests/test_docs.py",
    "tests/bench",
    "tests/methods",
)
"""Files and folders that take the longest, so that no process is left with one of them when the others are done."""


def pytest_addoption(parser):
    parser.addoption("--slurm", action="store_true", help="also run tests that need a Slurm cluster here")


def pytest_configure(config):
    config.addinivalue_line("markers", "slurm: needs a Slurm cluster on this machine; runs with --slurm only")
    if missing := [name for name in LONGEST_FIRST if not (ROOT / name).exists()]:
        raise pytest.UsageError(f"LONGEST_FIRST in tests/conftest.py must name what exists, {missing[0]} does not.")


def pytest_collection_modifyitems(config, items):
    items.sort(key=_turn)
    if not config.getoption("--slurm"):
        for item in items:
            if "slurm" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a Slurm cluster: pytest --slurm"))


def _turn(item):
    """The place of a test's file or folder in the order; within it, the order stays."""
    return next((turn for turn, name in enumerate(LONGEST_FIRST) if item.nodeid.startswith(name)), len(LONGEST_FIRST))


def pytest_collection_finish(session):
    """Take what has been imported out of garbage collection, which otherwise goes through PyTorch again and again."""
    gc.collect()
    gc.freeze()
