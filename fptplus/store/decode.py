"""Decode and resize images ahead of time, in order, in several threads."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fptplus.data import Example, ImageDataset
from fptplus.errors import InvalidInput

from .source_files import SourceFile, SourceReader

IMAGES_AHEAD_PER_THREAD = 2


@dataclass(frozen=True)
class Decoded:
    """One image as uint8 squares, or the reason why there is none."""

    name: str
    side_image: Tensor | None = None
    """Side image (3, image_res, image_res)."""

    image: Tensor | None = None
    """Image (3, res, res) for the large pre-trained model (LPM); None if none is wanted."""

    error: str | None = None

    size: tuple[int, int] | None = None
    """Width and height in pixels of the original."""

    source: SourceFile | None = None
    """The file that it was read from; None where it is of none."""


def to_square(image: Image.Image, res: int) -> Tensor:
    """Resize an RGB image to a square (3, res, res) of uint8, bilinear, antialiased, without keeping proportions."""
    pixels = np.array(image.resize((res, res), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def decode_ahead(
    dataset: ImageDataset, examples: Sequence[Example], image_res: int, res: int | None, look_ahead: int
) -> Iterator[Decoded]:
    """Yield the examples' images in order; at most `look_ahead` and a few more are decoded ahead of time."""

    sources = SourceReader(dataset)

    def decode(example: Example) -> Decoded:
        source = sources(example)  # first: a file that changes from here on is noticed later
        try:
            image = dataset.read(example)
        except InvalidInput as error:
            return Decoded(example.name, error=str(error), source=source)
        squares = to_square(image, image_res), to_square(image, res) if res else None
        return Decoded(example.name, *squares, size=image.size, source=source)

    threads = max(1, os.cpu_count() or 1)
    limit = look_ahead + threads * IMAGES_AHEAD_PER_THREAD
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        pending = deque()
        try:
            for example in examples:
                pending.append(pool.submit(decode, example))
                if len(pending) >= limit:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
