"""Some training images with their targets, for a picture of what was recognised."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipelines.analysis.recognise.compose import Seen
from pipelines.analysis.recognise.listing import shape
from pipelines.dataset.columns import FLAGS
from pipelines.dataset.images import Pixels, UnreadableImage, open_image
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
        return [(_pixels(seen.folder.raw, [target.images[row]]), target.cells[row]) for row in chosen]
    if labels.pixels:
        return [
            (pixels, _text(seen, row))
            for pixels, row in zip(_rows_of_pixels(seen.folder.raw / labels.name, seen, chosen), chosen, strict=True)
        ]
    column = seen.roles.file_column or seen.roles.id_column or next(iter(labels.naming(seen.roles.names)))
    home = f"{seen.roles.train.folder}/" if seen.roles.train and seen.roles.train.folder else ""
    found = []
    for row in chosen:
        files = [each for each in seen.roles.names.find(labels.values(column)[row]) if each.startswith(home)]
        if files:
            found.append((_pixels(seen.folder.raw, _in_order(files, seen.roles.names.endings)), _text(seen, row)))
    return found


def _in_order(files: Sequence[str], endings: Sequence[str]) -> list[str]:
    """Return the files of an image, one per channel in their order; the first one of an image in one file."""
    if not endings:
        return list(files[:1])
    return [file for ending in endings for file in files if file.rpartition(".")[0].endswith(ending)]


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
    return ", ".join(name for name, value in cells.items() if value in FLAGS[1::2]) or "(none)"


def _pixels(raw: Path, files: Sequence[str]) -> Pixels:
    """Return an image as colours, at most SIDE pixels; grey if it cannot be read. Several files: its channels."""
    planes = []
    for file in files[:3]:
        if file.lower().endswith(".npy"):
            return _of_array(np.load(raw / file, allow_pickle=False))
        try:
            image = open_image(raw / file, file)
        except UnreadableImage:
            image = Image.new("RGB", (SIDE, SIDE), "grey")
        image.thumbnail((SIDE, SIDE))
        planes.append(np.asarray(image))
    if len(planes) == 1:
        return planes[0]
    return np.stack([plane.max(axis=2) for plane in (planes * 2)[:3]], axis=2)


def _of_array(array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> Pixels:
    """Return an array of one or several channels, first or last, as grey or colours from its least to its most."""
    values = np.nan_to_num(np.asarray(array, np.float64))
    if values.ndim == 3 and values.shape[0] < min(values.shape[1:]):
        values = np.moveaxis(values, 0, -1)
    values = values[..., None] if values.ndim == 2 else values
    values = values[..., :3] if values.shape[-1] >= 3 else values[..., :1].repeat(3, axis=-1)
    low, high = values.min(), values.max()
    pixels = np.asarray((values - low) / max(high - low, 1e-12) * 255, np.uint8)
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    return np.asarray(image)


def _rows_of_pixels(path: Path, seen: Seen, rows: Sequence[int]) -> list[Pixels]:
    labels = seen.roles.labels
    assert labels is not None
    height, width, channels = shape(labels.pixel_count) or (1, labels.pixel_count, 1)
    names = labels.pixel_names
    wanted = set(rows)
    table = pd.read_csv(path, dtype=str, usecols=names, skiprows=lambda line: line > 0 and line - 1 not in wanted)
    images = []
    for cells in table[names].to_numpy().tolist():
        values = " ".join(map(str, cells)).split()
        numbers = np.array(values, np.float64).reshape(height, width, channels)
        images.append(np.clip(numbers, 0, 255).astype(np.uint8).repeat(4 - channels if channels == 1 else 1, axis=2))
    return images
