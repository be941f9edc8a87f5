"""Compare published throughputs with those predicted, and judge the half that nothing was fitted on."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.cards.gpus import GPUS
from bench.report.figures import figure
from bench.timing.estimate import StepEstimate, estimate_step
from bench.timing.operations import StepWork

from .throughputs import Throughput

MEDIAN_BAR_PCT = 12.0
"""Largest median size of the errors of the rows held out."""

WITHIN_BAR_PCT, WITHIN_BAR_SHARE = 25.0, 0.9
"""Error that nine rows in ten stay within."""

_COLORS = {"train": "#D55E00", "infer": "#0072B2"}
_MARKERS = {"rtx3090": "o", "rtx4090": "^"}


@dataclass(frozen=True, kw_only=True)
class HeldThroughput:
    """One row of `throughput.csv`, with what is predicted for it."""

    throughput: Throughput
    estimate: StepEstimate

    @property
    def predicted_img_s(self) -> float:
        """Predicted images per second."""
        return self.estimate.img_per_s

    @property
    def error_pct(self) -> float:
        """Error of predicted against measured throughput."""
        return 100 * (self.predicted_img_s / self.throughput.throughput_img_s - 1)


def hold(row: Throughput, work: StepWork) -> HeldThroughput:
    """Return a row with the prediction for its card; its batch lies on the card."""
    estimate = estimate_step(work, GPUS[row.gpu], row.batch_size)
    if estimate is None:
        raise ValueError(f"the card of a published throughput must have its rates in peaks.csv, {row.gpu} has none")
    return HeldThroughput(throughput=row, estimate=estimate)


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Errors of some rows, in percent."""

    num_rows: int
    median_pct: float
    p90_pct: float
    worst_pct: float
    within_bar: float
    """Share of the rows within WITHIN_BAR_PCT."""

    ranking: float
    """Share of the pairs of rows on one card, in one mode, whose order is predicted right."""

    @property
    def is_met(self) -> bool:
        """Whether the bars are met."""
        return self.median_pct <= MEDIAN_BAR_PCT and self.within_bar >= WITHIN_BAR_SHARE


def errors_of(held: Sequence[HeldThroughput]) -> Errors:
    """Summarize the errors of rows."""
    sizes = np.array([abs(one.error_pct) for one in held])
    return Errors(
        num_rows=len(held),
        median_pct=float(np.median(sizes)),
        p90_pct=float(np.percentile(sizes, 90)),
        worst_pct=float(sizes.max()),
        within_bar=float((sizes <= WITHIN_BAR_PCT).mean()),
        ranking=_ranking(held),
    )


def _ranking(held: Sequence[HeldThroughput]) -> float:
    pairs = [
        (one.throughput.throughput_img_s - other.throughput.throughput_img_s)
        * (one.predicted_img_s - other.predicted_img_s)
        for i, one in enumerate(held)
        for other in held[:i]
        if one.throughput.source == other.throughput.source
        and one.throughput.architecture != other.throughput.architecture
    ]
    return sum(product > 0 for product in pairs) / len(pairs) if pairs else 1.0


def throughput_row(one: HeldThroughput) -> dict[str, str | int | float | None]:
    """Return a row of the results: measured, predicted, and what the prediction rests on."""
    return {
        **asdict(one.throughput),
        "half": "fitted on" if one.throughput.is_fitted else "held out",
        "predicted_img_s": round(one.predicted_img_s, 2),
        "error_pct": round(one.error_pct, 2),
        "bound_by": one.estimate.bound_by,
        "kernel_launches": one.estimate.kernel_launches,
        "bytes_moved": one.estimate.bytes_moved,
        "flops": sum(one.estimate.flops_by_engine.values()),
        "predicted_mean_power_w": round(one.estimate.mean_power_w, 1),
        "predicted_energy_j_per_img": round(one.estimate.energy_j_per_img, 4),
    }


def write_rows(rows: Sequence[dict], path: Path) -> None:
    """Write rows of equal columns as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw_throughputs(held: Sequence[HeldThroughput], table2: Sequence[tuple[float, float]], path: Path) -> None:
    """Draw predicted over measured throughput, both logarithmic, as path.png and path.svg.

    Args:
        held: published rows; those that constants were fitted on are hollow.
        table2: printed and predicted throughputs of the paper's Table II.
        path: where to save it.
    """
    with figure(path, width=7.2, height=5.6) as axes:
        ends = [10, 4e4]
        axes.plot(ends, ends, color="black", linewidth=0.8, zorder=0)
        axes.fill_between(ends, [0.75 * e for e in ends], [1.25 * e for e in ends], color="#EEEEEE", zorder=-1)
        for card, marker in _MARKERS.items():
            for mode, color in _COLORS.items():
                for is_fitted in (False, True):
                    rows = [
                        one
                        for one in held
                        if (one.throughput.gpu, one.throughput.mode, one.throughput.is_fitted)
                        == (card, mode, is_fitted)
                    ]
                    if rows:
                        axes.scatter(
                            [one.throughput.throughput_img_s for one in rows],
                            [one.predicted_img_s for one in rows],
                            s=26,
                            marker=marker,
                            edgecolors=color,
                            facecolors="none" if is_fitted else color,
                            linewidths=1,
                            label=f"{GPUS[card].title.removeprefix('NVIDIA GeForce ')}, {mode}, "
                            f"{'fitted on' if is_fitted else 'held out'} ({len(rows)})",
                        )
        if table2:
            printed, predicted = zip(*table2, strict=True)
            axes.scatter(printed, predicted, s=40, marker="*", color="#009E73", label=f"FPT+, Table II ({len(table2)})")
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        axes.set(title="Throughput of Vision Transformers", xlabel="measured (img/s)", ylabel="predicted (img/s)")
        axes.legend(frameon=False, fontsize=8, loc="upper left")
