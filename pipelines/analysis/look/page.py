"""A tall picture that is filled from the top: texts, images at their own pixels, and charts. Lengths are in pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.analysis.look.glance import SIDE
from pipelines.analysis.plots import save
from pipelines.dataset.channels import Pixels
from pipelines.system.screen import short

WIDTH, MARGIN, DPI = 1280, 40, 100
INNER = WIDTH - 2 * MARGIN
COLUMNS = 8  # of images
CELL = INNER // COLUMNS
WIDE = 4  # columns of images with boxes
WIDE_SIDE = INNER // WIDE - 18  # the longer side of these in pixels
LINE = 17  # height of a line of text
CAPTION = 20  # characters in a line above an image
LINES = 2  # of text above an image
HEADING = 34  # height
TEXT_WIDTH = 150  # characters in a line of the page
Cell = tuple[Pixels, str]


@dataclass(frozen=True)
class Block:
    """A part of the page: its height, and what draws it at a distance from the top of the page."""

    height: int
    draw: Callable[["Page", int], None]


class Page:
    """The figure while it is drawn."""

    def __init__(self, height: int) -> None:
        self.height = height
        self.figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI)

    def write(self, text: str, x: float, y: float, **style: Any) -> None:
        """Write text whose upper left corner is at x, y."""
        style.setdefault("va", "top")
        self.figure.text(x / WIDTH, 1 - y / self.height, text, parse_math=False, **style)

    def paste(self, pixels: Pixels, x: int, y: int) -> None:
        """Draw pixels (H, W, 3) as they are, with the upper left corner at x, y."""
        self.figure.figimage(pixels, x, self.height - y - len(pixels), origin="upper")

    def axes(self, x: int, y: int, width: int, height: int) -> Axes:
        """Return axes whose frame has its upper left corner at x, y."""
        place = (x / WIDTH, 1 - (y + height) / self.height, width / WIDTH, height / self.height)
        axes: Axes = self.figure.add_axes(place)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        return axes


def draw_page(path: Path, title: str, blocks: Sequence[Block]) -> None:
    """Draw the blocks below each other to the PNG `path`."""
    page = Page(MARGIN + HEADING + sum(block.height for block in blocks))
    page.write(title, MARGIN, MARGIN // 2, fontsize=15, weight="bold")
    top = MARGIN // 2 + HEADING
    for block in blocks:
        block.draw(page, top)
        top += block.height
    save(page.figure, path)


def text_block(text: str, **style: Any) -> Block:
    """Return a block of lines, the long ones broken, unless they are those of a table."""
    is_table = style.get("family") == "monospace"
    lines = [part for line in text.split("\n") for part in ([line] if is_table else wrap(line, TEXT_WIDTH) or [""])]

    def draw(page: Page, top: int) -> None:
        for number, line in enumerate(lines):
            page.write(line, MARGIN, top + number * LINE, **{"fontsize": 9} | style)

    return Block(len(lines) * LINE + LINE // 2, draw)


def picture_block(heading: str, cells: Sequence[Cell], columns: int = COLUMNS) -> Block:
    """Return a block of images, each below its text: printable lines; the first ones are shown."""
    cell = INNER // columns
    texts = [_caption(text, CAPTION * COLUMNS // columns) for _, text in cells]
    above = max((len(lines) for lines in texts), default=1) * LINE
    tallest = SIDE if columns == COLUMNS else max((len(pixels) for pixels, _ in cells), default=0)
    height = above + tallest + LINE // 2

    def draw(page: Page, top: int) -> None:
        page.write(heading, MARGIN, top + LINE // 2, fontsize=11, weight="bold")
        for number, ((pixels, _), lines) in enumerate(zip(cells, texts, strict=True)):
            x, y = MARGIN + number % columns * cell, top + HEADING + number // columns * height
            page.write("\n".join(lines), x, y + above - 4, fontsize=8, va="bottom")
            page.paste(pixels, x, y + above)

    return Block(HEADING + -(-len(cells) // columns) * height, draw)


def strip_block(pixels: Pixels) -> Block:
    """Return a block of one picture without a text."""
    return Block(len(pixels) + LINE // 2, lambda page, top: page.paste(pixels, MARGIN, top))


def _caption(text: str, width: int) -> list[str]:
    parts = [part for line in text.split("\n") for part in wrap(line, width, break_long_words=False) or [""]]
    lines = [short(part, width) for part in parts]
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], f"{lines[LINES - 1]} …"]


def chart_block(heading: str, height: int, charts: Sequence[Callable[[Axes], None]], below: int = 54) -> Block:
    """Return a block of charts in a row. height: of a chart; below: what its axis of x needs."""

    def draw(page: Page, top: int) -> None:
        page.write(heading, MARGIN, top + LINE // 2, fontsize=11, weight="bold")
        width = INNER // len(charts)
        for number, chart in enumerate(charts):
            chart(page.axes(MARGIN + 50 + number * width, top + HEADING + LINE, width - 70, height))

    return Block(HEADING + LINE + height + below, draw)
