"""The memory of a script's recorded steps over time, by kind and by module: pictures, and a page without network."""

import re
from pathlib import Path

import matplotlib

from bench.report.figures import COLORS, figure
from bench.report.templates import render
from bench.units import GIB

from .script_report import KINDS, ProcessReport
from .script_run import ScriptRun

SCRIPT_COLORS = {**COLORS, "buffers": "#56B4E9", "other": "#999999"}

MOST_IN_COLUMN = 20
"""Number of names from which the legend is small and has two columns."""


def write_timeline(run: ScriptRun, folder: Path, helped: list[dict] = ()) -> None:
    """Write timeline.html with both pictures for the process that takes the most memory.

    The pictures are timeline.png and timeline_modules.png, and the same as SVG.

    Args:
        run: a run with recorded steps.
        folder: folder of the run.
        helped: what each change to the script saves.
    """
    report = run.largest
    title = f"{run.gpu.title}: {Path(run.command[-1] if len(run.command) == 1 else run.command[1]).name}"
    kinds = [[*row[1:]] for row in report.timeline]
    draw(report, folder / "timeline", title, dict(zip(KINDS, map(SCRIPT_COLORS.get, KINDS), strict=True)), kinds)
    names = report.timeline_modules["names"]
    colors = dict(zip(names, _shades(len(names)), strict=True))
    draw(report, folder / "timeline_modules", title, colors, report.timeline_modules["rows"])
    page = render(
        "script.html.j2",
        title=title,
        command=" ".join(run.command),
        pictures=[_svg(folder / f"{name}.svg") for name in ("timeline", "timeline_modules")],
        report=report,
        run=run,
        verdict=run.verdict.sentence,
        helped=helped,
        parts=sorted(((size, kind) for kind, size in report.by_kind.items() if size), reverse=True),
    )
    (folder / "timeline.html").write_text(page, encoding="utf-8")


def _svg(path: Path) -> str:
    """Return a picture as it can stand in a page, where no two things may have one name."""
    text = path.read_text(encoding="utf-8").partition("<svg")[2]
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{path.stem}-", text)


def _shades(number: int) -> list[tuple[float, ...]]:
    """Return colours in an order, two neighbours of which can be told apart."""
    return [matplotlib.colormaps["viridis"](index / number * 0.8 + index % 2 * 0.2) for index in range(number)]


def draw(
    report: ProcessReport, path: Path, title: str, colors: dict[str, str | tuple[float, ...]], rows: list[list[int]]
) -> None:
    """Draw sizes stacked over time, with phases as bands along the top.

    Args:
        report: the process.
        path: path of the picture, without suffix.
        title: title of the picture.
        colors: what is told apart, from bottom to top, with its colour.
        rows: bytes of each, for each row of the report's timeline.
    """
    begin = report.timeline[0][0]
    times = [(row[0] - begin) / 1e6 for row in report.timeline]
    series = [[row[index] / GIB for row in rows] for index in range(len(colors))]
    positions = list(range(len(times)))
    with figure(path) as axes:
        axes.stackplot(positions, series, labels=list(colors), colors=list(colors.values()), step="post")
        totals = [sum(column) for column in zip(*series, strict=True)]
        peak = max(range(len(totals)), key=totals.__getitem__)
        axes.plot(peak, totals[peak], marker="v", color="black", markersize=5)
        for since, step, phase in report.phases:
            if phase == "forward" or not times[0] < (since - begin) / 1e6 < times[-1]:
                continue
            at = next(index for index, row in enumerate(report.timeline) if row[0] >= since)
            axes.axvline(at, color="black", linewidth=0.4, linestyle=":")
            if len(report.phases) < 20:
                axes.text(at, 0.99, f" {step} {phase}", transform=axes.get_xaxis_transform(), va="top", fontsize=7)
        axes.set(title=title, xlabel="allocations and releases, in order", ylabel="allocated (GiB)")
        axes.set_xlim(0, len(positions) - 1)
        axes.set_ylim(0, 1.15 * totals[peak])
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(
            handles[::-1],
            labels[::-1],
            loc="upper left",
            bbox_to_anchor=(1, 1),
            frameon=False,
            ncols=1 + len(labels) // MOST_IN_COLUMN,
            fontsize=10 if len(labels) < MOST_IN_COLUMN else 7,
        )
