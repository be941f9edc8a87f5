"""Each preset prepares a miniature of its raw download; the layouts are written out here, not taken from the code."""

import importlib.util
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fptplus import InvalidInput
from fptplus.data import open_dataset
from fptplus.data.presets import PRESETS, find_preset, preset_of_normalization

ISIC2018_HEADER = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC"


def draw(path, value):
    """A grey image whose brightness says which it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (3, 3), value).save(path)


def ddr(raw):
    grading = raw / "DDR-dataset" / "DR_grading"
    for part in ("train", "valid", "test"):
        lines = []
        for grade in range(6):
            draw(grading / part / f"007-{part}-{grade}.jpg", 10 * grade)
            lines.append(f"007-{part}-{grade}.jpg {grade}")
        (grading / f"{part}.txt").write_text("\n".join(lines) + "\n")
    return {"0_no_dr": 3, "1_mild": 3, "2_moderate": 3, "3_severe": 3, "4_proliferative": 3}


def messidor2(raw):
    lines = ["image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable"]
    for index in range(50):
        draw(raw / "IMAGES" / f"2005_{index}_PP.png", index)
        lines.append(f"2005_{index}_PP.{'png' if index % 2 else 'JPG'},{index % 5},0,1")
    draw(raw / "IMAGES" / "IM000001.jpg", 99)
    lines.append("IM000001.jpg,,,0")
    (raw / "messidor_data.csv").write_text("\n".join(lines))
    return {"0_no_dr": 10, "1_mild": 10, "2_moderate": 10, "3_severe": 10, "4_proliferative": 10}


def isic2018(raw):
    for part in ("Training", "Validation", "Test"):
        lines = [ISIC2018_HEADER]
        for column in range(7):
            name = f"ISIC_{part}{column}"
            draw(raw / f"ISIC2018_Task3_{part}_Input" / f"{name}.jpg", column)
            lines.append(",".join([name] + [str(float(c == column)) for c in range(7)]))
        folder = raw / f"ISIC2018_Task3_{part}_GroundTruth"
        folder.mkdir()
        (folder / f"ISIC2018_Task3_{part}_GroundTruth.csv").write_text("\n".join(lines))
    return dict.fromkeys(ISIC2018_HEADER.split(",")[1:], 3)


def isic2016(raw):
    for part, count, labels in (("Training", 16, ("benign", "malignant")), ("Test", 4, ("0.0", "1.0"))):
        lines = []
        for index in range(count):
            draw(raw / f"ISBI2016_ISIC_Part3_{part}_Data" / f"ISIC_{part}{index}.jpg", index)
            lines.append(f"ISIC_{part}{index},{labels[index % 2]}")
        (raw / f"ISBI2016_ISIC_Part3_{part}_GroundTruth.csv").write_text("\n".join(lines))
    return {"benign": 10, "malignant": 10}


def ddsm(raw):
    for status in ("Benign", "Cancer", "Normal"):
        for case in range(10):
            folder = raw / "MINI-DDSM-Complete-JPEG-8" / status / f"0{case}{status}"
            for view in ("LEFT_CC", "LEFT_MLO"):
                draw(folder / f"C_000{case}_1.{view}.jpg", case)
            draw(folder / f"C_000{case}_1.LEFT_CC_Mask.jpg", 255)
            (folder / f"C-000{case}-1.ics").write_text("ics_version 1.0")
    return {"Benign": 20, "Cancer": 20, "Normal": 20}


def cmmd(raw, write_dicom, suffix="csv"):
    rows = []
    for patient in range(1, 21):
        name, side = f"D1-{patient:04d}", "LR"[patient % 2]
        series = raw / "CMMD" / name / "07-18-2010-NA-NA-79377" / "1.000000-NA-70244"
        series.mkdir(parents=True)
        for index, image_side in enumerate((side, side, "R" if side == "L" else "L"), 1):
            write_dicom(series / f"1-{index}.dcm", np.eye(4, dtype=np.uint16), ImageLaterality=image_side)
        rows.append(
            {"ID1": name, "LeftRight": side, "Age": 50, "classification": ("Benign", "Malignant")[patient > 10]}
        )
    table = pd.DataFrame(rows)
    if suffix == "csv":
        table.to_csv(raw / "CMMD_clinicaldata_revision.csv", index=False)
    else:
        table.to_excel(raw / "CMMD_clinicaldata_revision.xlsx", index=False)
    return {"Benign": 20, "Malignant": 20}


def covid(raw):
    for class_name in ("covid", "normal", "virus"):
        for index in range(10):
            draw(raw / "COVID_IEEE" / class_name / f"{class_name}-{index}.png", index)
    return {"covid": 10, "normal": 10, "virus": 10}


def chncxr(raw):
    for index in range(20):
        draw(raw / "ChinaSet_AllFiles" / "CXR_png" / f"CHNCXR_{index + 1:04d}_{index // 10}.png", index)
    (raw / "ChinaSet_AllFiles" / "CXR_png" / "Thumbs.db").write_bytes(b"")
    return {"normal": 10, "tuberculosis": 10}


MINIATURES = {f.__name__: f for f in (ddr, messidor2, isic2018, isic2016, ddsm, covid, chncxr)}


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


@pytest.fixture
def miniatures(write_dicom):
    return {**MINIATURES, "cmmd": lambda raw: cmmd(raw, write_dicom)}


@pytest.mark.parametrize("name", PRESETS)
def test_a_raw_download_becomes_class_folders_that_open(name, raw, tmp_path, miniatures):
    preset, expected = find_preset(name), miniatures[name](raw)
    before = {path: path.read_bytes() for path in raw.rglob("*") if path.is_file()}
    report = preset.prepare(raw, tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.classes == preset.classes and preset.num_classes == len(expected)
    assert Counter(dataset.classes[example.label] for example in dataset.examples) == expected
    assert {path: path.read_bytes() for path in raw.rglob("*") if path.is_file()} == before
    assert f"{preset.expected_images} labelled images, this one {sum(expected.values())}" in report[1]
    assert {dataset.read(example).mode for example in dataset.examples} == {"RGB"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("name", "part", "split", "count"),
    [
        ("ddr", "train", "train", 5),
        ("ddr", "valid", "val", 5),
        ("ddr", "test", "test", 5),
        ("isic2018", "Training", "train", 7),
        ("isic2018", "Validation", "val", 7),
        ("isic2018", "Test", "test", 7),
        ("isic2016", "Test", "test", 4),
    ],
)
def test_official_splits_are_kept(name, part, split, count, raw, tmp_path):
    MINIATURES[name](raw)
    find_preset(name).prepare(raw, tmp_path / "out")
    files = list((tmp_path / "out" / split).rglob("*.jpg"))
    assert len(files) == count and all(part in path.name for path in files)


def test_isic2016_takes_an_eighth_of_its_training_images_for_validation(raw, tmp_path):
    isic2016(raw)
    find_preset("isic2016").prepare(raw, tmp_path / "out")
    assert len(list((tmp_path / "out" / "val").rglob("*.jpg"))) == 2
    assert len(list((tmp_path / "out" / "train").rglob("*.jpg"))) == 14


@pytest.mark.parametrize("name", ["ddsm", "cmmd"])
def test_no_patient_is_in_two_splits(name, raw, tmp_path, miniatures):
    miniatures[name](raw)
    find_preset(name).prepare(raw, tmp_path / "out")
    seen = {}
    for example in open_dataset(tmp_path / "out").examples:
        patient = example.name.rpartition("/")[2].partition("_")[0]
        assert seen.setdefault(patient, example.split) == example.split
    assert Counter(seen.values()).keys() == {"train", "val", "test"}


def test_the_spreadsheet_of_cmmd_is_read_where_openpyxl_is_there_and_asked_for_where_not(raw, tmp_path, write_dicom):
    if importlib.util.find_spec("openpyxl"):
        cmmd(raw, write_dicom, "xlsx")
        assert "40 images" in find_preset("cmmd").prepare(raw, tmp_path / "out")[0]
    else:
        (raw / "CMMD_clinicaldata_revision.xlsx").write_bytes(b"")
        with pytest.raises(
            InvalidInput, match=r"needs openpyxl; install it, or save .* CMMD_clinicaldata_revision.csv"
        ):
            find_preset("cmmd").prepare(raw, tmp_path / "out")


def test_images_that_the_labels_list_and_are_not_there_are_counted(raw, tmp_path):
    ddr(raw)
    (raw / "DDR-dataset" / "DR_grading" / "train" / "007-train-0.jpg").unlink()
    assert "1 images that the labels list are not in the download." in find_preset("ddr").prepare(raw, tmp_path / "out")


def test_a_folder_of_something_else_is_refused_by_what_it_lacks(raw, tmp_path):
    with pytest.raises(InvalidInput, match="holds no DR_grading/train.txt"):
        find_preset("ddr").prepare(raw, tmp_path / "out")
    with pytest.raises(InvalidInput, match="is no folder"):
        find_preset("ddr").prepare(raw / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(raw, tmp_path):
    chncxr(raw)
    draw(tmp_path / "out" / "mine.png", 1)
    with pytest.raises(InvalidInput, match="out must be a new or empty folder"):
        find_preset("chncxr").prepare(raw, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.png"]


@pytest.mark.parametrize("line", ["x.jpg -1", "x.jpg 6", "x.jpg worst", "x.jpg 1.5", "x.jpg 99999999999999999999"])
def test_a_grade_that_is_none_is_refused(raw, tmp_path, line):
    ddr(raw)
    (raw / "DDR-dataset" / "DR_grading" / "train.txt").write_text(line + "\n")
    with pytest.raises(InvalidInput, match="grades in .*train.txt must lie in 0 to 4, it has"):
        find_preset("ddr").prepare(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("grade", ["-1", "5", "nan", "4.9", "inf"])
def test_a_grade_in_messidor2_s_table_that_is_none_is_refused(raw, tmp_path, grade):
    messidor2(raw)
    table = raw / "messidor_data.csv"
    table.write_text(table.read_text() + f"\n2005_1_PP.png,{grade},0,1\n")
    with pytest.raises(InvalidInput, match=f"must lie in 0 to 4, it has '{grade}'"):
        find_preset("messidor2").prepare(raw, tmp_path / "out")


@pytest.mark.parametrize("name", ["../../../../outside.jpg", "/outside.jpg", "..", "sub/../../train/007-train-1.jpg"])
def test_a_name_that_leads_out_of_the_folder_is_refused(raw, tmp_path, name):
    ddr(raw)
    draw(tmp_path / "outside.jpg", 1)
    name = str(tmp_path / name.lstrip("/")) if name.startswith("/") else name
    (raw / "DDR-dataset" / "DR_grading" / "train.txt").write_text(f"{name} 1\n")
    before = set(tmp_path.rglob("*"))
    with pytest.raises(InvalidInput, match="must be a file below"):
        find_preset("ddr").prepare(raw, tmp_path / "out")
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("label", ["../../x", "melanoma", "2.0", ""])
def test_a_class_that_the_dataset_does_not_have_is_refused(raw, tmp_path, label):
    isic2016(raw)
    (listing,) = raw.rglob("ISBI2016_ISIC_Part3_Test_GroundTruth.csv")
    first, *others = listing.read_text().splitlines()
    listing.write_text("\n".join([f"{first.partition(',')[0]},{label}", *others]))
    with pytest.raises(InvalidInput, match="classes of .* must be benign, malignant, .* has"):
        find_preset("isic2016").prepare(raw, tmp_path / "out")


@pytest.mark.parametrize("marks", ["0,0,0,0,0,0,0", "1,1,0,0,0,0,0", "", "x,0,0,0,0,0,0"])
def test_an_image_without_one_class_is_refused(raw, tmp_path, marks):
    isic2018(raw)
    (listing,) = raw.rglob("ISIC2018_Task3_Test_GroundTruth.csv")
    listing.write_text(f"{ISIC2018_HEADER}\nISIC_1,{marks}\n")
    with pytest.raises(InvalidInput, match="must have (one class|a cell)"):
        find_preset("isic2018").prepare(raw, tmp_path / "out")


def test_an_unknown_preset_is_answered_with_the_known_ones():
    with pytest.raises(InvalidInput, match="preset must be one of ddr, messidor2, .*got 'isic'; did you mean isic201"):
        find_preset("isic")


def test_the_paper_s_counts_are_met():
    """Paper, Sec. IV-A: 662 to 12,522 samples, 2 to 7 classes."""
    assert sorted(preset.expected_images for preset in PRESETS.values())[:: len(PRESETS) - 1] == [662, 12_522]
    assert {preset.num_classes for preset in PRESETS.values()} == {2, 3, 5, 7}


def test_a_store_s_normalization_says_with_which_preset_it_was_made():
    for preset in PRESETS.values():
        assert preset_of_normalization(list(preset.mean), list(preset.std)) is preset
    assert preset_of_normalization((0.5,) * 3, (0.5,) * 3) is None
