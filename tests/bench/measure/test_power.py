"""Power with a fake NVML and a fake clock; the numbers are worked out by hand."""

from unittest import mock

import pynvml
import pytest

from bench.measure.meters import power
from bench.measure.meters.nvml import NvmlDevice
from bench.measure.meters.power import BY_COUNTER, BY_SAMPLES, PowerMeter, PowerReading

DEVICE = NvmlDevice("handle", "board")


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the meter sees; a test sets them."""
    now = mock.Mock(return_value=0.0)
    monkeypatch.setattr(power.time, "perf_counter", now)
    return now


@pytest.fixture
def metered(faked_nvml, clock):
    """A window of work at 200 W after idling at 50 W."""

    def meter(window_s=10.0, images=100, device=DEVICE, energy_mj=None, samples=60):
        made = PowerMeter(device, interval_s=0.0001)
        faked_nvml.nvmlDeviceGetPowerUsage.return_value = 50_000
        made.idle(0.01)
        faked_nvml.nvmlDeviceGetPowerUsage.return_value = 200_000
        if energy_mj is not None:
            faked_nvml.nvmlDeviceGetTotalEnergyConsumption.side_effect = energy_mj
        made.start()
        while samples and len(made._samples_w) < samples:
            pass
        clock.return_value = window_s
        return made.stop(images)

    return meter


def test_the_counter_gives_the_mean_and_energy_net_of_idle(metered):
    reading = metered(energy_mj=[1_000_000, 4_000_000])
    assert reading.power_source == BY_COUNTER
    assert reading.mean_power_w == pytest.approx(300)
    assert reading.idle_power_w == pytest.approx(50)
    assert reading.peak_power_w == pytest.approx(200)
    assert reading.energy_j_per_img == pytest.approx((300 - 50) * 10 / 100)
    assert reading.gross_energy_j_per_img == pytest.approx(300 * 10 / 100)
    assert (reading.gpu_temperature_c, reading.power_limit_w, reading.power_window_s) == (61, 300, 10)
    assert reading.power_quality == "good"


def test_without_a_counter_power_is_sampled(metered):
    reading = metered()
    assert reading.power_source == BY_SAMPLES
    assert reading.mean_power_w == pytest.approx(200)
    assert reading.energy_j_per_img == pytest.approx((200 - 50) * 10 / 100)


def test_a_counter_that_stands_still_is_no_counter(metered):
    assert metered(energy_mj=[7, 7]).power_source == BY_SAMPLES


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        ({"window_s": 4.9}, "window of 4.9 s, under 5 s"),
        ({"device": NvmlDevice("slice", "board", is_mig=True)}, "of the whole GPU, of which this is one MIG slice"),
        ({"energy_mj": [0, 400_000]}, "not above idle"),
        ({"samples": 0}, "samples, under 20"),
    ],
)
def test_what_speaks_against_the_figures_is_said(metered, change, doubt):
    assert doubt in metered(**change).power_quality


def test_a_gpu_that_was_slowed_is_said_so(metered, faked_nvml):
    faked_nvml.nvmlDeviceGetCurrentClocksThrottleReasons.return_value = (
        pynvml.nvmlClocksThrottleReasonSwPowerCap | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
    )
    assert metered().power_quality == "clocks lowered by power limit; clocks lowered by temperature"


def test_without_an_idle_baseline_there_is_no_net_energy(faked_nvml, clock):
    meter = PowerMeter(DEVICE, interval_s=0.001)
    meter.start()
    clock.return_value = 6.0
    reading: PowerReading = meter.stop(10)
    assert reading.idle_power_w is reading.energy_j_per_img is None
    assert reading.gross_energy_j_per_img == pytest.approx(200 * 6 / 10)
    assert "no idle baseline" in reading.power_quality
