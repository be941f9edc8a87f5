"""Where the paper disagrees with itself: computed from its printed tables, or quoted next to what it contradicts."""

from collections.abc import Iterator
from dataclasses import dataclass

from fptplus.paper_training import EPOCHS, MESSIDOR2_IMAGES
from fptplus.training.efficiency import performance_efficiency

from .printed import DATASETS, FULL_MEM_MB, paper_table


@dataclass(frozen=True, kw_only=True)
class Inconsistency:
    """One contradiction."""

    where: str
    says: str
    but: str


def inconsistencies() -> list[Inconsistency]:
    """Return all contradictions found, those in the numbers first."""
    return [*_averages(), *_efficiencies(), *_power(), *_images_seen(), *_flops(), *_quoted()]


def _averages() -> Iterator[Inconsistency]:
    for row in paper_table(1).to_dict("records"):
        mean = sum(row[f"{short}_auc"] for short in DATASETS) / len(DATASETS)
        if abs(mean - row["avg_auc"]) > 0.0051:
            yield Inconsistency(
                where=f"Table I, {row['method']}, {row['weights']}",
                says=f"average AUC {row['avg_auc']:.2f}",
                but=f"its eight AUCs average {mean:.2f}; {row['avg_auc']:.2f} is printed one row above as well",
            )


def _efficiencies() -> Iterator[Inconsistency]:
    """Yield rows whose efficiency does not follow from their own columns; there are none.

    The efficiencies are performance-to-parameter (PPE) and performance-to-memory (PME).
    """
    for number in (1, 4, 5, 6):
        for row in paper_table(number).to_dict("records"):
            for name, field, scale in (("ppe", "params_pct", 100), ("pme", "mem_mb", FULL_MEM_MB)):
                if name in row:
                    own = performance_efficiency(row["avg_auc"], row[field] / scale)
                    if abs(own - row[name]) > 0.0051:
                        yield Inconsistency(
                            where=f"Table {number}, row {list(row.values())[:2]}",
                            says=f"{name.upper()} {row[name]:.2f}",
                            but=f"Eq. 9 and 10 give {own:.2f}",
                        )


def _power() -> Iterator[Inconsistency]:
    for row in paper_table(2).to_dict("records"):
        if row["avg_power_w"] > row["peak_power_w"]:
            yield Inconsistency(
                where=f"Table II, {row['method']}",
                says=f"peak power {row['peak_power_w']:.2f} W",
                but=f"its average power is {row['avg_power_w']:.2f} W, above the peak",
            )
    linear = paper_table(2).query("method == 'linear'").iloc[0]
    yield Inconsistency(
        where="Sec. IV-D",
        says="a peak usage of over 290 W for the other methods",
        but=f"Table II prints {linear.peak_power_w:.2f} W for linear probing",
    )


def _images_seen() -> Iterator[Inconsistency]:
    """Yield contradictions in total time times throughput, the number of images trained on."""
    table = paper_table(2).set_index("method")
    full = table.loc["full"]
    per_epoch = full.train_time_s * full.throughput_img_s / EPOCHS
    yield Inconsistency(
        where="Sec. IV-A and Table II",
        says=f"70 % of {MESSIDOR2_IMAGES} images are for training, which is {0.7 * MESSIDOR2_IMAGES:,.0f}",
        but=f"time times throughput over {EPOCHS} epochs is {per_epoch:,.0f} images an epoch, 60 %",
    )
    preloading_s = table.loc["preloading"].train_time_s
    for method in ("fpt", "fptplus"):
        row = table.loc[method]
        whole, less = (
            time * row.throughput_img_s / EPOCHS for time in (row.train_time_s, row.train_time_s - preloading_s)
        )
        yield Inconsistency(
            where=f"Table II, {method}",
            says=f"training takes {row.train_time_s:.2f} s, and preloading, printed as a row of its own, "
            f"{preloading_s:.2f} s",
            but=f"{row.train_time_s:.2f} s at its throughput are {whole:,.0f} images an epoch; only without the "
            f"{preloading_s:.2f} s they are {less:,.0f}, so the time contains the preloading and throughput and power "
            "do not",
        )


def _flops() -> Iterator[Inconsistency]:
    table = paper_table(2).set_index("method")
    yield Inconsistency(
        where="Table II and Sec. IV-D",
        says=f"LoRA costs {table.gflops['lora']:.2f} G, full fine-tuning {table.gflops['full']:.2f} G",
        but="LoRA adds 0.6 G to the same forward pass; the rest is attention, counted for LoRA and AdaLoRA alone",
    )


def _quoted() -> Iterator[Inconsistency]:
    adalora = paper_table(3).query("method == 'adalora' and res == 384").avg_auc.iloc[0]
    linear = paper_table(1).query("method == 'linear'").mem_mb.iloc[0]
    for where, says, but in (
        ("Sec. IV-E", "AdaLoRA reaches 86.48 at 384 px", f"Table III prints {adalora:.2f}"),
        (
            "Sec. IV-B",
            "the side network has 6 layers, half of the LPM's",
            "half of ViT-L's is 12; Table III prints the memory of 6 (results/paper/paper_stack.csv)",
        ),
        ("Sec. IV-D", "training time per epoch is reported", "Table II has no such column"),
        ("Table VI", "PPE and PME have a downward arrow", "the best is the highest, in bold, as in all other tables"),
        (
            "Sec. IV-C",
            "Adapter has the lowest memory consumption (19,360 MB) of the methods other than FPT and FPT+",
            f"linear probing, in the same list, takes {linear:,} MB",
        ),
        (
            "Eq. 7",
            "the fused prompts are f_out(CA) + p",
            "p is as wide as the LPM and f_out(CA) as the side network; the official code adds p before f_out",
        ),
        (
            "Sec. IV-B",
            "both pre-trained weights are from ImageNet-21K",
            "Table I heads them ImageNet, and the DINO weights of [5] are from ImageNet-1K",
        ),
        (
            "Sec. III-F and Table I",
            "736 MB is the memory usage of FPT+",
            "preloading runs the whole LPM on the same card and needs more; no table has its memory",
        ),
        (
            "Table II",
            "preloading runs at 32.81 images a second",
            "linear probing, which runs the same LPM forward and trains besides, does 51.06",
        ),
        (
            "Table I",
            "memory in MB without a counter",
            "the text does not say which; FPT's and FPT+'s are MiB of the process (results/paper/paper_stack.csv)",
        ),
    ):
        yield Inconsistency(where=where, says=says, but=but)
