"""Power and energy of a GPU while it trains (FPT+, Table II); nothing is reported if the GPU has no counter."""

import statistics
import threading
import time
from dataclasses import dataclass

import pynvml

from .nvml import NvmlDevice

BY_COUNTER = "nvml energy counter"
BY_SAMPLES = "nvml sampled power"
MIN_WINDOW_S = 5.0
"""Shortest useful window in seconds: the driver averages power over up to a second, so a shorter one says little."""

MIN_SAMPLES = 20

_SW_POWER_CAP, _SW_THERMAL, _HW_THERMAL = 0x04, 0x20, 0x40
"""Bits of nvml.h's nvmlClocksThrottleReasons, which not every distribution of pynvml names."""

_SLOWED = {"power limit": _SW_POWER_CAP, "temperature": _SW_THERMAL | _HW_THERMAL}


@dataclass(frozen=True, kw_only=True)
class PowerReading:
    """Power and energy of a window of work. None is "not measured"."""

    mean_power_w: float | None
    peak_power_w: float | None
    """Highest sample in watts; the driver has already averaged each sample."""

    idle_power_w: float | None
    """Power of the same GPU just before, with a CUDA context and no work."""

    energy_j_per_img: float | None
    """Energy per image net of idle: what the work adds to a GPU that is on anyway."""

    gross_energy_j_per_img: float | None
    """Total energy of the GPU, divided by the number of images."""

    power_source: str | None
    power_window_s: float | None
    gpu_temperature_c: int | None
    """Temperature in °C at the end of the window."""

    power_limit_w: float | None
    power_quality: str | None
    """`good`, or everything that speaks against the figures."""


class PowerMeter:
    """Meters one GPU: call idle(), then start(), do the work, then call stop().

    Args:
        device: the GPU in NVML.
        interval_s: time between samples in seconds.
    """

    def __init__(self, device: NvmlDevice, interval_s: float = 0.05) -> None:
        self._device, self._interval_s = device, interval_s
        self._samples_w: list[float] = []
        self._idle_w: float | None = None
        self._stopping = threading.Event()
        self._sampler: threading.Thread | None = None

    def idle(self, window_s: float) -> None:
        """Note the GPU's power without work, as the median over a window."""
        self._begin_sampling()
        time.sleep(window_s)
        self._end_sampling()
        self._idle_w = statistics.median(self._samples_w) if self._samples_w else None

    def start(self) -> None:
        """Open the window."""
        self._energy_j, self._began_s = self._device.energy_j, time.perf_counter()
        self._begin_sampling()

    def stop(self, num_images: int) -> PowerReading:
        """Close the window and return its reading; the device must have finished its work.

        Args:
            num_images: number of images that the work processed.
        """
        window_s, energy_j = time.perf_counter() - self._began_s, self._device.energy_j
        self._end_sampling()
        mean_w, source = self._mean(energy_j, window_s)
        net_w = None if mean_w is None or self._idle_w is None else mean_w - self._idle_w
        return PowerReading(
            mean_power_w=mean_w,
            peak_power_w=max(self._samples_w, default=None),
            idle_power_w=self._idle_w,
            energy_j_per_img=None if net_w is None else net_w * window_s / num_images,
            gross_energy_j_per_img=None if mean_w is None else mean_w * window_s / num_images,
            power_source=source,
            power_window_s=None if source is None else window_s,
            gpu_temperature_c=self._device.temperature_c,
            power_limit_w=self._device.power_limit_w,
            power_quality=None if source is None else self._quality(window_s, mean_w),
        )

    def _mean(self, energy_j: float | None, window_s: float) -> tuple[float | None, str | None]:
        """Return mean power and its source; a counter that stands still does not count."""
        if None not in (energy_j, self._energy_j) and energy_j > self._energy_j:
            return (energy_j - self._energy_j) / window_s, BY_COUNTER
        if self._samples_w:
            return statistics.fmean(self._samples_w), BY_SAMPLES
        return None, None

    def _quality(self, window_s: float, mean_w: float) -> str:
        doubts = []
        if window_s < MIN_WINDOW_S:
            doubts.append(f"window of {window_s:.1f} s, under {MIN_WINDOW_S:g} s")
        if len(self._samples_w) < MIN_SAMPLES:
            doubts.append(f"{len(self._samples_w)} samples, under {MIN_SAMPLES}")
        if self._device.is_mig:
            doubts.append("of the whole GPU, of which this is one MIG slice")
        if self._idle_w is None:
            doubts.append("no idle baseline")
        elif mean_w <= self._idle_w:
            doubts.append("not above idle")
        reasons = self._device.ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, board=True) or 0
        doubts += [f"clocks lowered by {name}" for name, bits in _SLOWED.items() if reasons & bits]
        return "; ".join(doubts) or "good"

    def _begin_sampling(self) -> None:
        self._samples_w.clear()
        self._stopping.clear()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    def _end_sampling(self) -> None:
        self._stopping.set()
        self._sampler.join()

    def _sample(self) -> None:
        while True:
            if (power_w := self._device.power_w) is not None:
                self._samples_w.append(power_w)
            if self._stopping.wait(self._interval_s):
                return
