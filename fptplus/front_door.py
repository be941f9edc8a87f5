"""What `python -m bench` and `python -m fptplus` share: find a command, read its options, report wrong input.

A command is a module with `main(config) -> int`, which takes a dataclass of options and returns the exit status. It is
imported only when it is called, so that the list of commands appears at once.
"""

import errno
import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_type_hints

from .errors import InvalidInput
from .help_page import explained, wrapped_output

ROOT = Path(__file__).parents[1]
"""Folder that holds the packages."""

BROKEN_PIPE = 141
"""Exit status when nobody reads the output any more, as shells report SIGPIPE."""


TERMINATED = 143
"""Exit status of a program that SIGTERM has ended, as shells report it."""


@contextmanager
def imports_uncollected() -> Iterator[None]:
    """Keep the garbage collector away from what is imported inside: it would search it all, again and again."""
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:  # a caller may enter again and again
            gc.freeze()
        gc.enable()


class _Terminated(KeyboardInterrupt):
    """SIGTERM, so that whoever tidies up after Ctrl-C does so after it."""


@dataclass(frozen=True, kw_only=True)
class FrontDoor:
    """A program with several commands."""

    program: str
    """How it is called, e.g. `python -m bench`."""

    package: str
    """Package whose modules are the commands, each named after its command."""

    commands: Mapping[str, str]
    """What each command does, in a sentence."""

    default: str | None = None
    """Command to run when only options are given."""

    modules: Mapping[str, str] = field(default_factory=dict)
    """Module of each command whose module has another name."""

    interrupted: str = "interrupted"
    """Message printed on Ctrl-C."""

    needs: tuple[str, ...] = ()
    """Packages of this project that the commands import; they are checked before a command runs."""

    def enter(self, arguments: list[str]) -> int:
        """Run a command with its options and return the exit status.

        Returns:
            The exit status: that of the command, 2 for wrong input and for a file or disk that fails, 130 for Ctrl-C,
            143 for SIGTERM, 141 if nobody reads the output.
        """
        try:
            with _plain_warnings(), _termination_as_interrupt():
                status = self._run(arguments)
            if sys.stdout is not None:  # the caller may have closed it
                sys.stdout.flush()
            return status
        except InvalidInput as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except _Terminated:
            print(self.interrupted, file=sys.stderr)
            return TERMINATED
        except KeyboardInterrupt:
            print(self.interrupted, file=sys.stderr)
            return 130
        except BrokenPipeError:
            return _discard_output()
        except OSError as error:
            if error.strerror is None:
                raise
            print(f"error: {_told(error)}", file=sys.stderr)
            return 2
        except SystemExit as stop:
            if isinstance(stop.__context__, BrokenPipeError):  # how rich reacts to a broken pipe
                return _discard_output()
            raise

    def _run(self, arguments: list[str]) -> int:
        if (not arguments and self.default is None) or arguments[:1] in (["-h"], ["--help"]):
            print(self.usage())
            return 0
        self.check_packages()
        with imports_uncollected():
            main, config = self.read(arguments)
        return main(config)

    def check_packages(self) -> None:
        """Refuse to continue if another package of the same name comes first on Python's path.

        Raises:
            InvalidInput: if one does.
        """
        for name in self.needs:
            found = find_spec(name)
            where = found and (found.origin or next(iter(found.submodule_search_locations)))
            if where is not None and not Path(where).is_relative_to(ROOT / name):
                raise InvalidInput(
                    f"package {name!r} must be the one in {ROOT}, Python imports {where} instead; "
                    f"call `python -P{self.program.removeprefix('python')}`, or call it from another folder."
                )

    def read(self, arguments: list[str]) -> tuple[Callable[[Any], int], Any]:
        """Return a command's function and its options, as the dataclass that the function takes.

        Raises:
            InvalidInput: if there is no such command, or an option is out of range.
            SystemExit: if the options cannot be parsed, or help was asked for.
        """
        import tyro

        name, words = self.split(arguments)
        main = import_module(f"{self.package}.{self.modules.get(name, name)}").main
        kind, called = get_type_hints(main)["config"], f"{self.program} {name}"
        takes_command = any(field.name == "command" for field in fields(kind))
        options, command = _parted(words) if takes_command else (words, [])
        if {"-h", "--help"} & set(options):
            with wrapped_output():
                tyro.cli(explained(kind), args=options, prog=called)
        config = tyro.cli(kind, args=options, prog=called)
        return main, replace(config, command=tuple(command)) if command else config

    def split(self, arguments: list[str]) -> tuple[str, list[str]]:
        """Split arguments into the name of a command and the words after it.

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
        """Return the text that says how the program is called."""
        width = max(map(len, self.commands))
        lines = [f"usage: {self.program} {'COMMAND' if self.default is None else '[COMMAND]'} [options]", ""]
        lines += [f"  {name:{width}}  {does}" for name, does in self.commands.items()]
        lines += ["", f"{self.program} COMMAND --help explains the options of a command."]
        if self.default is not None:
            lines.append(f"Without a command it is {self.default}.")
        return "\n".join(lines)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print each warning on one line, without its place in the source."""
    formatted = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = formatted


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the program as Ctrl-C does, unless somebody else has taken it."""
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def terminate(number: int, frame: object) -> None:
        raise _Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _told(error: OSError) -> str:
    """A file or a disk that fails, in a sentence."""
    what = str(error.filename2 or error.filename or "a file")
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    cure = "make room and call it again" if is_full else "mend that, or name another"
    return f"{what!r} must be a file that can be read or written here, it is not ({error.strerror}); {cure}."


def _discard_output() -> int:
    """Write nothing more to a pipe that nobody reads, and return the exit status."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def _parted(words: list[str]) -> tuple[list[str], list[str]]:
    """Split words into options and the user's own command after --."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]
