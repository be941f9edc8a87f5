"""A verdict says yes or no only if no possible size of the CUDA context would change it."""

from dataclasses import replace

import pytest

from bench.cards.contexts import ContextSize
from bench.cards.gpus import GPUS
from bench.cards.verdict import verdict
from bench.units import MIB

CARD = replace(GPUS["a6000"], memory_bytes=1000 * MIB)
CONTEXT = ContextSize(low_bytes=100 * MIB, typical_bytes=150 * MIB, high_bytes=200 * MIB, source="here")


@pytest.mark.parametrize(
    ("reserved_bytes", "word"),
    [
        (0, "yes"),
        (800 * MIB, "yes"),
        (800 * MIB + 1, "maybe"),
        (900 * MIB, "maybe"),
        (900 * MIB + 1, "no"),
        (2000 * MIB, "no"),
    ],
)
def test_the_range_decides_between_its_edges(reserved_bytes, word):
    assert verdict(reserved_bytes, CARD, CONTEXT).word == word


def test_the_sentence_says_what_would_decide():
    yes, maybe, no = (verdict(mib * MIB, CARD, CONTEXT).sentence for mib in (700, 850, 950))
    assert yes == "fits: 100 MiB stay free with a CUDA context of 200 MiB"
    assert maybe == "fits if the CUDA context takes no more than 150 MiB; known between 100 and 200 MiB"
    assert no == "does not fit: 50 MiB are lacking with a CUDA context of 100 MiB"


def test_the_context_is_that_of_the_card_unless_another_is_given():
    reserved_bytes = CARD.memory_bytes - CARD.context.high_bytes
    assert verdict(reserved_bytes, CARD).word == "yes"
    assert verdict(reserved_bytes + 1, CARD).word == "maybe"
