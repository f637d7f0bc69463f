"""The stand-in scores every form of submission as `make score` does, and refuses what Kaggle would."""

from pathlib import Path

import pandas as pd
import pytest

from pipelines.settings.loading import load_settings
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.tools.standin.scores import score
from tests.support.forms import FORMS, Form, csv, table, zipped

BY_NAME = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
PUBLIC = 2  # rows; the independent scorer needs each class among the others


def settings_of(form: Form, folder: Path) -> Settings:
    """Return the settings of `form`, of a TOML in `folder`."""
    lines = []
    for section, values in form.settings.items():
        cells = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        lines += [f"[{section}]", *(f"{key} = {value!r}" for key, value in cells.items())]
    path = folder / f"{form.name}.toml"
    path.write_text("\n".join(lines))
    return load_settings(str(path))


def served(folder: Path, sample: pd.DataFrame) -> Path:
    path = folder / "served.zip"
    path.write_bytes(zipped({"data/sample_submission.csv": csv(sample)}))
    return path


def shifted(form: Form, solution: pd.DataFrame) -> pd.DataFrame:
    """Return a submission with some right answers: those of the solution, some of them those of the row before."""
    answers = solution.copy()
    answers.iloc[4::3, 1:] = solution.iloc[3:-1:3, 1:].to_numpy()
    sent = form.settings["competition"]["submission"]
    if sent == "best_labels":
        labels = list(dict.fromkeys([*solution.iloc[:, 1], *"abcd"]))
        guesses = [dict.fromkeys([labels[n % 3], own, *labels]) for n, own in enumerate(answers.iloc[:, 1])]
        answers.iloc[:, 1] = [" ".join(list(each)[:5]) for each in guesses]
    if sent in ("probability", "probabilities"):
        count = max(2, len(answers.columns) - 1)
        answers.iloc[:, 1:] = (0.8 * answers.iloc[:, 1:].astype(float) + 0.2 / count).round(9).astype(str)
    return answers


@BY_NAME
def test_each_form_is_scored_as_its_page_says(form: Form, tmp_path: Path) -> None:
    settings, made = settings_of(form, tmp_path), form.make()
    archive, answers = served(tmp_path, made.solution), shifted(form, made.solution)
    path = tmp_path / "solution.csv"
    uses = ["Public"] * PUBLIC + ["Private"] * (len(answers) - PUBLIC)
    path.write_bytes(csv(made.solution.assign(Usage=uses)))
    _, private = score(csv(answers), archive, settings, path)
    expected = form.score(made.solution[PUBLIC:], answers[PUBLIC:])
    assert 0 < expected < 40 and float(private) == pytest.approx(expected, abs=6e-6)


@BY_NAME
def test_each_form_is_scored_without_a_solution(form: Form, tmp_path: Path) -> None:
    settings, made = settings_of(form, tmp_path), form.make()
    archive = tmp_path / "served.zip"
    archive.write_bytes(zipped(made.files))
    scores = score(csv(shifted(form, made.solution)), archive, settings, None)
    assert all(0 <= float(each) < 100 for each in scores)


@BY_NAME
def test_each_form_refuses_another_file(form: Form, tmp_path: Path) -> None:
    settings, made = settings_of(form, tmp_path), form.make()
    archive, good, path = served(tmp_path, made.solution), shifted(form, made.solution), tmp_path / "solution.csv"
    path.write_bytes(csv(made.solution))
    first, sent = made.solution.columns[0], form.settings["competition"]["submission"]
    wrong = {
        "must have the columns": good.rename(columns={first: "ID_"}),
        "must have 16 rows": good[1:],
        "unexpected id": good.replace({first: {good.iloc[0, 0]: "another"}}),
        "twice|lacks": good.assign(**{first: [good.iloc[1, 0], *good[first][1:]]}),
    }
    values = {"numbers": "high", "probability": "1.5", "probabilities": "-0.1", "best_labels": "a b c d e f"}
    if sent in values:
        wrong["line 2"] = good.assign(**{good.columns[1]: values[sent]})
    for problem, frame in wrong.items():
        with pytest.raises(UserError, match=problem):
            score(csv(frame), archive, settings, path)


def test_the_long_form_is_scored_by_image_and_target(tmp_path: Path) -> None:
    toml = tmp_path / "long.toml"
    toml.write_text(
        '[competition]\ntask = "several_labels"\nmetric = "auc_columns"\nsubmission = "probabilities"\n'
        'long_form = "{id}_{target}"\n[data]\nsample_submission = "sample_submission.csv"\n'
    )
    ids = [f"{image}_{target}" for image in ("a", "b_1", "c", "d") for target in ("rust", "scab")]
    sample = table([[each, 0.5] for each in ids], "Id", "Probability")
    solution = table([[each, number % 3 % 2] for number, each in enumerate(ids)], "Id", "Probability")
    solution.to_csv(path := tmp_path / "solution.csv", index=False)
    archive, settings = served(tmp_path, sample), load_settings(str(toml))
    assert score(csv(solution), archive, settings, path) == ["1.00000", "1.00000"]
    assert score(csv(sample), archive, settings, path) == ["0.50000", "0.50000"]
    with pytest.raises(UserError, match="unexpected id a_mould"):
        score(csv(solution.replace("a_rust", "a_mould")), archive, settings, path)


def test_labels_in_other_words_are_scored_as_the_file_beside_the_toml_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.csv").write_text("label,answer\ncat,0\ndog,1\n")
    Path("pets.toml").write_text(
        '[data]\nsubmitted_labels = "words.csv"\nsample_submission = "sample_submission.csv"\n'
    )
    Path("solution.csv").write_text("id,label\n1,cat\n2,dog\n3,dog\n")
    archive = served(tmp_path, table([[1, 0], [2, 0], [3, 0]], "id", "label"))
    sent = table([[1, 0], [2, 1], [3, 1]], "id", "label")
    assert score(csv(sent), archive, load_settings("pets.toml"), Path("solution.csv")) == ["1.00000", "1.00000"]


def test_a_metric_without_a_value_is_no_score(tmp_path: Path) -> None:
    toml = tmp_path / "one.toml"
    toml.write_text(
        '[competition]\nmetric = "auc"\nsubmission = "probability"\n[data]\nsample_submission = "sample_submission.csv"'
    )
    path, sent = tmp_path / "solution.csv", table([[1, 0.5], [2, 0.25]], "id", "label")
    path.write_text("id,label\n1,1\n2,1\n")
    with pytest.raises(UserError, match="The metric auc is not defined"):
        score(csv(sent), served(tmp_path, sent), load_settings(str(toml)), path)
