"""Figures, each as PNG and SVG, in the colours of Okabe and Ito, which are distinct for any colour vision."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from bench.cells.anatomy import Anatomy, Peak
from bench.units import GIB

COLORS = {
    "weights": "#0072B2",
    "gradients": "#E69F00",
    "optimizer": "#009E73",
    "activations": "#D55E00",
    "temporary": "#CC79A7",
    "inputs": "#56B4E9",
    "cached": "#BBBBBB",
    "context": "#777777",
}

BOTTOM_UP = ("weights", "optimizer", "gradients", "inputs", "activations", "temporary")
"""Kinds of memory from bottom to top: lasting ones below, transient ones above."""


@contextmanager
def figure(path: Path, width: float = 8, height: float = 4) -> Iterator[Axes]:
    """Yield axes to draw on; save them as path.png and path.svg at the end."""
    with matplotlib.rc_context({"svg.hashsalt": "fptplus-bench", "font.size": 10}):
        drawing, axes = plt.subplots(figsize=(width, height), layout="constrained")
        try:
            axes.spines[["top", "right"]].set_visible(False)
            yield axes
            path.parent.mkdir(parents=True, exist_ok=True)
            drawing.savefig(path.with_suffix(".png"), dpi=150)
            drawing.savefig(path.with_suffix(".svg"), metadata={"Date": None})
        finally:
            plt.close(drawing)


def draw_timeline(path: Path, title: str, anatomy: Anatomy) -> None:
    """Draw allocated memory over one training step, stacked by kind, with its phases and its peak."""
    states, peak = anatomy.timeline, anatomy.peak
    with figure(path) as axes:
        series = [[state[kind] / GIB for state in states] for kind in BOTTOM_UP]
        colors = [COLORS[kind] for kind in BOTTOM_UP]
        axes.stackplot(range(len(states)), series, labels=BOTTOM_UP, colors=colors, step="post")
        _mark_phases(axes, anatomy)
        at = anatomy.peak_index
        on_the_left = at > 0.7 * len(states)
        axes.annotate(
            f"peak {peak.allocated_bytes / GIB:.2f} GiB",
            (at, peak.allocated_bytes / GIB),
            xytext=(-24 if on_the_left else 24, 6),
            textcoords="offset points",
            ha="right" if on_the_left else "left",
            arrowprops={"arrowstyle": "->"},
        )
        axes.set(title=title, xlabel="allocations and releases of one step, in order", ylabel="allocated (GiB)")
        axes.set_xlim(0, len(states) - 1)
        axes.set_ylim(0, 1.22 * peak.allocated_bytes / GIB)
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def _mark_phases(axes: Axes, anatomy: Anatomy) -> None:
    """Draw a line and a name where each phase begins."""
    for phase, begin in anatomy.phases.items():
        if phase in ("before", "loss"):
            continue
        axes.axvline(begin, color="black", linewidth=0.6, linestyle=":")
        side = "right" if begin > 0.85 * len(anatomy.timeline) else "left"
        axes.text(begin, 0.99, f" {phase} ", transform=axes.get_xaxis_transform(), va="top", ha=side, fontsize=9)


def draw_breakdown(path: Path, title: str, peaks: dict[str, Peak], context_bytes: int) -> None:
    """Draw what each method's memory is used for at its peak: the six kinds, cached blocks and the CUDA context.

    Args:
        path, title: path and title of the figure.
        peaks: peaks by the method's printed name.
        context_bytes: size of the GPU's CUDA context.
    """
    with figure(path, width=9, height=max(2.8, 0.9 + 0.42 * len(peaks))) as axes:
        names = list(peaks)
        left = [0.0] * len(names)
        for part in (*BOTTOM_UP, "cached", "context"):
            sizes = [_part(peak, part, context_bytes) / GIB for peak in peaks.values()]
            axes.barh(names, sizes, left=left, label=part, color=COLORS[part], height=0.72)
            left = [before + size for before, size in zip(left, sizes, strict=True)]
        for name, total in zip(names, left, strict=True):
            axes.annotate(f"{total:.1f}", (total, name), xytext=(4, 0), textcoords="offset points", va="center")
        axes.invert_yaxis()
        axes.set(title=title, xlabel="process memory (GiB)")
        axes.set_xlim(0, 1.08 * max(left))
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def _part(peak: Peak, part: str, context_bytes: int) -> int:
    """Return the bytes of one part of a bar.

    Cached blocks are those of the reserved peak, which may be at another moment.
    """
    if part == "cached":
        return peak.reserved_bytes - peak.allocated_bytes
    return context_bytes if part == "context" else peak.by_kind[part]


def draw_scatter(path: Path, table: pd.DataFrame) -> None:
    """Draw emulated and traced against measured memory, one colour per counter; the line marks equality.

    Args:
        path: path of the figure.
        table: see bench.commands.validate.errors.
    """
    with figure(path, width=6, height=5) as axes:
        for (counter, rows), color in zip(table.groupby("counter"), ("#0072B2", "#E69F00", "#009E73"), strict=False):
            for engine, inside in (("emulated", color), ("traced", "none")):
                found = rows.dropna(subset=f"{engine}_bytes")
                if len(found):
                    sizes = (found[column].astype(float) / GIB for column in ("measured_bytes", f"{engine}_bytes"))
                    axes.scatter(*sizes, label=f"{counter}, {engine}", s=16, edgecolors=color, facecolors=inside)
        ends = [table.measured_bytes.min() / GIB / 1.2, table.measured_bytes.max() / GIB * 1.2]
        axes.plot(ends, ends, color="black", linewidth=0.8)
        axes.set(xscale="log", yscale="log", xlabel="measured (GiB)", ylabel="predicted (GiB)", title="Peak memory")
        axes.legend(frameon=False)
