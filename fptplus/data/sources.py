"""Open labelled images in any supported form: class folders, a CSV, or a MedMNIST file."""

from pathlib import Path

from fptplus.errors import InvalidInput
from fptplus.seed import check_seed

from .dataset import ImageDataset
from .folders import open_folders
from .medmnist import open_medmnist
from .splits import checked
from .table import open_table


def open_dataset(source: str | Path, *, seed: int = 0, group_level: int | None = None) -> ImageDataset:
    """Open a dataset without decoding any image. Print its `notes`: they say what was passed over, or is doubtful.

    Args:
        source: a folder (`train/ val/ test/` with one folder per class, or class folders alone), a CSV of path, label,
            split and group, or a MedMNIST .npz file.
        seed: random seed of the 70/10/20 split, if the source gives none. It keeps each patient in one split: those
            that a CSV's group, a folder or else DICOM's PatientID names.
        group_level: which folder below a class folder is a patient's, 1 for the first; None if there is no such folder.

    Raises:
        InvalidInput: if the seed is none, the source does not exist or is of no known kind, or its classes or
            splits are not such that a model can be trained, chosen and tested on them.
    """
    check_seed(seed)
    path = Path(source).expanduser()
    if not path.exists():
        raise InvalidInput(f"the dataset must be a folder, a .csv or a .npz file, {path} does not exist.")
    if path.is_dir():
        return checked(open_folders(path.resolve(), seed=seed, group_level=group_level))
    if not path.is_file():
        raise InvalidInput(f"the dataset must be a folder, a .csv or a .npz file, {path} is a device or a pipe.")
    if group_level is not None:
        raise InvalidInput(
            f"group_level must be given with class folders only, {path} is a file; name groups in a CSV."
        )
    match path.suffix.lower():
        case ".csv":
            return checked(open_table(path, seed=seed))
        case ".npz":
            return checked(open_medmnist(path))
    raise InvalidInput(f"the dataset must be a folder, a .csv or a .npz file, got {path}.")
