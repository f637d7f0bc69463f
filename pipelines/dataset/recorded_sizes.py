"""The sizes of some images in the record of a split: boxes.csv has shares of them, computed from boxes in pixels."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.dataset.image_paths import files_at
from pipelines.settings.metrics import BOXES
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, quoted

if TYPE_CHECKING:
    import pandas as pd

MOST = 48  # images whose sizes are recorded
Sizes = Mapping[str, Sequence[int]]  # {path: (width, height)}


def sample_sizes(raw: Path, settings: Settings, rows: "pd.DataFrame") -> Sizes:
    """Return the sizes of up to `MOST` images with boxes in pixels, evenly spaced over `rows` of split.csv.

    Empty for other tasks, and for boxes that the labels give as shares.
    """
    if settings.competition.task != BOXES or settings.data.box_units != "pixels":
        return {}
    from pipelines.dataset.image_sizes import sizes_at
    from pipelines.dataset.images import place_of

    known = rows[(rows["split"] != "test") & (rows["label"] != "")]
    count = min(MOST, len(known))
    some = known.iloc[[place * len(known) // count for place in range(count)]]
    paths = some["path"].tolist()
    sizes = sizes_at(raw, zip(paths, map(place_of, some.itertuples()), strict=True))
    return dict(zip(paths, sizes.tolist(), strict=True))


def resized(raw: Path, recorded: Sizes) -> list[str]:
    """Return a text about the images that have another size than `recorded`; none if all have it.

    recorded: of `sample_sizes`; empty in the records of older versions.
    Images that cannot be read are left out: the listing or the decoder names them.
    """
    if not recorded:
        return []
    from pipelines.dataset.images import upright_size

    texts = []
    for path, then in recorded.items():
        with suppress(UserError):
            now = upright_size(files_at(raw, path)[0], path)
            if [*now] != [*then]:
                texts.append(f"{quoted(path)} with {now[0]} x {now[1]} pixels instead of {then[0]} x {then[1]}")
    return [f"{len(texts)} of {len(recorded)} images have another size, e.g. {texts[0]}"] if texts else []
