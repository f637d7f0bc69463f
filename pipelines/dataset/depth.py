"""Scale images of more than 8 bits a value to 8 bits, by a stated rule for the value that becomes white.

By each image itself, white is the smallest of `WHITES` that is not below the image's largest value: a picture of 12
bits in a 16-bit file has the white 4095. What the file itself says comes first. `data.white` fixes one value for all.

Floating-point numbers from 0 to 1 have the white 1, and whole ones are as integers. Of all other numbers, negative
ones among them, the image's lowest is black and its highest is white.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

WHITES = (255, 1023, 4095, 16383, 65535)  # 8, 10, 12, 14 and 16 bits
FULL = 65535
# Pillow reads the upper 8 bits of a 16-bit colour image. If all values are below this, the upper bits are unused.
LEAST_UPPER = 64
SLACK = 1e-3  # by which numbers from 0 to 1 may leave that range, as resampling does
STRIP_PIXELS = 1 << 20  # converted at once where a conversion makes several copies
SAVE_AS = "save it with 8 or 16 bits a channel"


@dataclass(frozen=True)
class Depth:
    """How an image stores its values.

    white: of a grey image of more than 8 bits, the white that its file states; 0: none. maxval: of a PGM, the value
    that Pillow has scaled to 65535. colours: several channels of more than 8 bits; Pillow reads the upper 8 bits.
    samples: the channels of a TIFF; Pillow may leave some out. 0: as Pillow has them.
    """

    bits: int = 8
    white: int = 0
    maxval: int = FULL
    colours: bool = False
    samples: int = 0

    @property
    def is_deep(self) -> bool:
        return self.bits > 8


PLAIN = Depth()  # one for all: making one takes a microsecond


def depth_of(image: Image.Image, head: bytes) -> Depth:
    """Return the depth of `image`, opened but not loaded, whose file begins with `head`.

    Raises `ValueError` for values that have no defined white, with what to do.
    """
    if image.format == "TIFF":
        return _depth_of_tiff(image)
    if image.format == "PPM":
        return _depth_of_ppm(image)
    if image.mode == "F":
        raise ValueError(f"its greys are floating-point numbers; {SAVE_AS}")
    if image.format == "PNG" and head[24:25] == b"\x10":
        significant = _significant_bits(head)
        white = (1 << significant) - 1 if significant else 0
        return Depth(16, white, colours=not image.mode.startswith("I"))
    return PLAIN


def _depth_of_tiff(image: Image.Image) -> Depth:
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits, signs = tags.get(258, (1,)), tags.get(339, (1,))
    if image.mode == "F":
        return Depth(32)
    if not image.mode.startswith("I"):
        return Depth(max(bits), colours=max(bits) > 8, samples=tags.get(277, 1))
    if signs != (1,):
        raise ValueError(f"its greys are signed numbers, as in CT pictures; add an offset, and {SAVE_AS}, unsigned")
    if bits not in ((12,), (16,)):
        raise ValueError(f"its greys have {bits[0]} bits; {SAVE_AS}")
    if tags.get(262) == 0:
        raise ValueError(f"its greys are inverted (0 is white); invert them, and {SAVE_AS}")
    most = max(tags.get(281, (0,)))  # MaxSampleValue
    return Depth(bits[0], (1 << bits[0]) - 1 if bits[0] < 16 else _white_above(most) if 0 < most <= FULL else 0)


def _depth_of_ppm(image: Image.Image) -> Depth:
    if image.mode == "F":
        raise ValueError(f"its greys are floating-point numbers; {SAVE_AS}")
    arguments = image.tile[0].args  # type: ignore[attr-defined]
    maxval = arguments[1] if isinstance(arguments, tuple) else FULL if arguments == "I;16B" else 255
    if not isinstance(maxval, int) or maxval <= 255:
        return PLAIN
    return Depth(maxval.bit_length(), maxval, maxval, colours=image.mode != "I")


def _significant_bits(head: bytes) -> int:
    """Return what the chunk sBIT of a PNG says, the largest of its channels; 0 without the chunk."""
    at = 8
    while at + 8 < len(head):
        length, kind = int.from_bytes(head[at : at + 4], "big"), head[at + 4 : at + 8]
        if kind == b"sBIT":
            return min(max(head[at + 8 : at + 8 + length], default=0), 16)
        if kind in (b"IDAT", b"PLTE"):
            break
        at += 12 + length
    return 0


def _white_above(value: int) -> int:
    return next(white for white in WHITES if white >= value)


def to_8_bits(image: Image.Image, depth: Depth, fixed: int) -> Image.Image:
    """Return the loaded `image` with 8 bits a value; one of 8 bits is returned as it is.

    fixed: `data.white`; 0: by the image's own rule. Raises `ValueError` for a value above `fixed`, and for colours
    whose upper bits are unused.
    """
    if not depth.is_deep:
        return image
    if depth.colours:
        _check_colours(image, depth, fixed)
        return image
    if image.mode == "F":
        return Image.fromarray(to_bytes(np.asarray(image), fixed))
    white, transparent = white_of(image, depth, fixed), image.info.get("transparency", -1)
    values = np.asarray(image)
    pixels = np.empty(values.shape, np.uint8)
    for top, bottom in strips(image):
        greys = values[top:bottom].astype(np.float64)
        own = greys if depth.maxval == FULL else (greys * (depth.maxval / FULL)).round()
        pixels[top:bottom] = (own / (white / 255)).clip(0, 255).round()
        pixels[top:bottom][greys == transparent] = 255
    return Image.fromarray(pixels)


def to_bytes(values: npt.NDArray[Any], fixed: int) -> npt.NDArray[np.uint8]:
    """Return an array of numbers as uint8, by the rule above; one of uint8 is returned as it is."""
    if values.dtype == np.uint8:
        return values
    return scaled(values, *range_of(values, fixed))


def scaled(values: npt.NDArray[Any], black: float, white: float) -> npt.NDArray[np.uint8]:
    """Return values as uint8: 0 for `black` and below, 255 for `white` and above."""
    pixels = (values.astype(np.float64) - black) * (255 / ((white - black) or 1))
    return pixels.clip(0, 255).round().astype(np.uint8)


def range_of(values: npt.NDArray[Any], fixed: int) -> tuple[float, float]:
    """Return the values of an array that become black and white.

    fixed: `data.white`; 0: by the rule above. Raises `ValueError` for values that are not finite, and with `fixed` for
    values below 0 or above it.
    """
    lowest, highest = values.min().item(), values.max().item()
    if not np.isfinite([lowest, highest]).all():  # the least and the largest of several are NaN if one is
        raise ValueError("it holds values that are not finite numbers (NaN or infinite); replace them")
    whole = values.dtype.kind in "ui" or bool((highest > 1 + SLACK) and (values == np.rint(values)).all())
    return span(lowest, highest, whole, fixed)


def span(lowest: float, highest: float, whole: bool, fixed: int) -> tuple[float, float]:
    """Return what becomes black and white of values from `lowest` to `highest`; whole: all are whole numbers."""
    if fixed and (lowest < -SLACK or highest > fixed * (1 + SLACK * (not whole))):
        raise ValueError(f"its values are {lowest:,g} to {highest:,g}, outside of 0 to data.white, {fixed:,}")
    if fixed:
        return 0, fixed
    if whole and lowest >= 0 and highest <= FULL:
        return 0, _white_above(int(highest))
    if not whole and lowest >= -SLACK and highest <= 1 + SLACK:
        return 0, 1
    return lowest, highest


def white_of(image: Image.Image, depth: Depth, fixed: int) -> int:
    """Return the value of a loaded grey `image` that becomes white, by the rule above.

    A PNG whose sBIT says 12 holds values up to 4095, or, as the standard has it, values scaled to 16 bits.
    """
    largest = highest(image, depth)
    if fixed and largest > fixed:
        raise ValueError(f"its largest value is {largest:,}, above data.white, {fixed:,}")
    if fixed:
        return fixed
    if depth.white:
        return depth.white if largest <= depth.white else FULL
    return _white_above(largest)


def highest(image: Image.Image, depth: Depth) -> int:
    """Return the largest value of a loaded grey `image`, as its file has it."""
    return round(int(np.asarray(image).max()) * depth.maxval / FULL)


def _check_colours(image: Image.Image, depth: Depth, fixed: int) -> None:
    if fixed not in (0, FULL):
        raise ValueError("it has colours of 16 bits, and data.white is for greys; save it with 8 bits a channel")
    extrema = image.getextrema()[: 1 if image.mode == "LA" else 3]
    upper = max(int(high) for _, high in extrema)  # type: ignore[misc]
    if fixed != FULL and depth.white != FULL and upper < LEAST_UPPER:
        raise ValueError(
            f"its largest value is below {(upper + 1) * 256:,} of 65,535, so it would be nearly black; save it with 8 "
            "bits a channel; or, if it is so dark, set data.white = 65535"
        )


def strips(image: Image.Image) -> Iterator[tuple[int, int]]:
    """Yield the first row and the end of each strip of `image` of about STRIP_PIXELS."""
    rows = max(STRIP_PIXELS // image.width, 1)
    for top in range(0, image.height, rows):
        yield top, min(top + rows, image.height)
