"""Check that every photo can be decoded before training starts, instead of failing in the middle of an epoch."""

from pathlib import Path

import numpy as np

from pipelines.dataset.fingerprints import fingerprints
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.images import open_image, place_of
from pipelines.system.files import atomic_file
from pipelines.system.processes import in_processes
from pipelines.system.watch import Watch, unwatched

CHUNK_IMAGES = 256
Work = tuple[Path, list[tuple[str, str]]]


def check_decodable(images: ImageSet, watch: Watch = unwatched) -> None:
    """Decode each image once and remember, by fingerprint, that it worked: the same bytes are not tried again.

    The record is `cache/<name>-decodable.npy`.  Raises `UserError` for the first image that cannot be decoded.
    """
    marks = fingerprints(images, watch)
    record = images.cache / f"{images.cache_name}-decodable.npy"
    try:
        with open(record, "rb") as file:
            known = np.lib.format.read_array(file, allow_pickle=False)
        if known.dtype != np.uint64:
            raise ValueError(f"fingerprints of the type {known.dtype}")
    except Exception:  # missing or damaged, for which numpy raises many exception types: try all images
        known = np.zeros(0, dtype=np.uint64)
    unknown = images.rows[~np.isin(marks, known)]
    if unknown.empty:
        return
    items = [(str(row.path), place_of(row)) for row in unknown.itertuples()]
    starts = range(0, len(items), CHUNK_IMAGES)
    work: list[Work] = [(images.raw, items[start : start + CHUNK_IMAGES]) for start in starts]
    for _ in in_processes(_decode, work, len(work), watch, "checking", f"x {CHUNK_IMAGES} photos"):
        pass
    with atomic_file(record) as partial, open(partial, "wb") as file:
        np.save(file, np.union1d(known, marks))


def _decode(work: Work) -> None:
    raw, items = work
    for path, place in items:
        open_image(raw / path, place)
