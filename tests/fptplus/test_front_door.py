"""Both programs find their commands, and say what is wrong with a call."""

import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

import bench.__main__
import fptplus
import fptplus.__main__
from fptplus.errors import InvalidInput
from fptplus.front_door import FrontDoor


@dataclass(frozen=True)
class CountConfig:
    """Count."""

    to: int = 3
    """The last number."""


def count(config: CountConfig) -> int:
    if config.to == 13:
        raise InvalidInput("to must not be 13.")
    if config.to == 0:
        raise KeyboardInterrupt
    return config.to


@pytest.fixture
def commands(monkeypatch):
    monkeypatch.setitem(sys.modules, "numbers_of.count", SimpleNamespace(main=count))
    return {"program": "numbers", "package": "numbers_of", "commands": {"count": "Count.", "add": "Add."}}


def test_a_command_takes_its_options_and_gives_the_status(commands):
    assert FrontDoor(**commands).enter(["count", "--to", "7"]) == 7
    assert FrontDoor(**commands, default="count").enter(["--to", "7"]) == 7
    assert FrontDoor(**commands, default="count").enter([]) == 3


def test_wrong_input_is_a_sentence_and_an_interruption_no_traceback(commands, capsys):
    door = FrontDoor(**commands, interrupted="interrupted; call it again")
    assert [door.enter(["count", "--to", to]) for to in ("13", "0")] == [2, 130]
    assert capsys.readouterr().err == "error: to must not be 13.\ninterrupted; call it again\n"


@pytest.mark.parametrize("default", [None, "count"])
def test_an_unknown_command_is_called_that(commands, default, capsys):
    assert FrontDoor(**commands, default=default).enter(["coumt", "--to", "7"]) == 2
    assert capsys.readouterr().err == "error: command must be one of count, add, got 'coumt'; did you mean count?\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_every_command_is_listed(commands, arguments, capsys):
    assert FrontDoor(**commands).enter(arguments) == 0
    assert "  count  Count.\n  add    Add.\n" in capsys.readouterr().out


@pytest.mark.parametrize("program", ["bench", "fptplus"])
def test_the_list_of_commands_waits_for_no_library(program):
    code = f"import sys; from {program}.__main__ import main; main(['--help']); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith(f"usage: python -m {program} ")
    assert not {"torch", "numpy", "pandas", "tyro", "timm"} & set(run.stdout.splitlines()[-1].split())
    assert all(len(line) <= 80 for line in run.stdout.splitlines()[:-1])


@pytest.mark.parametrize("door", [bench.__main__.DOOR, fptplus.__main__.DOOR], ids=lambda door: door.package)
def test_every_command_can_be_asked_for_help(door, capsys):
    for name in door.commands:
        with pytest.raises(SystemExit) as stop:
            door.read([name, "--help"])
        assert stop.value.code == 0 and f"{door.program} {name}" in capsys.readouterr().out


def test_every_name_of_the_package_is_there():
    assert "build_fpt" in fptplus.__all__
    assert all(getattr(fptplus, name) is not None for name in fptplus.__all__)
