"""The time of one operation, against what can be said of it by hand."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.cards.gpus import GPUS
from bench.timing.energy import power_of
from bench.timing.estimate import HOST_S_PER_LAUNCH, HOST_S_PER_OPERATOR, estimate_step
from bench.timing.feeding import RATES, BatchFeed, feed_s
from bench.timing.operations import Operation, Product, StepWork, Touch
from bench.timing.peaks import card_peaks
from bench.timing.step_time import CONSTANTS, KernelTime, product_s, time_of, traffic_bytes

A6000 = card_peaks(GPUS["a6000"])
EXACT = replace(CONSTANTS, depth_overhead=0, tile_penalty=0)
"""Constants under which a tile costs nothing but its own products."""


def operation(*touches, op="add", kind="elementwise", launches=1, products=(), **others):
    return Operation(
        op=op,
        kind=kind,
        phase="forward",
        module="",
        launches=launches,
        touches=touches,
        engine="fp32",
        products=products,
        flops=sum(product.flops for product in products),
        **others,
    )


def read(num_bytes, since_bytes=None):
    return Touch(num_bytes, False, since_bytes)


def written(num_bytes):
    return Touch(num_bytes, True)


def test_what_is_bound_by_memory_takes_its_bytes_over_the_bandwidth():
    took = time_of(operation(read(2 * 10**9), written(10**9)), A6000)
    assert took.bound_by == "memory"
    assert took.seconds == pytest.approx(3e9 / (0.99 * 768.096e9) + CONSTANTS.kernel_s)


def test_what_moves_next_to_nothing_takes_as_long_as_its_launches():
    took = time_of(operation(read(4), written(4), launches=7), A6000)
    assert took.bound_by == "launches"
    assert took.seconds == pytest.approx(7 * CONSTANTS.kernel_s, rel=1e-3)


def test_a_tensor_that_was_touched_just_before_is_still_in_the_cache():
    near, far = read(10**6, since_bytes=0), read(10**6, since_bytes=10**8)
    assert traffic_bytes(operation(near, written(10**6)), A6000) == 10**6
    assert traffic_bytes(operation(far, written(10**6)), A6000) == 2 * 10**6


def test_the_backward_pass_of_softmax_first_writes_the_product_of_gradient_and_output():
    scores = operation(read(30), read(30), written(30), op="_softmax_backward_data", kind="softmax", launches=2)
    assert traffic_bytes(scores, A6000) == 6 * 30


def square(size, **others):
    return Product(size, size, **{"k": 1000, "batch": 1, "engine": "fp32", **others})


def test_a_product_that_fills_the_card_runs_at_the_rate_of_products():
    product = Product(m=128 * 84, n=128, k=1000, batch=1, engine="fp32")
    assert product_s(product, A6000, EXACT) == pytest.approx(product.flops / 23.92e12)


def test_one_row_more_than_a_tile_costs_another_tile():
    card = replace(A6000, num_sms=1)
    assert product_s(square(129), card, EXACT) > 1.2 * product_s(square(128), card, EXACT)
    assert product_s(square(97), card, EXACT) == product_s(square(128), card, EXACT), "tiles of 32 are the finest"


def test_one_tile_more_than_the_card_has_multiprocessors_costs_another_wave():
    tiles = [Product(m=32, n=32, k=1000, batch=84 + more, engine="fp32") for more in (0, 1)]
    one, two = (product_s(product, A6000, EXACT) for product in tiles)
    assert two == pytest.approx(2 * one)


def test_score_matrices_of_1025_tokens_waste_tiles_and_depth():
    """What a plain roofline misses in Table II: 1,025 columns, a depth of 64."""
    scores = Product(m=1025, n=1025, k=64, batch=192, engine="fp32")
    assert product_s(scores, A6000) > 1.5 * scores.flops / A6000.product_flops["fp32"]


@given(
    st.lists(
        st.builds(KernelTime, st.floats(1e-6, 2), st.sampled_from(("arithmetic", "memory", "launches"))),
        max_size=30,
    ),
    st.floats(1e-6, 60),
    st.sampled_from(sorted(GPUS)),
)
def test_power_lies_between_awake_and_the_limit(kernels, step_s, name):
    card = card_peaks(GPUS[name])
    power = power_of(kernels, step_s, card)
    slack = 1 + 1e-9
    assert card.awake_w <= power.mean_w * slack
    assert power.mean_w <= power.peak_w * slack
    assert power.peak_w <= card.power_limit_w * slack


def test_a_card_that_waits_draws_its_awake_power():
    assert power_of([], 1.0, A6000).mean_w == A6000.awake_w == 30 + 0.19 * 300


def test_the_peak_is_that_of_the_sensors_second():
    kernels = [KernelTime(2.0, "arithmetic"), KernelTime(2.0, "memory")]
    power = power_of(kernels, 8.0, A6000)
    assert power.peak_w == 300
    assert power.mean_w == pytest.approx(87 + 213 * (2 + 1.5) / 8)


def work(*operations, num_operators=1, input_bytes=0):
    return StepWork(operations=operations, num_operators=num_operators, host_time_s=0.5, input_bytes=input_bytes)


def test_a_step_says_what_sets_its_pace():
    large = operation(read(10**9), written(10**9))
    product = operation(kind="product", products=(square(8192),))
    few = estimate_step(work(large, product), GPUS["a6000"], 16)
    assert few.bound_by == "arithmetic"
    assert few.step_time_s == pytest.approx(sum(time_of(one, A6000).seconds for one in (large, product)))
    assert few.img_per_s == pytest.approx(16 / few.step_time_s)
    assert few.energy_j_per_img == pytest.approx(few.mean_power_w / few.img_per_s)
    assert estimate_step(work(large), GPUS["a6000"], 16).bound_by == "memory"

    issued = estimate_step(work(large, num_operators=10**4), GPUS["a6000"], 16)
    assert issued.bound_by == "host"
    assert issued.step_time_s == pytest.approx(10**4 * HOST_S_PER_OPERATOR + HOST_S_PER_LAUNCH)

    fed = estimate_step(work(large), GPUS["a6000"], 16, batch_bytes=10**9)
    assert fed.bound_by == "feeding"
    assert fed.step_time_s == pytest.approx(1e9 / RATES.pin)
    assert fed.mean_power_w < few.mean_power_w


def test_the_machine_that_predicts_does_not_enter_the_prediction():
    slow = replace(work(operation(written(10**9))), host_time_s=1e6)
    assert estimate_step(slow, GPUS["a6000"], 1) == estimate_step(replace(slow, host_time_s=0), GPUS["a6000"], 1)


def test_without_a_pinning_thread_the_workers_set_the_pace():
    assert feed_s(10**9, BatchFeed(num_workers=2, is_pinned=False)) == pytest.approx(1e9 / (2 * RATES.collate))


def test_a_card_that_is_not_in_the_catalogue_has_no_prediction():
    unknown = replace(GPUS["a6000"], name="another")
    assert estimate_step(work(operation(written(10))), unknown, 1) is None


@pytest.mark.parametrize("name", GPUS)
def test_every_card_of_the_catalogue_has_rates_with_their_sources(name):
    card = card_peaks(GPUS[name])
    assert card.idle_w < card.awake_w < card.power_limit_w
    assert all(card.sources.values())
    for engine, peak in card.peak_flops.items():
        assert 0.4 < card.product_flops[engine] / peak < 1.13, "clocks may be above those of the data sheet"
    assert math.isclose(card.memory_bytes_per_s, GPUS[name].memory_bytes_per_s)
