"""Stages killed at any moment, and typed again: the end is the same to the byte as that of an undisturbed run.

Moments are chosen by the clock, or as the one before a certain change in the working folder: a file opened for writing,
renamed or removed, a folder made, a link laid.
"""

import csv
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.system.files import only_one
from tests.support.small_boxes import make_small_boxes
from tests.support.starter import KILLED, Starter, environment
from tests.support.tiny import pretrained

KILLS = 4  # of each case, in the long trial
FASTEST_KILLS = 6  # of all stages together, in the short one
FRESH_KILLS = 2  # of each stage, in an interpreter of its own
FOLD_KILLS = 20  # of a set and of its trainings
LAST_CHANGES = 5
PAGE_CHANGES = 4  # of the report page, which is written last: a folder made, a file opened twice and renamed

TOML = """
[competition]
metric = "log_loss"
submission = "probabilities"
[data]
labels = "labels.csv"
sample_submission = "sample.csv"
[split]
valid_ratio = 0.25
[input]
size = 8
[augment]
flip = true
[model]
widths = [8, 8]
dropout = 0.1
[train]
epochs = 3
batch_size = 8
lr = 0.02
ema_decay = 0.8
[hardware]
device = "cpu"
precision = "float32"
[recipes.photos]
input = { source = "photos", resize = 9 }
augment = { flip = true, crop_scale = [0.5, 1.0] }
hardware = { workers = 1 }
"""
CLASSES = ("blue", "green", "red")


@dataclass(frozen=True)
class Calm:
    """An undisturbed run of one stage: the working folder before and after it, its changes and seconds."""

    stage: str
    words: list[str]
    before: Path
    after: Path
    changes: int
    seconds: float


class Calms:
    """Undisturbed runs, made when first wanted: a chain of stages is run as far as it is asked for."""

    def __init__(self, home: Path, starter: Starter, weights: Path) -> None:
        self.home, self.starter, self.weights = home, starter, weights
        self.made: dict[tuple[str, str], Calm] = {}

    def get(self, chain: str, stage: str) -> Calm:
        if (chain, stage) not in self.made:
            stages = list(CHAINS[chain])
            earlier = stages[: stages.index(stage)]
            before = self.get(chain, earlier[-1]).after if earlier else self._start(chain)
            after = self.home / chain / stage
            copy(before, after)
            words = CHAINS[chain][stage]
            ended = self.starter.run(after, stage, *words)
            assert ended.status == 0, ended.err
            assert not leftovers(after)
            self.made[chain, stage] = Calm(stage, words, before, after, ended.changes, ended.seconds)
        return self.made[chain, stage]

    def _start(self, chain: str) -> Path:
        folder = self.home / chain / "start"
        if chain in ("again", "reproduced"):
            folder.parent.mkdir()
            copy(self.get("packed", "predict").after, folder)
        if chain == "reproduced":
            return folder
        if chain == "again":
            for name in ("data/kinds/split.json", "runs/kinds/default/final.pt", "submissions/kinds/default.csv"):
                (folder / name).unlink()
            return folder
        folder.mkdir(parents=True)
        if chain == "boxes":
            make_small_boxes(folder)
            return folder
        make_competition(folder)
        if chain == "folder":
            with zipfile.ZipFile(folder / "kinds.zip") as archive:
                archive.extractall(folder / "source")
        if chain == "features":
            shutil.copy(self.weights, folder / "network.pth")
        return folder


@pytest.fixture(scope="module")
def calms(starter: Starter, small_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Calms:
    return Calms(tmp_path_factory.mktemp("calm"), starter, small_weights)


def chain(first: list[str], words: list[str]) -> dict[str, list[str]]:
    return {"download": first, "split": words} | dict.fromkeys(("train", "retrain", "predict"), words)


ZIP = ["kinds.toml", "--archive", "kinds.zip"]
QUICK = ["digits", "--run", "quick", "--set", "train.epochs=2", "hardware.precision=float32"]
HEAD = ["kinds.toml", "--run", "head", "--set", *pretrained(Path("network.pth")), "finetune.frozen_stages=-1"]
FOLDS = ["kinds.toml", "--run", "set", "--set", "split.folds=2", "train.epochs=4"]
CHAINS = {
    "packed": chain(ZIP, ["kinds.toml"]),
    "photos": chain(ZIP, ["kinds.toml", "--recipe", "photos"]),
    "boxes": chain(["boxes.toml", "--archive", "boxes.zip"], ["boxes.toml"]),
    "folder": {"download": ["kinds.toml", "--archive", "source"]},
    "features": {
        "download": ZIP,
        "split": ["kinds.toml"],
        "tools.sweep": [*HEAD, "--try", "train.lr=0.01,0.1"],
        "train": HEAD,
        "predict": [*HEAD, "predict.checkpoint=best"],
    },
    "digits": chain(QUICK, QUICK),
    "compared": {
        "download": ZIP,
        "split": ["kinds.toml"],
        "tools.compare": ["kinds.toml", "--recipes", "default", "photos", "--seeds", "1", "--set", "train.epochs=2"],
    },
    "folds": {"download": ZIP, "split": FOLDS, "tools.folds": FOLDS, "retrain": FOLDS},
    "reproduced": {"tools.reproduce": ["kinds.toml"]},
    "again": {stage: ["kinds.toml"] for stage in ("split", "retrain", "predict")},  # done once and then removed
}
CASES = [
    *((name, stage) for name in ("packed", "digits", "again") for stage in CHAINS[name]),
    *(("photos", stage) for stage in ("train", "retrain", "predict")),
    *(("boxes", stage) for stage in ("split", "train", "retrain", "predict")),
    ("folder", "download"),
    *(("features", stage) for stage in ("tools.sweep", "train", "predict")),
    ("compared", "tools.compare"),
    *(("folds", stage) for stage in ("tools.folds", "retrain")),
    ("reproduced", "tools.reproduce"),
]


def make_competition(folder: Path) -> None:
    """Write kinds.toml, and kinds.zip with an archive of images in it."""
    (folder / "kinds.toml").write_text(TOML)
    random = np.random.default_rng(0)
    pictures = folder / "pictures.zip"
    with zipfile.ZipFile(folder / "kinds.zip", "w") as archive, zipfile.ZipFile(pictures, "w") as inner:
        for part, count in (("train", 48), ("test", 12)):
            for number in range(1, count + 1):
                pixels = random.integers(0, 200, (8, 8, 3), dtype=np.uint8)
                pixels[..., number % 3] += 50
                with inner.open(f"{part}/{number}.png", "w") as file:
                    Image.fromarray(pixels).save(file, "PNG")
        labels = "".join(f"{number},{CLASSES[number % 3]}\n" for number in range(1, 49))
        archive.writestr("labels.csv", "id,label\n" + labels)
        ids = "".join(f"{number},0.3,0.3,0.4\n" for number in (7, 12, 1, 3, 11, 2, 10, 4, 6, 5, 9, 8))
        archive.writestr("sample.csv", "id,blue,green,red\n" + ids)
    with zipfile.ZipFile(folder / "kinds.zip", "a") as archive:
        archive.write(pictures, "pictures.zip")
    pictures.unlink()


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)  # with times, which caches go by, and links


UNFINISHED = (".partial", ".journal", ".outgoing", "-reproduced")
TIMES = {"seconds", "images_per_second", "features_seconds"}


def files(folder: Path) -> dict[str, Path]:
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {name: path for name, path in sorted(found.items()) if not name.endswith((".lock", "/train.log"))}


def leftovers(folder: Path) -> list[str]:
    return [name for name in files(folder) if unfinished(name)]


def unfinished(name: str) -> bool:
    return any(part.endswith(UNFINISHED) for part in Path(name).parts)


def content(path: Path) -> Any:
    """What is in a file but for the times that something took: tensors, values, or bytes."""
    if path.is_dir():
        return "folder"
    if path.suffix == ".pt":
        return untimed(torch.load(path, weights_only=True))
    if path.name == "predict.json":  # the weights' file is known by its bytes, and those hold times
        notes = json.loads(path.read_text(encoding="utf-8"))
        return {name: {key: value for key, value in note.items() if key != "weights"} for name, note in notes.items()}
    if path.suffix == ".json":
        return untimed(json.loads(path.read_text(encoding="utf-8")))
    if path.name.endswith(("history.csv", "sweep.csv")) or path.match("compare-*.csv"):
        with open(path, newline="", encoding="utf-8") as file:
            return untimed(list(csv.DictReader(file)))
    if path.suffix == ".html":  # the digest is of files that hold times
        text = re.sub(r'<meta name="inputs" content="[0-9a-f]+">', "", path.read_text(encoding="utf-8"))
        return re.sub(r"(\d+ h )?(\d+ min )?\d+ s(?=<)|\d+ h \d+ min", "", text)
    return path.read_bytes()


def untimed(value: Any) -> Any:
    """Return `value` without times, and with bytes for tensors, which compare by `==`."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: untimed(each) for key, each in value.items() if key not in TIMES}
    return [untimed(each) for each in value] if isinstance(value, list | tuple) else value


def check_nobody_works_on(folder: Path) -> None:
    """See that no stage lives on that the killed one had started."""
    for lock in folder.rglob(".*.lock"):
        with only_one(lock, "working on unseen", inherited=False):
            pass


def check_whole(folder: Path, calm: Calm) -> None:
    """See that what has its final name is as before the stage, as after it, or a state that it can go on from."""
    check_nobody_works_on(folder)
    before, after = files(calm.before), files(calm.after)
    for name, path in files(folder).items():
        if unfinished(name):
            continue
        alike = [places[name] for places in (before, after) if name in places]
        if any(content(path) == content(other) for other in alike):
            continue
        if path.name in ("best.pt", "last.pt", "retrain_last.pt"):
            saved = content(path)
            trained = after[name.replace(path.name, "final.pt" if path.name == "retrain_last.pt" else "last.pt")]
            assert saved["history"] == content(trained)["history"][: saved["epoch"]], name
            assert [row["epoch"] for row in saved["history"]] == list(range(1, saved["epoch"] + 1)), name
        elif path.name in ("history.csv", "retrain_history.csv"):
            rows = content(path)
            assert rows and rows == content(after[name])[: len(rows)], name
        elif path.name == "keys.u64" or path.name.startswith("values."):  # which grow
            assert after[name].read_bytes().startswith(path.read_bytes()), name
        else:
            raise AssertionError(f"{name} has its final name, but not its final content")
    for whole in ("raw", "train_valid_test"):
        for top in folder.glob(f"data/*/{whole}"):
            inside = f"{top.relative_to(folder)}/"
            ours, theirs = ({n for n in found if n.startswith(inside)} for found in (files(folder), after))
            assert ours == theirs, inside


def check_same(folder: Path, after: Path) -> None:
    """See that two working folders hold the same files with the same contents."""
    ours, theirs = files(folder), files(after)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if content(ours[name]) != content(theirs[name])]
    assert not different, different


def storm(starter: Starter, calm: Calm, folder: Path, random: Random, kills: int) -> list[str]:
    """Run a stage in `folder`, kill it up to so many times, and let it end.  Return the moments when it was killed."""
    copy(calm.before, folder)
    moments: list[str] = []
    for _ in range(kills):
        change = seconds = 0.0
        if random.random() < 0.75:
            change = random.randint(1, calm.changes)
        else:
            seconds = random.uniform(0, calm.seconds)
        ended = starter.run(folder, calm.stage, *calm.words, change=int(change), seconds=seconds)
        assert ended.status in (0, KILLED), (moments, change, seconds, ended.err)
        if ended.status == 0:
            break
        moments.append(f"before change {change} of {calm.changes}" if change else f"after {seconds:.3f} s")
        check_whole(folder, calm)
    ended = starter.run(folder, calm.stage, *calm.words)
    assert ended.status == 0, (moments, ended.err)
    print(f"{calm.stage}: killed {', then '.join(moments) or 'never'}")
    check_same(folder, calm.after)
    return moments


@pytest.mark.parametrize(
    ("name", "stages", "kills"), [("packed", CHAINS["packed"], FASTEST_KILLS), ("boxes", ("split", "train"), 2)]
)
def test_each_stage_killed_and_typed_again_ends_the_same(
    name: str, stages: Iterable[str], kills: int, starter: Starter, calms: Calms, tmp_path: Path
) -> None:
    random, count = Random(1), 0
    following = itertools.cycle(stages)
    while count < kills:
        stage = next(following)
        count += len(storm(starter, calms.get(name, stage), tmp_path / f"{count}-{stage}", random, 1))


def test_retraining_killed_at_its_very_end_is_not_repeated(starter: Starter, calms: Calms, tmp_path: Path) -> None:
    calm = calms.get("packed", "retrain")
    copy(calm.before, tmp_path / "home")
    assert starter.run(tmp_path / "home", "retrain", *calm.words, change=calm.changes - PAGE_CHANGES).status == KILLED
    assert "runs/kinds/default/retrain_last.pt" in files(tmp_path / "home")
    assert "Already retrained" in starter.run(tmp_path / "home", "retrain", *calm.words).out
    check_same(tmp_path / "home", calm.after)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stage"), CASES)
def test_killed_at_random(name: str, stage: str, starter: Starter, calms: Calms, tmp_path: Path) -> None:
    random, calm, count = Random(f"{name} {stage}"), calms.get(name, stage), 0
    for trial in range(10 * KILLS):
        folder = tmp_path / str(trial)
        count += len(storm(starter, calm, folder, random, 2))
        shutil.rmtree(folder)
        if count >= KILLS:
            return
    raise AssertionError(f"only {count} kills came before the end")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stage"), [case for case in CASES if case[0] in ("packed", "again")])
def test_killed_before_each_of_its_last_changes(
    name: str, stage: str, starter: Starter, calms: Calms, tmp_path: Path
) -> None:
    """Where all but a few marks are there, a wrong order of them would show."""
    calm = calms.get(name, stage)
    for change in range(max(calm.changes - LAST_CHANGES, 0) + 1, calm.changes + 1):
        folder = tmp_path / str(change)
        copy(calm.before, folder)
        assert starter.run(folder, stage, *calm.words, change=change).status == KILLED
        check_whole(folder, calm)
        ended = starter.run(folder, stage, *calm.words)
        assert ended.status == 0, (change, ended.err)
        check_same(folder, calm.after)
        shutil.rmtree(folder)


def fresh(calm: Calm, folder: Path, seconds: float | None = None) -> int:
    """Run a stage as people do, kill it after so many seconds, and return its exit status."""
    words = [sys.executable, "-m", f"pipelines.{calm.stage}", *calm.words]
    with subprocess.Popen(words, cwd=folder, env=environment(), stdout=subprocess.DEVNULL) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.returncode


@pytest.mark.slow
@pytest.mark.parametrize("stage", CHAINS["packed"])
def test_fresh_interpreter_killed_at_any_moment_of_its_life(stage: str, calms: Calms, tmp_path: Path) -> None:
    """Most of which it spends on imports, which the other trials have behind them."""
    random, calm = Random(f"fresh {stage}"), calms.get("packed", stage)
    copy(calm.before, tmp_path / "calm")
    started = time.monotonic()
    assert fresh(calm, tmp_path / "calm") == 0
    life = time.monotonic() - started
    moments: list[float] = []
    for trial in range(10 * FRESH_KILLS):
        folder = tmp_path / str(trial)
        copy(calm.before, folder)
        seconds = random.uniform(0, life)
        status = fresh(calm, folder, seconds)
        assert status in (0, KILLED)
        moments += [seconds] if status else []
        check_whole(folder, calm)
        assert fresh(calm, folder) == 0
        check_same(folder, calm.after)
        if len(moments) == FRESH_KILLS:
            print(f"{stage}: killed after {', '.join(f'{each:.2f}' for each in moments)} of {life:.2f} s")
            return
    raise AssertionError(f"only {len(moments)} kills came before the end")


@pytest.mark.slow
def test_folds_killed_at_random_end_with_the_same_bytes(starter: Starter, calms: Calms, tmp_path: Path) -> None:
    """The set is killed, and in every other trial one of its trainings, which ends the set and the other training."""
    random, calm, kills = Random("folds"), calms.get("folds", "tools.folds"), 0
    for trial in range(10 * FOLD_KILLS):
        folder = tmp_path / str(trial)
        copy(calm.before, folder)
        stage = starter.start(folder, calm.stage, *calm.words)
        time.sleep(random.uniform(0, calm.seconds))
        trainings = stage.trainings() if trial % 2 else []
        if trainings:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(random.choice(trainings), signal.SIGKILL)
        ended = stage.end(number=0 if trainings else signal.SIGKILL)
        assert ended.status in (0, KILLED, 2 if trainings else KILLED), ended.err
        assert "Traceback" not in ended.err
        kills += ended.status != 0
        check_whole(folder, calm)
        ended = starter.run(folder, calm.stage, *calm.words)
        assert ended.status == 0, ended.err
        check_same(folder, calm.after)
        shutil.rmtree(folder)
        if kills == FOLD_KILLS:
            print(f"killed {kills} times in {trial + 1} trials; the same bytes each time")
            return
    raise AssertionError(f"only {kills} kills came before the end")
