"""Recipes side by side: ordinary runs, made once; a killed comparison goes on; one table and one picture at the end."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Tiny, png_size

from pipelines import command, compare, split
from pipelines.core.files import read_json

REPOSITORY = Path(__file__).parent.parent
RECIPES = """
[split]
valid_ratio = 0.25
[recipes.scratch]
train = { epochs = 4, lr = 0.01 }
[recipes.third]
train = { epochs = 1 }
"""
TWO = ["tiny.toml", "--seeds", "2"]


@pytest.fixture
def divided(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the tiny competition, with three recipes and its split."""
    with open(tiny.toml, "a") as file:
        file.write(RECIPES)
    monkeypatch.chdir(tiny.layout.root)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    assert command.run(split.main, ["tiny.toml"]) == 0
    return tiny.layout.root


def compared(*arguments: str) -> int:
    return command.run(compare.main, arguments)


def states(folder: Path) -> dict[str, int]:
    """When each file of the runs below `folder` was written last."""
    return {str(path): path.stat().st_mtime_ns for path in folder.glob("runs/tiny/*/*")}


def kill_when_there(folder: Path, path: Path) -> None:
    """Start a comparison, and kill it and the training that it has started as soon as `path` is written."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.compare", *TWO], cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"


def test_comparison_goes_on_after_a_kill_and_repeats_nothing(divided: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs = divided / "runs" / "tiny"
    kill_when_there(divided, runs / "default-seed0" / "train.json")
    first = (runs / "default-seed0" / "history.csv").stat().st_mtime_ns
    assert not list(runs.glob("compare-*"))
    capfd.readouterr()
    assert compared(*TWO) == 0
    out = capfd.readouterr().out
    assert out.count("Already trained") == 1
    assert (runs / "default-seed0" / "history.csv").stat().st_mtime_ns == first
    assert sorted(path.name for path in runs.iterdir() if path.is_dir()) == (
        "default-seed0 default-seed1 scratch-seed0 scratch-seed1".split()
    )

    numbers = pd.read_csv(runs / "compare-default-scratch.csv")
    assert list(numbers.columns[:5]) == ["recipe", "seed", "epoch", "train_loss", "valid_loss"]
    assert numbers.groupby(["recipe", "seed"], sort=False)["epoch"].max().to_dict() == {
        ("default", 0): 3,
        ("default", 1): 3,
        ("scratch", 0): 4,
        ("scratch", 1): 4,
    }
    assert png_size(runs / "compare-default-scratch.png") == (1000, 400)
    best = numbers.groupby(["recipe", "seed"])["accuracy"].max()
    assert best["default", 1] == read_json(runs / "default-seed1" / "train.json")["score"]
    means = best.groupby("recipe").mean()
    for recipe in ("default", "scratch"):
        row = f"{recipe} +2 +6 +{means[recipe]:.4f} .* {best[recipe].min():.4f} to {best[recipe].max():.4f}"
        assert re.search(row, out), out
    differences = best["default"] - best["scratch"]
    margin = 12.7062 * differences.std() / np.sqrt(2)
    assert f"default less scratch: {differences.mean():.4f} (95% interval {differences.mean() - margin:.4f} to" in out
    assert "on one split" in out
    assert "Curves: runs/tiny/compare-default-scratch.png" in out

    before = states(divided)
    assert compared(*TWO) == 0
    assert states(divided) == before
    assert capfd.readouterr().out.count("Already trained") == 4

    assert compared("tiny.toml", "--recipes", "default", "--seeds", "1") == 0
    assert states(divided) == before
    out = capfd.readouterr().out
    assert re.search(r"default +1 +6 +\S+ +- ", out), out
    assert "less" not in out
    assert png_size(runs / "compare-default.png") == (1000, 400)


def test_overrides_hold_for_all_and_lead_to_other_runs(divided: Path) -> None:
    assert compared("tiny.toml", "--recipes", "third", "--seeds", "1", "--set", "train.batch_size=3") == 0
    (run,) = (path for path in (divided / "runs/tiny").iterdir() if path.is_dir())
    assert re.fullmatch("third-seed0-[0-9a-f]{6}", run.name)
    assert (divided / f"runs/tiny/compare-third{run.name.removeprefix('third-seed0')}.png").exists()
    settings = read_json(run / "run.json")["settings"]
    assert settings["recipe"] == "third"
    assert settings["train"]["batch_size"] == 3
    assert settings["train"]["seed"] == 0


def test_failed_training_ends_the_comparison_with_its_status(divided: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        compared(*TWO, "--set", "train.limit=1")
    assert stop.value.code == 2
    error = capfd.readouterr().err
    assert "error: Of the 1 labelled rows chosen" in error
    assert re.search("The comparison ends with the run default-seed0-[0-9a-f]{6}", error)
    assert not list(divided.glob("runs/tiny/scratch*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipes", "default", "scrach"], r"no recipe 'scrach'\. Did you mean 'scratch'\?.*default, scratch, third"),
        (["--recipe", "scratch"], "RECIPES=, not RECIPE= or RUN="),
        (["--run", "mine"], "RECIPES=, not RECIPE= or RUN="),
        (["--set", "train.seed=3"], "sets train.seed itself"),
        (["--set", "train.epoch=3"], "unknown key train.epoch"),
    ],
)
def test_words_that_make_no_sense_stop_before_the_first_run(
    divided: Path, capfd: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert compared(*TWO, *words) == 2
    assert re.search(message, capfd.readouterr().err)
    assert not (divided / "runs").exists()


def test_competition_without_a_recipe_scratch_asks_for_recipes(
    divided: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    toml = divided / "tiny.toml"
    toml.write_text(toml.read_text().replace("recipes.scratch", "recipes.other"))
    assert compared("tiny.toml") == 2
    error = capfd.readouterr().err
    assert "It has: default, other, third." in error
    assert 'RECIPES="default …"' in error


@pytest.mark.parametrize("seeds", ["0", "-1", "1.5", "many"])
def test_seeds_are_a_positive_number(seeds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        compared("tiny.toml", "--seeds", seeds)
    assert stop.value.code == 2
    assert "is not a number of seeds" in capsys.readouterr().err


def test_without_a_split_the_message_names_the_target(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.layout.root)
    with open(tiny.toml, "a") as file:
        file.write(RECIPES)
    with pytest.raises(Exception, match=r"split\.csv is missing\. First: make split COMP=tiny\.toml"):
        compare.main(["tiny.toml"])
