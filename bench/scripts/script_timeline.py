"""The memory of a script's recorded steps over time, by kind: a picture, and a page that needs no network."""

from pathlib import Path

from bench.report.figures import COLORS, figure
from bench.report.templates import render
from bench.units import GIB

from .script_report import KINDS, ProcessReport
from .script_run import ScriptRun

SCRIPT_COLORS = {**COLORS, "buffers": "#56B4E9", "other": "#999999"}


def write_timeline(run: ScriptRun, folder: Path) -> None:
    """Write timeline.png, timeline.svg and timeline.html for the process that takes the most memory.

    Args:
        run: a run with recorded steps.
        folder: folder of the run.
    """
    report = run.largest
    title = f"{run.gpu.title}: {Path(run.command[-1] if len(run.command) == 1 else run.command[1]).name}"
    draw(report, folder / "timeline", title)
    page = render(
        "script.html.j2",
        title=title,
        command=" ".join(run.command),
        picture=(folder / "timeline.svg").read_text(encoding="utf-8").partition("<svg")[2],
        report=report,
        run=run,
        verdict=run.verdict.sentence,
        parts=sorted(((size, kind) for kind, size in report.by_kind.items() if size), reverse=True),
    )
    (folder / "timeline.html").write_text(page, encoding="utf-8")


def draw(report: ProcessReport, path: Path, title: str) -> None:
    """Draw the stacked sizes of each kind, with phases as bands along the top."""
    begin = report.timeline[0][0]
    times = [(row[0] - begin) / 1e6 for row in report.timeline]
    series = [[row[1 + index] / GIB for row in report.timeline] for index in range(len(KINDS))]
    positions = list(range(len(times)))
    with figure(path) as axes:
        colors = [SCRIPT_COLORS[kind] for kind in KINDS]
        axes.stackplot(positions, series, labels=KINDS, colors=colors, step="post")
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
        axes.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
