"""Python imports this module first in each process of a watched script. It waits for PyTorch and starts the watch.

It works without the project's packages, since the script's Python may be another one. The environment's own
sitecustomize, which this one hides, is run as well.
"""

import importlib
import importlib.machinery
import importlib.util
import os
import sys
import types

_HERE = os.path.dirname(os.path.abspath(__file__))
_PACKAGE = "_emulated_script"


class _AfterTorch:
    """Finds PyTorch as Python would, and starts the watch once it has been imported.

    Libraries look for PyTorch without importing it (`importlib.util.find_spec`), so it may be looked for repeatedly.
    """

    is_looking = False

    def find_spec(self, name, path=None, target=None):
        if name != "torch" or self.is_looking:
            return None
        self.is_looking = True
        try:
            spec = importlib.util.find_spec("torch")
        finally:
            self.is_looking = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_watch(module):
                sys.meta_path.remove(self)
                execute(module)
                _watch().start(module)

            spec.loader.exec_module = execute_and_watch
        return spec


def _watch():
    """Return the module that watches; it and those it imports are a package that is on no import path."""
    package = sys.modules[_PACKAGE] = types.ModuleType(_PACKAGE)
    package.__path__ = [_HERE]
    return importlib.import_module(f"{_PACKAGE}.script_watch")


def _run_hidden_one():
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


if os.environ.get("EMULATED_REPORTS"):
    sys.meta_path.insert(0, _AfterTorch())
_run_hidden_one()
