"""Small pictures of images as JPEG within the page."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.analysis.drawn_boxes import Array, drawn
from pipelines.dataset.channels import as_colours
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.images import UnreadableImage, place_of

SIDE, LEAST = (
    112,
    56,
)  # the longer side in pixels at most; smaller images are enlarged by whole factors to at least this
QUALITY = 80
WIDE = 300  # the longer side of an image with boxes


def thumbnails(images: ImageSet, places: Iterable[int]) -> list[str]:
    """Return the images at these rows of the split table as data URIs; empty for one that cannot be read."""
    return [_thumbnail(images, row) for row in images.table.loc[list(places)].itertuples()]


def _thumbnail(images: ImageSet, row: object) -> str:
    try:
        picture = images.reader.open(str(row.path), place_of(row))  # type: ignore[attr-defined]
    except (UnreadableImage, OSError):  # the data may have been removed since
        return ""
    pixels = np.asarray(picture)
    image = Image.fromarray(as_colours(pixels.reshape(*pixels.shape[:2], -1)))
    image.thumbnail((SIDE, SIDE))
    if (factor := -(-LEAST // max(image.size))) > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return data_uri(image)


def thumbnail_with(boxes: Array, images: ImageSet, place: int) -> str:
    """Return the image at a row of the split table with predicted boxes (P, 6); empty if it cannot be read."""
    try:
        (row,) = images.table.loc[[place]].itertuples()
        return data_uri(Image.fromarray(drawn(images.reader, row, WIDE, boxes)))
    except (UnreadableImage, OSError):
        return ""


def data_uri(image: Image.Image, quality: int = QUALITY) -> str:
    """Return an RGB image as the address that holds its JPEG."""
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(stored.getvalue()).decode()}"


def picture_file(path: Path, width: int) -> str:
    """Return the picture in a file, at most `width` pixels wide; empty if it cannot be read."""
    try:
        with Image.open(path) as image:
            colours = image.convert("RGB")
    except OSError:
        return ""
    colours.thumbnail((width, 100 * width))
    return data_uri(colours, 70)
