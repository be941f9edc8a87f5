"""Find the largest value of a script's option with which it still fits, by running it repeatedly."""

from collections.abc import Callable

from fptplus.errors import InvalidInput

MOST = 2**20
"""Largest batch size that is tried."""


def with_option(command: tuple[str, ...], name: str, value: int) -> tuple[str, ...]:
    """Return a command with an option set: replaced where it is --name 8, --name=8 or name=8; else added as --name 8.

    Args:
        command: a program and its arguments.
        name: name of the option, with or without dashes.
        value: value to set.
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


def find_batch_size(command: tuple[str, ...]) -> tuple[str, int] | None:
    """Return the option of a command that is its batch size in training, by its usual names, with its value.

    Args:
        command: a program and its arguments.
    """
    for word, following in zip(command, (*command[1:], ""), strict=True):
        name, equals, value = word.partition("=")
        plain = name.lstrip("-").replace("-", "_").rpartition(".")[2]
        dashed = name.startswith("-")
        if plain not in (_USUAL_NAMES if dashed or equals else ()) and not (dashed and plain in _SHORT_NAMES):
            continue
        value = value if equals else following
        if value.isdecimal():
            return name, int(value)
    return None


_USUAL_NAMES = ("batch_size", "batchsize", "train_batch_size", "per_device_train_batch_size", "micro_batch_size")
_SHORT_NAMES = ("b", "bs")


def largest_that_fits(needs: Callable[[int], int | None], capacity_bytes: int, most: int = MOST) -> int | None:
    """Return the largest number that fits, assuming that every smaller number fits too.

    Memory grows almost in proportion, so two numbers that fit show where the limit should be. That is tried next,
    or the middle of the interval if this guess has misled.

    Args:
        needs: tries a number and returns the bytes that it takes; None if memory does not suffice.
        capacity_bytes: available memory.
        most: largest number to try.

    Returns:
        The number; None if not even 1 fits.
    """
    taken: dict[int, int] = {}
    failed, number, misled = most + 1, 1, False
    while True:
        if (num_bytes := needs(number)) is None:
            misled = failed - number < (failed - max(taken, default=0)) / 2
            failed = number
        else:
            misled = bool(taken) and failed <= most and number - max(taken) < (failed - max(taken)) / 2
            taken[number] = num_bytes
        largest = max(taken, default=0)
        if failed - largest <= 1:
            return largest or None
        guess = (largest + failed) // 2 if misled else _guess(taken, capacity_bytes, failed)
        number = min(max(guess, largest + 1), failed - 1)


def _guess(taken: dict[int, int], capacity_bytes: int, failed: int) -> int:
    """Estimate the limit from the two largest numbers that fit."""
    if len(taken) < 2:
        return 2 * max(taken, default=0)
    (low, low_bytes), (high, high_bytes) = sorted(taken.items())[-2:]
    slope = (high_bytes - low_bytes) / (high - low)
    if slope <= 0:
        return min(2 * high, failed)
    return high + int((capacity_bytes - high_bytes) / slope)


def check_name(name: str) -> None:
    """Refuse a name that cannot be that of an option.

    Raises:
        InvalidInput: if it is empty or contains blanks.
    """
    if not name.strip("-") or any(character.isspace() for character in name):
        raise InvalidInput(f"find-batch-size must be the name of an option of the script, got {name!r}.")
