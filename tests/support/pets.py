"""A competition of pets on the disk, small enough to be trained in a test."""

from io import BytesIO
from pathlib import Path

from PIL import Image

from pipelines.settings.layout import Layout
from tests.support.pictures import noise
from tests.support.raw_files import write
from tests.support.stages import run_stage_here

NAME = "odd pets"
SMALL = """
[competition]
source = "address"
address = "here"
[split]
valid_ratio = 0.3
[input]
size = 8
source = "SOURCE"
[model]
widths = [8, 8]
[train]
epochs = 1
batch_size = 8
[hardware]
workers = 0
precision = "float32"
"""


class Pets:
    """A competition of 2 x 6 images and 2 test images, in class folders or listed in CSVs."""

    def __init__(self, folder: Path, source: str, listed: bool) -> None:
        self.toml, self.layout, self.listed = folder / f"{NAME}.toml", Layout(folder, NAME), listed
        data = '[data]\nlabels = "labels.csv"\nsample_submission = "sample.csv"\n' if listed else ""
        self.toml.write_text(data + SMALL.replace("SOURCE", source))
        self.labels: dict[str, str] = {}
        for number in range(12):
            self.add(f"{number}.png", picture(number), ("cat", "dog")[number % 2])
        for number in range(2):
            self.add(f"{number}.png", picture(20 + number))

    def add(self, name: str, content: bytes, label: str = "") -> Path:
        """Add an image; without a label, a test image."""
        raw = self.layout.raw
        if label and self.listed:
            self.labels[name] = label
        below = f"train/{name}" if self.listed else f"train/{label}/{name}"
        return write(raw / (below if label else f"test/{name}"), content)

    def split(self) -> None:
        raw = self.layout.raw
        if self.listed:
            write(
                raw / "labels.csv", "id,label\n" + "".join(f"{name},{label}\n" for name, label in self.labels.items())
            )
            names = sorted(path.name for path in (raw / "test").iterdir())
            write(raw / "sample.csv", "id,label\n" + "".join(f"{name},cat\n" for name in names))
        assert run_stage_here("split", [str(self.toml)]) == 0

    def train(self) -> int:
        return run_stage_here("train", [str(self.toml)])


def picture(number: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(noise(8, 8, 3, seed=number)).save(buffer, "PNG")
    return buffer.getvalue()
