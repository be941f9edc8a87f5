"""Which numbers are random seeds."""

from fptplus.errors import InvalidInput

LARGEST_SEED = 2**64 - 1
"""PyTorch's generators take no larger one."""


def check_seed(seed: int) -> None:
    """Refuse a number that is no seed.

    Raises:
        InvalidInput: if it is negative or too large.
    """
    if not 0 <= seed <= LARGEST_SEED:
        bound = "at least 0" if seed < 0 else "below 2**64"
        raise InvalidInput(f"seed must be {bound}, got {seed}.")
