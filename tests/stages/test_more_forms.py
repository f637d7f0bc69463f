"""Competitions that no list names, from the archive to a submission that `make score` scores as their graders do."""

import csv
from pathlib import Path

import pandas as pd
import pytest

from pipelines.settings.layout import Layout
from pipelines.settings.loading import load_settings
from tests.support.forms import Form
from tests.support.more_forms import MORE
from tests.support.stages import run_stage_here

QUICK = [
    *("input.size=16", "model.widths=[8,8]", "train.epochs=2", "train.batch_size=16", "train.warmup_epochs=0"),
    *("split.valid_ratio=0.3", "hardware.precision=float32", "hardware.threads=1", "predict.checkpoint=best"),
]


def read(path: Path) -> pd.DataFrame:
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return pd.DataFrame(rows, columns=header, dtype=str)


@pytest.mark.parametrize("form", MORE, ids=lambda form: form.name)
def test_a_form_from_its_archive_to_its_score(form: Form, tmp_path: Path) -> None:
    archive, solution = form.archive(tmp_path)
    words = [form.name, "--archive", str(archive), "--metric", form.metric]
    assert run_stage_here("tools.new", words, tmp_path) == 0, (tmp_path / "tools.new.log").read_text()
    settings = load_settings(str(tmp_path / f"{form.name}.toml"))
    for section, values in form.settings.items():
        assert values == {key: getattr(getattr(settings, section), key) for key in values}
    solution.to_csv(tmp_path / "solution.csv", index=False)
    words = [form.name, "--run", "quick", "--set", *QUICK]
    for stage in ("split", "train", "predict", "tools.score"):
        more = ["--solution", "solution.csv"] if stage == "tools.score" else []
        assert run_stage_here(stage, [*words, *more], tmp_path) == 0, (stage, (tmp_path / f"{stage}.log").read_text())
    sent = read(next((tmp_path / f"submissions/{form.name}").glob("*.csv")))
    sample = read(Layout(tmp_path, form.name).raw / settings.data.sample_submission)
    given = list(sample.columns[:-1])
    assert list(sent.columns) == list(sample.columns) and sent[given].equals(sample[given])
    printed = (tmp_path / "tools.score.log").read_text().partition(" held-back labels: ")[2]
    assert float(printed.split()[0]) == pytest.approx(form.score(solution, sent), abs=5.1e-5)
