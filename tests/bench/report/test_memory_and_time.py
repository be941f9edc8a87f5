"""Memory against time: what is unbeaten, and where its numbers come from."""

from hypothesis import given
from hypothesis import strategies as st

from bench.report.memory_and_time import unbeaten

COSTS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12)


def test_a_row_is_unbeaten_if_no_other_takes_less_of_both():
    assert unbeaten([(1, 9), (5, 5), (9, 1), (5, 6), (6, 6)]) == [True, True, True, False, False]
    assert unbeaten([(3, 3), (3, 3)]) == [True, True], "equal rows do not beat each other"


@given(COSTS)
def test_every_row_that_is_beaten_is_beaten_by_an_unbeaten_one(costs):
    best = [one for one, is_best in zip(costs, unbeaten(costs), strict=True) if is_best]
    assert best and min(costs) in best
    assert all(any(a <= memory and b <= time for a, b in best) for memory, time in costs)
