"""The sweep over heads: real features of a tiny competition, real trials, and what it writes down."""

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from torchvision import models

from pipelines import command, split, train
from pipelines.settings.loading import load_settings
from pipelines.tools import sweep
from tests.support.tiny import Tiny

FROZEN = """
[split]
valid_ratio = 0.25
[input]
source = "photos"
size = 32
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
[model]
name = "shufflenet_v2_x0_5"
weights = "network.pth"
[finetune]
frozen_stages = -1
[train]
epochs = 2
batch_size = 6
lr = 0.01
[hardware]
device = "cpu"
precision = "float32"
workers = 0
"""


@pytest.fixture
def home(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the tiny competition, split, and a frozen network."""
    folder = tiny.layout.root
    monkeypatch.chdir(folder)
    tiny.toml.write_text('[data]\nlabels = "labels.csv"\nsample_submission = "sample.csv"\n' + FROZEN)
    torch.manual_seed(0)
    torch.save(models.shufflenet_v2_x0_5(weights=None).state_dict(), folder / "network.pth")
    assert command.run(split.main, ["tiny.toml"]) == 0
    return folder


def swept(home: Path, *words: str) -> pd.DataFrame:
    assert command.run(sweep.main, ["tiny.toml", *words]) == 0
    return pd.read_csv(home / "runs/tiny/default-sweep.csv")


def test_all_combinations_are_tried_and_the_best_stands_first(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = swept(home, "--try", "train.lr=0.01,0.1", "model.hidden=[],[8]")
    assert len(rows) == 4
    assert set(zip(rows["train.lr"], rows["model.hidden"], strict=True)) == {
        (lr, hidden) for lr in (0.01, 0.1) for hidden in ("[]", "[8]")
    }
    assert rows["accuracy"].is_monotonic_decreasing
    printed = capsys.readouterr().out
    assert "logistic regression, scikit-learn" in printed
    assert "Heads tried: 4, on 18 training images; scored on 6 validation images." in printed
    best = tomllib.loads((home / "runs/tiny/default-sweep.toml").read_text())
    assert best["train"]["lr"] == rows["train.lr"][0]
    assert str(best["model"]["hidden"]) == rows["model.hidden"][0]


def test_a_trial_scores_what_training_with_its_settings_scores(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = swept(home, "--try", "train.lr=0.03")
    overrides = capsys.readouterr().out.rpartition("SET=")[2].rstrip()
    assert overrides == "train.lr=0.03"
    assert command.run(train.main, ["tiny.toml", "--run", "again", "--set", overrides]) == 0
    history = pd.read_csv(home / "runs/tiny/again/history.csv")
    assert history["accuracy"].max() == pytest.approx(rows["accuracy"][0], abs=1e-6)


def test_without_values_it_tries_rates_and_dropouts(home: Path) -> None:
    rows = swept(home)
    assert sorted(set(rows["train.lr"])) == [0.0033, 0.01, 0.03]
    assert sorted(set(rows["model.dropout"])) == [0.0, 0.5]


def test_a_solved_head_is_compared_by_penalties_and_a_searched_one_is_sent_to_train(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named, solved = (
        ("--run", "default"),
        ("train.optimizer=lbfgs", "train.lr=1", "train.epochs=1", "model.features=stages"),
    )
    assert sorted(swept(home, *named, "--set", *solved)["train.weight_decay"]) == sorted(sweep.PENALTIES)
    assert command.run(sweep.main, ["tiny.toml", "--set", *solved, "train.search=true"]) == 2
    _, _, advice = capsys.readouterr().err.partition("add to SET=: ")
    assert advice.strip() == sweep.OTHER_HEADS
    tries = (*named, "--try", "model.hidden=[],[8]")
    found = swept(home, *tries, "--set", *solved, "train.search=true", *advice.split(), "train.epochs=1")
    assert len(found) == 2


def test_the_linear_model_fits_each_task(tiny: Tiny) -> None:
    generator = np.random.default_rng(0)
    features = 20 * generator.normal(size=(18, 4))  # large: the regularisation has little effect
    signs = features[:, :2] > 0
    train = tiny.part("train")

    def fitted(task: str, classes: list[str], texts: list[str]) -> npt.NDArray[np.float64]:
        images = replace(train.select(train.rows.assign(label=texts)), task=task, classes=classes)
        predicted: npt.NDArray[np.float64] = sweep.fit_linear(images, features, features)
        assert predicted.shape == (18, len(classes))
        return predicted

    logs = fitted("one_class", ["minus", "never", "plus"], np.where(signs[:, 0], "plus", "minus").tolist())
    assert np.exp(logs).sum(axis=1) == pytest.approx(np.ones(18))
    assert ((logs.argmax(axis=1) == 2) == signs[:, 0]).all()
    texts = ["|".join(["all", *(name for name, has in zip("xy", row, strict=True) if has)]) for row in signs]
    chances = fitted("several_labels", ["all", "never", "x", "y"], texts)
    assert (chances[:, 0] == 1).all() and (chances[:, 1] == 0).all()
    assert ((chances[:, 2:] > 0.5) == signs).mean() > 0.9
    values = features[:, :2] + 100
    numbers = fitted("numbers", ["x", "y"], [f"{x}|{y if row % 5 else ''}" for row, (x, y) in enumerate(values)])
    for column in range(2):
        assert np.corrcoef(numbers[:, column], values[:, column])[0, 1] > 0.9


def test_log_loss_is_scored_with_a_temperature(home: Path, tiny: Tiny) -> None:
    probabilities = "competition.metric=log_loss", "competition.submission=probabilities"
    sample = home / "data/tiny/raw/sample.csv"
    ids = pd.read_csv(sample)["id"]
    sample.write_text("id,blue,green,red\n" + "".join(f"{each},1,0,0\n" for each in ids))
    for path in ("split.csv", "split.json"):
        (home / "data/tiny" / path).unlink()
    assert command.run(split.main, ["tiny.toml", "--set", *probabilities]) == 0
    words = ["tiny.toml", "--run", "default", "--try", "train.lr=3.0", "--set", *probabilities]
    scores = []
    for calibrate in ("true", "false"):
        assert command.run(sweep.main, [*words, f"predict.calibrate={calibrate}"]) == 0
        scores.append(pd.read_csv(home / "runs/tiny/default-sweep.csv")["log_loss"][0])
    assert scores[0] != scores[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--try", "input.size=32,64"], "TRY 'input.size=32,64' is not of the form"),
        (["--try", "model.name=resnet18"], "TRY 'model.name=resnet18' is not of the form"),
        (["--try", "train.lr"], "TRY: 'train.lr' is not of the form"),
        (["--try", "train.lr=-1"], "train.lr is -1.0; it must be more than 0"),
        (["--try", "train.ler=1"], "unknown key train.ler. Did you mean 'lr'"),
        (["--set", "finetune.frozen_stages=0"], "a sweep tries heads on cached features"),
        (["--set", "features.cached=false"], "a sweep tries heads on cached features"),
    ],
)
def test_mistakes_are_named(home: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(sweep.main, ["tiny.toml", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_split_must_be_made(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny.layout.root)
    tiny.toml.write_text(FROZEN)
    assert load_settings(str(tiny.toml)).model.weights
    assert command.run(sweep.main, ["tiny.toml"]) == 2
    assert "First: make split COMP=tiny.toml" in capsys.readouterr().err
