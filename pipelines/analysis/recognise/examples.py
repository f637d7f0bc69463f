"""Some training images with their targets, for a picture of what was recognised."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipelines.analysis.recognise.compose import Seen
from pipelines.analysis.recognise.listing import shape
from pipelines.dataset.channels import as_colours
from pipelines.dataset.image_paths import join_channels
from pipelines.dataset.image_reader import Reader
from pipelines.dataset.images import Pixels, UnreadableImage
from pipelines.dataset.tables import read_listing
from pipelines.dataset.target_cells import ONES
from pipelines.system.errors import shown

SHOWN = 16
SIDE = 256  # pixels
NUMBERS_SHOWN = 3


def examples(seen: Seen) -> list[tuple[Pixels, str]]:
    """Return some training images, spread over the rows, each with its target as text."""
    target, labels = seen.target, seen.roles.labels
    count = len(target.images) if labels is None else len(labels)
    chosen = np.linspace(0, count - 1, min(SHOWN, count)).astype(int).tolist()
    if labels is None:
        return [(_pixels(seen, target.images[row]), target.cells[row]) for row in chosen]
    if labels.pixels:
        return [
            (pixels, _text(seen, row))
            for pixels, row in zip(_rows_of_pixels(seen.folder.raw / labels.name, seen, chosen), chosen, strict=True)
        ]
    column = seen.roles.file_column or seen.roles.id_column or next(iter(labels.naming(seen.roles.names)))
    home = f"{seen.roles.train.folder}/" if seen.roles.train and seen.roles.train.folder else ""
    endings, names, found = seen.roles.names.endings, labels.values(column), []
    for row in chosen:
        files = [each for each in seen.roles.names.find(names[row]) if each.startswith(home)]
        if files:
            path = join_channels(files, endings, home)[0] if endings else files[0]
            found.append((_pixels(seen, path), _text(seen, row)))
    return found


def _text(seen: Seen, row: int) -> str:
    """Return the target of a row of the labels."""
    target, labels = seen.target, seen.roles.labels
    assert labels is not None
    if target.where != "columns":
        return target.cells[row]
    cells = {column: str(labels.frame[column].iloc[row]) for column in target.columns}
    if target.kind == "numbers":
        parts = [f"{shown(name)} {value or '-'}" for name, value in cells.items()]
        return "\n".join(parts[:NUMBERS_SHOWN]) + ("\n…" if len(parts) > NUMBERS_SHOWN else "")
    return ", ".join(name for name, value in cells.items() if value in ONES) or "(none)"


def _pixels(seen: Seen, path: str) -> Pixels:
    """Return an image as colours, at most SIDE pixels; grey if it cannot be read."""
    try:
        picture = np.asarray(Reader(seen.folder.raw, channels=seen.channels).open(path, path))
    except UnreadableImage:
        picture = np.full((SIDE, SIDE, 1), 128, np.uint8)
    image = Image.fromarray(as_colours(picture.reshape(*picture.shape[:2], -1)))
    image.thumbnail((SIDE, SIDE))
    return np.asarray(image)


def _rows_of_pixels(path: Path, seen: Seen, rows: Sequence[int]) -> list[Pixels]:
    labels = seen.roles.labels
    assert labels is not None
    height, width, channels = shape(labels.pixel_count) or (1, labels.pixel_count, 1)
    names = labels.pixel_names
    wanted = set(rows)
    table = pd.read_csv(path, dtype=str, skiprows=lambda line: line > 0 and line - 1 not in wanted)
    table.columns = table.columns.str.strip()
    if not set(names) <= set(table.columns):  # separated by something else than commas
        table = read_listing(path).iloc[list(rows)]
    images = []
    for cells in table[names].to_numpy().tolist():
        values = " ".join(map(str, cells)).split()
        numbers = np.array(values, np.float64).reshape(height, width, channels)
        images.append(as_colours(np.clip(numbers, 0, 255).astype(np.uint8)))
    return images
