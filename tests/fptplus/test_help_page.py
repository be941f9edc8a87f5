"""Every command's help: 80 characters, a sentence for every option, abbreviations explained at first use."""

import re
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Annotated, Literal, get_type_hints

import pytest
from tyro.conf import Positional

from bench.__main__ import DOOR as BENCH
from fptplus.__main__ import DOOR as TOOL
from fptplus.front_door import FrontDoor
from fptplus.help_page import explained

PAGES = [(door, name) for door in (BENCH, TOOL) for name in door.commands]
ABBREVIATIONS = ("LPM", "PPE", "PME", "AUC")


@pytest.fixture
def page(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    def printed(door, name):
        with pytest.raises(SystemExit) as stop:
            door.enter([name, "--help"])
        assert stop.value.code == 0
        return capsys.readouterr().out

    return printed


@pytest.mark.parametrize(("door", "name"), PAGES, ids=lambda one: one if isinstance(one, str) else one.package)
def test_a_help_page_fits_80_columns_and_explains_its_abbreviations(page, door: FrontDoor, name):
    text = page(door, name)
    assert not [line for line in text.splitlines() if len(line) > 80]
    words = " ".join(text.split())
    for short in ABBREVIATIONS:
        if (at := re.search(rf"\b{short}\b", words)) is not None:
            assert re.search(rf"\([^)]*\b{short}\b[^(]*\)", words[: at.end() + 20]), f"{short} is not explained"
    assert "None" not in text


@pytest.mark.parametrize(("door", "name"), PAGES, ids=lambda one: one if isinstance(one, str) else one.package)
def test_every_option_is_explained_in_a_sentence(door: FrontDoor, name):
    config = get_type_hints(import_module(f"{door.package}.{door.modules.get(name, name)}").main)["config"]
    hints = get_type_hints(explained(config), include_extras=True)
    for option in fields(config):
        (text,) = [one.help for one in hints[option.name].__metadata__ if hasattr(one, "help")]
        assert re.fullmatch(r"[A-Zbf].*[.]", text) and not text.startswith("Of "), f"{option.name}: {text!r}"


@pytest.mark.parametrize("door", [BENCH, TOOL], ids=lambda door: door.package)
def test_every_command_is_described_in_a_sentence(door: FrontDoor):
    assert all(re.fullmatch(r"[A-Z].*[.]", sentence) for sentence in door.commands.values())


@dataclass(frozen=True, kw_only=True)
class PickConfig:
    """Pick one."""

    first: Annotated[str, Positional]
    """The first
    of them."""

    size: int | None = None
    """Size in pixels. Default: none."""

    colour: Literal["red", "blue"] | None = None
    """One colour."""


def test_options_are_shown_as_people_read_them():
    hints = get_type_hints(explained(PickConfig), include_extras=True)
    shown = {name: next(one for one in hint.__metadata__ if hasattr(one, "help")) for name, hint in hints.items()}
    assert shown["first"].help == "The first of them." and shown["first"].metavar == "FIRST"
    assert (shown["size"].metavar, shown["colour"].metavar) == ("INT", "{red,blue}")
    assert explained(PickConfig).__doc__ == PickConfig.__doc__
