"""Texts for the screen: aligned tables, and the uncertainty of a score."""

import math
import shutil
import sys
from collections.abc import Iterable, Sequence

from pipelines.system.errors import printable

PLAIN_WIDTH = 80


def screen_width() -> int:
    """Return the number of columns of the terminal that stdout is; 80 where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else PLAIN_WIDTH


def aligned(texts: Iterable[str], widths: Sequence[int]) -> str:
    """Return a line of `texts`, each right-aligned in its width."""
    return "  ".join(text.rjust(width) for text, width in zip(texts, widths, strict=True))


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> str:
    """Return an aligned table: the first `left` columns left-aligned, the others right-aligned."""
    cells = [[printable(str(value)) for value in row] for row in (headings, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    for row in cells:
        row[:left] = [text.ljust(width) for text, width in zip(row[:left], widths[:left], strict=True)]
    return "\n".join(aligned(row, widths).rstrip() for row in cells)


def cut(text: str, length: int) -> str:
    """Return `text` on one line of at most `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def short(name: str, length: int = 24) -> str:
    """Return `name`, without its middle if it is long: many names differ only at their end."""
    half = length // 2
    return name if len(name) <= length else f"{name[: length - half].rstrip()}…{name[1 - half :].lstrip()}"


def uncertainty(bounds: tuple[float | None, ...], images: int) -> str:
    """Return the text after a score, ` (0.9723 to 0.9979, n = 259)`; `bounds` are those of its 95 % interval."""
    known = [bound for bound in bounds if bound is not None and not math.isnan(bound)]
    return f" ({' to '.join(f'{bound:.4f}' for bound in known)}, n = {images:,})" if known else f" (n = {images:,})"


def duration(seconds: float) -> str:
    """Return a duration in words: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
