"""A pytest fixture, so that a project's tests fail when a change needs more memory than a card has.

def test_a_step_fits_a_4090(emulated_gpu):
    called = emulated_gpu("rtx4090").run(train_one_step, batch_size=32)
    assert called.fits, called.verdict.sentence
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest


@pytest.fixture
def emulated_gpu() -> Iterator[Callable]:
    """Yield a function that takes a card's name and options of bench.scripts.emulated, and gives a card to run on."""
    from bench.scripts.emulated_gpu import emulated

    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(emulated(*arguments, **options))
