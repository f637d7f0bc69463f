"""Boxes of several networks: fold sets, blends, comparisons, and the commands that read finished runs."""

import csv
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines import command, predict, split, train
from pipelines.core.fusion import fuse
from pipelines.core.prediction import Resources
from pipelines.core.prediction import predict as predict_one
from pipelines.core.stored import load_test, read_oof
from pipelines.dataset.boxes import FOUND, MOST
from pipelines.dataset.image_set import read_images
from pipelines.dataset.splits import read_split_csv
from pipelines.settings.layout import Layout
from pipelines.settings.loading import load_settings
from pipelines.tools import audit, compare, folds, look, reproduce, runs, score, sweep
from tests.support.box_forms import CORNERS, TEST, TRAIN, boxes, name, sheet
from tests.support.fold_sets import trained_here
from tests.support.small_boxes import make_small_boxes
from tests.support.stages import run_stage_here

BEST = ("--set", "predict.checkpoint=best")
COLUMNS = FOUND * MOST


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a competition with the predicted runs a and b, and a predicted set of two folds."""
    folder = tmp_path_factory.mktemp("boxes")
    make_small_boxes(folder, folds=2)
    calls = [("download", "--archive", "boxes.zip"), ("split",)]
    for run, seed in (("a", 0), ("b", 1)):
        calls += [(stage, "--run", run, *BEST, f"train.seed={seed}") for stage in ("train", "predict")]
    calls += [
        ("tools.folds", "--run", "set"),
        ("predict", "--run", "set"),
        ("tools.blend", "--run", "ab", "--runs", "a b"),
    ]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(folds, "run_side_by_side", trained_here)
        for stage, *words in calls:
            said = run_stage_here(stage, ["boxes.toml", *words], folder)
            assert said == 0, (stage, (folder / f"{stage}.log").read_text())
    return folder


@pytest.fixture
def finished(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Layout:
    subprocess.run(["cp", "-a", f"{template}/.", str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "run_stage", run_stage_here)
    monkeypatch.setattr(folds, "run_side_by_side", trained_here)
    capsys.readouterr()
    return Layout(tmp_path, "boxes")


def stored(layout: Layout, run: str) -> torch.Tensor:
    return torch.from_numpy(load_test(layout.run(run).test_predictions, TEST, COLUMNS).copy())


def test_each_row_is_predicted_out_of_fold_and_test_boxes_are_fused(finished: Layout) -> None:
    run, settings = finished.run("set"), load_settings("boxes.toml")
    images = read_images(settings, finished, "make split")
    table = read_split_csv(finished.split_csv)
    oof = read_oof(run.oof, table, images.classes, "boxes")
    folded = table[table["fold"] >= 0]
    assert sorted(oof.ids) == sorted(folded["id"])
    assert len(folded) == TRAIN - 1  # the only image without a box is always in train
    by_fold = []
    for number in range(2):
        found = np.zeros((TEST, COLUMNS), np.float32)
        path = run.member(f"fold-{number}").best
        for places, block in predict_one(path, settings, images.part(test=True), Resources(finished.weights), ""):
            found[places] = block
        by_fold.append(torch.from_numpy(found))
    assert not torch.equal(*by_fold)
    torch.testing.assert_close(stored(finished, "set"), fuse(by_fold, [1.0, 1.0]), rtol=0, atol=1e-6)


def test_a_blend_fuses_the_boxes_of_its_members(finished: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    members = [stored(finished, run) for run in ("a", "b")]
    torch.testing.assert_close(stored(finished, "ab"), fuse(members, [0.5, 0.5]), rtol=0, atol=1e-6)
    assert command.run(reproduce.main, ["boxes.toml", "--run", "ab"]) == 0
    assert ", byte for byte, from the stored predictions of its members." in capsys.readouterr().out


@pytest.mark.parametrize("run", ["a", "set"])
def test_a_run_is_reproduced(finished: Layout, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["boxes.toml", "--run", run, *(BEST if run == "a" else [])]
    assert command.run(reproduce.main, words) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.splitlines()[-1].endswith(".csv, byte for byte.")


def test_runs_are_listed_compared_and_reported(finished: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(runs.main, ["boxes.toml", "--run", "a b"]) == 0
    said = capsys.readouterr().out
    assert "box_map_at on the 7 validation rows that both have predicted: a 0." in said and "Gain of b over a" in said
    page = (finished.root / "runs/boxes/report.html").read_text()
    assert all(f">{run}<" in page for run in ("a", "b", "set", "ab"))
    assert command.run(look.main, ["boxes.toml"]) == 0
    assert "boxes per image" in capsys.readouterr().out
    assert command.run(audit.main, ["boxes.toml", "--run", "set"]) == 0
    assert "boxes that predictions contradict, in " in capsys.readouterr().out


def test_a_solution_in_two_forms_gives_one_score(finished: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    held = [box for box in boxes() if box.image >= TRAIN]
    rows = [(f"{name(box.image)}.jpg", box.label, *box.sides(CORNERS)) for box in held]
    Path("rows.csv").write_bytes(sheet("img_name,label,x_min,y_min,x_max,y_max", rows))
    cells = {f"{name(image)}.jpg": "" for image in range(TRAIN, TRAIN + TEST)}
    for image, label, *sides in rows:
        cells[str(image)] += " ".join(map(str, (label, *sides))) + " "
    Path("cells.csv").write_bytes(sheet("img_name,PredictionString", list(cells.items())))
    scores = []
    for solution in ("rows.csv", "cells.csv"):
        assert command.run(score.main, ["boxes.toml", "--run", "set", "--solution", solution]) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"Solution: boxes by column 'img_name' of {solution}.")
        scores.append(said.splitlines()[1])
    assert scores[0] == scores[1] and "box_map_at on 5 held-back labels: " in scores[0]


def test_recipes_are_compared_and_a_sweep_is_refused(finished: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--recipes", "default", "--seeds", "2", "--set", "train.epochs=1"]
    assert command.run(compare.main, ["boxes.toml", *words]) == 0
    assert "valid box_map_at" in capsys.readouterr().out
    assert command.run(sweep.main, ["boxes.toml"]) == 2
    assert "make compare COMP=boxes.toml RECIPES='default other'" in capsys.readouterr().err


def test_a_run_notices_other_boxes(finished: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    with open(finished.boxes_csv, newline="") as file:
        header, first, *others = csv.reader(file)
    with open(finished.boxes_csv, "w", newline="") as file:
        csv.writer(file).writerows([header, [*first[:2], "0.01", *first[3:]], *others])
    again = ["boxes.toml", "--run", "a", *BEST]
    assert command.run(predict.main, again) == 2
    assert "trained on another split than data/boxes/split.csv and boxes.csv now hold." in capsys.readouterr().err
    assert command.run(train.main, ["boxes.toml", "--run", "new"]) == 2
    assert "data/boxes/split.csv or data/boxes/boxes.csv was changed after it was made" in capsys.readouterr().err
    finished.boxes_csv.unlink()
    for stage in (predict, train):
        assert command.run(stage.main, again) == 2
        assert "boxes.csv is missing" in capsys.readouterr().err
    assert command.run(split.main, ["boxes.toml"]) == 0
    assert command.run(predict.main, again) == 0
    assert "Already predicted" in capsys.readouterr().out
