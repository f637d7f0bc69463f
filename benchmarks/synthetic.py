"""Generated competitions of any number of images."""

import io
import shutil
from pathlib import Path

from pipelines import command
from pipelines.settings.competitions import find_competition
from pipelines.settings.layout import Layout
from pipelines.settings.loading import load_settings

CLASSES = 10
DISTINCT = 256  # pictures: their content affects neither time nor memory


def make_competition(
    folder: Path, template: str, side: int, labelled: int, test: int, classes: int = CLASSES, kind: str = "png"
) -> str:
    """Write a competition of `side` x `side` images below `folder`, as after its download; return the name of its TOML.

    Settings and file names are those of the competition `template`.  kind: png or jpeg.
    """
    import numpy as np
    from PIL import Image

    chosen = load_settings(template)
    settings, names = chosen.data, [f"class_{number}" for number in range(classes)]
    toml = folder / f"synthetic-{labelled}-{test}.toml"
    shutil.copy(find_competition(template), toml)
    raw = Layout(folder, toml.stem).raw
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(DISTINCT):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, kind)
        pictures.append(buffer.getvalue())
    for part, number in ((settings.train_images, labelled), (settings.test_images, test)):
        (raw / part).mkdir(parents=True)
        for index in command.progress(range(1, number + 1), f"making {part}", number):
            # The number after the picture is not decoded, but makes the bytes of each file different.
            (raw / part / f"{index}.{kind}").write_bytes(pictures[index % DISTINCT] + index.to_bytes(4, "big"))
    labels = "".join(f"{index},{names[index % classes]}\n" for index in range(1, labelled + 1))
    (raw / settings.labels).write_text(f"id,label\n{labels}")
    each = chosen.competition.submission == "probabilities"
    columns, cells = (names, [f"{1 / classes:.16f}"] * classes) if each else (["label"], names[:1])
    sample = "".join(f"{','.join([str(index), *cells])}\n" for index in range(1, test + 1))
    (raw / settings.sample_submission).write_text(f"{','.join(['id', *columns])}\n{sample}")
    return toml.name
