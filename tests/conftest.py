"""One fixture that shrinks everything: a whole competition of 36 images, 8 pixels wide, and the smallest network."""

import dataclasses
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from pipelines.core.batches import Batch, BatchSource, open_source
from pipelines.core.layout import Layout
from pipelines.core.settings import Settings, load_settings
from pipelines.core.training import Job, Row, divide_rows, run_job
from pipelines.core.transfer import build_network, find_origins
from pipelines.core.watch import Watch, unwatched

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
# Networks this small gain nothing from threads, and the hand-over between threads costs them most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the stages that tests start as processes
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

CLASSES = ["blue", "green", "red"]
LABELLED, TEST = 24, 12


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

    def settings(self, *overrides: str) -> Settings:
        return load_settings(str(self.toml), overrides=overrides)

    def rows(self, part: str) -> pd.DataFrame:
        return self.table[self.table["split"] == part]

    def source(self, part: str, *overrides: str, training: bool = False) -> BatchSource:
        return open_source(
            self.settings(*overrides),
            self.rows(part),
            self.table,
            self.layout,
            self.classes,
            torch.device("cpu"),
            training,
        )

    def job(self, *overrides: str, run: str = "run") -> Job:
        """The job of the stage `train`, with its files below runs/tiny/<run>."""
        settings = self.settings(*overrides)
        train, valid = divide_rows(self.table, settings)
        files = self.layout.run(run)
        return Job(
            settings,
            self.classes,
            self.table,
            train,
            valid,
            settings.train.epochs,
            self.layout,
            files.last,
            files.history,
            files.best,
        )

    def retrain_job(self, *overrides: str, run: str = "run") -> Job:
        """The job of the stage `retrain`: all labelled rows, and nothing to validate on."""
        job = self.job(*overrides, run=run)
        files = self.layout.run(run)
        rows = pd.concat([job.train, job.valid]).sort_index()
        return dataclasses.replace(
            job, train=rows, valid=None, best=None, last=files.retrain_last, history=files.retrain_history
        )

    def network(self, settings: Settings) -> nn.Module:
        """The fresh network of `settings`, as the stages build it."""
        return build_network(settings, self.classes, find_origins(settings.model, self.layout.weights))

    def run(self, job: Job, watch: Watch = unwatched) -> Iterator[Row]:
        """Train as the stages do."""
        return run_job(job, self.network(job.settings), watch)


def pytest_configure() -> None:
    """Let the tests and the processes that they start be interrupted, also where they run in a shell's background or
    below nohup: these ignore SIGINT, and whoever is started then does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of torchvision's smallest network whose last layer is linear, as if they were pretrained."""
    from torchvision.models import shufflenet_v2_x0_5

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(shufflenet_v2_x0_5(weights=None).state_dict(), path)
    return path


def pretrained(weights: Path) -> tuple[str, ...]:
    """The settings that name the network of `small_weights`."""
    image = ("input.size=8", "input.mean=[0.5, 0.5, 0.5]", "input.std=[0.25, 0.25, 0.25]")
    return ("model.name=shufflenet_v2_x0_5", f"model.weights={weights}", *image)


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    toml = tmp_path / "tiny.toml"
    toml.write_text(TOML)
    layout = Layout(tmp_path, "tiny")
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


def numbers_of(batch: Batch, settings: Settings) -> list[int]:
    """The numbers that the first pixels of a batch's images spell (see `Tiny`), where nothing was augmented."""
    red = batch.inputs[:, 0, 0, 0].double() * settings.input.std[0] + settings.input.mean[0]
    return [round(value * 255) for value in red.tolist()]


def png_size(path: Path) -> tuple[int, int]:
    """Width and height of a whole PNG; raises when it is anything else."""
    with Image.open(path, formats=["PNG"]) as image:
        image.load()
        return image.size


def noise(*shape: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
