"""Long trials of several processes: killed at random, and scored against one process."""

import contextlib
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipelines import command, split, train
from tests.support.groups import PATIENCE, TORCHRUN, Running, check_gone
from tests.support.launches import (
    EPOCHS,
    LONG,
    check_partial,
    end,
    epochs_of,
    results,
    split_tiny,
    start,
    wait_for_epochs,
)
from tests.support.small_boxes import make_small_boxes
from tests.support.stages import run_stage_here

COUNT, BOX_EPOCHS = 3, 12
KILLS = {"tiny": 20, "boxes": 6}
SEEDS, SMALLEST = 3, 0.55  # accuracy, where a guess has 0.33
HARD = """
[data]
labels = "labels.csv"
sample_submission = "sample.csv"
[split]
valid_ratio = 0.4
[input]
size = 8
[augment]
flip = true
[model]
widths = [8, 8]
[train]
epochs = 12
batch_size = 24
lr = 0.1
[hardware]
device = "cpu"
precision = "float32"
workers = 0
"""


def make_fresh(folder: Path, competition: str) -> int:
    """Split a competition whose batches have two images for each process, or more; return its epochs."""
    if competition == "tiny":
        split_tiny(folder, LONG.replace("batch_size = 6", "batch_size = 9"))
        return EPOCHS
    folder.mkdir()
    make_small_boxes(folder)
    toml = folder / "boxes.toml"
    toml.write_text(toml.read_text().replace("epochs = 2", f"epochs = {BOX_EPOCHS}"))
    for stage, words in (("download", ["--archive", "boxes.zip"]), ("split", [])):
        assert run_stage_here(stage, [toml.name, *words], folder) == 0
    return BOX_EPOCHS


@pytest.mark.slow
@pytest.mark.parametrize("competition", KILLS)
def test_one_of_three_processes_killed_at_random_the_end_is_the_same(tmp_path: Path, competition: str) -> None:
    random, words, run = Random("group"), ("train", f"{competition}.toml"), Path("runs", competition, "default")
    epochs = make_fresh(tmp_path / "fresh", competition)
    shutil.copytree(tmp_path / "fresh", tmp_path / "whole")
    began = time.monotonic()
    assert end(start(tmp_path / "whole", *words, count=COUNT)).status == 0
    life, expected = time.monotonic() - began, results(tmp_path / "whole", run)
    kills, moments = 0, []
    for trial in range(3 * KILLS[competition]):
        folder = tmp_path / str(trial)
        shutil.copytree(tmp_path / "fresh", folder)
        running = start(folder, *words, count=COUNT)
        running.wait_for(lambda running=running: len(running.members()) == COUNT, "all processes")  # type: ignore[misc]
        members = running.members()
        if trial % 4:  # most of a life goes by before the first epoch
            wait_for_epochs(running, folder, random.randrange(epochs - 2), run)
        time.sleep(random.uniform(0, 0.2 if trial % 4 else life))
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(random.choice(list(members.values())), signal.SIGKILL)
        ended = end(running)
        assert ended.status in (0, 137), (ended.status, ended.err)
        check_gone(members.values())
        if ended.status:
            kills += 1
            moments.append(epochs_of(folder, run))
            assert ended.err.count("was killed (SIGKILL)") == 1 and "Traceback" not in ended.err, ended.err
            ended = end(start(folder, *words, count=COUNT))
            assert ended.status == 0, ended.err
        assert results(folder, run) == expected
        shutil.rmtree(folder)
        if kills == KILLS[competition]:
            break
    print(f"killed {kills} times, after the epochs {sorted(moments)}; the same bytes each time")
    assert kills == KILLS[competition]


@pytest.mark.slow
def test_it_continues_after_a_kill_of_the_launcher_and_by_a_restart_of_torchrun(tmp_path: Path) -> None:
    work, again = tmp_path / "launched", tmp_path / "restarted"
    split_tiny(work)
    for folder in (again, tmp_path / "whole"):
        shutil.copytree(work, folder)
    assert end(start(tmp_path / "whole", "train", "tiny.toml")).status == 0
    running = start(work, "train", "tiny.toml")
    wait_for_epochs(running, work, 2)
    members = running.members().values()
    running.process.kill()
    running.process.wait(PATIENCE)
    check_gone(members)
    check_partial(work)
    assert end(start(work, "train", "tiny.toml")).status == 0

    words = ["--nproc-per-node=2", "--max-restarts=1", "-m", "pipelines.train", "tiny.toml"]
    running = Running([*TORCHRUN, *words], again, again / "logs")
    wait_for_epochs(running, again, 2)
    os.kill(running.members()[1], signal.SIGKILL)
    ended = end(running)
    assert ended.status == 0, ended.err
    assert results(work) == results(again) == results(tmp_path / "whole")


def make_hard(folder: Path) -> None:
    """Write 240 noisy images whose label is the colour that is brighter than the others by a little."""
    random, raw = np.random.default_rng(0), folder / "data/hard/raw"
    rows = []
    for part, count in (("train", 240), ("test", 3)):
        (raw / part).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 200, (8, 8, 3), dtype=np.uint8)
            pixels[..., number % 3] += 25
            Image.fromarray(pixels).save(raw / part / f"{part}{number}.png")
            rows.append((f"{part}{number}", "rgb"[number % 3]))
    table = pd.DataFrame(rows, columns=["id", "label"])
    table.head(240).to_csv(raw / "labels.csv", index=False)
    table.tail(3).to_csv(raw / "sample.csv", index=False)
    (folder / "hard.toml").write_text(HARD)


@pytest.mark.slow
def test_two_processes_score_like_one(tmp_path: Path) -> None:
    """Batch norms see half of each batch, so the weights differ; the scores differ like those of seeds."""
    make_hard(tmp_path)
    found: dict[int, list[float]] = {1: [], 2: []}
    with contextlib.chdir(tmp_path):
        assert command.run(split.main, ["hard.toml"]) == 0
        for seed in range(SEEDS):
            options = ["--set", f"train.seed={seed}"]
            assert command.run(train.main, ["hard.toml", "--run", f"one-{seed}", *options]) == 0
            words = ["train", "hard.toml", "--run", f"two-{seed}", *options]
            ended = end(start(tmp_path, *words))
            assert ended.status == 0, ended.err
            for count, name in ((1, "one"), (2, "two")):
                history = pd.read_csv(f"runs/hard/{name}-{seed}/history.csv")
                found[count].append(float(history["accuracy"].tail(3).mean()))
    print(f"accuracy of one process: {found[1]}; of two: {found[2]}")
    assert min(*found[1], *found[2]) > SMALLEST
    assert abs(np.mean(found[1]) - np.mean(found[2])) < 0.1
