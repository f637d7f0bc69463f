"""Image sets of rows that no split has made."""

from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.dataset.image_set import ImageSet


def image_set(rows: pd.DataFrame, raw: Path, cache: Path, name: str = "labelled", **more: Any) -> ImageSet:
    """Return the whole table `rows` (`id`, `path`) as train rows, or as test rows where `name` is "test"."""
    table = rows.assign(label="a", split="test" if name == "test" else "train", fold=-1)
    return ImageSet(table, table, raw, cache, ["a"], **more)
