"""Both programs find their commands, and say what is wrong with a call."""

import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
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


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(28, "No space left on device"), "(No space left on device); make room and call it again."),
        (PermissionError(13, "Permission denied", "x/y"), "'x/y' must be a file .* it is not (Permission denied)"),
        (NotADirectoryError(20, "Not a directory", "file/z"), "'file/z' must be a file"),
    ],
)
def test_a_disk_or_file_that_fails_is_a_sentence(monkeypatch, capsys, error, sentence):
    def fail(config: CountConfig) -> int:
        raise error

    monkeypatch.setitem(sys.modules, "numbers_of.count", SimpleNamespace(main=fail))
    assert FrontDoor(program="numbers", package="numbers_of", commands={"count": "Count."}).enter(["count"]) == 2
    told = capsys.readouterr().err
    assert all(part in told for part in sentence.split(" .* ")) and told.count("\n") == 1


def test_sigterm_ends_it_as_ctrl_c_does(tmp_path):
    (tmp_path / "numbers_of").mkdir()
    (tmp_path / "numbers_of" / "wait.py").write_text(
        "import time\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Config:\n    'Wait.'\n"
        "def main(config: Config) -> int:\n"
        "    try:\n        print('waiting', flush=True)\n        time.sleep(60)\n"
        "    finally:\n        print('tidied up', flush=True)\n"
    )
    code = (
        "import sys; from fptplus.front_door import FrontDoor\n"
        "sys.exit(FrontDoor(program='n', package='numbers_of', commands={'wait': 'Wait.'}).enter(['wait']))"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "waiting\n"
    process.terminate()
    assert process.communicate(timeout=30) == ("tidied up\n", "interrupted\n") and process.returncode == 143


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


ROOT = Path(fptplus.__file__).parents[1]


def test_output_that_nobody_reads_ends_the_program_quietly(tmp_path):
    """As in `python -m ... | head -1`: the reader goes before the program has written all."""
    code = (
        "import sys, types\nfrom dataclasses import dataclass\nfrom rich.console import Console\n"
        "from fptplus.front_door import FrontDoor\n@dataclass\nclass Options:\n    rich: bool = False\n"
        "def main(config: Options) -> int:\n    write = Console().print if config.rich else print\n"
        "    for _ in range(100_000): write('a line')\n    return 0\n"
        "sys.modules['commands.count'] = types.SimpleNamespace(main=main)\n"
        "sys.exit(FrontDoor(program='p', package='commands', commands={'count': ''}).enter(sys.argv[1:]))"
    )
    path = tmp_path / "program.py"
    path.write_text(code)
    for option in ("--no-rich", "--rich"):
        command = [sys.executable, path, "count", option]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes) as program:
            assert program.stdout.readline() == "a line\n"
            program.stdout.close()
            assert program.stderr.read() == "" and program.wait() == 141


@pytest.mark.parametrize("program", ["bench", "fptplus"])
@pytest.mark.parametrize("is_package", [True, False])
def test_a_package_of_the_same_name_is_named_with_the_cure(program, is_package, tmp_path):
    (tmp_path / "methods").mkdir()
    if is_package:
        (tmp_path / "methods" / "__init__.py").write_text("")
    else:  # a folder without it is taken for a package only where no other one is on the path
        (tmp_path / "methods.py").write_text("")
    command = ["-m", program, "verify"]
    called = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "capture_output": True, "text": True}
    run = subprocess.run([sys.executable, *command], check=False, **called)
    found = tmp_path / ("methods/__init__.py" if is_package else "methods.py")
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr == (
        f"error: package 'methods' must be the one in {ROOT}, Python imports {found} instead; "
        f"call `python -P -m {program}`, or call it from another folder.\n"
    )
    run = subprocess.run([sys.executable, "-P", *command, "--help"], check=True, **called)
    assert run.stdout.startswith(f"usage: python -m {program} verify ")


def test_a_warning_is_a_line(commands, monkeypatch, capsys):
    def warn(config: CountConfig) -> int:
        print(warnings.formatwarning(UserWarning("that is much"), UserWarning, "count.py", 3), end="")
        return 0

    monkeypatch.setitem(sys.modules, "numbers_of.add", SimpleNamespace(main=warn))
    assert FrontDoor(**commands).enter(["add"]) == 0
    assert capsys.readouterr().out == "warning: that is much\n"
    assert "count.py" in warnings.formatwarning(UserWarning(""), UserWarning, "count.py", 3), "only inside the program"


def test_a_module_may_have_another_name_than_its_command(commands, monkeypatch):
    monkeypatch.setitem(sys.modules, "numbers_of.count_up", SimpleNamespace(main=count))
    assert FrontDoor(**commands, modules={"count": "count_up"}).enter(["count", "--to", "7"]) == 7
