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


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return an aligned table: the first column left-aligned, the others right-aligned."""
    cells = [[printable(str(value)) for value in row] for row in (headings, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    return "\n".join(aligned([row[0].ljust(widths[0]), *row[1:]], widths).rstrip() for row in cells)


def uncertainty(bounds: tuple[float | None, ...], images: int) -> str:
    """Return the text after a score, ` (0.9723 to 0.9979, n = 259)`; `bounds` are those of its 95 % interval."""
    known = [bound for bound in bounds if bound is not None and not math.isnan(bound)]
    return f" ({' to '.join(f'{bound:.4f}' for bound in known)}, n = {images:,})" if known else f" (n = {images:,})"
