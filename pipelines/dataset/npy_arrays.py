"""Read images that are arrays of NumPy, one `.npy` file each; without torch, as `images`."""

import io
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipelines.dataset.channels import PLANE, Picture, Planes, wrong_number
from pipelines.dataset.depth import range_of, to_bytes

MOST_CHANNELS = 64  # a first or last axis that is longer is no axis of channels
SPLIT = "import sys, numpy; [numpy.save(f'{n}.npy', image) for n, image in enumerate(numpy.load(sys.argv[1]))]"
Array = npt.NDArray[Any]


def load_array(content: io.BytesIO, path: Path) -> Array:
    """Return the array in the `.npy` file `path` of two or three axes. Raises `ValueError` for anything else.

    Pickled objects are not read: they could run code.
    """
    if not content.getvalue().startswith(b"\x93NUMPY"):
        raise ValueError("it is not an array of NumPy, in spite of its name")
    try:
        values: Array = np.lib.format.read_array(content, allow_pickle=False)
    except ValueError as error:
        if "Object arrays" in str(error):
            raise ValueError("it holds Python objects, which may run code; save it as an array of numbers") from None
        raise
    if values.dtype.kind not in "buif":
        raise ValueError(f"it holds values of the type {values.dtype}; save it as an array of numbers")
    if values.ndim == 4:
        raise ValueError(f"its shape is {values.shape}, which is an array of {len(values):,} images. {_apart(path)}")
    if values.ndim not in (2, 3) or not values.size:
        raise ValueError(f"its shape is {values.shape}; it must be (height, width), with an axis of channels or not")
    return values


def _apart(path: Path) -> str:
    """Return how to write each image in the array of all images to a file of its own, in the same folder."""
    folder, name = shlex.quote(str(path.parent)), shlex.quote(path.name)
    command = f'cd {folder} && python3 -c "{SPLIT}" {name} && rm {name}'
    return f"Write each to a file of its own, named by its number from 0: {command}"


def as_picture(values: Array, white: int, channels: int) -> Picture:
    """Return the image of an array, scaled to 8 bits by the rule of `depth`, with `channels` channels or `PLANE`.

    Raises `ValueError` for another number of channels; one and three are made from each other, as for other images.
    """
    pixels = to_bytes(laid_out(values, channels), white)
    wanted, own = max(channels, 1), pixels.shape[2]
    if own == wanted != 3 and own > 1:
        return Planes([Image.fromarray(np.ascontiguousarray(pixels[..., channel])) for channel in range(own)])
    if channels == PLANE:
        return Image.fromarray(pixels.max(axis=2))
    image = Image.fromarray(pixels[..., 0] if own == 1 else np.ascontiguousarray(pixels))
    return image if own == wanted else image.convert("RGB" if wanted == 3 else "L")


def laid_out(values: Array, channels: int) -> Array:
    """Return `values` as (height, width, channels).

    Of three axes, the last one is that of the channels if it has as many as wanted, else the first one. Where one or
    three channels are wanted, three or one will do. Raises `ValueError` for other shapes.
    """
    if values.ndim == 2:
        if channels in (PLANE, 1, 3):
            return values[..., None]
        raise ValueError(wrong_number(1, channels))
    wanted = max(channels, 1)
    for count in (wanted, *({1: (3,), 3: (1,)}.get(wanted, ()))):
        if values.shape[2] == count:
            return values
        if values.shape[0] == count:
            return np.moveaxis(values, 0, 2)
    likely = [count for count in (values.shape[2], values.shape[0]) if count <= MOST_CHANNELS]
    problem = f"its shape is {values.shape}, which has no axis of {wanted} channels (input.channels), last or first"
    raise ValueError(f"{problem}; set input.channels = {min(likely)}" if likely else problem)


def array_facts(values: Array, white: int) -> tuple[tuple[int, int], str, int, tuple[float, float, float]]:
    """Return (width, height), a text about the channels, the bits of a value, and its range: lowest, highest, white."""
    axes = values.shape[:2]
    count = 1
    if values.ndim == 3:
        first = values.shape[0] < values.shape[2]
        axes, count = values.shape[first : first + 2], min(values.shape[0], values.shape[2])
    bits = 8 if values.dtype in (np.bool_, np.uint8) else 8 * values.dtype.itemsize
    lowest, highest, top = float(values.min()), float(values.max()), 255.0
    if values.dtype != np.uint8:
        _, top = range_of(values, white)
    return (axes[1], axes[0]), f"array of {count} channel{'s' * (count > 1)}", bits, (lowest, highest, top)


def is_deep(head: bytes) -> bool:
    """Return whether the values of a `.npy` file that begins with `head` are scaled to 8 bits."""
    try:
        content = io.BytesIO(head)
        version = np.lib.format.read_magic(content)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(content)[2] != np.uint8
    except Exception:  # numpy raises many types for a damaged header; decoding reports it
        return False
