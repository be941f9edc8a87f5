"""What `COMMAND --help` prints: options in a readable form, no wider than the terminal."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import Field, field, fields, make_dataclass
from io import StringIO
from shutil import get_terminal_size
from textwrap import fill
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

_KEPT_SPACE = "\xa0"
"""A space at which a line is not broken."""


def explained(config: type) -> type:
    """Return options as their help page shows them: a paragraph per docstring, and no type or default called None.

    tyro would break lines where the docstring in the source does.

    Args:
        config: a dataclass with a docstring for each field.
    """
    from docstring_parser import parse_from_object

    documented = {
        entry.arg_name: " ".join((entry.description or "").split())
        for base in reversed(config.__mro__[:-1])
        for entry in parse_from_object(base).params
    }
    hints = get_type_hints(config, include_extras=True)
    options = [_explained(option, hints[option.name], documented.get(option.name, "")) for option in fields(config)]
    return make_dataclass(config.__name__, options, kw_only=True, namespace={"__doc__": config.__doc__})


def _explained(option: Field, hint: Any, text: str) -> tuple[str, Any, Field]:
    """Return one option in the form that make_dataclass takes."""
    from tyro.conf import Positional, arg

    named, kinds = {}, [kind for kind in get_args(hint) if kind is not NoneType]
    if option.default is None and len(kinds) == 1:
        named = {"metavar": _metavar(kinds[0]), "help_behavior_hint": ""}
    if Positional in kinds:
        named = {"metavar": option.name.upper()}
    return option.name, Annotated[hint, arg(help=text, **named)], field(default=option.default)


def _metavar(kind: Any) -> str:
    """Return what stands for a value in the help, such as `{norm,none}` or `INT`."""
    if get_origin(kind) is Literal:
        return f"{{{','.join(map(str, get_args(kind)))}}}"
    return " ".join(_metavar(part) for part in get_args(kind)) or kind.__name__.upper()


@contextmanager
def wrapped_output() -> Iterator[None]:
    """Wrap printed lines that are wider than the terminal."""
    width = get_terminal_size().columns
    try:
        with redirect_stdout(StringIO()) as page:
            yield
    finally:
        for line in map(str.rstrip, page.getvalue().rstrip().splitlines()):
            print(_wrapped(line, width) if len(line) > width else line)


def _wrapped(line: str, width: int) -> str:
    """Wrap a line; in the usage, an option stays on one line with its value."""
    if not line.startswith("usage:"):
        return fill(line, width)
    options = re.sub(r"\[[^]]*\]", lambda option: option[0].replace(" ", _KEPT_SPACE), line)
    return fill(options, width, subsequent_indent="  ").replace(_KEPT_SPACE, " ")
