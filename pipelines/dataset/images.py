"""Decode image files to upright RGB and resize them; without torch, because decoding processes import it."""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from pipelines.system.errors import UserError

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]

# By the value of the EXIF tag Orientation, from 2; 1 is upright.
_TURNS = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_270 TRANSVERSE ROTATE_90".split()
TURNS = {value: Image.Transpose[turn] for value, turn in enumerate(_TURNS, start=2)}
# Pillow reads more formats, but would start Ghostscript for a PostScript file named .jpg.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "PPM")
MAX_PIXELS = 89_478_485  # Pillow's own limit; decoding so many takes about a gigabyte (1.4 for WebP)
MAX_BYTES = 8 * MAX_PIXELS  # of a file: four uncompressed channels of 16 bits
STRIP_PIXELS = 1 << 20  # converted at once where a conversion makes several copies


@contextmanager
def settled_warnings() -> Iterator[None]:
    """Silence Pillow's warnings about damaged tags, and make it refuse images of more than MAX_PIXELS.

    Enter it once for many small images: it takes a tenth of the time of decoding one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def open_image(path: Path, place: str) -> Image.Image:
    """Return the image in `path`, upright, RGB, 8 bits. Raises `UserError` with `place`, the row that names it."""
    with settled_warnings():
        return decode(path, place)


def decode(path: Path, place: str) -> Image.Image:
    """Return what `open_image` returns; for use inside `settled_warnings`."""
    try:
        with open(path, "rb", buffering=0) as file:  # one read: Pillow's small reads take a tenth of the time
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise ValueError(f"the file is larger than {MAX_BYTES:,} bytes, the limit")
            content = io.BytesIO(file.read())
        with Image.open(content, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            _check_depth(image)
            image.load()
            return _to_rgb(_upright(image))
    except FileNotFoundError:
        problem = "the file is missing"
    except UnidentifiedImageError:
        problem = f"it is none of {', '.join(FORMATS)}"
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        problem = f"it is larger than {MAX_PIXELS:,} pixels, the limit; scale it down"
    except Exception as error:  # for damage Pillow raises a dozen types, from SyntaxError to struct.error
        problem = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    raise UserError(
        f"{path} ({place}) cannot be read as an image: {problem}. Replace the file; or, if the image is labelled, "
        "remove its row from the labels CSV and split again."
    )


def shorter_side(path: Path) -> int:
    """Return the shorter side, in pixels, of an image that was decoded before; only its header is read."""
    with settled_warnings(), Image.open(path, formats=FORMATS) as image:
        return min(image.size)


def _check_depth(image: Image.Image) -> None:
    """Raise `ValueError` for greys whose white value Pillow does not tell: all but 8 and plain 16 bits."""
    if image.mode == "F":
        raise ValueError("its greys are floating-point numbers; save it with 8 or 16 bits a channel")
    if image.format == "TIFF" and image.mode.startswith("I"):
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits, white, signed = tags.get(258), tags.get(262) == 0, tags.get(339, (1,)) != (1,)
        if bits != (16,) or white or signed:
            raise ValueError("its greys are not plain 16-bit ones; save it with 8 or 16 bits a channel")


def _upright(image: Image.Image) -> Image.Image:
    """Return `image` turned as its EXIF says. Pillow's exif_transpose fails if another tag is damaged."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except ValueError:  # Pillow 11 and older, for a truncated EXIF
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits: convert() would clip at 255 instead of scaling
        values = np.asarray(image)
        pixels = np.empty(values.shape, np.uint8)
        for top, bottom in _strips(image):
            greys = values[top:bottom].astype(np.float64)
            pixels[top:bottom] = (greys / 257).clip(0, 255).round()
            pixels[top:bottom][greys == image.info.get("transparency", -1)] = 255
        image = Image.fromarray(pixels)
    if "transparency" in image.info and image.mode in ("1", "L", "RGB", "P"):
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA", "PA"):  # transparent pixels have arbitrary colours: show them as white
        shown = Image.new("RGB", image.size)
        for top, bottom in _strips(image):
            strip = image.crop((0, top, image.width, bottom)).convert("RGBA")
            shown.paste(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB"), (0, top))
        return shown
    return image if image.mode == "RGB" else image.convert("RGB")


def _strips(image: Image.Image) -> Iterator[tuple[int, int]]:
    """Yield the first row and the end of each strip of `image` of about STRIP_PIXELS."""
    rows = max(STRIP_PIXELS // image.width, 1)
    for top in range(0, image.height, rows):
        yield top, min(top + rows, image.height)


def fit(image: Image.Image, size: int, resize: int) -> Pixels:
    """Return the centre `size` x `size` of `image` after its shorter side was resized to `resize`; uint8 (H, W, 3)."""
    if image.size != (size, size) or resize != size:
        width, height = image.size
        side = min(width, height) * size / resize  # of the square in `image` that becomes size x size
        left, top = (width - side) / 2, (height - side) / 2
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return np.frombuffer(image.tobytes(), np.uint8).reshape(size, size, 3)  # one copy less than np.array makes


def random_crop_box(
    width: int, height: int, scale: tuple[float, ...], ratio: tuple[float, ...], random: np.random.Generator
) -> Box:
    """Return a random box (left, top, right, bottom) like torchvision's RandomResizedCrop.

    scale: smallest and largest share of the area; ratio: smallest and largest width / height. After ten boxes that do
    not fit, the largest centred box of an allowed ratio is returned.
    """
    for _ in range(10):
        area = width * height * random.uniform(scale[0], scale[1])
        aspect = np.exp(random.uniform(np.log(ratio[0]), np.log(ratio[1])))
        wide, high = round(float(np.sqrt(area * aspect))), round(float(np.sqrt(area / aspect)))
        if 0 < wide <= width and 0 < high <= height:
            left, top = random.integers(0, width - wide + 1), random.integers(0, height - high + 1)
            return float(left), float(top), float(left + wide), float(top + high)
    aspect = min(max(width / height, ratio[0]), ratio[1])
    wide, high = max(1, min(width, round(height * aspect))), max(1, min(height, round(width / aspect)))
    return (width - wide) / 2, (height - high) / 2, (width + wide) / 2, (height + high) / 2


def crop(image: Image.Image, box: Box, size: int) -> Pixels:
    """Return `box` of `image` resized to `size` x `size`; uint8 (H, W, 3)."""
    return np.array(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


def place_of(row: Any) -> str:
    """Return where an image is named, for errors; `row` is a named tuple of the split table."""
    return f"id {row.id!r}, line {row.Index + 2} of split.csv"
