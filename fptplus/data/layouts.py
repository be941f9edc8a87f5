"""The layout of the raw downloads of the paper's eight datasets, and the class of each image in them.

Each function takes the folder that a download was unpacked into, and lists its labelled images. The layouts are those
of the publishers' archives, as described by several public projects that read them; where that left a question open,
the docstring says what is assumed. Images without a label (ungradable, or of a breast that the table does not list) are
left out. `group` names the patient if a patient's images must not fall into different splits.
"""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fptplus.errors import InvalidInput

from .dataset import Split
from .dicom import read_dicom_header
from .images import is_image_file
from .walk import PassedOver, images_below, is_hidden


@dataclass(frozen=True, kw_only=True)
class RawImage:
    """One labelled image of a raw download."""

    path: Path
    class_name: str
    name: str
    """File name to give the image: its own, made unique."""

    split: Split | None = None
    """The publisher's split; None if there is none."""

    group: str | None = None
    """Patient, if several images may show the same one."""


Layout = Callable[[Path], Iterator[RawImage]]

UNGRADABLE = "5"
"""Grade of images in DDR that cannot be graded."""

DR_GRADES = ("0_no_dr", "1_mild", "2_moderate", "3_severe", "4_proliferative")
ISIC2018_CLASSES = ("AKIEC", "BCC", "BKL", "DF", "MEL", "NV", "VASC")


def ddr(raw: Path) -> Iterator[RawImage]:
    """List DDR: `DR_grading/{train,valid,test}.txt` with lines `name grade`, images in the folders of the same names.

    Grade 5 is ungradable. The splits are official.
    """
    root = find(raw, "DR_grading/train.txt").parent
    for stem, split in (("train", "train"), ("valid", "val"), ("test", "test")):
        listing = find(root, f"{stem}.txt")
        for line in lines(listing):
            name, _, grade = line.strip().rpartition(" ")
            if name and grade != UNGRADABLE:
                yield RawImage(path=root / stem / name, class_name=dr_grade(grade, listing), name=name, split=split)


def messidor2(raw: Path) -> Iterator[RawImage]:
    """List Messidor-2: `messidor_data.csv` (the adjudicated grades) and, anywhere below, the consortium's images.

    The columns are `image_id`, `adjudicated_dr_grade` and `adjudicated_gradable`; a later edition calls the first two
    `id_code` and `diagnosis`. Names in the table and of the files differ in their endings, and are matched without
    them. The four ungradable images have no grade.
    """
    files = {path.stem.lower(): path for path in images_below(raw, PassedOver())}
    listing = find(raw, "messidor_data.csv")
    for row in table(listing):
        name = row.get("image_id") or cell(row, "id_code", listing)
        grade = row.get("adjudicated_dr_grade", row.get("diagnosis"))
        if row.get("adjudicated_gradable") != "0" and grade:
            path = files.get(Path(name).stem.lower(), raw / name)
            yield RawImage(path=path, class_name=dr_grade(grade, listing), name=path.name)


def isic2018(raw: Path) -> Iterator[RawImage]:
    """List ISIC 2018, task 3: `ISIC2018_Task3_{Training,Validation,Test}_GroundTruth.csv` and `…_Input` folders.

    The tables have one column per class. The splits are official.
    """
    for part, split in (("Training", "train"), ("Validation", "val"), ("Test", "test")):
        folder = find(raw, f"ISIC2018_Task3_{part}_Input")
        listing = find(raw, f"ISIC2018_Task3_{part}_GroundTruth.csv")
        for row in table(listing):
            name = f"{cell(row, 'image', listing)}.jpg"
            marked = [column for column in ISIC2018_CLASSES if cell(row, column, listing) in ("1", "1.0")]
            if len(marked) != 1:
                raise InvalidInput(f"every image in {listing} must have one class, {name} has {len(marked)}.")
            yield RawImage(path=folder / name, class_name=marked[0], name=name, split=split)


def isic2016(raw: Path) -> Iterator[RawImage]:
    """List ISIC 2016, part 3: `ISBI2016_ISIC_Part3_{Training,Test}_GroundTruth.csv`, no header, and `…_Data` folders.

    Training labels read `benign` and `malignant`, test labels 0.0 and 1.0. The test split is official; no validation
    split is published, so it is drawn from the training images.
    """
    names = {"benign": "benign", "0.0": "benign", "malignant": "malignant", "1.0": "malignant"}
    for part, split in (("Training", "train"), ("Test", "test")):
        folder = find(raw, f"ISBI2016_ISIC_Part3_{part}_Data")
        for line in lines(find(raw, f"ISBI2016_ISIC_Part3_{part}_GroundTruth.csv")):
            image, _, label = line.strip().partition(",")
            if image:
                name = f"{image}.jpg"
                yield RawImage(path=folder / name, class_name=names.get(label, label), name=name, split=split)


def ddsm(raw: Path) -> Iterator[RawImage]:
    """List Mini-DDSM, `MINI-DDSM-Complete-JPEG-8` or `…-PNG-16`: `{Benign,Cancer,Normal}/<case>/<image>`.

    Files with `mask` in their name are contours, not mammograms. A case is a patient. We assume that the
    paper took every view of every case.
    """
    root = find(raw, "Cancer").parent
    for class_name in ("Benign", "Cancer", "Normal"):
        for path in sorted(find(root, class_name).glob("*/*")):
            case = path.parent.name
            if is_image_file(path) and "mask" not in path.name.lower() and not is_hidden(case):
                yield RawImage(path=path, class_name=class_name, name=f"{case}_{path.name}", group=case)


def cmmd(raw: Path) -> Iterator[RawImage]:
    """List CMMD: `CMMD/<patient>/<study>/<series>/*.dcm` and `CMMD_clinicaldata_revision.xlsx` (or saved as .csv).

    The table has a row per breast: `ID1`, `LeftRight`, `classification`. A breast's images are those of the patient
    whose DICOM header names that side; breasts without a row are left out. We assume that the paper did so too.
    """
    listing = _clinical_data(raw)
    columns = ("ID1", "LeftRight", "classification")
    rows = [[cell(row, column, listing) for column in columns] for row in table(listing)]
    classes = {(patient, side): class_name for patient, side, class_name in rows}
    root = find(raw, "CMMD")
    for path in (path for path in images_below(root, PassedOver()) if path.suffix.lower() == ".dcm"):
        patient = path.relative_to(root).parts[0]
        side = read_dicom_header(path).get("ImageLaterality")
        if (class_name := classes.get((patient, side))) is not None:
            name = "_".join((patient, side, path.parent.name[-8:], path.name))
            yield RawImage(path=path, class_name=class_name, name=name, group=patient)


def _clinical_data(raw: Path) -> Path:
    try:
        return find(raw, "CMMD_clinicaldata_revision.csv")
    except InvalidInput:
        return find(raw, "CMMD_clinicaldata_revision.xlsx")


def covid(raw: Path) -> Iterator[RawImage]:
    """List the COVID dataset: `COVID_IEEE/{covid,normal,virus}/<image>`."""
    root = find(raw, "covid").parent
    for class_name in ("covid", "normal", "virus"):
        for path in sorted(find(root, class_name).iterdir()):
            if is_image_file(path):
                yield RawImage(path=path, class_name=class_name, name=path.name)


def chncxr(raw: Path) -> Iterator[RawImage]:
    """List CHNCXR: `CXR_png/CHNCXR_<number>_<0 or 1>.png`; 1 is tuberculosis."""
    for path in sorted(find(raw, "CXR_png").glob("CHNCXR_*_[01].png")):
        class_name = "tuberculosis" if path.stem.endswith("_1") else "normal"
        yield RawImage(path=path, class_name=class_name, name=path.name)


def find(raw: Path, name: str) -> Path:
    """Return the file or folder of this name below `raw` that is nearest to the top.

    Raises:
        InvalidInput: if there is none.
    """
    candidates = [raw / name, *sorted(raw.rglob(name), key=lambda path: len(path.parts))]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise InvalidInput(f"raw must be the folder that the download was unpacked into, {raw} holds no {name}.")


def dr_grade(text: str, listing: Path) -> str:
    """Class of a grade of diabetic retinopathy, `3` or `3.0`.

    Raises:
        InvalidInput: if it is none.
    """
    number = text.strip().removesuffix(".0")
    if number not in map(str, range(len(DR_GRADES))):
        raise InvalidInput(f"grades in {listing} must lie in 0 to {len(DR_GRADES) - 1}, it has {text!r}.")
    return DR_GRADES[int(number)]


def cell(row: dict[str, str], column: str, listing: Path) -> str:
    """Text of a cell.

    Raises:
        InvalidInput: if the table has no such column, or the row ends before it.
    """
    if not isinstance(text := row.get(column), str):
        raise InvalidInput(f"every row of {listing} must have a cell {column}, one has none.")
    return text.strip()


def lines(path: Path) -> list[str]:
    """Lines of a text.

    Raises:
        InvalidInput: if it is not in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} must be a text in UTF-8, it is not ({error.reason}); unpack it again.") from error


def table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a .csv, or of the first sheet of an .xlsx, as text.

    Raises:
        InvalidInput: if it cannot be read, or is an .xlsx and openpyxl is not installed.
    """
    if path.suffix == ".csv":
        try:
            return list(csv.DictReader(lines(path)))
        except csv.Error as error:
            raise InvalidInput(f"{path} must be a CSV, it cannot be read as one ({error}).") from error
    import pandas as pd  # only one of the eight datasets comes with a spreadsheet

    try:
        return pd.read_excel(path, dtype=str, engine="openpyxl").to_dict("records")
    except ImportError as error:
        raise InvalidInput(
            f"reading {path.name} needs openpyxl; install it, or save the sheet next to it as {path.stem}.csv."
        ) from error
