"""Every form of competition, from its archive to a checked submission, by one TOML and no Python.

The local score is compared with that of a scorer that shares no code with the project.
"""

import csv
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipelines.analysis.scoring import score_submission
from pipelines.analysis.solutions import read_solution
from pipelines.dataset.splits import read_split_csv
from pipelines.dataset.submission import class_list
from pipelines.dataset.vocabulary import answers_of
from pipelines.settings.competitions import COMPETITIONS
from pipelines.settings.layout import Layout
from pipelines.settings.loading import load_settings
from pipelines.settings.schema import Settings
from tests.support.forms import FORMS, LABELLED, Form
from tests.support.stages import run_stage_here

QUICK = [
    *("input.source=packed", "input.size=16", "input.resize=0", "model.name=convnet", "model.widths=[8,8]"),
    *("train.epochs=2", "train.batch_size=16", "train.warmup_epochs=0", "split.valid_ratio=0.3"),
    *('model.weights=""', 'model.label_map=""', "finetune.frozen_stages=0", "input.channels=3"),
    *("input.mean=[0.5,0.5,0.5]", "input.std=[0.25,0.25,0.25]", "hardware.precision=float32", "hardware.threads=1"),
]
BY_NAME = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)


def run_stages(folder: Path, archive: Path, name: str) -> Path:
    """Run all stages on the competition `name` in `folder`; return the submission."""
    words = [f"{name}.toml", "--run", "quick"]
    stages = {"download": ["--archive", str(archive)], "split": [], "train": [], "retrain": [], "predict": []}
    for stage, more in stages.items():
        said = run_stage_here(stage, [*words, "--set", *QUICK, *more], folder)
        assert said == 0, (stage, (folder / f"{stage}.log").read_text())
    return folder / f"submissions/{name}/quick.csv"


def own_score(folder: Path, submission: Path, solution: pd.DataFrame, name: str) -> float:
    """Return the score by the project's own code."""
    settings, layout = load_settings(str(folder / f"{name}.toml")), Layout(folder, name)
    table = read_split_csv(layout.split_csv)
    classes = class_list(table.loc[table["split"] != "test", "label"].tolist(), settings, layout.raw)
    path = folder / "solution.csv"
    solution.to_csv(path, index=False)
    answers = dict(zip(classes, answers_of(classes, settings, layout.raw), strict=True))
    truth, _ = read_solution(path, submission, answers, settings)
    return score_submission(submission, path, settings, truth, list(answers.values())).score


def read(path: Path) -> pd.DataFrame:
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return pd.DataFrame(rows, columns=header, dtype=str)


@BY_NAME
def test_from_archive_to_a_scored_submission_by_the_toml_that_make_new_writes(form: Form, tmp_path: Path) -> None:
    archive, solution = form.archive(tmp_path)
    words = [form.name, "--archive", str(archive), "--metric", form.metric]
    assert run_stage_here("tools.new", words, tmp_path) == 0, (tmp_path / "tools.new.log").read_text()
    written = load_settings(str(tmp_path / f"{form.name}.toml"))
    assert said_by(written, form) == wanted_by(form)
    submission = run_stages(tmp_path, archive, form.name)
    sample = read(Layout(tmp_path, form.name).raw / "sample_submission.csv")
    sent = read(submission)
    assert list(sent.columns) == list(sample.columns) and sent.iloc[:, 0].tolist() == sample.iloc[:, 0].tolist()
    independent = form.score(solution, sent)
    assert own_score(tmp_path, submission, solution, form.name) == pytest.approx(independent, abs=1e-9)


def wanted_by(form: Form) -> dict[str, Any]:
    """Return what the TOML of `form` must say, as {section.key: value}."""
    return {
        f"{section}.{key}": tuple(value) if isinstance(value, list) else value
        for section, values in form.settings.items()
        for key, value in values.items()
    }


def said_by(settings: Settings, form: Form) -> dict[str, Any]:
    return {
        f"{section}.{key}": getattr(getattr(settings, section), key)
        for section, values in form.settings.items()
        for key in values
    }


BUNDLED = [form for form in FORMS if (COMPETITIONS / f"{form.name}.toml").exists()]


@pytest.mark.parametrize("form", BUNDLED, ids=lambda form: form.name)
def test_the_bundled_competition_reads_the_same_targets(form: Form, tmp_path: Path) -> None:
    assert said_by(load_settings(form.name), form) == wanted_by(form)
    archive, solution = form.archive(tmp_path)
    assert run_stage_here("download", [form.name, "--archive", str(archive)], tmp_path) == 0
    assert run_stage_here("split", [form.name], tmp_path) == 0, (tmp_path / "split.log").read_text()
    rows = read_split_csv(Layout(tmp_path, form.name).split_csv)
    tests = rows["split"] == "test"
    assert rows.loc[tests, "id"].tolist() == solution.iloc[:, 0].tolist()
    assert (
        (~tests).sum() == LABELLED and not (rows["label"] == "")[~tests].any() and not rows["path"].duplicated().any()
    )
