"""Columns of a record that only a real device can fill: on an emulated one, times mean nothing.

Memory on an emulated device is emulated, not measured, and belongs in the columns of the prediction.
"""

from bench.units import MIB

Reading = dict[str, int | float | str | bool | None]
"""Columns of a record, by name."""

EMULATED = ", emulated"
"""Ending of the name of an emulated device."""

MEASURED_MEMORY = (
    "measured_peak_allocated_bytes",
    "measured_peak_reserved_bytes",
    "measured_process_bytes",
    "measured_device_bytes",
    "measured_run_peak_allocated_bytes",
    "measured_run_peak_reserved_bytes",
    "measured_context_bytes",
    "measured_fragmentation_bytes",
    "process_memory_source",
)

MEASURED_TIME = (
    "step_time_s",
    "step_time_p10_s",
    "step_time_p90_s",
    "throughput_img_s",
    "loader_step_time_s",
    "loader_throughput_img_s",
    "derived_training_time_s",
    "measured_training_time_s",
    "mean_power_w",
    "peak_power_w",
    "idle_power_w",
    "energy_j_per_img",
    "gross_energy_j_per_img",
    "power_source",
    "power_window_s",
    "power_limit_w",
    "power_quality",
    "gpu_temperature_c",
    "sm_clock_mhz",
    "memory_clock_mhz",
    "max_sm_clock_mhz",
    "wall_s",
)
"""Columns for time, power and clocks."""


def recordable(reading: Reading) -> Reading:
    """Return what a cell's process found as columns of its record; an emulated device's counters become a sentence."""
    if not (reading.get("device") or "").endswith(EMULATED):
        return reading
    kept = {name: value for name, value in reading.items() if name not in (*MEASURED_MEMORY, *MEASURED_TIME)}
    counters = {name: reading.get(f"measured_{name}_bytes") for name in ("peak_allocated", "peak_reserved", "process")}
    known = ", ".join(f"{name.split('_')[-1]} {size / MIB:,.0f} MiB" for name, size in counters.items() if size)
    told = f"ran on {reading['device']}" + (f" ({known})" if known else "") + ", where nothing is measured"
    return kept | {"status_detail": "; ".join(filter(None, (reading.get("status_detail"), told)))}
