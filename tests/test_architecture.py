"""The architecture: imports run one way, and the packages are those of this checkout."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("fptplus", "methods", "bench")
"""Each may import those before it."""


def sources(package):
    return sorted((ROOT / package).rglob("*.py"))


ROOMS = {
    "fptplus": [
        "errors",
        "seed",
        "paper_training",
        "whole_file",
        "held_lock",
        "own_folder",
        "build_cache",
        "cpu_kernels",
        "network",
        "data",
        "distributed",
        "store",
        "training",
        "synthetic",
    ],
    "bench": [
        "units",
        "cards",
        "cells",
        "trace",
        "emulate",
        "timing",
        "predict",
        "records",
        "measure",
        "sweep",
        "paper",
        "report",
        "scripts",
        "published",
        "commands",
    ],
}
"""Folders and modules of a package; each may import those before it."""

MOST_MODULES = 15


def imported(path):
    """Full names of everything a module imports."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def docstrings(path):
    """Docstrings of a module, its classes and functions, and the strings under fields and constants."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


@pytest.mark.parametrize("package", LAYERS)
def test_imports_run_one_way_between_packages(package):
    above = set(LAYERS[LAYERS.index(package) + 1 :])
    packages = {path: {name.split(".")[0] for name in imported(path)} for path in sources(package)}
    assert not {str(path): names & above for path, names in packages.items() if names & above}


@pytest.mark.parametrize("package", ROOMS)
def test_imports_run_one_way_between_the_folders_of_a_package(package):
    rooms, back = ROOMS[package], []
    for path in sources(package):
        room = path.relative_to(ROOT / package).with_suffix("").parts[0]
        if room not in rooms:
            continue  # what uses the package as a whole: __main__, benchmarks, the reference
        names = [name.split(".") for name in imported(path)]
        others = {name[1] for name in names if name[0] == package and len(name) > 1 and name[1] in rooms}
        back += [(str(path), other) for other in others if rooms.index(other) > rooms.index(room)]
    assert not back
    folders = {path.name for path in (ROOT / package).iterdir() if (path / "__init__.py").exists()}
    assert folders - set(rooms) <= {"speed"}


@pytest.mark.parametrize("package", LAYERS)
def test_no_folder_is_too_large_to_hold_in_the_head(package):
    folders = {path.parent for path in sources(package)}
    sizes = {str(folder): len([p for p in folder.glob("*.py") if p.stem != "__init__"]) for folder in folders}
    assert not {folder: size for folder, size in sizes.items() if size > MOST_MODULES}


def test_no_two_modules_have_one_name():
    modules = [path for package in LAYERS for path in sources(package) if not path.stem.startswith("__")]
    named = {stem: [str(p) for p in modules if p.stem == stem] for stem in {path.stem for path in modules}}
    assert not {stem: paths for stem, paths in named.items() if len(paths) > 1}


def test_no_two_classes_have_one_name():
    classes = {}
    for path in (path for package in LAYERS for path in sources(package)):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes.setdefault(node.name, []).append(str(path))
    assert not {name: paths for name, paths in classes.items() if len(paths) > 1}


@pytest.mark.parametrize("package", LAYERS)
def test_no_docstring_begins_with_of(package):
    texts = [(str(path), text) for path in sources(package) for text in docstrings(path)]
    assert texts
    assert not [(path, text) for path, text in texts if text.lstrip().startswith("Of ")]


def test_tests_mirror_the_folders():
    for folder in {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}:
        assert (ROOT / folder).is_dir(), f"tests/{folder} has no folder {folder} that it tests"


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
