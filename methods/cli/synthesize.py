"""`python -m fptplus synthesize`: a dataset whose label a small image does not show."""

from dataclasses import dataclass
from pathlib import Path

from fptplus.synthetic.fundus import REFERENCE_RES, generate

from .plain_console import plain_console
from .progress_bar import progress_bar


@dataclass(frozen=True, kw_only=True)
class SynthesizeConfig:
    """Write synthetic fundus images, in train/, val/ and test/, of two classes that differ by lesions of a few pixels.

    Example: --out data/fundus --images-per-class 150
    """

    out: Path
    """New or empty folder for the images."""

    images_per_class: int = 150
    """Images per class: 70 % for training, 10 % for validation, 20 % for testing."""

    res: int = REFERENCE_RES
    """Image height and width in pixels."""

    seed: int = 0
    """Random seed; the same seed gives the same images."""


def main(config: SynthesizeConfig) -> int:
    """Draw and write the images."""
    with progress_bar("synthesize") as on_progress:
        generate(
            config.out,
            images_per_class=config.images_per_class,
            res=config.res,
            seed=config.seed,
            on_progress=on_progress,
        )
    plain_console().print(
        f"{2 * config.images_per_class} images of {config.res} px in {config.out}", highlight=False, soft_wrap=True
    )
    return 0
