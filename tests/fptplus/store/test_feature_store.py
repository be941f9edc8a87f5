"""A store that is incomplete, or belongs to something else, is refused by the name of the file or the field."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fptplus import FPTConfig, FrozenBackbone, InvalidInput, build_fpt
from fptplus.data import Example, ImageDataset
from fptplus.store.feature_store import FeatureStore
from fptplus.store.manifest import _body_digest
from fptplus.store.preloading import FeatureMaker, preload
from fptplus.store.verification import check_row
from fptplus.training.feed import Feed
from methods import create_backbone

NAMES = ("a", "b", "c", "d", "e")


def read(example):
    pixels = np.random.default_rng(ord(example.name)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((64, 64))


DATASET = ImageDataset("noise", ("no", "yes"), tuple(Example(name, 0, "train") for name in NAMES), read)


def backbone(seed=0):
    torch.manual_seed(seed)
    return FrozenBackbone(create_backbone("test_vit", 64, 2), (2, 3), token_ratio=0.5)


def write(folder, dtype="int8"):
    for rank in (1, 0):
        store = preload(
            DATASET,
            folder,
            backbone=backbone(),
            model="test_vit",
            weights_sha256="abc",
            res=64,
            image_res=32,
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            store_dtype=dtype,
            rank=rank,
            world_size=2,
        )
    return store


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("stores") / "whole").folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "store")


def test_rows_are_read_in_any_order_across_shards_and_more_than_once(whole):
    store = FeatureStore.open(whole)
    assert [shard.images.rows for shard in store.manifest.shards] == [2, 3]
    every_key, every_value, *_ = store.features(range(5))
    keys, values, *_ = store.features(np.array([4, 1, 2, 1]))
    assert torch.equal(keys, every_key[:, [4, 1, 2, 1]]) and torch.equal(values, every_value[:, [4, 1, 2, 1]])
    assert torch.equal(store.images(torch.tensor([3, 0])), store.images(range(5))[[3, 0]])
    assert keys.shape == (2, 4, backbone().vit.blocks[0].attn.num_heads, 8, backbone().vit.blocks[0].attn.head_dim)
    with pytest.raises(IndexError, match="rows must lie in 0 to 4, got -1 to 2"):
        store.images([2, -1])


def test_raw_features_are_what_features_dequantises(whole):
    store = FeatureStore.open(whole)
    raw = store.raw_features([3, 1])
    assert raw.numbers.dtype == torch.int8 and raw.scales.dtype == torch.float16
    keys = raw.numbers[:, 0].float() * raw.scales[:, 0, :, :, None].float()
    torch.testing.assert_close(store.features([3, 1])[0], keys.transpose(0, 1))
    assert store.features([3], dtype=torch.bfloat16)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["features-1-of-2.bin", "images-0-of-2.bin"])
def test_a_truncated_a_missing_and_an_altered_file_are_refused_by_name(folder, name):
    path, content = folder / name, (folder / name).read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(InvalidInput, match=f"{name} must be {len(content)} bytes long, it is {len(content) - 1}"):
        FeatureStore.open(folder)
    path.unlink()
    with pytest.raises(InvalidInput, match=f"{name} must be there, it is missing"):
        FeatureStore.open(folder)
    path.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    row = {"features-1-of-2.bin": r"2 \(e\)", "images-0-of-2.bin": r"1 \(b\)"}[name]
    with pytest.raises(InvalidInput, match=f"{name} must be as it was written, its row {row} has been altered"):
        FeatureStore.open(folder).verify()
    path.write_bytes(content)
    FeatureStore.open(folder).verify()


def test_an_altered_a_truncated_and_a_missing_manifest_are_refused(folder):
    path = folder / "manifest.json"
    content = path.read_text()
    changed = json.loads(content)
    changed["store"]["examples"][0][1] = 1
    path.write_text(json.dumps(changed))
    with pytest.raises(InvalidInput, match="manifest.json must be as it was written, it has been altered"):
        FeatureStore.open(folder)
    path.write_text(content[:-10])
    with pytest.raises(
        InvalidInput, match="manifest.json must be a feature store's manifest, it is truncated or damaged"
    ):
        FeatureStore.open(folder)
    path.unlink()
    with pytest.raises(InvalidInput, match="must hold manifest.json, which is missing; preload the images first"):
        FeatureStore.open(folder)


def forge(folder, change):
    """A manifest that says something else, and that its own checksum agrees with."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content["store"])
    path.write_text(json.dumps(content | {"sha256": _body_digest(content["store"])}))


def smaller_rows(store):
    features = store["shards"][1]["features"]
    features["row_bytes"] //= 2


def fewer_rows(store):
    store["shards"][0]["features"]["digests"] = store["shards"][0]["features"]["digests"][:16]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda store: store["shards"][0]["images"].update(name="../outside.bin"), r"'../outside.bin' is not one of"),
        (lambda store: store["shards"][0]["images"].update(name="/etc/passwd"), "'/etc/passwd' is not one of"),
        (lambda store: store["shards"][0]["images"].update(name=".."), r"'\.\.' is not one of"),
        (smaller_rows, "rows of features-1-of-2.bin have"),
        (fewer_rows, "features-0-of-2.bin has 1 rows and not one for each of 2 images"),
        (lambda store: store["shards"][0].update(features=None), "a shard holds images instead of images and features"),
        (lambda store: store["shards"].pop(), "lists 5 images for 2 rows"),
        (lambda store: store["examples"].append(["f", 0, "train"]), "lists 6 images for 5 rows"),
        (lambda store: store["sizes"].pop(), "lists 4 sizes of 5 images"),
        (lambda store: store["sizes"][0].__setitem__(1, 0), r"an image has size \(.+, 0\)"),
        (lambda store: store["examples"][0].__setitem__(1, -1), "image 'a' has label -1 of 2 classes"),
        (lambda store: store["examples"][0].__setitem__(1, 2), "image 'a' has label 2 of 2 classes"),
        (lambda store: store["examples"][0].__setitem__(2, "practice"), "image 'a' is of split 'practice'"),
        (lambda store: store.update(surprise=1), "must have the fields of a store"),
        (lambda store: store.pop("image_res"), "must have the fields of a store"),
        (lambda store: store.update(heads="many"), "heads is 'many'"),
        (lambda store: store.update(image_res=-32), "image_res is -32"),
    ],
)
def test_a_forged_manifest_leads_nowhere(folder, change, sentence):
    forge(folder, change)
    with pytest.raises(InvalidInput, match=sentence):
        FeatureStore.open(folder)


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("model", "vit_b", "test_vit"),
        ("weights_sha256", "abd", "abc"),
        ("res", 128, "64"),
        ("token_ratio", 0.2, "0.5"),
        ("layers", (0, 1), r"\(2, 3\)"),
        ("dataset_fingerprint", "0", DATASET.fingerprint()),
    ],
)
def test_a_store_of_something_else_is_refused_by_the_field_that_differs(whole, field, value, found):
    store = FeatureStore.open(whole)
    store.check_matches(**{field: getattr(store.manifest, field)})
    with pytest.raises(InvalidInput, match=f"must have {field} .*, it has {found}; preload into another folder"):
        store.check_matches(**{field: value})


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_features_made_again_agree_within_the_store_s_precision(tmp_path, dtype):
    store = write(tmp_path, dtype)
    check = check_row(store, 3, DATASET, FeatureMaker(backbone(), store.manifest, torch.device("cpu")))
    assert (check.name, check.share_found) == ("d", 1.0)


def test_features_of_another_lpm_or_another_image_do_not_come_out_again(whole):
    store = FeatureStore.open(whole)
    other_lpm = FeatureMaker(backbone(seed=1), store.manifest, torch.device("cpu"))
    with pytest.raises(InvalidInput, match=r"must hold the features of a in row 0, only \d+% of its tokens come out"):
        check_row(store, 0, DATASET, other_lpm)
    swapped = ImageDataset("noise", DATASET.classes, DATASET.examples, lambda _: read(Example("e", 0, "train")))
    with pytest.raises(InvalidInput, match="must hold the features of a in row 0"):
        check_row(store, 0, swapped, FeatureMaker(backbone(), store.manifest, torch.device("cpu")))
    lacking = ImageDataset("noise", DATASET.classes, DATASET.examples[1:], read)
    with pytest.raises(InvalidInput, match="the dataset must hold a, row 0"):
        check_row(store, 0, lacking, FeatureMaker(backbone(), store.manifest, torch.device("cpu")))


def test_memory_is_used_again_only_once_no_tensor_holds_it(tmp_path):
    store = write(tmp_path)
    first = store.feature_rows([0, 1])
    kept, address, content = first[:, 8:], first.data_ptr(), first[:, 8:].clone()
    del first
    second = store.feature_rows([2, 3])
    assert second.data_ptr() != address and torch.equal(kept, content)
    del kept
    assert store.feature_rows([3, 4]).data_ptr() == address
    assert torch.equal(store.feature_rows([0, 1])[:, 8:], content)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("layer_kind", ["lean", "plain"])
def test_features_used_where_they_lie_are_those_that_are_copied(tmp_path, cpu_kernel, monkeypatch, dtype, layer_kind):
    whole = preload(
        DATASET,
        tmp_path,
        backbone=backbone(),
        model="test_vit",
        weights_sha256="abc",
        res=64,
        image_res=32,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        store_dtype=dtype,
    )
    config = FPTConfig(variant="fptplus", side_res=32, tapped_share=0.34, num_prompts=4, reduction_factor=2)
    layout = whole.layout
    model = build_fpt(
        config,
        lpm_dim=layout.heads * layout.head_dim,
        lpm_heads=layout.heads,
        lpm_depth=6,
        num_classes=2,
        layer_kind=layer_kind,
        fused_attention=layer_kind == "lean",
    ).eval()
    feed = Feed(store=whole, split="train", batch_size=2, res=32, reads_features=True)
    in_place = list(feed.epoch(0))
    monkeypatch.setattr(FeatureStore, "features_in_place", lambda store: None)
    copied = list(Feed(store=whole, split="train", batch_size=2, res=32, reads_features=True).epoch(0))
    assert len(in_place) == len(copied) == 2
    for one, other in zip(in_place, copied, strict=True):
        assert one.inputs[1].keys.shape[1] == 5 and other.inputs[1].keys.shape[1] == 2
        assert torch.equal(one.targets, other.targets)
        assert torch.equal(model(*one.inputs), model(*other.inputs))


def test_features_in_several_files_are_not_used_where_they_lie(tmp_path):
    assert write(tmp_path).features_in_place() is None
