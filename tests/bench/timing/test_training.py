"""A training's time and energy, against sums by hand."""

import pytest

from bench.timing.estimate import StepEstimate
from bench.timing.feeding import BatchFeed, FeedRates
from bench.timing.training import J_PER_KWH, training_of

FEED = BatchFeed(num_workers=1, rates=FeedRates(collate=8e9, pin=1e9, to_device=10e9, to_host_pageable=2e9, save=1e9))


def step(seconds, watts, input_bytes, batch_size):
    return StepEstimate(
        gpu="a6000",
        step_time_s=seconds,
        img_per_s=batch_size / seconds,
        energy_j_per_img=watts * seconds / batch_size,
        mean_power_w=watts,
        peak_power_w=watts,
        awake_w=50.0,
        bound_by="arithmetic",
        device_busy_s=seconds,
        host_s=0.0,
        seconds_by_bound={},
        parts=(),
        input_bytes=input_bytes,
        kernel_launches=1,
        bytes_moved=1,
        flops_by_engine={},
        arithmetic_intensity=1.0,
        host_time_s=0.0,
    )


def test_a_step_that_the_card_sets_the_pace_of_waits_for_its_copy_only():
    found = training_of(step(0.5, 250.0, 10**8, 16), 16, num_images=170, epochs=3, feed=FEED)
    steps = 3 * 10  # the last ten images of an epoch are dropped
    assert found.train_time_s == found.total_time_s == pytest.approx(steps * (0.5 + 0.01))
    assert found.energy_j == pytest.approx(steps * (0.5 * 250 + 0.01 * 50))
    assert found.energy_kwh * J_PER_KWH == found.energy_j


def test_a_card_that_is_fed_too_slowly_waits_at_its_awake_power():
    found = training_of(step(0.02, 250.0, 10**8, 16), 16, num_images=160, epochs=1, feed=FEED)
    assert found.train_time_s == pytest.approx(10 * 0.1), "the pinning thread copies 10**8 bytes in 0.1 s"
    assert found.energy_j == pytest.approx(10 * (0.02 * 250 + 0.08 * 50))


def test_preloading_passes_over_each_image_once_and_saves_its_features():
    fed, alone = (
        training_of(step(0.02, 250.0, 16 * 10**7, 16), 16, 160, 2, preloading, FEED)
        for preloading in (step(0.1, 300.0, 10**6, 1), None)
    )
    saving_s = 10**7 / 2e9 + 10**7 / 1e9
    assert fed.train_time_s == alone.train_time_s and alone.preloading_time_s == 0
    assert fed.preloading_time_s == pytest.approx(160 * (0.1 + saving_s))
    assert fed.energy_j - alone.energy_j == pytest.approx(160 * (0.1 * 300 + saving_s * 50))
