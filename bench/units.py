"""Units of memory: bytes inside, MiB and GiB (powers of two) at the edges."""

import re

from fptplus.errors import InvalidInput

MIB = 2**20
GIB = 2**30

_FACTORS = {"MiB": MIB, "GiB": GIB, "MB": 10**6, "GB": 10**9}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")


def parse_bytes(name: str, text: str) -> int:
    """Return the bytes of an amount such as 48GiB.

    Args:
        name: name of the option, for the message.
        text: a number with MiB, GiB (powers of two), MB or GB (powers of ten).

    Raises:
        InvalidInput: if it is not such an amount, or not above 0.
    """
    match = _AMOUNT.fullmatch(text.strip())
    factor = {unit.lower(): factor for unit, factor in _FACTORS.items()}.get(match[2].lower()) if match else None
    if factor is None or not 0 < float(match[1]) * factor < 2**63:
        raise InvalidInput(
            f"{name} must be an amount above 0 with its unit ({', '.join(_FACTORS)}), got {text!r}; try 48GiB."
        )
    return round(float(match[1]) * factor)
