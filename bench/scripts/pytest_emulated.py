"""A fixture for pytest, so that a project's tests fail when a change needs more memory than a card has.

def test_a_step_fits_a_4090(emulated_gpu):
    called = emulated_gpu("rtx4090").run(train_one_step, batch_size=32)
    assert called.fits, called.verdict.sentence
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest


@pytest.fixture
def emulated_gpu() -> Iterator[Callable]:
    """Call it with a card's name, and further options of bench.scripts.emulated, for a card to run functions on."""
    from bench.scripts.emulated_gpu import emulated

    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(emulated(*arguments, **options))
