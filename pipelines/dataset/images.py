"""Decode image files to upright images of 8 bits, and resize them; without torch: decoding processes import it."""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from pipelines.dataset.channels import PLANE, Picture, Pixels, to_channels, wrong_number
from pipelines.dataset.depth import Depth, depth_of, range_of, to_8_bits, white_of
from pipelines.dataset.image_paths import ARRAY
from pipelines.dataset.npy_arrays import array_facts, as_picture, is_deep, load_array
from pipelines.dataset.tiff_arrays import STARTS, tiff_array
from pipelines.system.errors import UserError

Box = tuple[float, float, float, float]
BICUBIC = "bicubic"  # of `input.interpolation`; anything else is bilinear

# By the value of the EXIF tag Orientation, from 2; 1 is upright.
_TURNS = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_270 TRANSVERSE ROTATE_90".split()
TURNS = {value: Image.Transpose[turn] for value, turn in enumerate(_TURNS, start=2)}
QUARTERS = [TURNS[value] for value in (5, 6, 7, 8)]  # width and height change places
EXIF_MARKS = (b"eXIf", b"profile type", b"Orientation")  # in a PNG that may have an orientation
# Pillow reads more formats, but would start Ghostscript for a PostScript file named .jpg.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "PPM")
AS_COLOURS = (PLANE, 1, 3)  # numbers of channels that are made of each other
MISSING, FOLDER, FORBIDDEN = "the file is missing", "it is a folder", "you may not read it (chmod u+r)"
MAX_PIXELS = 89_478_485  # Pillow's own limit; decoding so many takes about a gigabyte (1.4 for WebP)
MAX_BYTES = 8 * MAX_PIXELS  # of a file: four uncompressed channels of 16 bits
# First bytes, their place and a name, of files that are taken for images.
OTHERS = (
    (b"%PDF", 0, "it is a PDF; convert it to PNG"),
    (b"PK\x03\x04", 0, "it is a zip archive"),
    (b"8BPS", 0, "it is a Photoshop file; convert it to PNG"),
    (b"DICM", 128, "it is a DICOM file; convert it to PNG"),
    (b"ftyphei", 4, "it is a HEIC photo; convert it to JPEG"),
    (b"ftypmif1", 4, "it is a HEIC photo; convert it to JPEG"),
    (b"\x00\x00\x00\x0cjP  ", 0, "it is a JPEG 2000; convert it to PNG"),
    (b"\x93NUMPY", 0, "it is a NumPy array; give its name the extension .npy"),
    (b"version https://git-lfs", 0, "it is only a pointer of Git LFS; get the files with: git lfs pull"),
    (b"%!PS", 0, "it is a PostScript file; convert it to PNG"),
)


@dataclass(frozen=True)
class Header:
    """What the header of an image file says, of an image as stored. mode: as in `Described`. bits: of a value."""

    format: str
    width: int
    height: int
    mode: str
    bits: int


@contextmanager
def settled_warnings() -> Iterator[None]:
    """Silence Pillow's warnings about damaged tags, and make it refuse images of more than MAX_PIXELS.

    Enter it once for many small images: it takes a tenth of the time of decoding one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


class UnreadableImage(UserError):
    """An image file that cannot be decoded: its `path`, the `place` that names it, and the `problem`."""

    def __init__(self, path: Path, place: str, problem: str) -> None:
        text = f"{path} ({place}) cannot be read as an image: {problem}."
        super().__init__(f"{text} Replace the file. Or remove it, and its row in a CSV that lists it, and split again.")
        self.path, self.place, self.problem = path, place, problem

    def __reduce__(self) -> tuple[Any, ...]:  # it passes between processes
        return UnreadableImage, (self.path, self.place, self.problem)


@dataclass(frozen=True)
class Described:
    """Facts about one image file: as stored, not as converted.

    bits: of a value. minimum, maximum: of all values; of colours of 16 bits, about. white: the value that becomes 255.
    Numbers with a fraction are those of floating-point images.
    frames: more than 1 for an animation, whose first picture is used.
    """

    format: str
    width: int
    height: int
    mode: str
    bits: int
    minimum: float
    maximum: float
    white: float
    frames: int


def open_image(path: Path | str, place: str, white: int = 0, channels: int = 3) -> Picture:
    """Return the image in `path`, upright, 8 bits. Raises `UserError` with `place`, the row that names it.

    white: `data.white`, the value of images of more than 8 bits that becomes white; 0: by each image's own rule.
    channels: `input.channels`, which `to_channels` makes; 3: RGB.
    """
    with settled_warnings():
        return decode(path, place, white, channels)


def decode(path: Path | str, place: str, white: int = 0, channels: int = 3, stored: bytes | None = None) -> Picture:
    """Return what `open_image` returns; for use inside `settled_warnings`. A text as path saves time.

    stored: the bytes of the image, where it is no file of its own; `path` then only names it.
    """
    with _problems_of(path, place, stored) as content:
        if str(path).lower().endswith(ARRAY):
            return as_picture(load_array(content, Path(path)), white, channels)
        if channels not in AS_COLOURS and (values := tiff_array(content)) is not None:
            return as_picture(values, white, channels)
        try:
            with Image.open(content, formats=FORMATS) as image:
                depth = _load(image, content)
                return to_channels(_upright(to_8_bits(image, depth, white)), channels, depth.samples)
        except (UnidentifiedImageError, ValueError):
            if (values := tiff_array(content)) is None:
                raise
            raise ValueError(wrong_number(values.shape[2], channels)) from None


def describe_image(path: Path, place: str, white: int = 0) -> Described:
    """Return facts about the image in `path`. Raises as `open_image` does."""
    with _problems_of(path, place) as content:
        is_array = str(path).lower().endswith(ARRAY)
        array = load_array(content, path) if is_array else tiff_array(content)
        if array is not None:
            size, channels, bits, span = array_facts(array, white)
            lowest, largest, top = (int(value) if value == int(value) else value for value in span)
            return Described("NumPy" if is_array else "TIFF", *size, channels, bits, lowest, largest, top, 1)
    with settled_warnings(), _problems_of(path, place) as content, Image.open(content, formats=FORMATS) as image:
        depth = _load(image, content)
        plain = image if image.mode.startswith(("I", "F")) or not depth.is_deep else image.convert("RGB")
        values = np.asarray(plain if plain.mode != "P" else plain.convert("RGB"))
        lowest, largest, used = values.min().item(), values.max().item(), 255.0
        if image.mode == "F":
            used = range_of(values, white)[1]
        elif depth.is_deep and depth.colours:
            to_8_bits(image, depth, white)
            lowest, largest, used = lowest * 257, largest * 257, 65535
        elif depth.is_deep:
            lowest, largest = (round(value * depth.maxval / 65535) for value in (lowest, largest))
            used = white_of(image, depth, white)
        frames = getattr(image, "n_frames", 1)
        size = image.size
        return Described(image.format or "", *size, image.mode, depth.bits, lowest, largest, used, frames)


def _load(image: Image.Image, content: io.BytesIO) -> Depth:
    """Load the opened `image` of the file `content`, and return its depth."""
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    depth = depth_of(image, content.getvalue())
    image.load()
    return depth


@contextmanager
def _problems_of(path: Path | str, place: str, stored: bytes | None = None) -> Iterator[io.BytesIO]:
    """Yield the bytes of a file, or those `stored`. Any error, also of the block, becomes an `UnreadableImage`."""
    head = b""
    try:
        if stored is None:
            with open(path, "rb", buffering=0) as file:  # one read: Pillow's small reads take a tenth of the time
                if os.fstat(file.fileno()).st_size > MAX_BYTES:
                    raise ValueError(f"the file is larger than {MAX_BYTES:,} bytes, the limit")
                stored = file.read()
        head = stored
        yield io.BytesIO(stored)
        return
    except FileNotFoundError:
        problem = MISSING
    except IsADirectoryError:
        problem = FOLDER
    except PermissionError:
        problem = FORBIDDEN
    except UnidentifiedImageError:
        problem = what_it_is(head) or f"it is none of {', '.join(FORMATS)}"
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        problem = f"it is larger than {MAX_PIXELS:,} pixels, the limit; scale it down"
    except Exception as error:  # for damage Pillow raises a dozen types, from SyntaxError to struct.error
        problem = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        problem = "the file is cut short" if "truncated" in problem.lower() else problem
    raise UnreadableImage(Path(path), place, problem)


def what_it_is(head: bytes) -> str:
    """Return what a file that is no image is instead, by its first bytes; empty if they tell nothing."""
    if not head:
        return "the file is empty"
    if not head.strip(b"\0"):
        return "it holds only zero bytes"
    text = head[:1024].lstrip().lower()
    if text.startswith((b"<", b"\xef\xbb\xbf<")):
        return "it is an SVG drawing; convert it to PNG" if b"<svg" in text else "it is a web page, not an image"
    return next((what for start, at, what in OTHERS if head[at : at + len(start)] == start), "")


def holds_deep(path: Path) -> bool:
    """Return whether the image in `path` has more than 8 bits a value, by its header; False if it cannot be read."""
    try:
        if str(path).lower().endswith(ARRAY):
            with open(path, "rb") as file:
                return is_deep(file.read(1 << 16))
        with settled_warnings(), open(path, "rb") as file:
            head = file.read(32)
            if head.startswith(STARTS) and (array := tiff_array(io.BytesIO(head + file.read()))) is not None:
                return array.dtype != np.uint8
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                return depth_of(image, head).is_deep
    except Exception:  # see `_problems_of`; decoding reports it
        return False


def read_header(path: Path) -> Header:
    """Return what the header of an image says that was decoded before; an array of numbers is read whole."""
    array = np.load(path, mmap_mode="r", allow_pickle=False) if str(path).lower().endswith(ARRAY) else None
    with settled_warnings(), open(path, "rb") as file:
        head = file.read(32)
        if head.startswith(STARTS):
            array = tiff_array(io.BytesIO(head + file.read()))
        if array is not None:
            size, mode, bits, _ = array_facts(array, 0)
            return Header("TIFF" if head.startswith(STARTS) else "NumPy", *size, mode, bits)
        file.seek(0)
        with Image.open(file, formats=FORMATS) as image:
            return Header(image.format or "", *image.size, image.mode, depth_of(image, head).bits)


def shorter_side(path: Path) -> int:
    """Return the shorter side, in pixels, of an image that was decoded before."""
    header = read_header(path)
    return min(header.width, header.height)


def upright_size(path: Path | str, place: str) -> tuple[int, int]:
    """Return width and height of the image in `path` as `open_image` returns it, by its header alone.

    Raises as `open_image` does, but not for damage after the header.
    """
    with settled_warnings(), _problems_of(path, place) as content:
        array = load_array(content, Path(path)) if str(path).lower().endswith(ARRAY) else tiff_array(content)
        if array is not None:
            return array_facts(array, 0)[0]
        with Image.open(content, formats=FORMATS) as image:
            width, height = image.size
            # Pillow has turned the size of a TIFF, and would decode a PNG to find its EXIF.
            stored = content.getvalue() if image.format == "PNG" else b""
            may_turn = image.format != "TIFF" and (not stored or any(mark in stored for mark in EXIF_MARKS))
            return (height, width) if may_turn and _turn(image) in QUARTERS else (width, height)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except ValueError:  # Pillow 11 and older, for a truncated EXIF
        return None


def _upright(image: Image.Image) -> Image.Image:
    """Return `image` turned as its EXIF says. Pillow's exif_transpose fails if another tag is damaged."""
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def fit(image: Picture, size: int, resize: int, how: str = "") -> Pixels:
    """Return the centre `size` x `size` of `image` after its shorter side was resized to `resize`; uint8 (H, W, C).

    how: `input.interpolation`.
    """
    if image.size != (size, size) or resize != size:
        width, height = image.size
        side = min(width, height) * size / resize  # of the square in `image` that becomes size x size
        left, top = (width - side) / 2, (height - side) / 2
        image = image.resize((size, size), _filter(how), box=(left, top, left + side, top + side))
    return np.frombuffer(image.tobytes(), np.uint8).reshape(size, size, -1)  # one copy less than np.array makes


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


def crop(image: Picture, box: Box, size: int, how: str = "") -> Pixels:
    """Return `box` of `image` resized to `size` x `size`; uint8 (H, W, C).  how: `input.interpolation`."""
    return np.array(image.resize((size, size), _filter(how), box=box)).reshape(size, size, -1)


def _filter(how: str) -> Image.Resampling:
    return Image.Resampling.BICUBIC if how == BICUBIC else Image.Resampling.BILINEAR


def place_of(row: Any) -> str:
    """Return where an image is named, for errors; `row` is a named tuple of the split table."""
    return f"id {row.id!r}, line {row.Index + 2} of split.csv"
