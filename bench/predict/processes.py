"""The pool of processes on emulated cards that all predictions of this process share."""

import atexit
from functools import cache

from bench.emulate.pool import EmulatedPool


@cache
def shared_pool() -> EmulatedPool:
    """Return the pool, one for the life of this process; it imports while this process does other work.

    Raises:
        CannotEmulate: if the device cannot be compiled here.
    """
    pool = EmulatedPool(prepare="bench.predict.emulated:prepare")
    atexit.register(pool.close)
    return pool
