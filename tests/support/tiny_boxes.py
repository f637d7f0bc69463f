"""A whole competition of 16 images with boxes, 64 pixels wide, and a small detector with random weights."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipelines.dataset.boxes import COLUMNS
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.tables import write_csv
from pipelines.models.anchors import with_anchors
from pipelines.settings.layout import Layout
from pipelines.settings.metrics import BOXES
from pipelines.settings.schema import Settings
from tests.support.tiny import Tiny

SIZE = 64
KINDS = ["green", "red"]
TOML = f"""
[competition]
task = "boxes"
metric = "box_map_at"
submission = "boxes"
[data]
labels = "labels.csv"
sample_submission = "sample.csv"
[input]
size = {SIZE}
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
[model]
name = "fasterrcnn/mobilenet_v2"
[train]
epochs = 3
batch_size = 4
optimizer = "adamw"
lr = 1e-3
[hardware]
device = "cpu"
precision = "float32"
workers = 0
"""


@dataclass(frozen=True)
class TinyBoxes(Tiny):
    """Each image has a red and a green square; every fifth has none, and every fourth labelled image validates."""

    task: str = BOXES

    @property
    def images(self) -> ImageSet:
        return replace(super().images, layout=self.layout)

    def settings(self, *overrides: str) -> Settings:
        """The settings with the anchors of the training boxes, as the stage `train` has them."""
        settings = super().settings(*overrides)
        return with_anchors(settings, self.images.divide(settings)[0])


def make_tiny_boxes(folder: Path) -> TinyBoxes:
    """Write the competition into `folder`."""
    (folder / "boxes.toml").write_text(TOML)
    layout = Layout(folder, "boxes")
    random = np.random.default_rng(0)
    rows, boxes = [], []
    for part, count in (("train", 12), ("test", 4)):
        (layout.raw / part).mkdir(parents=True)
        for number in range(1, count + 1):
            pixels = random.integers(0, 60, (SIZE, SIZE, 3), dtype=np.uint8)
            found = [] if number % 5 == 0 else KINDS
            for place, kind in enumerate(found):
                side = int(random.integers(12, 24))
                x, y = random.integers(0, SIZE - side, 2).tolist()
                pixels[y : y + side, x : x + side, 1 - place] = 255
                box = [each / SIZE for each in (x, y, x + side, y + side)]
                boxes += [[str(number), kind, *box]] * (part == "train")
            path = f"{part}/{number}.png"
            Image.fromarray(pixels).save(layout.raw / path)
            split = "test" if part == "test" else "valid" if number % 4 == 0 else "train"
            rows.append((str(number), path, "" if part == "test" else "|".join(found), split, -1))
    table = pd.DataFrame(rows, columns=["id", "path", "label", "split", "fold"])
    write_csv(layout.boxes_csv, pd.DataFrame(boxes, columns=[*COLUMNS]))
    return TinyBoxes(folder / "boxes.toml", layout, table, KINDS)
