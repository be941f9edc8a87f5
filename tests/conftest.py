"""Options that enable tests that need more than this machine has."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--slurm", action="store_true", help="also run tests that need a Slurm cluster here")


def pytest_configure(config):
    config.addinivalue_line("markers", "slurm: needs a Slurm cluster on this machine; runs with --slurm only")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slurm"):
        for item in items:
            if "slurm" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a Slurm cluster: pytest --slurm"))
