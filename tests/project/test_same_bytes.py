"""The same seed gives the same split, weights and submission, byte for byte, wherever and however the stages run."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import command
from tests.support.small_boxes import make_small_boxes

REPOSITORY = Path(__file__).parents[2]
STAGES = ("download", "split", "train", "retrain", "predict")

# The processor's instructions and the number of threads decide on the rounding: the same for all.
KEPT_VARIABLES = ("PATH", "HOME", "OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")

# Runs all stages in one process: the import of torch takes longest.
ALL_STAGES = """
import importlib, json, os, random, sys
from pipelines import command

calls, cores, shuffled = json.loads(sys.argv[1])
if cores:
    os.sched_getaffinity = lambda process: set(range(cores))
if shuffled:
    shuffle, listed, scanned = random.Random(shuffled).shuffle, os.listdir, os.scandir

    def listdir(*arguments):
        names = listed(*arguments)
        shuffle(names)
        return names

    class Scanned:
        def __init__(self, *arguments):
            with scanned(*arguments) as entries:
                self.entries = list(entries)
            shuffle(self.entries)
        def __iter__(self):
            return self
        def __next__(self):
            if not self.entries:
                raise StopIteration
            return self.entries.pop()
        def __enter__(self):
            return self
        def __exit__(self, *error):
            self.entries.clear()
        def close(self):
            self.entries.clear()

    os.listdir, os.scandir = listdir, Scanned
for stage, *words in calls:
    status = command.run(importlib.import_module("pipelines." + stage).main, words)
    if status:
        sys.exit(status)
"""

TOML = """
[competition]
metric = "log_loss"
submission = "probabilities"
[split]
valid_ratio = 0.25
[data]
train_images = "train"
test_images = "test"
[input]
size = 8
[augment]
flip = true
mixup = 0.2
[model]
widths = [8, 8]
dropout = 0.1
[train]
epochs = 2
batch_size = 8
lr = 0.02
ema_decay = 0.8
[hardware]
device = "cpu"
precision = "float32"
[recipes.photos]
input = { source = "photos", resize = 9 }
augment = { flip = true, crop_scale = [0.5, 1.0], colour_jitter = 0.2 }
"""
LABELS = ("blå", "grün", "Rot")  # in class folders, whose order depends on the listing


@dataclass(frozen=True)
class Way:
    """How the stages are run: environment, loader workers, cores to claim (0: the true number), and a seed to shuffle
    listings with (0: not shuffled)."""

    environment: dict[str, str] = field(default_factory=dict)
    workers: int = 0
    cores: int = 0
    shuffled: int = 0
    stages: tuple[str, ...] = STAGES


def make_competitions(folder: Path) -> None:
    """Write classes.toml and the folder `source`, with a folder of images for each class; boxes.toml and `boxes`."""
    with zipfile.ZipFile(make_small_boxes(folder)) as archive:
        archive.extractall(folder / "boxes")
    (folder / "classes.toml").write_text(TOML)
    random = np.random.default_rng(0)
    for number in range(60):
        part = f"train/{LABELS[number % 3]}" if number < 45 else "test"
        (folder / "source" / part).mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 200, (8, 8, 3), dtype=np.uint8)
        pixels[..., number % 3] += 50
        Image.fromarray(pixels).save(folder / "source" / part / f"{number}.png")


ARCHIVES = {"classes": "source", "boxes": "boxes"}
RECIPES = (("classes", "default"), ("classes", "photos"), ("boxes", "default"))


def calls(way: Way) -> list[list[str]]:
    """Return the stages to run of each recipe, each with its arguments."""
    found = []
    for name, recipe in RECIPES:
        words = [f"{name}.toml", "--recipe", recipe, "--set", f"hardware.workers={way.workers}", "--run", recipe]
        archive = ["--archive", ARCHIVES[name]]
        found += [[stage, *words, *(archive if stage == "download" else [])] for stage in way.stages]
    return found


def run_all(folder: Path, way: Way) -> None:
    """Run the stages of each recipe in `folder`, in one process."""
    plain = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    environment = plain | {"PYTHONPATH": str(REPOSITORY)} | way.environment
    arguments = json.dumps([calls(way), way.cores, way.shuffled])
    done = subprocess.run(
        [sys.executable, "-c", ALL_STAGES, arguments], cwd=folder, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")


def run_here(folder: Path, way: Way) -> None:
    """Run the stages of each recipe in `folder`, in this process, which has imported what they need."""
    with contextlib.chdir(folder):
        for stage, *words in calls(way):
            assert command.run(import_module(f"pipelines.{stage}").main, words) == 0


def results(folder: Path) -> dict[str, Any]:
    """What must be the same: files by their bytes, and checkpoints by their tensors."""
    files = [*(f"data/{name}/split.{kind}" for name in ARCHIVES for kind in ("csv", "json")), "data/boxes/boxes.csv"]
    files += [f"submissions/{name}/{recipe}.csv" for name, recipe in RECIPES]
    found: dict[str, Any] = {name: (folder / name).read_bytes() for name in files}
    for path in (f"{name}/{recipe}/{file}.pt" for name, recipe in RECIPES for file in ("best", "final")):
        saved = torch.load(folder / "runs" / path, weights_only=True)
        found |= {f"{path}/{key}": value.numpy().tobytes() for key, value in saved["weights"].items()}
    return found


def check_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if ours[name] != theirs[name]]
    assert not different, different


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder after all stages, run in the plainest way."""
    folder = tmp_path_factory.mktemp("plain")
    make_competitions(folder)
    run_here(folder, Way())
    return folder


@pytest.fixture(scope="module")
def plain(home: Path) -> dict[str, Any]:
    return results(home)


def test_elsewhere_with_all_varied_at_once(plain: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "an other folder, ü"
    folder.mkdir()
    make_competitions(folder)
    environment = {"PYTHONHASHSEED": "12345", "LC_ALL": "C", "TZ": "Pacific/Kiritimati"}
    run_all(folder, Way(environment, workers=1, cores=2, shuffled=1))
    check_same(results(folder), plain)


def test_again_over_warm_caches(home: Path, plain: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "home"
    subprocess.run(["cp", "-a", str(home), str(folder)], check=True)  # with times, by which caches know files
    for made in ("runs", "submissions"):
        shutil.rmtree(folder / made)
    caches = {path: path.stat().st_mtime_ns for path in folder.glob("data/*/cache/*")}
    run_here(folder, Way(stages=("train", "retrain", "predict")))
    check_same(results(folder), plain)
    assert {path.parents[1].name for path in caches} == set(ARCHIVES)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("data/*/cache/*")} == caches


WAYS = {
    "elsewhere": Way(),
    **{f"shuffled-{seed}": Way(shuffled=seed) for seed in (1, 2, 3)},
    **{f"workers-{workers}": Way(workers=workers, cores=8) for workers in (1, 4)},
    **{f"hash-seed-{seed}": Way({"PYTHONHASHSEED": seed}) for seed in ("0", "1", "4294967295")},
    **{f"locale-{locale}": Way({"LC_ALL": locale}) for locale in ("C", "C.utf8", "POSIX")},
    **{f"zone-{zone}": Way({"TZ": zone}) for zone in ("UTC", "America/St_Johns", "Pacific/Kiritimati")},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_each_variation_alone(name: str, plain: dict[str, Any], tmp_path: Path) -> None:
    make_competitions(tmp_path)
    run_all(tmp_path, WAYS[name])
    check_same(results(tmp_path), plain)
