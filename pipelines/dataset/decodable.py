"""Making sure that every photo can be decoded before a training begins, rather than in its middle."""

from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.dataset import images
from pipelines.dataset.fingerprints import fingerprints
from pipelines.system.files import atomic_file
from pipelines.system.processes import in_processes
from pipelines.system.watch import Watch, unwatched

CHUNK_IMAGES = 256
Work = tuple[Path, list[tuple[str, str]]]


def check_decodable(
    rows: pd.DataFrame, together: pd.DataFrame, raw: Path, cache: Path, name: str, watch: Watch = unwatched
) -> None:
    """Decode each image of `rows` once, and remember in `cache` that it could be: the same bytes are not tried again.

    together: the rows, `rows` among them, whose fingerprints are kept under `name`.  Raises `UserError` for the first
    image that is no picture.
    """
    marks = fingerprints(together, raw, cache, name, watch)[together.index.get_indexer(rows.index)]
    record = cache / f"{name}-decodable.npy"
    try:
        with open(record, "rb") as file:
            known = np.lib.format.read_array(file, allow_pickle=False)
        if known.dtype != np.uint64:
            raise ValueError(f"fingerprints of the type {known.dtype}")
    except Exception:  # none yet, or damaged, which numpy answers with many exception types: all are tried
        known = np.zeros(0, dtype=np.uint64)
    unknown = rows[~np.isin(marks, known)]
    if unknown.empty:
        return
    items = [(str(row.path), images.place_of(row)) for row in unknown.itertuples()]
    work: list[Work] = [(raw, items[start : start + CHUNK_IMAGES]) for start in range(0, len(items), CHUNK_IMAGES)]
    for _ in in_processes(_decode, work, len(work), watch, "checking", f"x {CHUNK_IMAGES} photos"):
        pass
    with atomic_file(record) as partial, open(partial, "wb") as file:
        np.save(file, np.union1d(known, marks))


def _decode(work: Work) -> None:
    raw, items = work
    for path, place in items:
        images.open_image(raw / path, place)
