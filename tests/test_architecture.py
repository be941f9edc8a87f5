"""The house keeps its shape: imports run one way, and the packages are the ones of this checkout."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("fptplus", "methods", "bench")
"""Each may import those before it."""


def sources(package):
    return sorted((ROOT / package).rglob("*.py"))


COMMAND_LINE = ROOT / "fptplus" / "cli"
"""Where `python -m fptplus` puts the layers together: it alone may import a layer above its own."""


def imported(path):
    """Top-level names of everything a module imports absolutely."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", LAYERS)
def test_imports_run_one_way(package):
    above = set(LAYERS[LAYERS.index(package) + 1 :])
    library = [path for path in sources(package) if not path.is_relative_to(COMMAND_LINE)]
    assert not {path.name: above & set(imported(path)) for path in library if above & set(imported(path))}


@pytest.mark.parametrize("package", LAYERS)
def test_packages_come_from_this_checkout(package):
    assert Path(importlib.import_module(package).__file__).is_relative_to(ROOT / package)


def test_one_place_creates_the_backbone():
    callers = [path for package in LAYERS for path in sources(package) if "timm.create_model(" in path.read_text()]
    assert callers == [ROOT / "methods" / "backbone.py"]


def test_there_is_no_drawer_for_odds_and_ends():
    names = {path.stem for package in LAYERS for path in sources(package)}
    assert not names & {"utils", "util", "common", "helpers", "misc"}


def test_tests_are_no_packages():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_importing_needs_no_gpu_and_touches_no_environment(monkeypatch):
    for package in LAYERS:
        for path in sources(package):
            tree = ast.parse(path.read_text())
            top_level_calls = [
                ast.unparse(n.value.func)
                for n in tree.body
                if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)
            ]
            assert not [call for call in top_level_calls if "environ" in call or "cuda" in call or "seed" in call], path
