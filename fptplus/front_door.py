"""What `python -m bench` and `python -m fptplus` share: find a command, read its options, answer wrong input.

A command is a module with `main(config) -> int`, which takes a dataclass of options and gives the exit status. It is
imported when it is called, so that the list of commands comes at once.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from importlib import import_module
from typing import Any, get_type_hints

from .errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class FrontDoor:
    """A program of several commands."""

    program: str
    """As it is called: `python -m bench`."""

    package: str
    """Whose modules are the commands."""

    commands: Mapping[str, str]
    """What each does, in a sentence."""

    default: str | None = None
    """The command where none is named, only options."""

    interrupted: str = "interrupted"
    """What Ctrl-C is answered with."""

    def enter(self, arguments: list[str]) -> int:
        """Run a command with its options; the exit status."""
        if (not arguments and self.default is None) or arguments[:1] in (["-h"], ["--help"]):
            print(self.usage())
            return 0
        try:
            main, config = self.read(arguments)
            return main(config)
        except InvalidInput as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(self.interrupted, file=sys.stderr)
            return 130

    def read(self, arguments: list[str]) -> tuple[Callable[[Any], int], Any]:
        """The function of a command, and its options as the dataclass that it takes.

        Raises:
            InvalidInput: if there is no such command, or an option is out of range.
            SystemExit: if options cannot be read, or help was asked for.
        """
        import tyro

        name, words = self.split(arguments)
        main = import_module(f"{self.package}.{name}").main
        kind = get_type_hints(main)["config"]
        options, command = _parted(words) if any(field.name == "command" for field in fields(kind)) else (words, [])
        config = tyro.cli(kind, args=options, prog=f"{self.program} {name}")
        return main, replace(config, command=tuple(command)) if command else config

    def split(self, arguments: list[str]) -> tuple[str, list[str]]:
        """Name of a command, and the words after it.

        Raises:
            InvalidInput: if there is no such command.
        """
        if self.default is not None and (not arguments or arguments[0].startswith("-")):
            return self.default, arguments
        name, *options = arguments
        if name not in self.commands:
            near = get_close_matches(name, self.commands, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise InvalidInput(f"command must be one of {', '.join(self.commands)}, got {name!r}{hint}")
        return name, options

    def usage(self) -> str:
        """How the program is called."""
        width = max(map(len, self.commands))
        lines = [f"usage: {self.program} {'COMMAND' if self.default is None else '[COMMAND]'} [options]", ""]
        lines += [f"  {name:{width}}  {does}" for name, does in self.commands.items()]
        lines += ["", f"{self.program} COMMAND --help explains the options of a command."]
        if self.default is not None:
            lines.append(f"Without a command it is {self.default}.")
        return "\n".join(lines)


def _parted(words: list[str]) -> tuple[list[str], list[str]]:
    """Options, and a foreign command after --."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]
