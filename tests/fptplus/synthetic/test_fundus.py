import time

import numpy as np
import pytest
import torch
from PIL import Image

from fptplus import InvalidInput
from fptplus.data import open_dataset
from fptplus.synthetic.fundus import CLASSES, STRUCTURES, draw_example, draw_fundus, generate, planned


def rng(seed=0):
    return np.random.default_rng(seed)


def holdout_auc(features, labels):
    """AUC on the second half of the examples of a ridge regression on the first."""
    features = torch.tensor(np.array(features), dtype=torch.float64)
    labels = torch.tensor(labels, dtype=torch.float64)
    features = (features - features.mean(0)) / (features.std(0) + 1e-9)
    half = len(features) // 2
    train, test = features[:half], features[half:]
    penalty = 10 * torch.eye(features.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(train.T @ train + penalty, train.T @ (labels[:half] * 2 - 1))
    scores = test @ weights
    positive, negative = scores[labels[half:] == 1], scores[labels[half:] == 0]
    return (positive[:, None] > negative[None, :]).double().mean().item()


@pytest.fixture(scope="module")
def examples():
    """Sixty images of each class, in turn."""
    return [(draw_example(3, label, index), label) for index in range(60) for label in (0, 1)]


def test_the_same_seed_gives_the_same_image_whatever_else_is_drawn():
    first, again, other = draw_example(1, 1, 7, 128), draw_example(1, 1, 7, 128), draw_example(2, 1, 7, 128)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.structures, again.structures)
    assert (first.pixels != other.pixels).any()


def test_the_map_says_where_the_spots_are():
    """Two images of the same random numbers but for the kind of the spots differ there and nowhere else."""
    red = draw_fundus(rng(), microaneurysms=5, drusen=0)
    yellow = draw_fundus(rng(), microaneurysms=0, drusen=5)
    lesions, drusen = (STRUCTURES.index(name) for name in ("microaneurysm", "druse"))
    np.testing.assert_array_equal(red.structures[lesions], yellow.structures[drusen])
    assert not red.structures[drusen].any() and not yellow.structures[lesions].any()
    changed = np.abs(red.pixels.astype(int) - yellow.pixels).max(-1) > 40
    by_patch = changed.reshape(32, 16, 32, 16).any(axis=(1, 3))
    assert 5 <= red.structures[lesions].sum() <= 20
    assert (by_patch <= red.structures[lesions]).all() and by_patch.any()


def test_a_spot_is_a_few_pixels_at_512_and_under_the_mottles_at_128():
    """Red less yellow spots of the same image, which are opposite in most of green and blue: more than either shows."""
    red = draw_fundus(rng(4), microaneurysms=30, drusen=0).pixels
    yellow = draw_fundus(rng(4), microaneurysms=0, drusen=30).pixels
    difference = np.abs(red.astype(float) - yellow)
    assert 3 <= (difference.max(-1) > 40).sum() / 30 <= 16, "pixels of a spot that stand out"
    small = [np.asarray(Image.fromarray(p).resize((128, 128), Image.Resampling.BILINEAR), float) for p in (red, yellow)]
    at_128 = np.abs(small[0] - small[1]).max(axis=(0, 1))
    mottles = small[0][40:88, 40:88].std(axis=(0, 1))
    assert (at_128 < 2 * mottles).all()
    assert difference.max() > 5 * at_128.max()


def test_only_the_lesions_differ_between_the_classes(examples):
    lesion = STRUCTURES.index("microaneurysm")
    for fundus, label in examples:
        assert fundus.structures[lesion].any() == bool(label)
    shares = np.array([[f.structures[:2].mean() for f, label in examples if label == own] for own in (0, 1)])
    assert abs(shares[0].mean() - shares[1].mean()) < 3 * shares.std() / np.sqrt(60), "vessels and disc"


def test_neither_colours_nor_a_small_image_tell_the_label(examples):
    """Means, spreads and percentiles of each channel; and a 16 px image: no better than chance plus sampling error."""
    labels = [label for _, label in examples]
    pixels = [fundus.pixels.reshape(-1, 3).astype(np.float32) for fundus, _ in examples]
    colours = [np.r_[p.mean(0), p.std(0), np.percentile(p[::16], (25, 50, 75, 90), axis=0).ravel()] for p in pixels]
    thumbnails = [np.asarray(Image.fromarray(f.pixels).resize((16, 16))).mean(-1).ravel() for f, _ in examples]
    for features in (colours, thumbnails):
        assert abs(holdout_auc(features, labels) - 0.5) < 0.2, "60 held-out images: a standard error of 0.075"


def test_spots_counted_at_512_tell_the_label(examples):
    """What the label is: red outliers from the surroundings, which a reader of the full image can count."""
    counts = []
    for fundus, _ in examples:
        pixels = fundus.pixels.astype(np.float32)
        fine = pixels - np.asarray(
            Image.fromarray(fundus.pixels).resize((128, 128), Image.Resampling.BOX).resize((512, 512)), np.float32
        )
        counts.append([(fine[..., 0] - fine[..., 1] > 50).sum(), (fine[..., 1] - fine[..., 2] > 50).sum()])
    assert holdout_auc(counts, [label for _, label in examples]) > 0.85


def test_generated_folders_open_as_a_dataset_and_repeat(tmp_path):
    told = []
    for name in ("a", "b"):
        generate(tmp_path / name, images_per_class=10, res=64, seed=5, on_progress=lambda *done: told.append(done))
    dataset = open_dataset(tmp_path / "a")
    assert dataset.classes == CLASSES and told[-1] == (20, 20)
    assert [len(dataset.indices(split)) for split in ("train", "val", "test")] == [14, 2, 4]
    for example in dataset.examples:
        np.testing.assert_array_equal(
            np.asarray(dataset.read(example)), np.asarray(Image.open(tmp_path / "b" / example.name))
        )
    assert [path.name for path in tmp_path.iterdir()] in (["a", "b"], ["b", "a"])


def test_the_plan_has_every_image_once():
    plan = list(planned(30))
    assert len({(label, index) for _, label, index in plan}) == len(plan) == 60
    assert sum(split == "test" for split, _, _ in plan) == 12 and sum(split == "val" for split, _, _ in plan) == 6


def test_drawing_is_fast():
    """Against a JPEG-like floor in the same run: no more than forty times the noise of one image."""
    begun = time.process_time()
    for _ in range(10):
        rng().standard_normal((512, 512, 1), np.float32)
    noise_s = (time.process_time() - begun) / 10
    begun = time.process_time()
    for index in range(5):
        draw_example(0, 1, index)
    assert (time.process_time() - begun) / 5 < 40 * noise_s


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"images_per_class": 9}, "images_per_class must be at least 10"),
        ({"images_per_class": 10, "res": 100}, "res must be a multiple of 16, at least 64 and at most 8192, got 100"),
    ],
)
def test_impossible_options_are_refused(tmp_path, options, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        generate(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(InvalidInput, match="out must be a new or empty folder"):
        generate(tmp_path, images_per_class=10)
