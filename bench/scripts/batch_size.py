"""The largest value of a script's option with which it still fits, by running it again and again."""

from collections.abc import Callable

from fptplus.errors import InvalidInput

MOST = 2**20
"""No batch is tried beyond."""


def with_option(command: tuple[str, ...], name: str, value: int) -> tuple[str, ...]:
    """A command with an option set: where it stands already, as --name 8, --name=8 or name=8; else added as --name 8.

    Args:
        command: a program and its arguments.
        name: of the option, with or without dashes.
        value: to set.
    """
    plain = name.lstrip("-")
    spellings = {name, f"-{plain}" if len(plain) == 1 else f"--{plain}", f"--{plain.replace('_', '-')}"}
    spellings.add(f"--{plain.replace('-', '_')}")
    words = list(command)
    for index, word in enumerate(words):
        key, equals, _ = word.partition("=")
        if equals and (key in spellings or key == plain):
            words[index] = f"{key}={value}"
            return tuple(words)
        if word in spellings and index + 1 < len(words):
            words[index + 1] = str(value)
            return tuple(words)
    option = name if name.startswith("-") else f"-{plain}" if len(plain) == 1 else f"--{plain}"
    return (*command, option, str(value))


def largest_that_fits(fits: Callable[[int], bool], most: int = MOST) -> int | None:
    """The largest number that fits, if all below one that fits do: by doubling, then by halving the gap.

    Args:
        fits: tries a number.
        most: no larger one is tried.

    Returns:
        None if not even 1 fits.
    """
    largest, failed = 0, most + 1
    number = 1
    while number < failed:
        if fits(number):
            largest = number
            number = min(2 * number, most) if number < most else failed
        else:
            failed = number
    while failed - largest > 1:
        middle = (largest + failed) // 2
        if fits(middle):
            largest = middle
        else:
            failed = middle
    return largest or None


def check_name(name: str) -> None:
    """Refuse what names no option.

    Raises:
        InvalidInput: if it is empty or has blanks.
    """
    if not name.strip("-") or any(character.isspace() for character in name):
        raise InvalidInput(f"find-batch-size must be the name of an option of the script, got {name!r}.")
