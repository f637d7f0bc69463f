"""A submission of every form is scored as an independent computation scores it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn

from pipelines.analysis.scoring import Scored, score_submission
from pipelines.analysis.solutions import read_solution
from pipelines.settings.kaggle_names import metric_of_kaggle_name
from pipelines.settings.loading import merge
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from tests.support.forms import FORMS, Form, csv

EXACT: dict[str, Any] = {"rel": 1e-9, "abs": 1e-9}


def scored(folder: Path, answers: str, truth: str, data: dict[str, Any] | None = None, /, **competition: Any) -> Scored:
    """Return the score of the CSV `answers` against the CSV `truth`."""
    settings = merge(Settings("x"), {"competition": competition, "data": data or {}}, "here")
    submission, solution = folder / "submission.csv", folder / "solution.csv"
    submission.write_text(answers, encoding="utf-8")
    solution.write_text(truth, encoding="utf-8")
    return score_submission(submission, solution, settings, read_solution(solution, submission, {}, settings)[0])


def lines(*rows: str) -> str:
    return "\n".join(rows) + "\n"


def disturbed(form: Form, solution: pd.DataFrame) -> pd.DataFrame:
    """Return a submission that is partly wrong, in the form of the sample."""
    sent = form.settings["competition"]["submission"]
    generator = np.random.default_rng(1)
    found = solution.sample(frac=1, random_state=2).reset_index(drop=True)
    values = found.columns[1:]
    if sent == "probabilities":
        shares = found[values].astype(float).to_numpy() + 2 * generator.random((len(found), len(values)))
        found[values] = (shares / shares.sum(axis=1, keepdims=True)).astype(str)
    elif sent == "probability":
        found[values[0]] = (
            (0.2 * found[values[0]].astype(float) + 0.8 * generator.random(len(found))).round(3).astype(str)
        )
    else:
        other = found[values[0]].sample(frac=1, random_state=3).to_numpy()
        if sent == "best_labels":
            other = np.array([" ".join(dict.fromkeys(generator.permutation(other)[:3])) for _ in other])
        found[values[0]] = np.where(generator.random(len(found)) < 0.6, found[values[0]], other)
        if sent == "numbers" and form.settings["competition"]["metric"] == "rmse":
            found[values[0]] = (found[values[0]].astype(float) * 0.9 + 1.234).astype(str)
    return found


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_each_form_is_scored_as_its_grader_does(tmp_path: Path, form: Form) -> None:
    solution = form.make().solution
    submission = disturbed(form, solution)
    competition = form.settings["competition"]
    found = scored(tmp_path, csv(submission).decode(), csv(solution).decode(), **competition)
    expected = form.score(solution, submission)
    assert found.score == pytest.approx(expected, **EXACT)
    assert found.images == len(solution)
    assert 0 < found.score != 1
    perfect = scored(tmp_path, csv(solution).decode(), csv(solution).decode(), **competition)
    assert perfect.score == pytest.approx(form.score(solution, solution), abs=1e-9)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_kaggles_name_leads_to_the_metric_of_the_form(form: Form) -> None:
    assert form.settings["competition"]["metric"] in metric_of_kaggle_name(form.metric)


SEVERAL = {"task": "several_labels"}
FLAGS = ("id,rust,scab", "1,1,0", "2,0,1", "3,1,1", "4,0,0")
FLAG_VALUES = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
SHARES = ("id,rust,scab", "4,0.2,0.1", "1,0.7,0.6", "2,0.3,0.4", "3,0.1,0.9")
SHARE_VALUES = np.array([[0.7, 0.6], [0.3, 0.4], [0.1, 0.9], [0.2, 0.1]])


def test_a_probability_of_each_of_several_labels_in_columns_and_in_the_long_form(tmp_path: Path) -> None:
    expected = sklearn.roc_auc_score(FLAG_VALUES, SHARE_VALUES)
    several = SEVERAL | {"metric": "auc_columns", "submission": "probabilities"}
    assert scored(tmp_path, lines(*SHARES), lines(*FLAGS), **several).score == pytest.approx(expected, **EXACT)
    cells = lines("id,labels", "1,rust", "2,scab", "3,rust scab", "4,")
    found = scored(tmp_path, lines(*SHARES), cells, {"label_separator": " ", "label_column": "labels"}, **several)
    assert found.score == pytest.approx(expected, **EXACT)
    for form, header in (("{id}_{target}", "row"), ("{id},{target}", "id,target")):
        rows = [
            [f"{header},value"]
            + [
                f"{form.format(id=row.split(',')[0], target=name)},{cell}"
                for row in text[1:]
                for name, cell in zip(("rust", "scab"), row.split(",")[1:], strict=True)
            ]
            for text in (SHARES, FLAGS)
        ]
        for solution in (lines(*rows[1]), lines(*FLAGS)):
            found = scored(tmp_path, lines(*rows[0]), solution, **several, long_form=form)
            assert found.score == pytest.approx(expected, **EXACT)
            assert found.images == 4


def test_lists_of_labels_are_compared_as_sets(tmp_path: Path) -> None:
    submission = lines("id,labels", "1,rust", "2,scab rust", "3,scab", "4,none")
    predicted = np.array([[1, 0], [1, 1], [0, 1], [0, 0]])
    for metric, average in (("fbeta_macro", "macro"), ("fbeta_micro", "micro"), ("fbeta_samples", "samples")):
        options = SEVERAL | {"metric": metric, "submission": "label_lists", "beta": 2.0, "no_label": "none"}
        expected = sklearn.fbeta_score(FLAG_VALUES, predicted, beta=2, average=average, zero_division=0)
        for solution in (lines("id,labels", "1,rust", "2,scab", "3,scab rust", "4,none"), lines(*FLAGS)):
            assert scored(tmp_path, submission, solution, **options).score == pytest.approx(expected, **EXACT)


def test_the_best_labels_of_images_with_several(tmp_path: Path) -> None:
    options = SEVERAL | {"metric": "map_at_k", "submission": "best_labels", "guesses": 3}
    submission = lines("id,labels", "1,rust scab", "2,mould rust scab", "3,scab")
    found = scored(tmp_path, submission, lines("id,labels", "1,rust", "2,scab", "3,scab rust"), **options)
    assert found.score == pytest.approx((1 + 1 / 3 + 1 / 2) / 3, **EXACT)
    with pytest.raises(
        UserError, match=r"submission\.csv: 1 rows have over 2 labels, such as id '2': 'mould rust scab'"
    ):
        scored(tmp_path, submission, lines("id,labels", "1,rust", "2,scab", "3,scab"), **options | {"guesses": 2})


NUMBERS = {"task": "numbers", "submission": "numbers"}


def test_several_numbers_with_missing_targets(tmp_path: Path) -> None:
    submission = lines("id,y,x", "b,2.5,1", "a,1.125,2", "c,0,3.5")
    solution = lines("id,x,y,Usage", "a,3.3,1.2,Public", "b,,2,Public", "c,3,99,Ignored")
    errors = [2 - 3.3, 1.125 - 1.2, 2.5 - 2]
    found = scored(tmp_path, submission, solution, **NUMBERS, metric="rmse")
    assert found.score == pytest.approx(np.sqrt(np.mean(np.square(errors))), **EXACT)
    assert found.images == 2
    assert found.notes == ["rmse: 1 of 4 targets are missing and are left out."]
    found = scored(tmp_path, submission, solution, **NUMBERS, metric="mean_column_rmse")
    assert found.score == pytest.approx((1.3 + np.sqrt(np.mean(np.square(errors[1:])))) / 2, **EXACT)
    with pytest.raises(UserError, match=r"1 of 2 targets are not 2 numbers, such as '1\.2\|high'"):
        scored(tmp_path, submission, solution.replace("3.3", "high"), **NUMBERS, metric="rmse")


def test_grades_are_compared_as_numbers(tmp_path: Path) -> None:
    solution = lines("id,grade", "1,0", "2,4", "3,3", "4,1")
    expected = sklearn.cohen_kappa_score([0, 4, 3, 1], [0, 3, 3, 0], weights="quadratic", labels=range(5))
    for task, sent, rows in (
        ("numbers", "numbers", ("1,0.0", "2,3.0", "3,3", "4,0")),
        ("one_class", "labels", ("1,0", "2,3", "3,3", "4,0")),
    ):
        options = {"task": task, "submission": sent, "metric": "quadratic_kappa"}
        found = scored(tmp_path, lines("id,grade", *rows), solution, **options)
        assert found.score == pytest.approx(expected, **EXACT)
    with pytest.raises(UserError, match=r"submission\.csv: quadratic_kappa takes whole numbers, not 3\.5"):
        scored(tmp_path, lines("id,grade", "1,0", "2,3.5", "3,3", "4,0"), solution, **options)


@pytest.mark.parametrize(
    ("positive", "truth"), [("dog", ("cat", "dog", "dog")), ("dog", ("0", "1", "1")), ("0", ("1", "0", "0"))]
)
def test_the_positive_class_by_its_name_or_as_1(tmp_path: Path, positive: str, truth: tuple[str, ...]) -> None:
    solution = lines("id,label", *(f"{number},{label}" for number, label in enumerate(truth)))
    options = {"metric": "log_loss_binary", "submission": "probability", "positive": positive}
    found = scored(tmp_path, lines("id,label", "0,0.1", "1,0.6", "2,0.8"), solution, **options)
    assert found.score == pytest.approx(-np.mean(np.log([0.9, 0.6, 0.8])), **EXACT)


def test_a_score_that_is_not_defined_says_why(tmp_path: Path) -> None:
    options = {"metric": "auc", "submission": "probability", "positive": "1"}
    found = scored(tmp_path, lines("id,label", "0,0.1", "1,0.6"), lines("id,label", "0,1", "1,1"), **options)
    assert np.isnan(found.score)
    assert found.notes == ["auc: all 2 targets are 1, so it is not defined."]
    several = SEVERAL | {"metric": "auc_columns", "submission": "probabilities"}
    found = scored(
        tmp_path, lines(*SHARES), lines(*FLAGS).replace("3,1,1", "3,1,0").replace("2,0,1", "2,0,0"), **several
    )
    assert found.notes == ["auc_columns: 1 of 2 columns have a single class and are left out: 'scab'."]
    assert found.score == sklearn.roc_auc_score(FLAG_VALUES[:, 0], SHARE_VALUES[:, 0])


def test_an_id_of_the_sample_may_occur_twice_if_the_solution_repeats_it(tmp_path: Path) -> None:
    submission = lines("id,label", "1,a", "2,b", "1,b")
    found = scored(tmp_path, submission, lines("id,label", "1,a", "1,a", "2,b"))
    assert found == (pytest.approx(2 / 3), 3, [])
    for solution in (lines("id,label", "1,a", "2,b"), lines("id,label", "1,a", "2,b", "2,b", "1,a")):
        with pytest.raises(UserError, match="1 ids occur twice, such as"):
            scored(tmp_path, submission, solution)


def test_the_id_may_be_any_column_and_an_index_may_stand_in_front(tmp_path: Path) -> None:
    submission = lines(",place,id,label", "0,north,1,a", "1,south,2,b")
    found = scored(
        tmp_path, submission, lines("id,label", "1,a", "2,a"), {"sample_submission": "sample.csv", "sample_id": "id"}
    )
    assert found[:2] == (0.5, 2)
    submission = lines(",id,label", "0,1,a", "1,2,b")
    assert scored(tmp_path, submission, lines("id,label", "1,a", "2,a")).score == 0.5


def test_a_long_form_that_lacks_a_row_is_refused(tmp_path: Path) -> None:
    several = SEVERAL | {"metric": "auc_columns", "submission": "probabilities", "long_form": "{id},{target}"}
    submission = lines("id,target,value", "1,rust,0.5", "1,scab,0.5", "2,rust,0.1")
    with pytest.raises(UserError, match=r"submission\.csv has no row for target 'scab' of image '2'"):
        scored(tmp_path, submission, lines(*FLAGS), **several)
    with pytest.raises(UserError, match=r"line 5: 1 rows repeat an image and target"):
        scored(tmp_path, submission + "1,rust,0.7\n", lines(*FLAGS), **several)
