"""Time per step, by the wall clock and by CUDA's events."""

import pytest
import torch

from bench.measure.meters import throughput
from bench.measure.meters.throughput import time_steps


class FakeEvent:
    """An event on a device that works 20 ms on each step, long after Python has asked it to."""

    now_ms = 0.0
    waited = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at_ms = FakeEvent.now_ms

    def synchronize(self):
        FakeEvent.waited += 1

    def elapsed_time(self, other):
        return other.at_ms - self.at_ms


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(FakeEvent, "now_ms", 0.0)
    monkeypatch.setattr(FakeEvent, "waited", 0)


def step_of(*milliseconds):
    times = iter(milliseconds)

    def step():
        FakeEvent.now_ms += next(times)

    return step


def test_events_time_steps_without_waiting_between_them(device):
    reading = time_steps(
        step_of(10, 20, 30, *[20] * 8), batch_size=16, device="cuda", budget_s=0.22, min_steps=3, max_steps=50
    )
    assert reading.step_time_s == pytest.approx(0.020)
    assert reading.throughput_img_s == pytest.approx(16 / 0.020)
    assert reading.step_time_p10_s == pytest.approx(0.020) and reading.step_time_p90_s == pytest.approx(0.020)
    assert FakeEvent.waited == 2, "once for the first three steps, once for the eight that the budget still held"


def test_deciles_are_of_all_steps(device):
    times = [10 * number for number in range(1, 12)]
    reading = time_steps(step_of(*times), batch_size=1, device="cuda", budget_s=0, min_steps=11, max_steps=11)
    assert (reading.step_time_p10_s, reading.step_time_s, reading.step_time_p90_s) == pytest.approx((0.02, 0.06, 0.10))


def test_the_number_of_timed_steps_is_bounded_from_both_sides():
    steps = []
    reading = time_steps(lambda: steps.append(1), batch_size=8, device="cpu", budget_s=0.0, min_steps=3, max_steps=20)
    assert len(steps) == 3
    assert reading.throughput_img_s == pytest.approx(8 / reading.step_time_s)
    time_steps(lambda: steps.append(1), batch_size=8, device="cpu", budget_s=60.0, min_steps=1, max_steps=5)
    assert len(steps) == 8


def test_one_step_has_no_spread():
    reading = time_steps(lambda: None, batch_size=8, device="cpu", budget_s=0.0, min_steps=1, max_steps=1)
    assert reading.step_time_p10_s == reading.step_time_s == reading.step_time_p90_s


def test_the_wall_clock_is_for_everything_else(monkeypatch):
    moments = iter([0.0, 1.0, 3.0, 6.0])
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(moments))
    assert throughput._times_s(lambda: None, "cpu", 3) == [1.0, 2.0, 3.0]
