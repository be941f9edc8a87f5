"""FPT and FPT+ as trained here against the plain baseline, timed alternately.

    pytest bench/speed/bench_fptplus.py --benchmark-only -s

The setting is ViT-B at 512 px, 16 prompts, k = 8, batch 16, five classes. The timed function is ours. The baseline
takes one round before each of its rounds, so that whatever else the machine does affects both. The ratios are printed
and kept in `extra_info` of the saved results (`--benchmark-json FILE`). On a CUDA device everything runs there,
including a whole training of Messidor-2's size. `BENCH_IMAGE_PX` changes the size of the images that the baseline
decodes.
"""

import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

import fptplus
from fptplus.network.precision import autocast
from fptplus.paper_training import EPOCHS, MESSIDOR2_IMAGES
from fptplus.reference import PlainFPT, plain_features, plain_step
from fptplus.training.feed import Feed
from fptplus.training.step import TrainingStep, make_optimizer
from methods import create_backbone

from .plain_feeding import PlainFiles
from .random_data import (
    CLASSES,
    LPM_DEPTH,
    LPM_DIM,
    LPM_HEADS,
    feature_layout,
    random_features,
    write_random_files,
    write_random_store,
)

CONFIGS = {"fptplus": fptplus.FPTPLUS, "fpt": fptplus.FPT}
RES, BATCH, STORED_IMAGES = 512, 16, 256
IMAGE_PX = int(os.environ.get("BENCH_IMAGE_PX", "512"))
"""Height and width of the image files that the baseline decodes in every epoch; Messidor-2's are 1440x960 to 2304x1536
pixels."""

WIDE_SPREAD = 0.1
"""Half of an interquartile range, as a share of the median, above which it is printed."""

ON_CUDA = torch.cuda.is_available()
DEVICE = "cuda" if ON_CUDA else "cpu"


def wait() -> None:
    """Wait until the device has finished its work."""
    if ON_CUDA:
        torch.cuda.synchronize()


def timed(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes, up to the end of the device's work."""
    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start


def compare(benchmark, ours: Callable[[], object], baseline: Callable[[], object], *, rounds: int, images: int) -> None:
    """Time both alternately, and note by how much ours is faster."""
    baseline_s: list[float] = []

    def ours_and_wait() -> None:
        ours()
        wait()

    def setup() -> None:
        baseline_s.append(timed(baseline))

    benchmark.pedantic(ours_and_wait, setup=setup, rounds=rounds, warmup_rounds=2 if ON_CUDA else 1)
    baseline_s = baseline_s[-rounds:]
    ratios = {
        "ratio_of_medians": statistics.median(baseline_s) / benchmark.stats["median"],
        "ratio_of_minima": min(baseline_s) / benchmark.stats["min"],
    }
    benchmark.extra_info.update(
        ratios,
        device=torch.cuda.get_device_name() if ON_CUDA else f"cpu, {torch.get_num_threads()} threads",
        baseline_median_s=statistics.median(baseline_s),
        throughput_img_s=images / benchmark.stats["median"],
    )
    spreads = {"ours": benchmark.stats["iqr"] / benchmark.stats["median"], "baseline": _spread(baseline_s)}
    wide = [f"{name} vary by ±{spread / 2:.0%}" for name, spread in spreads.items() if spread / 2 > WIDE_SPREAD]
    found = [f"{name} {value:.2f}" for name, value in ratios.items()]
    print(f"\n{benchmark.name}: " + ", ".join(found) + "".join(f"; times of {words}" for words in wide))


def _spread(times_s: Sequence[float]) -> float:
    """Return the interquartile range as a share of the median."""
    if len(times_s) < 2:
        return 0.0
    low, median, high = statistics.quantiles(times_s, n=4, method="inclusive")
    return (high - low) / median


def our_step(variant: str) -> TrainingStep:
    """Return our training step as `--profile fast` trains."""
    model = fptplus.build_fpt(
        CONFIGS[variant], lpm_dim=LPM_DIM, lpm_heads=LPM_HEADS, lpm_depth=LPM_DEPTH, num_classes=len(CLASSES)
    ).to(DEVICE)
    optimizer = make_optimizer("adamw_fused", model.parameters())
    return TrainingStep(model, optimizer, autocast=partial(autocast, "bf16", DEVICE))


def baseline_step(variant: str) -> Callable:
    """Return the baseline's step, which takes images, features and targets."""
    config = CONFIGS[variant]
    model = PlainFPT(
        variant=variant,
        num_layers=len(config.tapped_layers(LPM_DEPTH)),
        num_prompts=config.num_prompts,
        lpm_dim=LPM_DIM,
        num_heads=LPM_HEADS,
        dim=config.side_dim(LPM_DIM, LPM_HEADS),
        res=config.side_res,
        patch_size=config.side_patch_size,
        num_classes=len(CLASSES),
    ).to(DEVICE)
    return partial(plain_step, model, torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1))


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
@pytest.mark.parametrize("variant", CONFIGS)
def test_step_with_features_in_memory(benchmark, variant, dtype):
    layout = feature_layout(CONFIGS[variant], RES, dtype)
    features, res = random_features(layout, BATCH), CONFIGS[variant].side_res
    images, targets = torch.randn(BATCH, 3, res, res, device=DEVICE), torch.arange(BATCH, device=DEVICE) % len(CLASSES)
    stored = layout.unpack(layout.pack(*features).to(DEVICE)).by_layer()
    compare(
        benchmark,
        partial(our_step(variant), (images, stored), targets),
        partial(baseline_step(variant), images, features.to(DEVICE), targets),
        rounds=50 if ON_CUDA else 15,
        images=BATCH,
    )


@pytest.fixture
def folder(tmp_path):
    """Yield a folder for gigabytes that must not stay behind."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_epoch_from_disk(benchmark, folder, dtype):
    config = fptplus.FPTPLUS
    store = write_random_store(folder / "store", config, RES, dtype, STORED_IMAGES)
    (folder / "files").mkdir()
    paths = write_random_files(folder / "files", config, RES, STORED_IMAGES, IMAGE_PX)
    files = PlainFiles(*paths, [index % len(CLASSES) for index in range(STORED_IMAGES)], config.side_res)
    loader = DataLoader(files, batch_size=BATCH, shuffle=True, drop_last=True)
    feed = Feed(store=store, split="train", batch_size=BATCH, res=config.side_res, reads_features=True, device=DEVICE)
    step, plain = our_step("fptplus"), baseline_step("fptplus")

    def ours() -> None:
        for batch in feed.epoch(0):
            step(batch.inputs, batch.targets)

    def baseline() -> None:
        for images, features, targets in loader:
            by_layer = features.movedim(0, 2).contiguous()
            plain(images.to(DEVICE), by_layer.to(DEVICE), targets.to(DEVICE))

    compare(benchmark, ours, baseline, rounds=5, images=STORED_IMAGES)


@pytest.mark.skipif(not ON_CUDA, reason="the whole training of Messidor-2's size is for a CUDA device")
def test_twenty_epochs_of_messidor2(benchmark, folder):
    """Bars: 10 s for training and 15 s for preloading; the paper's A6000 took 90.6 s and 31.8 s."""
    config = fptplus.FPTPLUS
    store = write_random_store(folder / "store", config, RES, "bf16", MESSIDOR2_IMAGES)
    feed = Feed(store=store, split="train", batch_size=BATCH, res=config.side_res, reads_features=True, device=DEVICE)
    step = our_step("fptplus")

    def train() -> None:
        for epoch in range(EPOCHS):
            for batch in feed.epoch(epoch):
                step(batch.inputs, batch.targets)
        wait()

    benchmark.pedantic(train, rounds=1)
    print(f"\n{EPOCHS} epochs of {MESSIDOR2_IMAGES} images: {benchmark.stats['median']:.1f} s")


@pytest.fixture
def backbone():
    vit = create_backbone("vit_b", RES, len(CLASSES), attention="sdpa").to(DEVICE)
    config = fptplus.FPTPLUS
    return fptplus.FrozenBackbone(vit, config.tapped_layers(LPM_DEPTH), config.token_ratio)


def preload_step(backbone: fptplus.FrozenBackbone, images: torch.Tensor) -> torch.Tensor:
    """Return rows of a bf16 store, on the CPU."""
    with torch.no_grad(), autocast("bf16", DEVICE):
        keys, values, *_ = backbone(images)
    return feature_layout(fptplus.FPTPLUS, RES, "bf16").pack(keys, values).cpu()


@pytest.mark.parametrize("baseline", ["frozen_forward_pass", "plain_preloading"])
def test_preloading(benchmark, backbone, baseline):
    """Preload from decoded images; compare with timm's bare forward pass in bf16, attention fused, and the baseline."""
    images = torch.randn(BATCH if ON_CUDA else 2, 3, RES, RES, device=DEVICE)

    @torch.no_grad()
    def frozen_forward_pass() -> None:
        with autocast("bf16", DEVICE):
            backbone.vit.forward_features(images)

    def plain_preloading() -> None:
        plain_features(backbone.vit, images, backbone.tapped_layers, backbone.token_ratio).cpu()

    other = {"frozen_forward_pass": frozen_forward_pass, "plain_preloading": plain_preloading}[baseline]
    compare(benchmark, partial(preload_step, backbone, images), other, rounds=10, images=len(images))


@pytest.mark.skipif(not ON_CUDA, reason="preloading all of Messidor-2 is for a CUDA device")
def test_preloading_messidor2_from_decoded_images(benchmark, backbone):
    images = torch.randn(BATCH, 3, RES, RES, device=DEVICE)

    def preload() -> None:
        for _ in range(-(-MESSIDOR2_IMAGES // BATCH)):
            preload_step(backbone, images)

    benchmark.pedantic(preload, rounds=1, warmup_rounds=0)
    print(f"\npreloading {MESSIDOR2_IMAGES} images: {benchmark.stats['median']:.1f} s")
