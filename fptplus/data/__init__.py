"""Labelled images from class folders, a CSV, MedMNIST+ files or the paper's datasets."""

from .dataset import Example as Example
from .dataset import ImageDataset as ImageDataset
from .dataset import Split as Split
from .sources import open_dataset as open_dataset
