"""The processes on emulated cards that all predictions of this process share."""

import atexit
from functools import cache

from bench.emulate.pool import EmulatedPool


@cache
def shared_pool() -> EmulatedPool:
    """One for the life of this process; it imports on, while this process does something else.

    Raises:
        CannotEmulate: if the device cannot be compiled here.
    """
    pool = EmulatedPool(prepare="bench.predict.emulated:prepare")
    atexit.register(pool.close)
    return pool
