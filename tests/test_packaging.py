"""The promises of pyproject.toml: every import is declared, nothing is declared without use, the license exists."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("fptplus", "methods", "bench")
NOT_IMPORTED = {"pytest-benchmark", "pytest-xdist", "ruff"}
"""Plugins and a program."""


def names(requirements):
    return {re.match(r"[\w-]+", requirement)[0].replace("_", "-").lower() for requirement in requirements}


def imported_distributions(*folders):
    distributions = packages_distributions()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            else:
                continue
            for top in {module.partition(".")[0] for module in modules} - set(sys.stdlib_module_names):
                if top in distributions and top not in PACKAGES:
                    yield distributions[top][0].replace("_", "-").lower()


DECLARED = names(PROJECT["dependencies"])
EXTRAS = {name: names(requirements) for name, requirements in PROJECT["optional-dependencies"].items()}


@pytest.mark.parametrize(("folders", "extras"), [(PACKAGES, ("slurm", "tensorboard")), (("tests",), ("test",))])
def test_every_import_is_declared(folders, extras):
    allowed = DECLARED.union(*(EXTRAS[name] for name in extras))
    assert not set(imported_distributions(*folders)) - allowed


LOADED_BY_OTHERS = {"tensorboard", *EXTRAS["dicom"]}
"""torch imports tensorboard, and pydicom its codecs."""


def test_nothing_is_declared_that_is_not_imported():
    used = set(imported_distributions(*PACKAGES, "tests")) | NOT_IMPORTED
    assert not DECLARED.union(*EXTRAS.values()) - used - LOADED_BY_OTHERS


def test_the_license_is_the_one_that_is_declared():
    assert PROJECT["license"] == "MIT" and PROJECT["license-files"] == ["LICENSE"]
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License\n")


def test_what_the_tests_read_is_in_the_source_distribution():
    lines = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()
    assert {"graft docs", "graft tests", "graft results", "include noxfile.py"} <= set(lines)
