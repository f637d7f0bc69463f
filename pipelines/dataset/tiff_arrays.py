"""Read TIFFs of two, four and more channels: Pillow leaves some out. Without torch, as `images`."""

import io
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL.TiffImagePlugin import ImageFileDirectory_v2

STARTS = (b"II*\0", b"MM\0*")
NONE, DEFLATE = 1, (8, 32946)  # compressions
KINDS = {1: "u", 2: "i", 3: "f"}  # of the tag SampleFormat
VALUES = ("u1", "u2", "u4", "i1", "i2", "i4", "f4", "f8")
WIDTH, HEIGHT, BITS, COMPRESSION, OFFSETS, SAMPLES, ROWS, SIZES = 256, 257, 258, 259, 273, 277, 278, 279
PLANAR, PREDICTOR, EXTRA, FORMAT = 284, 317, 338, 339
Tags = dict[int, tuple[Any, ...]]


def tiff_array(content: io.BytesIO) -> npt.NDArray[Any] | None:
    """Return the first page of a TIFF of several channels that are no colours with transparency, (H, W, channels).

    None for other files, and for what only Pillow reads: tiles, other compressions than none and Deflate. `content` is
    then at its start. Raises `ValueError` for a file that is cut short.
    """
    data = content.getvalue()
    tags = _tags(data) if data.startswith(STARTS) else {}
    samples, dtype = tags.get(SAMPLES, (1,))[0], _type_of(tags)
    transparent = samples in (2, 4) and tags.get(EXTRA, (2,))[0] != 0
    if samples in (1, 3) or transparent or not dtype or OFFSETS not in tags or SIZES not in tags:
        return None
    compression, predictor = tags.get(COMPRESSION, (NONE,))[0], tags.get(PREDICTOR, (1,))[0]
    if compression not in (NONE, *DEFLATE) or predictor not in (1, 2):
        return None
    width, height, apart = tags[WIDTH][0], tags[HEIGHT][0], tags.get(PLANAR, (1,))[0] == 2
    planes, inner = (samples, 1) if apart else (1, samples)
    image = np.empty((planes, height, width, inner), ("<" if data.startswith(b"II") else ">") + dtype)
    rows = min(tags.get(ROWS, (height,))[0], height)
    places = [(plane, top) for plane in range(planes) for top in range(0, height, rows)]
    strips = [data[offset : offset + size] for offset, size in zip(tags[OFFSETS], tags[SIZES], strict=False)]
    for (plane, top), strip in zip(places, strips, strict=True):
        part = image[plane, top : top + rows]
        values = strip if compression == NONE else zlib.decompress(strip)
        part[...] = np.frombuffer(values, image.dtype, part.size).reshape(part.shape)
    if predictor == 2:  # each value is the difference from the one before
        image = np.cumsum(image, axis=2, dtype=image.dtype)
    return np.moveaxis(image[..., 0], 0, 2) if apart else image[0]


def _type_of(tags: Tags) -> str:
    """Return the type of all values, as NumPy names it; empty if they have several or an odd one."""
    bits, kinds = set(tags.get(BITS, ())), set(tags.get(FORMAT, (1,)))
    found = f"{KINDS.get(min(kinds), '')}{min(bits, default=0) // 8}"
    return found if len(bits) == len(kinds) == 1 and found in VALUES else ""


def _tags(data: bytes) -> Tags:
    """Return the tags of the first page of a TIFF; none if they are damaged."""
    directory, content = ImageFileDirectory_v2(data[:8]), io.BytesIO(data)
    try:
        content.seek(directory.next)
        directory.load(content)
        found = {tag: directory[tag] for tag in directory}
    except Exception:  # Pillow raises many types, and says what is wrong when it opens the file
        return {}
    return {tag: value if isinstance(value, tuple) else (value,) for tag, value in found.items()}
