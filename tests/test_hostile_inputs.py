"""Whatever is typed and whatever the files hold, `python -m fptplus` answers with what was asked for or a sentence.

No traceback, no endless wait, and nothing written outside of --out. HOSTILE_EXAMPLES is the number of command lines,
and of mutated files, to try.
"""

import contextlib
import io
import json
import os
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from safetensors import safe_open
from safetensors.torch import save_file

from bench.__main__ import main as bench
from bench.cells.config import CellConfig
from bench.records.record import new_record
from bench.records.results_store import ResultsStore
from fptplus.__main__ import main as fptplus
from fptplus.store.manifest import _body_digest

EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "30"))
LIMIT_S = 20.0
"""Longest that an answer may take on a machine of its own, in seconds of its processor."""

SLOW = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

RUN = "runs/lr0.001-wd0.1-seed0"
CHECKPOINT = f"{RUN}/best.safetensors"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Everything that the commands read, made by them: images in three forms, a store, a run and records."""
    root = tmp_path_factory.mktemp("world")
    paths, pixels = [], []
    for index in range(12):
        split, label = ("train", "val", "test")[index % 3], ("no", "yes")[index // 3 % 2]
        folder = root / "images" / split / label
        folder.mkdir(parents=True, exist_ok=True)
        pixels.append(np.random.default_rng(index).integers(0, 256, (28, 20, 3), dtype=np.uint8))
        Image.fromarray(pixels[-1]).save(folder / f"{index}.png")
        paths.append((f"images/{split}/{label}/{index}.png", label, split))
    (root / "table.csv").write_text("path,label,split\n" + "".join(",".join(row) + "\n" for row in paths))
    write_dicom(root / "image.dcm")
    archive = {}
    for split in ("train", "val", "test"):
        archive |= {f"{split}_images": np.stack(pixels[:4]), f"{split}_labels": np.array([[0], [1], [0], [1]])}
    np.savez(root / "archive.npz", **archive)
    with contextlib.chdir(root), contextlib.redirect_stdout(io.StringIO()):
        small = ["--model", "test_vit", "--res", "64", "--device", "cpu"]
        assert fptplus(["preload", "--data", "images", "--out", "store", *small]) == 0
        epochs = ["--epochs", "1", "--batch-size", "2", "--device", "cpu"]
        assert fptplus(["train", "--store", "store", "--out", "runs", *epochs]) == 0
    record = new_record(CellConfig(method="linear", model="test_vit", res=64))
    records = ResultsStore(root / "results")
    records.write(replace(record, predicted_peak_reserved_bytes=2**20))
    return root


def write_dicom(path):
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID, image.file_meta.MediaStorageSOPInstanceUID = (
        "1.2.840.10008.5.1.4.1.1.7",
        "1.2",
    )
    image.Rows, image.Columns, image.SamplesPerPixel, image.PhotometricInterpretation = 8, 8, 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.WindowCenter, image.WindowWidth, image.RescaleSlope, image.RescaleIntercept = "100", "200", "1", "0"
    image.NumberOfFrames, image.PatientID = "1", "somebody"
    image.PixelData = np.arange(64, dtype="<u2").tobytes()
    image.save_as(path, enforce_file_format=True)


def contents(root):
    """What must stay: everything but locks."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.name.endswith((".lock", ".holder")):
            found[path.relative_to(root)] = path.read_bytes()
    return found


def answered(main, words):
    """Call a program and see that it answers in words; return its status."""
    out, err, began = io.StringIO(), io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(words)
        except SystemExit as stop:
            status = stop.code
    assert status in (0, 1, 2), words
    assert "Traceback" not in out.getvalue() + err.getvalue()
    assert status == 0 or err.getvalue().strip(), f"{words} was refused without a word"
    assert time.process_time() - began < LIMIT_S * torch.get_num_threads(), words
    return status


@pytest.fixture
def work(world, tmp_path):
    """A copy of the world, with a folder for output, in which commands are called."""
    place = tmp_path / "world"
    shutil.copytree(world, place)
    with contextlib.chdir(place):
        yield place


COUNT = ["1", "2", "0", "-1", "2.5", "nan", "99999999999999999999", "viele", ""]
RATE = ["1e-3", "1e38", "1e39", "1e-320", "nan", "inf", "-inf", "-1", "0", "viel"]
SEED = ["0", "7", "-1", "18446744073709551615", "18446744073709551616", "1e3", str(10**40)]
DATA = [
    "images",
    "table.csv",
    "archive.npz",
    "image.dcm",
    "store",
    "nowhere",
    "\0",
    "/dev/null",
    "",
    ".",
    "images/train",
]
PLACES = [
    "OUT",
    "OUT/a/b",
    "table.csv/below",
    "table.csv",
    "\0",
    "OUT/ä $HOME [red]",
    "",
    "images",
    "/dev/null",
    "/proc/x",
]
FILES = [CHECKPOINT, "store/manifest.json", "nowhere", "\0", "/dev/null", ".", "image.dcm", "images/test/no/2.png", ""]
OPTIONS = {
    "--data": DATA,
    "--store": ["store", "images", "nowhere", "\0", "table.csv", "runs", ""],
    "--out": PLACES,
    "--method": ["fptplus", "lora", "fpt", "linear", "fptplus_int8", "no-such", "FPTPLUS", ""],
    "--model": ["test_vit", "test_vit2", "resnet18", "no-such", "", "../x"],
    "--weights": FILES,
    "--checkpoint": FILES,
    "--image": [*FILES, "image.dcm#1", "image.dcm#9", "#", "images/test/no/2.png#0"],
    "--res": ["64", "32", "50", "0", "-64", "1e3", "99999999999999999999"],
    "--store-dtype": ["bf16", "int8", "fp32", "fp8"],
    "--precision": ["fp32", "bf16", "fp16", "fp8"],
    "--optimizer": ["adamw", "sgd", "adam"],
    "--augmentation": ["official", "square", "none"],
    "--attention": ["sdpa", "eager", "flash", "x"],
    "--checkpointing": ["none", "block", "all"],
    "--device": ["cpu", "auto", "tpu"],
    "--preset": ["messidor2", "ddr", "no-such"],
    "--split": ["test", "val", "train", "practice"],
    "--epochs": COUNT,
    "--batch-size": COUNT,
    "--repeats": ["1", "0", "-1", "x"],
    "--rows": COUNT,
    "--steps": ["1", "0", "-1", "x"],
    "--images": ["1", "0", "-3"],
    "--images-per-class": ["10", "0", "9", "-1", "99999999999999999999"],
    "--resamples": ["10", "0", "-1", "x"],
    "--group-level": ["0", "1", "2", "-1", "x"],
    "--head": COUNT,
    "--layer": COUNT,
    "--lr": RATE,
    "--weight-decay": RATE,
    "--seed": SEED,
    "--memory-mib": ["1", "nan"],
    "--predictions": ["OUT/p.csv", "OUT", "\0", "table.csv/x"],
    "--skip-bad-images": [],
    "--tensorboard": [],
}
WHOLE = {
    "preload": ["--data", "images", "--out", "OUT", "--model", "test_vit", "--res", "64"],
    "train": ["--store", "store", "--out", "OUT", "--epochs", "1", "--batch-size", "2"],
    "evaluate": ["--checkpoint", CHECKPOINT, "--store", "store", "--resamples", "10"],
    "visualize": ["--checkpoint", CHECKPOINT, "--image", "images/test/no/2.png", "--out", "OUT"],
    "verify": ["--store", "store"],
    "prepare": ["messidor2", "--raw", "images", "--out", "OUT"],
    "synthesize": ["--out", "OUT", "--images-per-class", "10", "--res", "64"],
    "pretrain": [
        "--out",
        "OUT/x.safetensors",
        "--model",
        "test_vit",
        "--steps",
        "1",
        "--images",
        "1",
        "--crop-res",
        "64",
    ],
}
PAIRS = st.sampled_from(sorted(OPTIONS)).flatmap(
    lambda name: st.sampled_from(OPTIONS[name]).map(lambda value: [name, value]) if OPTIONS[name] else st.just([name])
)


@st.composite
def command_lines(draw):
    command = draw(st.sampled_from([*WHOLE]))
    words = [command, *WHOLE[command]] if draw(st.integers(0, 5)) else [command]
    for part in draw(st.lists(PAIRS | st.text(max_size=6).map(lambda text: [text]), min_size=1, max_size=3)):
        words += part
    return words


def rest(found):
    return {path: content for path, content in found.items() if path.parts[0] != "out"}


@pytest.mark.filterwarnings("ignore")
def test_random_command_lines_never_give_a_traceback_or_touch_what_is_not_theirs(work):
    before = rest(contents(work))

    @SLOW
    @seed(0)
    @given(words=command_lines())
    def each(words):
        shutil.rmtree(work / "out", ignore_errors=True)
        answered(fptplus, [word.replace("OUT", "out") for word in words])
        assert rest(contents(work)) == before, words

    each()


JSON_VALUES = st.sampled_from(
    [None, True, 0, -1, 1.5, 2**70, "", "x" * 3000, "../../x", "/etc/passwd", [], {}, [[]], float("nan"), "\0", 10**400]
)


def places(content, path=()):
    """Every place in what JSON has given."""
    yield path
    if isinstance(content, (dict, list)):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content[:4]):
            yield from places(value, (*path, key))


def put(content, path, value, drop):
    """The same with another value at a place, or without it."""
    if not path:
        return value
    content = json.loads(json.dumps(content))
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    if drop:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return content


@st.composite
def damages(draw):
    """How a file's bytes are damaged: cut, overwritten, doubled."""
    return (
        draw(st.sampled_from(["cut", "flip", "double", "fill", "empty"])),
        draw(st.floats(0, 1)),
        draw(st.binary(max_size=9)),
    )


def damaged(content, damage):
    how, share, extra = damage
    at = int(share * len(content))
    return {
        "cut": content[:at],
        "flip": content[:at] + extra + content[at + len(extra) :],
        "double": content + content[at:],
        "fill": content[:at] + extra + content[at:],
        "empty": b"",
    }[how]


CELLS = st.sampled_from(
    ["", "nan", "-1", "\0", "../../x.png", "/etc/passwd", "a" * 5000, '"', "test", "\n", "1e400", "ä", "$x"]
)
DICOM_VALUES = st.sampled_from(
    ["0", "-1", "65535", "nan", "1e400", "", "1\\2", "x", "MONOCHROME1", "PALETTE COLOR", "RGB"]
)
DICOM_NAMES = st.sampled_from(
    [
        *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit"),
        *("PixelRepresentation", "WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "NumberOfFrames"),
    ]
)
KINDS = {
    "manifest": (["verify", "--store", "store"], "store/manifest.json"),
    "checkpoint": (["evaluate", "--checkpoint", CHECKPOINT, "--store", "store", "--resamples", "0"], CHECKPOINT),
    "record": (["compare", "results", "results"], None),
    "csv": (["preload", "--data", "table.csv", "--out", "out", "--method", "lora", "--res", "64"], "table.csv"),
    "npz": (["preload", "--data", "archive.npz", "--out", "out", "--method", "lora", "--res", "64"], "archive.npz"),
    "dicom": (["preload", "--data", "dicom.csv", "--out", "out", "--method", "lora", "--res", "64"], "image.dcm"),
}


def mutate(draw, kind, path, original):
    """Write another content into a file of one kind."""
    whole = draw(st.integers(0, 2))
    if kind in ("manifest", "record") and whole:
        content = json.loads(original)
        body = content["store"] if kind == "manifest" else content
        place = draw(st.sampled_from(list(places(body))))
        body = put(body, place, draw(JSON_VALUES), draw(st.booleans()))
        if kind == "manifest":  # a forger knows how to sum up
            body = {"format": content["format"], "sha256": _body_digest(body), "store": body}
        path.write_text(json.dumps(body))
    elif kind == "checkpoint" and whole:
        with safe_open(path, framework="pt") as file:
            metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        name = draw(st.sampled_from(sorted(metadata)))
        metadata[name] = draw(CELLS | JSON_VALUES.map(lambda value: json.dumps(value)))
        if draw(st.booleans()):
            del metadata[name]
        save_file(tensors, path, metadata=metadata)
    elif kind == "csv" and whole:
        lines = original.decode().splitlines()
        row = draw(st.integers(0, len(lines) - 1))
        cells = lines[row].split(",")
        cells[draw(st.integers(0, len(cells) - 1))] = draw(CELLS)
        lines[row] = ",".join(cells)
        path.write_text("\n".join(lines) + "\n")
    elif kind == "npz" and whole:
        arrays = dict(np.load(io.BytesIO(original)))
        name = draw(st.sampled_from(sorted(arrays)))
        shape = draw(st.sampled_from([(), (0,), (4,), (4, 1), (4, 28, 20), (4, 28, 20, 4), (2, 0, 0, 3), (3, 1)]))
        dtype = draw(st.sampled_from(["uint8", "int64", "float32", "bool", "U3", "O", "complex64", "uint64"]))
        arrays[name] = np.full(shape, draw(st.sampled_from([0, 1, 255])), dtype=dtype)
        np.savez(path, **arrays)
    elif kind == "dicom" and whole:
        import pydicom

        with contextlib.suppress(Exception):  # some values cannot be written at all
            image = pydicom.dcmread(io.BytesIO(original))
            setattr(image, draw(DICOM_NAMES), draw(DICOM_VALUES.map(lambda v: int(v) if v.isdecimal() else v)))
            image.save_as(path)
    else:
        path.write_bytes(damaged(original, draw(damages())))


@pytest.mark.filterwarnings("ignore")
def test_mutated_files_never_give_a_traceback_or_lead_out_of_the_folder(work):
    rows = (work / "table.csv").read_text().splitlines()
    (work / "dicom.csv").write_text("\n".join([rows[0], "image.dcm,no,train", *rows[1:]]) + "\n")
    before = rest(contents(work))
    (record,) = (work / "results" / "records").glob("*.json")

    @SLOW
    @seed(0)
    @given(data=st.data(), kind=st.sampled_from(sorted(KINDS)))
    def each(data, kind):
        words, name = KINDS[kind]
        path = record if name is None else work / name
        original = path.read_bytes()
        shutil.rmtree(work / "out", ignore_errors=True)
        try:
            mutate(data.draw, kind, path, original)
            answered(bench if kind == "record" else fptplus, [*words])
            mutated = path.relative_to(work)
            now = {other: content for other, content in rest(contents(work)).items() if other != mutated}
            assert now == {other: content for other, content in before.items() if other != mutated}
        finally:
            path.write_bytes(original)

    each()
