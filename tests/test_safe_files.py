"""What lies in files is data: no code in it is run, no formula or terminal sequence comes out of it, no secret gets in."""

import ast
import csv
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TOML, pretrained
from PIL import Image

from pipelines import command, compare, download, predict, retrain, split, sweep, train
from pipelines.core.checkpoint import load
from pipelines.core.splits import read_split_csv
from pipelines.core.tables import spreadsheet_safe

STAGES: dict[str, ModuleType] = {
    stage.__name__.rpartition(".")[2]: stage for stage in (compare, download, predict, retrain, split, sweep, train)
}
PACKAGE = Path(__file__).parent.parent / "pipelines"


class Hostile:
    """What makes the folder `marker` where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def of_torch(hostile: Hostile) -> bytes:
    file = io.BytesIO()
    torch.save({"format": 2, "weights": hostile}, file)
    return file.getvalue()


def of_numpy(hostile: Hostile) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([hostile], object), allow_pickle=True)
    return file.getvalue()


def of_numpy_zip(hostile: Hostile) -> bytes:
    file = io.BytesIO()
    objects = np.array([hostile], object)
    np.savez(file, format=objects, entries=objects)
    return file.getvalue()


FORMS: dict[str, Callable[[Hostile], bytes]] = {
    "torch": of_torch,
    "npy": of_numpy,
    "npz": of_numpy_zip,
    "pickle": pickle.dumps,
}


def make_competition(folder: Path, labels: list[str], names: list[str]) -> None:
    """Write `tiny.toml` and `source`, with an image of each of `names` in train and in test; label n % K is n's."""
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for number, name in enumerate(names):
            path = folder / "source" / part / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 100, (8, 8, 3), dtype=np.uint8)
            pixels[..., number % len(labels) % 3] += 150
            Image.fromarray(pixels).save(path)
    with open(folder / "source/labels.csv", "w", newline="", encoding="utf-8") as file:
        rows = [(name, labels[number % len(labels)]) for number, name in enumerate(names)]
        csv.writer(file).writerows([("id", "label"), *rows])
    with open(folder / "source/sample.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "label"), *((name, labels[0]) for name in names)])
    (folder / "tiny.toml").write_text(TOML.replace("epochs = 3", "epochs = 2") + PHOTOS)


PHOTOS = """
[split]
valid_ratio = 0.25
[recipes.photos]
input = { source = "photos", resize = 9 }
"""


def run(stage: str, *words: str) -> int:
    return command.run(STAGES[stage].main, ["tiny.toml", *words])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_weights: Path) -> Path:
    """A working folder in which all stages have ended, with what is packed, with photos and with cached features."""
    folder = tmp_path_factory.mktemp("finished")
    make_competition(folder, ["blue", "green", "red"], [str(number) for number in range(12)])
    features = feature_words(shutil.copy(small_weights, folder / "small.pth"))
    with pytest.MonkeyPatch.context() as place:
        place.chdir(folder)
        assert run("download", "--archive", "source") == run("split") == 0
        for words in ((), ("--recipe", "photos"), features):
            for stage in ("train", "retrain", "predict"):
                assert run(stage, *words) == 0
    return folder


def feature_words(weights: Path | str) -> tuple[str, ...]:
    chosen = [*pretrained(Path(Path(weights).name)), "finetune.frozen_stages=-1"]
    return ("--run", "features", "--set", *chosen)


@pytest.fixture
def work(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the working folder."""
    shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_the_plants_would_do_harm_if_they_were_let(tmp_path: Path) -> None:
    hostile = Hostile(tmp_path / "harmed")
    readers: dict[str, Callable[[io.BytesIO], Any]] = {
        "torch": lambda file: torch.load(file, weights_only=False),
        "npy": lambda file: np.load(file, allow_pickle=True),
        "npz": lambda file: np.load(file, allow_pickle=True)["entries"],
        "pickle": pickle.load,
    }
    for form, make in FORMS.items():
        readers[form](io.BytesIO(make(hostile)))
        hostile.marker.rmdir()


# What is planted, which files are removed before that, and the stage that reads it.  A plant in what a stage can make
# anew is made anew; one in what it cannot is refused.
RUN = "runs/tiny/default"
REFUSED: dict[str, tuple[str, str, tuple[str, ...]]] = {
    f"{RUN}/last.pt": (f"{RUN}/train.json", "train", ()),
    f"{RUN}/best.pt": (f"{RUN}/final.pt", "retrain", ()),
    f"{RUN}/best.pt ": ("submissions/tiny/default.csv", "predict", ()),
    f"{RUN}/final.pt": ("submissions/tiny/default.csv", "predict", ()),
    f"{RUN}/retrain_last.pt": (f"{RUN}/retrain.json {RUN}/final.pt", "retrain", ()),
    f"{RUN}/run.json": ("", "train", ()),
    f"{RUN}/train.json": ("", "train", ()),
    f"{RUN}/train.json ": (f"{RUN}/final.pt", "retrain", ()),
    f"{RUN}/predict.json": ("submissions/tiny/default.csv", "predict", ()),
    "data/tiny/split.json": ("", "train", ()),
    "data/tiny/split.csv": ("", "train", ("--run", "new")),
    "data/tiny/raw/labels.csv": ("data/tiny/split.json", "split", ()),
    "data/tiny/raw/train/1.png": ("", "train", ("--run", "new")),
    "data/tiny/raw/train/1.png ": ("", "train", ("--run", "new", "--recipe", "photos")),
    "data/tiny/cache/PACKED": ("", "train", ("--run", "new")),
    "data/tiny/cache/PACKED ": ("submissions/tiny/default.csv", "predict", ()),
    "small.pth": ("", "train", ("--run", "new", *feature_words("small.pth")[2:])),
    "data/tiny/cache/ABOUT": ("", "train", ("--run", "new", *feature_words("small.pth")[2:])),
    "archive.zip": ("data/tiny/raw/.download.json", "download", ("--archive", "archive.zip")),
}


@pytest.mark.parametrize("plant", REFUSED)
def test_code_in_a_file_that_cannot_be_made_anew_is_refused(
    plant: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    removed, stage, words = REFUSED[plant]
    path = found(work, plant.strip())
    for name in removed.split():
        if plant == "archive.zip":
            shutil.rmtree(work / "data/tiny/raw")
        else:
            (work / name).unlink()
    hostile = Hostile(tmp_path / "harmed")
    for make in FORMS.values():
        path.unlink(missing_ok=True)  # the tree holds hard links to raw images
        path.write_bytes(make(hostile))
        capsys.readouterr()
        assert run(stage, *words) == command.EXIT_USER_ERROR
        message = capsys.readouterr().err
        assert message.startswith("error: ") and path.name in message and "trust" not in message
        assert not hostile.marker.exists()


def found(work: Path, name: str) -> Path:
    """The path of `name`, in which PACKED and ABOUT stand for names that hold a digest."""
    cache = work / "data/tiny/cache"
    if name.endswith("PACKED"):
        return next(path for path in cache.glob("*px-*.npy") if "test" in path.name or True)
    return next(cache.rglob("about.json")) if name.endswith("ABOUT") else work / name
