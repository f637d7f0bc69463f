"""A whole competition of 36 images, 8 pixels wide, and the smallest network."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from pipelines.core.job import Job, Row, run_job
from pipelines.dataset.batches import open_source
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.loading import Batch, BatchSource
from pipelines.models.building import build_network
from pipelines.models.device import choose_hardware
from pipelines.models.weights import find_origins
from pipelines.settings.layout import Layout
from pipelines.settings.loading import load_settings
from pipelines.settings.metrics import ONE_CLASS
from pipelines.settings.schema import Settings

TOML = """
[data]
labels = "labels.csv"
sample_submission = "sample.csv"
[input]
size = 8
[model]
widths = [8, 8]
[train]
epochs = 3
batch_size = 6
lr = 0.1
[predict]
batch_size = 5
[hardware]
device = "cpu"
precision = "float32"
workers = 0
"""


CLASSES = ["blue", "green", "red"]


LABELLED, TEST = 24, 12

LOG_LOSS = ("competition.metric=log_loss", "competition.submission=probabilities")


@dataclass(frozen=True)
class Tiny:
    """A competition whose label is the brightest colour of an image; every fourth labelled row validates.

    Image number i of a split is 8x8 PNG noise, and its first pixel is (i, 0, 0): what a batch holds can be told from
    its pixels.  Test ids are the numbers 1 to 12, listed so that neither text nor number order is theirs.
    """

    toml: Path
    layout: Layout
    table: pd.DataFrame
    classes: list[str]
    task: str = ONE_CLASS

    def settings(self, *overrides: str) -> Settings:
        return load_settings(str(self.toml), overrides=overrides)

    def rows(self, part: str) -> pd.DataFrame:
        return self.table[self.table["split"] == part]

    @property
    def images(self) -> ImageSet:
        """All labelled images."""
        images = ImageSet(self.table, self.table, self.layout.raw, self.layout.cache, self.classes, task=self.task)
        return images.part(test=False)

    def with_targets(self, task: str, classes: list[str], targets: Mapping[str, str]) -> "Tiny":
        """Return the same images with other targets: the one that `targets` gives for the colour of an image."""
        texts = self.table["label"].map(targets).fillna("")
        return dataclasses.replace(self, table=self.table.assign(label=texts), classes=classes, task=task)

    def part(self, name: str) -> ImageSet:
        return self.images.select(self.rows(name))

    def source(self, part: str, *overrides: str, training: bool = False) -> BatchSource:
        return open_source(self.settings(*overrides), self.part(part), torch.device("cpu"), training)

    def job(self, *overrides: str, run: str = "run") -> Job:
        """The job of the stage `train`, with its files below runs/tiny/<run>."""
        settings = self.settings(*overrides)
        train, valid = self.images.divide(settings)
        files, hardware = self.layout.run(run).training, choose_hardware(settings.hardware)
        return Job(settings, train, valid, settings.train.epochs, files, hardware)

    def retrain_job(self, *overrides: str, run: str = "run") -> Job:
        """The job of the stage `retrain`: all labelled rows, and no validation set."""
        job = self.job(*overrides, run=run)
        return dataclasses.replace(job, train=self.images, valid=None, files=self.layout.run(run).retraining)

    def network(self, settings: Settings) -> nn.Module:
        """The fresh network of `settings`, as the stages build it."""
        return build_network(settings, self.classes, find_origins(settings.model, self.layout.weights))

    def run(self, job: Job) -> Iterator[Row]:
        """Train as the stages do."""
        return run_job(job, self.network(job.settings))


def make_tiny(folder: Path) -> Tiny:
    """Write the competition into `folder`."""
    toml = folder / "tiny.toml"
    toml.write_text(TOML)
    layout = Layout(folder, "tiny")
    random = np.random.default_rng(0)
    rows = []
    for part, count in (("train", LABELLED), ("test", TEST)):
        (layout.raw / part).mkdir(parents=True)
        for number in range(1, count + 1):
            label = CLASSES[number % 3]
            pixels = random.integers(0, 120, (8, 8, 3), dtype=np.uint8)
            pixels[..., 2 - number % 3] += 130
            pixels[0, 0] = (number, 0, 0)
            path = f"{part}/{number}.png"
            Image.fromarray(pixels).save(layout.raw / path)
            split = "test" if part == "test" else "valid" if number % 4 == 0 else "train"
            rows.append((str(number), path, "" if part == "test" else label, split, -1))
    tested = [rows[LABELLED + place] for place in (7, 0, 11, 2, 9, 1, 10, 3, 5, 4, 8, 6)]
    table = pd.DataFrame([*rows[:LABELLED], *tested], columns=["id", "path", "label", "split", "fold"])
    labelled = table[table["split"] != "test"]
    labelled[["id", "label"]].to_csv(layout.raw / "labels.csv", index=False)
    (layout.raw / "sample.csv").write_text("id,label\n" + "".join(f"{row[0]},red\n" for row in tested))
    return Tiny(toml, layout, table, CLASSES)


def pretrained(weights: Path) -> tuple[str, ...]:
    """The settings that name the network of `small_weights`."""
    image = ("input.size=8", "input.mean=[0.5, 0.5, 0.5]", "input.std=[0.25, 0.25, 0.25]")
    return ("model.name=shufflenet_v2_x0_5", f"model.weights={weights}", *image)


def numbers_of(batch: Batch, settings: Settings) -> list[int]:
    """The numbers that the first pixels of a batch's images spell (see `Tiny`), where nothing was augmented."""
    red = batch.inputs[:, 0, 0, 0].double() * settings.input.std[0] + settings.input.mean[0]
    return [round(value * 255) for value in red.tolist()]
