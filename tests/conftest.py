"""One fixture that shrinks everything: a whole competition of 36 images, 8 pixels wide, and the smallest network."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipelines.settings.layout import Layout
from tests.support.starter import Starter
from tests.support.tiny import CLASSES, LABELLED, TEST, TOML, Tiny

# Networks this small gain nothing from threads, and the hand-over between threads costs them most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the stages that tests start as processes
os.environ["CALLED_FROM"] = ""  # the stages then name make targets, as they do when make has started them
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_configure() -> None:
    """Let the tests and the processes that they start be interrupted, also where they run in a shell's background or
    below nohup: these ignore SIGINT, and whoever is started then does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(scope="session")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Starts stages as processes without the seconds that their imports take."""
    found = Starter(tmp_path_factory.mktemp("starter"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of torchvision's smallest network whose last layer is linear, as if they were pretrained."""
    from torchvision.models import shufflenet_v2_x0_5

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(shufflenet_v2_x0_5(weights=None).state_dict(), path)
    return path


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
