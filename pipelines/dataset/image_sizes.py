"""The sizes of images in pixels, by their headers, as the reader of images turns them upright."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipelines.dataset.image_paths import files_at
from pipelines.dataset.images import place_of, upright_size

if TYPE_CHECKING:
    from pipelines.dataset.image_set import ImageSet


def image_sizes(images: "ImageSet") -> npt.NDArray[np.int64]:
    """Return width and height of each image, (N, 2).  Raises `UserError` for the first that cannot be read."""
    rows = images.rows.itertuples()
    return sizes_at(images.raw, ((str(row.path), place_of(row)) for row in rows))


def sizes_at(raw: Path, items: Iterable[tuple[str, str]]) -> npt.NDArray[np.int64]:
    """Return the same of `items`: the path of an image, as in split.csv, and the place that names it."""
    sizes = [upright_size(files_at(raw, path)[0], place) for path, place in items]
    return np.array(sizes, np.int64).reshape(-1, 2)
