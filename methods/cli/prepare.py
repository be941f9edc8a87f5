"""`python -m fptplus prepare`: a raw download of one of the paper's datasets becomes class folders."""

from dataclasses import dataclass
from pathlib import Path

from fptplus.data.presets import find_preset

from .plain_console import plain_console


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Sort a raw download into train/, val/ and test/ with one folder per class.

    Files are linked or copied, never altered.

    Example: --preset messidor2 --raw downloads/messidor2 --out data/messidor2
    """

    preset: str
    """Dataset: ddr, messidor2, isic2018, isic2016, ddsm (Mini-DDSM), cmmd, covid or chncxr."""

    raw: Path
    """Folder that the download was unpacked into."""

    out: Path
    """New or empty folder for the images."""


def main(config: PrepareConfig) -> int:
    """Prepare, and say what is there and what is not as expected."""
    preset, console = find_preset(config.preset), plain_console()
    for sentence in preset.prepare(config.raw, config.out):
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print(f"source: {preset.source_url}\nlicence: {preset.licence}", highlight=False, soft_wrap=True)
    return 0
