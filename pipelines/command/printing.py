"""Tables, epochs, durations and progress bars on the terminal."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar

from pipelines.system.errors import printable

Item = TypeVar("Item")

EPOCH_CELL = len("100/100")  # the widest number in an epoch's row
LEFT_CELL = len("59 min 59 s")


def progress(items: Iterable[Item], what: str, total: int | None = None, unit: str = "files") -> Iterator[Item]:
    """Yield `items` and show a progress bar. Print nothing where stderr is not a terminal."""
    from tqdm import tqdm

    yield from tqdm(
        items, desc=printable(what), total=total, unit=f" {unit}", disable=None, leave=False, dynamic_ncols=True
    )


def print_credential() -> None:
    """Print which Kaggle credential is used, with warnings.  Raises `UserError` when there is none."""
    from pipelines.kaggle.credentials import require_credential

    credential = require_credential(os.environ)
    print("\n".join([f"Kaggle: {credential}.", *credential.warnings]), flush=True)


def print_parts(rows: Sequence[dict[str, Any]]) -> None:
    """Print the parts of a network: in which epochs each is trained, and its peak learning rate."""
    cells = []
    for row in rows:
        lr = "frozen" if row["lr"] is None else f"{row['lr']:.2g}"
        decay = "-" if row["weight_decay"] is None else f"{row['weight_decay']:.2g}"
        cells.append((row["part"], row["epochs"], f"{row['parameters']:,}", lr, decay))
    if cells:
        print(table(("part", "epochs", "parameters", "lr", "weight decay"), cells))


def print_epochs(
    new: Iterable[dict[str, Any]], earlier: Sequence[dict[str, Any]], epochs: int, metric: str, head_epochs: int = 0
) -> list[dict[str, Any]]:
    """Print one aligned row per epoch as it ends, and return the rows of `earlier` and `new` epochs.

    head_epochs: the number of first epochs that train the head alone; the time left is not estimated from them.
    """
    rows: list[dict[str, Any]] = []
    for row in chain(earlier, new):
        rows.append(row)
        cells = {"epoch": f"{row['epoch']}/{epochs}", "train_loss": f"{row['train_loss']:.4f}"}
        if metric in row:
            cells |= {"valid_loss": f"{row['valid_loss']:.4f}", metric: f"{row[metric]:.4f}"}
        alike = [each["seconds"] for each in rows if (each["epoch"] > head_epochs) == (row["epoch"] > head_epochs)]
        left = duration((epochs - row["epoch"]) * sum(alike) / len(alike))
        cells |= {"lr": f"{row['lr']:.2g}", "images/s": f"{row['images_per_second']:,.0f}"}
        cells |= {"left": "-" if row["epoch"] <= head_epochs < epochs else left}
        widths = [max(len(name), LEFT_CELL if name == "left" else EPOCH_CELL) for name in cells]
        if len(rows) == 1:
            print(_aligned(cells.keys(), widths))
        if earlier and len(rows) == len(earlier) + 1:
            print(f"Continuing after epoch {len(earlier)}.")
        print(_aligned(cells.values(), widths), flush=True)
    return rows


def _aligned(texts: Iterable[str], widths: Sequence[int]) -> str:
    return "  ".join(text.rjust(width) for text, width in zip(texts, widths, strict=True))


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return an aligned table: the first column left-aligned, the others right-aligned."""
    cells = [[printable(str(value)) for value in row] for row in (headings, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    return "\n".join(_aligned([row[0].ljust(widths[0]), *row[1:]], widths).rstrip() for row in cells)


def uncertainty(bounds: tuple[float | None, ...], images: int) -> str:
    """Return the text after a score, ` (0.9723 to 0.9979, n = 259)`; `bounds` are those of its 95 % interval."""
    known = [bound for bound in bounds if bound is not None]
    return f" ({' to '.join(f'{bound:.4f}' for bound in known)}, n = {images:,})" if known else f" (n = {images:,})"


def duration(seconds: float) -> str:
    """Return a duration in words: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
