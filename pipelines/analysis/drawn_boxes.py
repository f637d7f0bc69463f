"""Boxes drawn on images, each in the colour of its class; a legend says which one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from pipelines.analysis.look.glance import tile
from pipelines.dataset.channels import Pixels
from pipelines.dataset.image_reader import Reader
from pipelines.dataset.images import place_of
from pipelines.system.errors import shown
from pipelines.system.screen import short

# Those of M. Okabe and K. Ito, which colour-blind people tell apart; of more classes, the colours repeat.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#f0e442", "#d55e00", "#56b4e9", "#cc79a7")
DASHES = ("white", "black")
DASH = 4  # pixels
LETTERS = 10  # height of the text in pixels
LEGEND = 1000  # width of the legend in pixels
Array = npt.NDArray[Any]


def with_boxes(pixels: Pixels, boxes: Array, true: Array | None = None) -> Pixels:
    """Return a copy of an image (H, W, 3) with boxes in the colours of their classes.

    boxes: true ones (n, 5), or predicted ones (n, 6), which have their confidence in percent in a corner; rows of NaN
    and of confidence 0 are none.  true: true ones (m, 5) beside predicted ones, dashed in black and white.
    """
    image = Image.fromarray(pixels)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(LETTERS)
    sides = np.array(image.size * 2)
    for box in true[_are_boxes(true)] if true is not None else ():
        _dashed(draw, *(box[1:] * sides).tolist())
    for number, *values in boxes[_are_boxes(boxes)][::-1].tolist():  # the surest one is on top
        ends, colour = (np.array(values[-4:]) * sides).tolist(), COLOURS[int(number) % len(COLOURS)]
        draw.rectangle(ends, outline=colour, width=1 if max(image.size) < 200 else 2)
        if len(values) > 4:
            style: dict[str, Any] = {"fill": "white", "stroke_width": 2, "stroke_fill": colour, "font": font}
            above = LETTERS + 4 if ends[3] - ends[1] < 4 * LETTERS and ends[1] > 2 * LETTERS else 0  # a small box
            draw.text((ends[0] + 3, ends[1] + 1 - above), f"{values[0]:.0%}", **style)
    return np.asarray(image)


def _are_boxes(boxes: Array) -> Array:
    """Return which rows of a padded array are boxes."""
    return ~np.isnan(boxes[:, 0]) if boxes.shape[1] == 5 else boxes[:, 1] > 0


def _dashed(draw: ImageDraw.ImageDraw, left: float, top: float, right: float, bottom: float) -> None:
    for y in (top, bottom):
        for number, x in enumerate(np.arange(left, right, DASH).tolist()):
            draw.line((x, y, min(x + DASH - 1, right), y), DASHES[number % 2])
    for x in (left, right):
        for number, y in enumerate(np.arange(top, bottom, DASH).tolist()):
            draw.line((x, y, x, min(y + DASH - 1, bottom)), DASHES[number % 2])


def legend(classes: Sequence[str], with_true: bool) -> Pixels:
    """Return a line with the colours of the classes.  with_true: they are predicted; and how true ones look."""
    names = [short(shown(name), 14) + " …" * (len(classes) > len(COLOURS)) for name in classes[: len(COLOURS)]]
    image = Image.new("RGB", (LEGEND, 20), "white")
    draw, font, left = ImageDraw.Draw(image), ImageFont.load_default(LETTERS + 2), 1.0
    for place, text in enumerate([*names, *["true, any class"] * with_true]):
        if place < len(names):
            draw.rectangle((left, 3, left + 16, 15), outline=COLOURS[place], width=2)
        else:
            _dashed(draw, left, 3, left + 16, 15)
        draw.text((left + 22, 2), text, fill="black", font=font)
        left += 40 + font.getlength(text)
    return np.asarray(image)


def drawn(reader: Reader, row: Any, side: int, boxes: Array, true: Array | None = None) -> Pixels:
    """Return the image of a split row, its longer side `side` pixels, `with_boxes`.  Raises `UnreadableImage`."""
    pixels = np.asarray(reader.open(str(row.path), place_of(row)))
    return with_boxes(tile(pixels.reshape(*pixels.shape[:2], -1), side), boxes, true)
