"""Memory against time: what each method pays in one to save the other."""

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

from matplotlib.ticker import LogLocator, NullLocator

from bench.paper.evidence import Evidence, Number
from bench.paper.preloading_cost import PreloadingCost
from bench.paper.settings import SETTINGS, paper_cell
from bench.units import GIB, MIB
from methods import METHODS, find_method

from .exhibit import Entry, Exhibit, Row, card_of, sources_in_words
from .fair_tables import CHARGED_NOTE, charged_mib
from .figures import figure
from .paper_figures import STYLES
from .paper_tables import MEMORY_NOTE

STEPS = (
    "the paper's setting",
    "fused attention",
    "fused attention, bf16",
    "fused attention, bf16, checkpointing",
)
"""Settings that each method goes through."""


def memory_and_time(evidence: Evidence, passes: list[PreloadingCost]) -> Exhibit | None:
    """Return memory and throughput of each method in each of STEPS, and which rows nothing beats in both.

    None if the records hold no time.
    """
    found = [
        (method, setting, charged_mib(evidence, passes, method, "vit_b", 512, setting), throughput)
        for method in METHODS
        for setting in STEPS
        if (throughput := _throughput(evidence, method, setting)) is not None
    ]
    if not found:
        return None
    best = unbeaten([(memory.value, 1 / throughput.value) for _, _, memory, throughput in found])
    rows: list[Row] = [
        (
            find_method(method).title,
            setting,
            "unbeaten" if is_best else "",
            Entry(number=memory),
            Entry(number=throughput, decimals=1),
        )
        for (method, setting, memory, throughput), is_best in zip(found, best, strict=True)
    ]
    setting = f"ViT-B, 512 px, batch 16, {card_of('fair_memory_and_time', rows)}"
    return Exhibit(
        name="fair_memory_and_time",
        title=f"Memory against time: {setting}",
        headings=("Method", "Setting", "", "Mem.", "Images/s"),
        rows=rows,
        notes=(
            MEMORY_NOTE,
            CHARGED_NOTE,
            "Images/s of training steps whose batches are on the card; preloading takes its time before.",
            "Unbeaten: no other row takes less memory and less time.",
        ),
        draw=partial(_draw, [method for method, *_ in found], rows, setting),
    )


def _throughput(evidence: Evidence, method: str, setting: str) -> Number | None:
    return evidence.measured_or_predicted(paper_cell(method, **SETTINGS[setting]), "throughput_img_s")


def unbeaten(costs: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each pair of costs whether no other pair is as small in both."""
    return [not any(other != own and other[0] <= own[0] and other[1] <= own[1] for other in costs) for own in costs]


def _draw(methods: Sequence[str], rows: Sequence[Row], setting: str, path: Path) -> None:
    points = [
        (method, entries[2], entries[3].number.value * MIB / GIB, 1000 / entries[4].number.value)
        for method, entries in zip(methods, rows, strict=True)
    ]
    with figure(path, width=8.5, height=5) as axes:
        for method, group in groupby(points, key=lambda point: point[0]):
            color, marker, line = STYLES[method]
            memory, time = zip(*(point[2:] for point in group), strict=True)
            style = {"color": color, "marker": marker, "linestyle": line, "linewidth": 0.9, "markersize": 5}
            axes.plot(memory, time, label=find_method(method).title, **style)
            axes.plot(memory[0], time[0], marker=marker, color=color, markersize=9)
        front = sorted(point[2:] for point in points if point[1])
        ring = {"color": "none", "markeredgecolor": "black", "markersize": 14}
        axes.plot(*zip(*front, strict=True), "o", label="unbeaten", **ring)
        axes.set(xscale="log", yscale="log", xlabel="process memory (GiB)", ylabel="time per image (ms)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.2)
        memory, time = (sources_in_words(row[column].number for row in rows) for column in (3, 4))
        title = f"Memory ({memory}) against time ({time})\n{setting}\n"
        axes.set_title(f"{title}large: {STEPS[0]}; then fused attention, bf16 and checkpointing", fontsize=9.5)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8.5)
