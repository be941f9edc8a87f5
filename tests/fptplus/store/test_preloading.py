"""Preloading: the store holds what the frozen large pre-trained model (LPM) gives, whatever interrupts the writing."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from errno import ENOSPC
from zlib import crc32

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from fptplus import FrozenBackbone, InvalidInput
from fptplus.data import Example, ImageDataset
from fptplus.store.feature_store import FeatureStore
from fptplus.store.manifest import StoreManifest
from fptplus.store.preloading import largest_train_res, preload, stored_image_res, to_square
from fptplus.store.writer import ShardWriter, merge_shards, progress_path
from methods import create_backbone

RES, IMAGE_RES = 64, 32

forks = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
"""Python 3.12 warns of it; the children compute in one thread, since the parent's OpenMP threads are not forked."""

MEAN, STD = (0.4, 0.3, 0.2), (0.2, 0.25, 0.3)


def picture(example):
    """Different noise for each name; names that begin with `bad` cannot be read."""
    if example.name.startswith("bad"):
        raise InvalidInput(f"images must be readable, {example.name} is not.")
    pixels = np.random.default_rng(crc32(example.name.encode())).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def dataset_of(*names):
    splits = ("train", "val", "test")
    examples = tuple(Example(name, index % 2, splits[index % 3]) for index, name in enumerate(names))
    return ImageDataset("noise", ("no", "yes"), examples, picture)


def frozen_backbone():
    torch.manual_seed(0)
    return FrozenBackbone(create_backbone("test_vit", RES, 2), (1, 2), token_ratio=0.5)


def run(dataset, out, **options):
    settings = {"image_res": IMAGE_RES, "mean": MEAN, "std": STD, "res": RES, "model": "test_vit", "batch_size": 2}
    backbone = options.pop("backbone", None) or frozen_backbone()
    return preload(dataset, out, backbone=backbone, weights_sha256="abc", **(settings | options))


def run_in_one_thread(*arguments, **options):
    torch.set_num_threads(1)
    run(*arguments, **options)


def expected_features(names):
    pixels = torch.stack([to_square(picture(Example(name, 0, "train")), RES) for name in names])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return frozen_backbone()((pixels / 255 - mean) / std)


def content(store):
    rows = range(len(store))
    return [store.images(rows), store.feature_rows(rows), store.manifest.examples, store.labels.tolist()]


def assert_same_content(one, other):
    for mine, theirs in zip(content(one), content(other), strict=True):
        assert torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The store of images a to g, written without an interruption."""
    return run(dataset_of(*"abcdefg"), tmp_path_factory.mktemp("reference") / "store", store_dtype="fp32")


def test_the_store_holds_the_features_images_labels_and_splits_of_each_image(reference):
    keys, values, *_ = reference.features(range(7))
    expected_keys, expected_values, *_ = expected_features("abcdefg")
    torch.testing.assert_close(keys, expected_keys)
    torch.testing.assert_close(values, expected_values)
    side = to_square(picture(Example("c", 0, "train")), IMAGE_RES)
    assert torch.equal(reference.images([2])[0], side)
    assert reference.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert reference.rows("val").tolist() == [1, 4]
    assert [example.name for example in reference.manifest.examples] == list("abcdefg")
    reference.verify()


def test_a_store_is_few_files(reference):
    files = {"manifest.json", "images-0-of-1.bin", "features-0-of-1.bin"}
    assert {path.name for path in reference.folder.iterdir()} == files


def test_methods_that_train_on_images_have_a_store_without_features(tmp_path):
    store = preload(dataset_of(*"abc"), tmp_path, image_res=IMAGE_RES, mean=MEAN, std=STD)
    assert not store.has_features and store.manifest.model is None
    assert store.images([0, 2]).shape == (2, 3, IMAGE_RES, IMAGE_RES)
    with pytest.raises(InvalidInput, match="holds images without features; preload it for FPT"):
        store.features([0])


def test_preloading_again_opens_the_finished_store_and_another_one_is_refused(reference):
    before = (reference.folder / "manifest.json").stat().st_mtime_ns
    again = run(dataset_of(*"abcdefg"), reference.folder, store_dtype="fp32")
    assert len(again) == 7 and (reference.folder / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(InvalidInput, match="with dtype bf16, it is one with fp32; choose another folder"):
        run(dataset_of(*"abcdefg"), reference.folder, store_dtype="bf16")


@forks
def test_several_processes_write_shards_of_the_same_store_at_once(reference, tmp_path):
    context = multiprocessing.get_context("fork")
    options = {"store_dtype": "fp32", "world_size": 3}
    processes = [
        context.Process(
            target=run_in_one_thread, args=(dataset_of(*"abcdefg"), tmp_path), kwargs={"rank": rank, **options}
        )
        for rank in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    store = FeatureStore.open(tmp_path)
    assert len(store.manifest.shards) == 3
    assert torch.equal(store.images(range(7)), reference.images(range(7)))
    for mine, theirs in zip(store.features([6, 0, 3])[:2], reference.features([6, 0, 3])[:2], strict=True):
        torch.testing.assert_close(mine, theirs)
    assert store.manifest.examples == reference.manifest.examples
    store.verify()


def test_a_process_that_finishes_before_the_others_has_no_store_yet(tmp_path):
    assert run(dataset_of(*"ab"), tmp_path, rank=1, world_size=3) is None
    assert run(dataset_of(*"ab"), tmp_path, rank=0, world_size=3) is None, "no image falls to it"
    assert len(run(dataset_of(*"ab"), tmp_path, rank=2, world_size=3)) == 2


def test_other_processes_than_those_that_began_are_refused(tmp_path):
    run(dataset_of(*"abcd"), tmp_path, rank=0, world_size=2)
    with pytest.raises(InvalidInput, match="progress-0-of-2.jsonl was begun by 2 processes, 1 cannot resume it"):
        run(dataset_of(*"abcd"), tmp_path)


def killed_while_preloading(folder, progress):
    """A process that is killed without warning; each image takes it some time."""

    def slow(example):
        time.sleep(0.05)
        return picture(example)

    plain = dataset_of(*"abcdefg")
    dataset = ImageDataset(plain.name, plain.classes, plain.examples, slow)
    run_in_one_thread(
        dataset, folder, store_dtype="fp32", batch_size=1, on_progress=lambda done, total: progress.put(done)
    )


@forks
def test_a_killed_process_loses_no_finished_row_and_the_rest_is_the_same(reference, tmp_path):
    context = multiprocessing.get_context("fork")
    progress = context.SimpleQueue()
    process = context.Process(target=killed_while_preloading, args=(tmp_path, progress))
    process.start()
    while progress.get() < 3:
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    kept = len(progress_path(tmp_path, 0, 1).read_bytes().splitlines()) - 1
    assert 3 <= kept < 7

    computed = []
    backbone = frozen_backbone()
    backbone.register_forward_pre_hook(lambda module, inputs: computed.append(len(inputs[0])))
    seen = []
    store = run(
        dataset_of(*"abcdefg"),
        tmp_path,
        store_dtype="fp32",
        backbone=backbone,
        on_progress=lambda done, total: seen.append(done),
    )
    assert seen[0] == kept and sum(computed) == 7 - kept
    assert torch.equal(store.images(range(7)), reference.images(range(7)))
    torch.testing.assert_close(store.features(range(7))[:2], reference.features(range(7))[:2])


@pytest.mark.parametrize("cut_file", ["progress", "features", "images"])
def test_what_a_crash_leaves_half_written_is_written_again(reference, tmp_path, cut_file, monkeypatch):
    """Cut anywhere, as a machine that loses power can leave a file, the store comes out the same."""
    interrupted(tmp_path, monkeypatch, after=5)
    (path,) = tmp_path.glob(f"{cut_file}-0-of-1.*[ln]")
    os.truncate(path, path.stat().st_size - 3)
    store = run(dataset_of(*"abcdefg"), tmp_path, store_dtype="fp32")
    store.verify()
    assert_same_content(store, reference)


def interrupted(folder, monkeypatch, after, dataset=None):
    """Preload with a disk that is full after some images."""
    with monkeypatch.context() as patch:
        plain = ShardWriter.write

        def write(writer, content, sizes, sources):
            if writer.done >= after - 1:
                patch.setattr("fptplus.store.writer.write_all", full_in_the_middle)
            plain(writer, content, sizes, sources)

        patch.setattr(ShardWriter, "write", write)
        with pytest.raises(InvalidInput) as error:
            run(dataset or dataset_of(*"abcdefg"), folder, store_dtype="fp32")
    return str(error.value)


def full_in_the_middle(file, content):
    view = memoryview(content).cast("B")
    file.write(view[: len(view) // 2])
    raise OSError(ENOSPC, "No space left on device")


def test_a_full_disk_is_said_in_one_sentence_and_leaves_whole_rows_to_go_on_from(reference, tmp_path, monkeypatch):
    sentence = interrupted(tmp_path, monkeypatch, after=5)
    assert "took no more than 4 of 7 images (No space left on device); make room and repeat the command" in sentence
    row_bytes = reference.layout.row_bytes
    assert (tmp_path / "features-0-of-1.bin").stat().st_size == 4 * row_bytes
    with pytest.raises(InvalidInput, match="its preloading is not finished: repeat the command to resume it"):
        FeatureStore.open(tmp_path)
    assert_same_content(run(dataset_of(*"abcdefg"), tmp_path, store_dtype="fp32"), reference)


def test_a_batch_that_fails_is_not_followed_by_the_next_one(reference, tmp_path, monkeypatch):
    """The disk is full for one write only: what is computed after it must not take its place."""
    plain, calls = ShardWriter.write, []

    def write(writer, content, sizes, sources):
        calls.append(content)
        if len(calls) == 2:
            raise InvalidInput("no room for a moment.")
        plain(writer, content, sizes, sources)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "write", write)
        with pytest.raises(InvalidInput, match="no room for a moment"):
            run(dataset_of(*"abcdefg"), tmp_path, store_dtype="fp32")
    assert len(calls) == 2
    assert_same_content(run(dataset_of(*"abcdefg"), tmp_path, store_dtype="fp32"), reference)


def test_a_full_disk_at_the_manifest_costs_nothing(reference, tmp_path, monkeypatch):
    def full(manifest, folder):
        raise OSError(ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(StoreManifest, "write", full)
        with pytest.raises(InvalidInput, match=r"took no more than the images without their manifest \(No space left"):
            run(dataset_of(*"abcdefg"), tmp_path, store_dtype="fp32")
    assert_same_content(run(dataset_of(*"abcdefg"), tmp_path, store_dtype="fp32"), reference)


def test_an_interrupted_store_does_not_go_on_with_other_settings(tmp_path, monkeypatch):
    interrupted(tmp_path, monkeypatch, after=3)
    with pytest.raises(InvalidInput, match="was begun with dtype fp32, it cannot be resumed with int8"):
        run(dataset_of(*"abcdefg"), tmp_path, store_dtype="int8")


def test_an_unreadable_image_stops_preloading_and_those_before_it_are_kept(tmp_path):
    with pytest.raises(InvalidInput, match="images must be readable, bad1 is not"):
        run(dataset_of("a", "b", "c", "bad1", "d"), tmp_path)
    assert len(progress_path(tmp_path, 0, 1).read_bytes().splitlines()) == 1 + 3


def test_unreadable_images_can_be_skipped_and_are_listed(tmp_path):
    store = run(dataset_of("bad1", "a", "b", "c", "bad2", "bad3", "d", "bad4"), tmp_path, skip_bad_images=True)
    assert [example.name for example in store.manifest.examples] == ["a", "b", "c", "d"]
    assert [name for name, _ in store.manifest.skipped] == ["bad1", "bad2", "bad3", "bad4"]
    assert store.manifest.skipped[1][1] == "images must be readable, bad2 is not."
    assert store.labels.tolist() == [1, 0, 1, 0]
    expected = expected_features("abcd").keys
    torch.testing.assert_close(store.features(range(4))[0], expected, rtol=0.01, atol=0.01)


def test_a_dataset_without_one_readable_image_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="at least one image must be readable, none of the 2 is"):
        run(dataset_of("bad1", "bad2"), tmp_path, skip_bad_images=True)


def test_features_that_are_not_finite_are_refused(tmp_path):
    backbone = frozen_backbone()
    backbone.vit.blocks[0].norm1.weight.fill_(float("inf"))
    with pytest.raises(InvalidInput, match="features must be finite, those of a, b are not"):
        run(dataset_of(*"ab"), tmp_path, backbone=backbone)


def test_an_lpm_of_another_resolution_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="res must be the LPM's resolution 64, got 96"):
        run(dataset_of(*"ab"), tmp_path, res=96)


def test_a_manifest_that_another_process_never_finishes_is_not_awaited_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("fptplus.store.writer.MERGE_LIMIT_S", 0.1)
    tmp_path.joinpath("store").mkdir()
    with FileLock(tmp_path / "store" / "manifest.lock"), pytest.raises(InvalidInput, match="another process has held"):
        run(dataset_of(*"ab"), tmp_path / "store")
    assert len(run(dataset_of(*"ab"), tmp_path / "store")) == 2


def test_two_processes_do_not_write_the_same_shard(tmp_path):
    dataset = dataset_of(*"ab")
    store = preload(dataset, tmp_path / "other", image_res=IMAGE_RES, mean=MEAN, std=STD)
    writer = ShardWriter(tmp_path / "one", store.manifest, dataset.examples, 0, 1)
    with pytest.raises(InvalidInput, match="must be held by one process at a time"):
        ShardWriter(tmp_path / "one", store.manifest, dataset.examples, 0, 1)
    writer.close()


def test_files_of_others_in_the_folder_stay_as_they_are(tmp_path):
    (tmp_path / ".manifest.json.0123abcd.unfinished").write_text("left by a killed process")
    foreign = [
        tmp_path / name
        for name in ("poetry.lock", ".manifest.json.swp", "progress-notes.jsonl", "progress-a-of-b.jsonl", "x.bin")
    ]
    for path in foreign:
        path.write_text("mine")
    run(dataset_of(*"ab"), tmp_path)
    assert [path.read_text() for path in foreign] == ["mine"] * 5
    assert {path.name for path in tmp_path.iterdir()} - {path.name for path in foreign} == {
        "manifest.json",
        "images-0-of-1.bin",
        "features-0-of-1.bin",
    }


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("images-0-of-1.bin", "must come with progress-0-of-1.jsonl, which is missing"),
        ("progress-0-of-1.jsonl", "must begin with the settings of a store"),
    ],
)
def test_a_file_of_a_row_file_s_name_is_not_emptied(tmp_path, name, sentence):
    (tmp_path / name).write_text('{"mine": 1}\n')
    with pytest.raises(InvalidInput, match=sentence):
        run(dataset_of(*"ab"), tmp_path)
    assert (tmp_path / name).read_text() == '{"mine": 1}\n'


def test_a_store_that_another_process_finishes_meanwhile_is_opened_and_stays(reference, tmp_path, monkeypatch):
    plain, overtaken = ShardWriter.__init__, []

    def finished_just_before(writer, *arguments):
        if not overtaken:
            overtaken.append(True)
            run(dataset_of(*"abcdefg"), tmp_path, store_dtype="fp32")
        plain(writer, *arguments)

    monkeypatch.setattr(ShardWriter, "__init__", finished_just_before)
    store = run(dataset_of(*"abcdefg"), tmp_path, store_dtype="fp32")
    store.verify()
    assert_same_content(store, reference)
    assert not list(tmp_path.glob("progress-*"))


@pytest.mark.parametrize(("train_res", "stored", "earlier"), [(128, 256, 144), (224, 448, 256), (512, 1024, 576)])
def test_images_are_stored_at_twice_the_training_resolution_but_in_what_an_earlier_version_began(
    train_res, stored, earlier, tmp_path
):
    assert stored_image_res(train_res) == stored_image_res(train_res, tmp_path / "new") == stored
    preload(dataset_of("a"), tmp_path / "old", image_res=earlier, mean=MEAN, std=STD)
    assert stored_image_res(train_res, tmp_path / "old") == earlier
    begun = progress_path(tmp_path / "begun", 0, 1)
    begun.parent.mkdir()
    begun.write_text(json.dumps({"settings": {"image_res": earlier}}) + "\n")
    assert stored_image_res(train_res, begun.parent) == earlier


def test_a_store_tells_the_sizes_of_the_originals_unless_an_earlier_version_began_it(tmp_path):
    store = preload(dataset_of(*"ab"), tmp_path / "new", image_res=IMAGE_RES, mean=MEAN, std=STD)
    assert store.sizes.tolist() == [[40, 50], [40, 50]] and largest_train_res(store.manifest) == 16
    writer = ShardWriter(tmp_path / "old", replace(store.manifest, sizes=()), dataset_of(*"ab").examples, 0, 1)
    writer.write({"images": np.zeros((2, 3 * IMAGE_RES**2), np.uint8)}, [None, (40, 50)], [None, None])
    writer.close()
    assert merge_shards(tmp_path / "old", store.manifest, dataset_of(*"ab"), 1)
    assert FeatureStore.open(tmp_path / "old").sizes is None
