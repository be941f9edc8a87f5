"""What is asked of PyTorch's allocator can be asked again, and then gives the same memory."""

from array import array

import on_emulated_requests as on_device
import pytest

from bench.emulate.build import CannotEmulate, requests_library, why_not
from bench.emulate.requests import Part, UnlikeSteps, _read
from fptplus import build_cache

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.mark.parametrize("seed", range(3))
def test_the_allocator_gives_the_same_when_it_is_asked_alone(on_card, seed):
    after_work, left_by_work, after_asking, left_by_asking = on_card(on_device.heard_and_asked, seed)
    assert after_work == after_asking and after_work["reserved_bytes.all.peak"] > 0
    assert left_by_work == left_by_asking == 0


def test_a_block_that_nobody_has_asked_for_is_refused(on_card):
    with pytest.raises(UnlikeSteps, match="neither it nor the last step has asked for"):
        on_card(on_device.foreign_block)


def test_the_parts_of_a_step_name_blocks_by_their_numbers():
    """Two gradients at 1 and 2 are given back; 3 lasts. A body makes 4, and 1 anew; a tail frees 4 and 5."""
    events = [(2, 0), (1, 0), (4, 512), (1, 1024), (5, 2048), (4, 0), (5, 0)]
    heard = _read(events, 4, [1, 2, 3])
    assert heard.replaced == [0, 1]
    assert heard.start == Part(array("q", [-2, -1]), 0, [0, 1])
    assert heard.body == Part(array("q", [512, 1024]), 2, [0, 1])
    assert heard.tail == Part(array("q", [2048, -1 - 2, -1 - 4]), 1, [3])
    assert heard.addresses == [1]


def test_gradients_given_back_in_the_middle_of_the_body_are_refused():
    with pytest.raises(UnlikeSteps):
        _read([(4, 512), (1, 0)], 2, [1])


def test_without_a_compiler_nobody_listens(monkeypatch, tmp_path):
    monkeypatch.setattr(build_cache.shutil, "which", lambda name: None)
    with pytest.raises(
        CannotEmulate, match=r"listener .* cannot be compiled: there is no C\+\+ compiler; install g\+\+"
    ):
        requests_library()
