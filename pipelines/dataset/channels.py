"""Images of any number of channels, as Pillow's images where it has them; without torch, as `images`.

Three channels are Pillow's RGB and one its grey; any other number is `Planes`, which has the few methods that are used.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipelines.dataset.depth import strips

Pixels = npt.NDArray[np.uint8]
PLANE = 0  # instead of a number of channels: one channel of several that are in files of their own
OWN_CHANNELS = {2: ("LA",), 4: ("RGBA", "CMYK")}  # Pillow's modes whose channels are taken as they are
SHOWN = 3  # channels of a picture on the screen


class Planes:
    """An image whose channels are Pillow's grey images, all of one size."""

    def __init__(self, planes: Sequence[Image.Image]) -> None:
        self.planes, self.size = list(planes), planes[0].size

    def resize(self, *args: Any, **options: Any) -> "Planes":
        return Planes([plane.resize(*args, **options) for plane in self.planes])

    def tobytes(self) -> bytes:
        return np.asarray(self).tobytes()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Pixels:
        """Return uint8 (H, W, channels)."""
        return np.stack([np.asarray(plane) for plane in self.planes], axis=-1)


Picture = Image.Image | Planes


def to_channels(image: Image.Image, channels: int, samples: int = 0) -> Picture:
    """Return an upright `image` of 8 bits a value with `channels` channels, or with one for `PLANE`.

    3: colour, also of grey, and what is behind transparent pixels. 1: grey, of colour by its luma. `PLANE`: grey, of
    colour the largest of the three values. Others: the channels that the image has, transparency among them. samples:
    the channels in the file, if these may be more. Raises `ValueError` if they are, and for another number of channels.
    """
    if channels == 3 and not samples:
        return to_rgb(image)
    own = len(image.getbands())
    if samples > own:
        raise ValueError(f"it has {samples} channels, of which only {own} can be read; save it as an array (.npy)")
    if image.mode in OWN_CHANNELS.get(channels, ()):
        return Planes(image.split())
    if channels not in (PLANE, 1, 3):
        raise ValueError(wrong_number(own, channels))
    if channels == 3:
        return to_rgb(image)
    plain = image if image.mode == "L" and "transparency" not in image.info else to_rgb(image)
    if plain.mode == "L" or channels == 1:
        return plain.convert("L")
    return Image.fromarray(np.asarray(plain).max(axis=2))


def wrong_number(own: int, wanted: int) -> str:
    """Return the problem of an image with `own` channels where `wanted` are set."""
    wanted = max(wanted, 1)
    text = f"it has {own} channel{'s' * (own != 1)}, and input.channels is {wanted}"
    return f"{text}; set input.channels = {own}, or save it with {wanted}"


def merge(planes: Sequence[Image.Image]) -> Picture:
    """Return one image of the grey images `planes`, all of one size."""
    return Image.merge("RGB", planes) if len(planes) == 3 else planes[0] if len(planes) == 1 else Planes(planes)


def as_colours(pixels: Pixels) -> Pixels:
    """Return pixels (H, W, channels) as colours (H, W, 3) for a picture on the screen.

    One channel is shown as grey, two as red and green, and of more than three the first three.
    """
    channels = pixels.shape[2]
    if channels == 1:
        return pixels.repeat(SHOWN, axis=2)
    missing = np.zeros((*pixels.shape[:2], max(SHOWN - channels, 0)), np.uint8)
    return np.concatenate([pixels[..., :SHOWN], missing], axis=2)


def to_rgb(image: Image.Image) -> Image.Image:
    if "transparency" in image.info and image.mode in ("1", "L", "RGB", "P"):
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA", "PA"):  # transparent pixels have arbitrary colours: show what is behind them
        background = _background(image)
        opaque = Image.new("RGB", image.size)
        for top, bottom in strips(image):
            strip = _strip(image, top, bottom)
            if background:
                strip = Image.alpha_composite(Image.new("RGBA", strip.size, background), strip)
            opaque.paste(strip.convert("RGB"), (0, top))
        return opaque
    return image if image.mode == "RGB" else image.convert("RGB")


def _background(image: Image.Image) -> str:
    """Return the colour behind a transparent image: white, or black if all that is visible is white.

    Empty if nothing is visible: some programs write an alpha of 0 everywhere, and the picture is in the colours.
    """
    background = ""
    for top, bottom in strips(image):
        pixels = np.asarray(_strip(image, top, bottom)).reshape(-1, 4)
        visible = pixels[pixels[:, 3] > 0]
        if (visible[:, :3] < 255).any():
            return "white"
        background = "black" if len(visible) else background
    return background


def _strip(image: Image.Image, top: int, bottom: int) -> Image.Image:
    return image.crop((0, top, image.width, bottom)).convert("RGBA")
