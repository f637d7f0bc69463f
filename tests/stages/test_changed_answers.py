"""Settings of answers that change between the stages take effect, or are refused; a score says what it leaves out."""

import shutil
from pathlib import Path

import pytest

from tests.support.noise import Noise

STAGES = ("split", "train", "retrain", "predict")
NUMBERS = {"task": "numbers", "submission": "numbers", "metric": "rmse"}
PROBABILITY = {"metric": "average_precision", "submission": "probability", "positive": "cat"}


def test_decimals_and_the_range_of_answers_may_change_before_predict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = Noise(tmp_path, [f"{number % 7}.5" for number in range(24)], ["1.25"], "id,y", NUMBERS)
    assert noise.run(*STAGES) == 0
    assert all(len(cell.partition(".")[2]) == 2 for (cell,) in noise.sent)
    noise.set(competition={"decimals": 4}, predict={"answer_range": [90.0, 91.0]})
    assert noise.run("predict") == 0
    assert noise.sent == [["90.0000"]] * 6
    capsys.readouterr()
    assert noise.run("predict") == 0
    assert "Already predicted" in capsys.readouterr().out
    noise.set(data={"sample_id": "y"})
    assert noise.run("predict") == 2
    assert "data.sample_id: 'y' now, '' then" in capsys.readouterr().err


def test_another_positive_class_needs_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = Noise(tmp_path, ["cat", "dog", "dog"] * 8, ["0.5"], "id,label", PROBABILITY)
    assert noise.run(*STAGES) == 0
    of_cat = [float(cell) for (cell,) in noise.sent]
    noise.set(competition={"positive": "dog"})
    for stage in ("train", "retrain", "predict"):
        capsys.readouterr()
        assert noise.run(stage) == 2
        assert "competition.positive: 'dog' now, 'cat' then" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "runs/x/default")  # as the message advises
    assert noise.run(*STAGES[1:]) == 0
    assert [float(cell) for (cell,) in noise.sent] == pytest.approx([1 - each for each in of_cat], abs=1e-6)


def test_train_and_predict_say_once_that_a_score_is_not_defined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    auc = {"metric": "auc", "submission": "probability"}
    noise = Noise(tmp_path, ["0"] * 23 + ["1"], ["0.5"], "id,label", auc)
    noise.set(split={"valid_ratio": 0.05}, train={"epochs": 2})
    assert noise.run("split", "train") == 0
    said = capsys.readouterr().out
    assert said.count("Note: scores of the validation images: auc: all 1 targets are 0, so it is not defined.") == 1
    assert "Note: no epoch has a defined score" in said
    assert noise.run("retrain", "predict") == 0
    said = capsys.readouterr().out
    assert said.count("Note: auc: all 1 targets are 0, so it is not defined.") == 1
    assert "nan (n = 1)" in said
