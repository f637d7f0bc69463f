"""Look at image files: what each one is, how bright it is, and a small copy. Decoding processes import this module."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.dataset.channels import Pixels, as_colours
from pipelines.dataset.image_paths import files_at
from pipelines.dataset.image_reader import Reader
from pipelines.dataset.images import UnreadableImage, read_header, settled_warnings

SIDE = 132  # height and width in pixels of a tile
MOST_SIDE = 1024  # of images with twice as many pixels a side, every second one in both directions is looked at, …
GREY = 160  # of the tile of an image that cannot be read
Item = tuple[int, str, int]  # the index of a row, its path, and the side of the small copy that is wanted, or 0


@dataclass(frozen=True)
class Glance:
    """What was seen of the image of a row.

    problem: why it cannot be read; the other facts then mean nothing. format, mode, bits: as stored, of the first of
    several files. width, height: upright. brightness: the mean of the values, 0 to 255. small: see `tile`.
    """

    row: int
    problem: str = ""
    format: str = ""
    mode: str = ""
    bits: int = 0
    width: int = 0
    height: int = 0
    brightness: float = 0.0
    small: Pixels | None = None


def glance_at(reader: Reader, items: Sequence[Item]) -> list[Glance]:
    """Return what is seen of each image."""
    return [_glance(reader, *item) for item in items]


def _glance(reader: Reader, row: int, path: str, side: int) -> Glance:
    try:
        picture = reader.open(path, path)
    except UnreadableImage as error:
        return Glance(row, error.problem, small=np.full((side, side, 3), GREY, np.uint8) if side else None)
    width, height = picture.size
    step = max(1, max(width, height) // MOST_SIDE)
    pixels = np.asarray(picture).reshape(height, width, -1)[::step, ::step]
    with settled_warnings():
        header = read_header(Path(files_at(reader.raw, path)[0]))
    brightness = int(pixels.sum(dtype=np.uint64)) / pixels.size  # whole numbers: the same on every machine
    small = tile(pixels, side) if side else None
    return Glance(row, "", header.format, header.mode, header.bits, width, height, brightness, small)


def tile(pixels: Pixels, side: int = SIDE) -> Pixels:
    """Return a whole image (H, W, channels) as colours of at most `side` pixels; a small one enlarged by a factor."""
    factor = max(1, side // max(pixels.shape[:2]))
    image = Image.fromarray(as_colours(pixels).repeat(factor, axis=0).repeat(factor, axis=1))
    image.thumbnail((side, side))
    return np.asarray(image)
