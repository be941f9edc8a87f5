"""The figure of published against emulated memory."""

from pathlib import Path

from matplotlib.axes import Axes

from bench.report.figures import figure
from bench.units import GIB, MIB

from .comparison import HeldMeasurement

_STYLES = {
    "max_memory_allocated": ("o", "#0072B2"),
    "max_memory_reserved": ("s", "#D55E00"),
    "nvidia-smi process": ("v", "#56B4E9"),
    "NVML device": ("D", "#E69F00"),
    "not stated": ("P", "#777777"),
    "ran": ("^", "#009E73"),
    "did not run": ("x", "#CC79A7"),
}
"""Marker and colour of each counter."""

_OPEN_COLOR = "#777777"
"""Colour of rows whose source leaves something of its script open."""


def draw_comparisons(comparisons: list[HeldMeasurement], path: Path) -> None:
    """Draw emulated over measured memory, both logarithmic, as path.png and path.svg.

    A batch that ran should lie below the line at the card's capacity, and the next larger one above it.
    """
    with figure(path, width=7.2, height=5.6) as axes:
        for counter, (marker, color) in _STYLES.items():
            rows = [one for one in comparisons if one.measurement.counter == counter and one.emulated]
            _draw(axes, [one for one in rows if not one.measurement.not_stated], counter, marker, color)
            label = "counter not stated" if counter == "not stated" else f"{counter}, script partly known"
            _draw(axes, [one for one in rows if one.measurement.not_stated], label, marker, _OPEN_COLOR)
        ends = [0.5, 80]
        axes.plot(ends, ends, color="black", linewidth=0.8, zorder=0)
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        axes.set(title="Memory of published fine-tuning runs", xlabel="measured (GiB)", ylabel="emulated (GiB)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_ticks([0.5, 1, 2, 5, 10, 20, 50])
            axis.set_ticks([], minor=True)
        axes.legend(frameon=False, fontsize=9, loc="upper left")


def _draw(axes: Axes, group: list[HeldMeasurement], label: str, marker: str, color: str) -> None:
    if not group:
        return
    measured = [one.measurement.measured_mib * MIB / GIB for one in group]
    emulated = [one.emulated_mib * MIB / GIB for one in group]
    axes.scatter(measured, emulated, s=26, marker=marker, color=color, linewidths=1.2, label=f"{label} ({len(group)})")
