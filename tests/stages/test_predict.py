"""The stage predict for each kind of answer: what is chosen on the validation rows is told, recorded and sent."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines import command, predict, split, train
from pipelines.settings.layout import Layout
from tests.support.pictures import write_squares

STAGES = {"split": split, "train": train, "predict": predict}
LABELLED, TEST = 40, 9
FORM = """
[competition]
{competition}
[data]
labels = "labels.csv"
sample_submission = "sample.csv"
{data}
[split]
valid_ratio = 0.3
[input]
size = 8
[model]
widths = [8]
[train]
epochs = 2
batch_size = 14
lr = 0.05
[predict]
checkpoint = "best"
mirror = true
[hardware]
device = "cpu"
precision = "float32"
workers = 0
"""
KAPPA = 'task = "numbers"\nmetric = "quadratic_kappa"\nsubmission = "numbers"\ngrades = [0, 1, 2, 3]'
FORMS = {  # what an image has, the sample's answer, [competition], [data]
    "thresholds": (
        ["a b", "a", "b", ""],
        "a b",
        'task = "several_labels"\nmetric = "fbeta_samples"\nsubmission = "label_lists"',
        'label_separator = " "',
    ),
    "cuts": (["0", "1", "2", "3"], "0", KAPPA, ""),
    "answer_range": (
        ["1.25", "2.5", "3.75", "80.5"],
        "10.5",
        'task = "numbers"\nmetric = "rmse"\nsubmission = "numbers"',
        "",
    ),
    "guesses": (
        ["owl", "cat", "dog", "cow"],
        "owl cat",
        'metric = "map_at_k"\nsubmission = "best_labels"\nguesses = 2',
        "",
    ),
    "positive": (
        ["0", "1", "0", "1"],
        "0.5",
        'metric = "log_loss_binary"\nsubmission = "probability"\npositive = "1"',
        "",
    ),
}


def run(stage: str, *arguments: str) -> int:
    return command.run(STAGES[stage].main, arguments)


def trained(form: str, folder: Path) -> Layout:
    """Write, split and train a competition of squares that are the brighter the later their target in `FORMS`."""
    targets, answer, competition, data = FORMS[form]
    layout = Layout(folder, form)
    write_squares(layout.raw, {"train": LABELLED, "test": TEST}, noisy=60, step=60, steps=4)
    labels = pd.DataFrame({"id": [f"train{n}" for n in range(LABELLED)]})
    labels["target"] = [targets[number % 4] for number in range(LABELLED)]
    labels.to_csv(layout.raw / "labels.csv", index=False)
    sample = pd.DataFrame({"id": [f"test{n}" for n in reversed(range(TEST))], "target": answer})
    sample.to_csv(layout.raw / "sample.csv", index=False)
    (folder / f"{form}.toml").write_text(FORM.format(competition=competition, data=data))
    for stage in ("split", "train"):
        assert run(stage, f"{form}.toml") == 0
    return layout


def predicted(layout: Layout) -> tuple[dict[str, Any], pd.Series]:
    """Return the record of the submission and its answers by id."""
    name = f"{layout.competition}.toml"
    assert run("predict", name) == 0
    note = json.loads(layout.run("default").predicted.read_text())["default.csv"]
    table = pd.read_csv(layout.submission("default"), dtype=str, keep_default_na=False)
    assert table["id"].tolist() == [f"test{n}" for n in reversed(range(TEST))]
    return note, table.set_index("id")["target"]


@pytest.mark.parametrize("form", FORMS)
def test_each_kind_of_answer_is_sent_as_it_was_chosen(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    layout = trained(form, tmp_path)
    capsys.readouterr()
    note, answers = predicted(layout)
    out = capsys.readouterr().out
    rows = pd.read_csv(layout.run("default").valid_predictions, dtype=str, keep_default_na=False)
    assert len(rows) == note["valid_images"] >= 5 and np.isfinite(note["valid_score"])
    assert note["valid_interval"][0] <= note["valid_score"] <= note["valid_interval"][1]
    match form:
        case "thresholds":
            assert set(answers) <= {"a b", "a", "b", ""}
            assert note["thresholds"].keys() == {"a", "b"}
            assert f"Threshold {note['thresholds']['a']:.3f}, fitted on" in out
            assert "each image with thresholds fitted on the others: " in out
        case "cuts":
            assert set(answers) <= {"0", "1", "2", "3"} and note["grades"] == [0, 1, 2, 3]
            assert len(note["cuts"]) == 3 and note["cuts"] == sorted(note["cuts"])
            assert f"Cut points {note['cuts'][0]:.3f}, " in out
        case "answer_range":
            assert note["answer_range"] == {"target": [1.25, 80.5]}
            assert answers.astype(float).between(1.25, 80.5).all()
        case "guesses":
            assert all(len(set(text.split(" "))) == 2 for text in answers)
            assert set(" ".join(answers).split(" ")) <= set(FORMS[form][0])
        case "positive":
            assert answers.astype(float).between(0, 1).all()
            assert f"Temperature {note['temperature']:.3f}, fitted" in out or "No temperature: " in out
    assert not list(layout.submission("default").parent.glob(".*"))


def test_what_is_not_to_be_chosen_is_plain_and_an_older_record_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    layout = trained("cuts", tmp_path)
    assert run("predict", "cuts.toml", "--set", "predict.choose=false") == 0
    assert "Cut points" not in capsys.readouterr().out
    (note,) = json.loads(layout.run("default").predicted.read_text()).values()
    assert note["cuts"] == [0.5, 1.5, 2.5]
    predicted(layout)
    notes = json.loads(layout.run("default").predicted.read_text())
    for key in ("choose", "thresholds", "answer_range"):
        del notes["default.csv"]["predict"][key]
    layout.run("default").predicted.write_text(json.dumps(notes))
    capsys.readouterr()
    assert run("predict", "cuts.toml") == 0
    assert "Already predicted: " in capsys.readouterr().out
