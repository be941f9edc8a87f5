"""Call one function in a process of its own: python call_function.py REQUEST ANSWER.

It works without the project's packages.
"""

import importlib
import importlib.util
import os
import pickle
import sys


def main(request, answer):
    """Call the function that a request names, and write down what it returns."""
    with open(request, "rb") as file:
        module, path, name, arguments, named, search = pickle.load(file)
    sys.path[:] = [*dict.fromkeys([*sys.path, *search])]
    function = find(module, path)
    for part in name.split("."):
        function = getattr(function, part)
    value = function(*arguments, **named)
    with open(answer + ".new", "wb") as file:
        pickle.dump(value, file)
    os.replace(answer + ".new", answer)


def find(module, path):
    """Return a module by its name if that leads to its file, else by its file."""
    try:
        found = None if module == "__main__" else importlib.import_module(module)
    except ImportError:
        found = None
    if found is not None and os.path.abspath(getattr(found, "__file__", None) or "") == path:
        return found
    spec = importlib.util.spec_from_file_location(module if module != "__main__" else "called", path)
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
