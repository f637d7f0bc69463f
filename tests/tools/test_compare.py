"""Recipes side by side: ordinary runs, made once; a killed comparison goes on; one table and one picture at the end."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines import command, split
from pipelines.settings.layout import RunLayout
from pipelines.system.files import only_one, read_json, write_json
from pipelines.tools import compare
from tests.support.pictures import png_size
from tests.support.stages import run_stage_here
from tests.support.tiny import Tiny

REPOSITORY = Path(__file__).parents[2]
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


def test_comparison_goes_on_after_a_stop_and_repeats_nothing(
    divided: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["tiny.toml", "--seeds", "1", "--set", "train.batch_size=3"]

    def stopped(stage: str, arguments: list[str]) -> int:
        if "scratch" in arguments:
            raise KeyboardInterrupt
        return run_stage_here(stage, arguments)

    monkeypatch.setattr(command, "run_stage", stopped)
    assert compared(*words) == 130
    monkeypatch.setattr(command, "run_stage", run_stage_here)
    runs = divided / "runs" / "tiny"
    before = states(divided)
    assert not list(runs.glob("compare-*"))
    capfd.readouterr()
    assert compared(*words) == 0
    out = capfd.readouterr().out
    assert out.count("Already trained") == 1
    first = {path: when for path, when in before.items() if "/default-seed0" in path}
    assert first and states(divided).items() >= first.items()
    folders = sorted(path.name for path in runs.iterdir() if path.is_dir())
    assert [name.rpartition("-")[0] for name in folders] == ["default-seed0", "scratch-seed0"]
    changes = folders[0].removeprefix("default-seed0")
    settings = [read_json(runs / name / "run.json")["settings"] for name in folders]
    assert [each["recipe"] for each in settings] == ["default", "scratch"]
    assert {each["train"]["batch_size"] for each in settings} == {3}
    assert png_size(runs / f"compare-default-scratch{changes}.png") == (1000, 400)
    numbers = pd.read_csv(runs / f"compare-default-scratch{changes}.csv")
    assert list(numbers.columns[:5]) == ["recipe", "seed", "epoch", "train_loss", "valid_loss"]
    assert numbers.groupby("recipe")["epoch"].max().to_dict() == {"default": 3, "scratch": 4}
    for recipe, name in zip(("default", "scratch"), folders, strict=True):
        score = read_json(runs / name / "train.json")["score"]
        assert numbers.loc[numbers["recipe"] == recipe, "accuracy"].max() == score
        assert re.search(rf"{recipe} +1 +6 +{score:.4f} +- ", out), out

    before = states(divided)
    assert compared(*words) == 0
    assert states(divided) == before
    assert capfd.readouterr().out.count("Already trained") == 2


@pytest.mark.parametrize(
    ("number", "times"),
    [  # test_command.py sends all of them to a cheaper stage
        (signal.SIGKILL, 1),
        pytest.param(signal.SIGINT, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 2, marks=pytest.mark.slow),
    ],
)
def test_the_training_ends_with_the_comparison(divided: Path, number: signal.Signals, times: int) -> None:
    words = ["tiny.toml", "--recipes", "third", "--seeds", "1", "--set", "train.epochs=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.tools.compare", *words], cwd=divided, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not (last := list(divided.glob("runs/tiny/*/last.pt"))) and time.monotonic() < deadline:
        time.sleep(0.01)
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.1)
    _, error = process.communicate(timeout=60)  # which the training holds open too
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert b"Traceback" not in error
    with only_one(RunLayout(last[0].parent).lock, "training", patience=0, inherited=False):
        pass


@pytest.mark.slow
def test_seeds_of_a_recipe_compute_in_one_precision(divided: Path) -> None:
    words = ["tiny.toml", "--recipes", "third", "--seeds"]
    assert compared(*words, "1") == 0
    runs = divided / "runs" / "tiny"
    write_json(runs / "third-seed0" / "precision.json", {"precision": "bfloat16"})
    assert compared(*words, "2") == 0
    records = [read_json(runs / f"third-seed{seed}/run.json") for seed in (0, 1)]
    assert [record["settings"]["hardware"]["precision"] for record in records] == ["float32", "bfloat16"]


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_table_is_of_the_best_epochs_with_intervals_over_seeds(
    divided: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, metric: str
) -> None:
    scores = {"default": [0.9, 0.8, 0.85], "scratch": [0.6, 0.55, 0.5], "third": [0.9, 0.9, 0.9]}
    asked = []

    def pretend(stage: str, arguments: list[str]) -> int:
        """Leave what the training of a recipe and seed would leave; three epochs, the second of which is the best."""
        words = dict(zip(arguments[1:5:2], arguments[2:6:2], strict=True))
        recipe, seed = words["--recipe"], int(arguments[-1].removeprefix("train.seed="))
        asked.append((recipe, seed))
        run = divided / "runs" / "tiny" / words["--run"]
        run.mkdir(parents=True)
        score, worse = scores[recipe][seed], -0.1 if metric == "accuracy" else 0.1
        rows = [f"{epoch},1,2,{score + worse * (epoch != 2)}\n" for epoch in (1, 2, 3)]
        (run / "history.csv").write_text(f"epoch,train_loss,valid_loss,{metric}\n" + "".join(rows))
        write_json(run / "train.json", {"score": score, "valid_images": 1234, "seconds": 2.0 + seed})
        return 0

    toml = divided / "tiny.toml"
    if metric == "log_loss":
        toml.write_text('[competition]\nmetric = "log_loss"\nsubmission = "probabilities"\n' + toml.read_text())
    monkeypatch.setattr(command, "run_stage", pretend)
    assert compared("tiny.toml", "--recipes", *scores) == 0
    assert asked == [(recipe, seed) for seed in range(3) for recipe in scores]
    lines = capfd.readouterr().out.splitlines()
    rows = [re.split("  +", line) for line in lines[lines.index("Recipe third, seed 2:") + 1 :]]
    t = 4.302653  # of 2 degrees of freedom
    margin = t * 0.05 / np.sqrt(3)
    spread = {"accuracy": "0.8000 to 0.9000", "log_loss": "0.9000 to 0.8000"}[metric]
    assert rows[0] == [
        "recipe",
        "seeds",
        "valid images",
        f"valid {metric}",
        "95% interval",
        "worst to best",
        "seconds in epochs",
    ]
    assert rows[1] == ["default", "3", "1,234", "0.8500", f"{0.85 - margin:.4f} to {0.85 + margin:.4f}", spread, "3.0"]
    assert rows[3] == ["third", "3", "1,234", "0.9000", "0.9000 to 0.9000", "0.9000 to 0.9000", "3.0"]
    margin = t * np.std([0.3, 0.25, 0.35], ddof=1) / np.sqrt(3)
    interval = f"95% interval {0.3 - margin:.4f} to {0.3 + margin:.4f}, paired by seed"
    assert rows[4] == [f"default minus scratch: 0.3000 ({interval})"]
    assert rows[5][0].startswith("default minus third: -0.0500 (95% interval -0.1742 to 0.0742")
    assert rows[6][0].endswith("on one split.")
    curves = "runs/tiny/compare-default-scratch-third"
    assert rows[7] == [f"Curves: {curves}.png", f"Numbers: {curves}.csv"]
    assert png_size(divided / f"{curves}.png") == (1000, 400)
    assert len((divided / f"{curves}.csv").read_text().splitlines()) == 1 + 3 * 3 * 3


def test_failed_training_ends_the_comparison_with_its_status(
    divided: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "run_stage", run_stage_here)
    with pytest.raises(SystemExit) as stop:
        compared(*TWO, "--set", "train.limit=1")
    assert stop.value.code == 2
    error = capfd.readouterr().err
    assert "error: train.limit is 1: of these 1 labelled rows, " in error
    assert re.search("The comparison stopped at the run default-seed0-[0-9a-f]{6}", error)
    assert not list(divided.glob("runs/tiny/scratch*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipes", "default", "scrach"], r"no recipe 'scrach'\. Did you mean 'scratch'\?.*default, scratch, third"),
        (["--recipes", "default 'my recipe'"], r"no recipe 'my recipe'\."),
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
    assert "RECIPES='default …'" in error


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
