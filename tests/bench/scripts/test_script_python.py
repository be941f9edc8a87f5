"""The PyTorch that matters is that of the command's own Python."""

import sys
from pathlib import Path

import pytest

from bench.emulate.build import find_torch, why_not
from bench.scripts import script_python
from bench.scripts.script_python import torch_of
from fptplus import InvalidInput

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def program(folder, name, text):
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_an_interpreter_is_asked_for_its_own():
    assert torch_of((sys.executable, "train.py")) == find_torch()


def test_a_program_s_interpreter_is_in_its_first_line(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(script_python, "_origin", lambda python: asked.append(python) or find_torch().folder / "x")
    other = program(tmp_path, "python3.12", "#!/bin/sh\n")
    assert torch_of((program(tmp_path, "torchrun", f"#!{other} -sE\n"), "train.py")) == find_torch()
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert torch_of((program(tmp_path, "lightning", "#!/usr/bin/env python3.12\n"),)) == find_torch()
    assert asked == [Path(other)] * 2


def test_where_the_interpreter_is_not_known_ours_is_the_guess(tmp_path):
    assert torch_of((program(tmp_path, "run.sh", "#!/bin/sh\npython train.py\n"),)) == find_torch()


def test_a_program_that_is_not_there_and_a_python_without_pytorch_are_named(tmp_path, monkeypatch):
    with pytest.raises(InvalidInput, match="must start with a program, 'pyton' is none"):
        torch_of(("pyton", "train.py"))
    monkeypatch.setattr(script_python, "_origin", lambda python: "")
    with pytest.raises(InvalidInput, match="must have PyTorch, .*python3 has none"):
        torch_of((program(tmp_path, "python3", "#!/bin/sh\n"), "train.py"))
