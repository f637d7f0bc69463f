"""A judge keeps what a score needs, scores it as the metric's definition, and turns predictions into answers."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn import metrics as sklearn

from pipelines.core import decide as decide_module
from pipelines.core.decide import Judge, make_judge
from pipelines.core.prediction import MOST_BYTES, Rows
from pipelines.core.validation import Validation, validate
from pipelines.settings.loading import from_dict, merge, to_dict
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError

Array = npt.NDArray[Any]
ROWS, NAMES = 40, ["a", "b", "c"]
SEVERAL = {"task": "several_labels", "metric": "fbeta_samples", "submission": "label_lists"}
NUMBERS = {"task": "numbers", "metric": "rmse", "submission": "numbers"}
GRADES = {"task": "numbers", "metric": "quadratic_kappa", "submission": "numbers"}


def judge_of(competition: dict[str, Any], seen: Any = (), names: list[str] | None = None, **predict: Any) -> Judge:
    settings = merge(Settings(name="here"), {"competition": competition, "predict": predict}, "here")
    return make_judge(settings, names or NAMES, seen, calibrated=True)


def logs(seed: int = 0, rows: int = ROWS, classes: int = 3) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)).log_softmax(dim=1)


def classes_of(seed: int = 1, classes: int = 3) -> Array:
    return np.random.default_rng(seed).integers(0, classes, ROWS)


def labels_of(seed: int = 2) -> tuple[torch.Tensor, Array]:
    random = np.random.default_rng(seed)
    probabilities = random.random((ROWS, 3)).astype(np.float32)
    return torch.from_numpy(probabilities), (random.random((ROWS, 3)) < probabilities).astype(np.float32)


def test_a_label_needs_one_number_of_each_image() -> None:
    judge, predictions, targets = judge_of({"metric": "accuracy"}), logs(), classes_of()
    kept = judge.keep(predictions)
    assert kept.shape == (ROWS,) and not judge.keeps_all
    best = predictions.numpy().argmax(axis=1)
    assert judge.judge(kept, targets)[0] == (best == targets).mean()
    assert judge.answers(judge.fit(kept, targets), predictions).tolist() == best.tolist()


def test_a_ranking_needs_the_best_labels() -> None:
    judge = judge_of({"metric": "map_at_k", "submission": "best_labels", "guesses": 2})
    predictions, targets = logs(), classes_of()
    kept = judge.keep(predictions)
    order = np.argsort(-predictions.numpy(), axis=1)[:, :2]
    assert (kept.numpy() == order).all()
    expected = np.where(order[:, 0] == targets, 1.0, np.where(order[:, 1] == targets, 0.5, 0.0)).mean()
    assert judge.judge(kept, targets)[0] == pytest.approx(expected)
    assert (judge.answers(judge.plain, predictions) == order).all()
    more = judge_of({"metric": "map_at_k", "submission": "best_labels", "guesses": 9})
    assert more.keep(predictions).shape == (ROWS, 3)  # as many as there are classes


def test_a_probability_is_that_of_the_stated_class() -> None:
    two = ["cat", "dog"]
    form = {"metric": "auc", "submission": "probability", "positive": "cat"}
    judge, predictions, targets = judge_of(form, names=two), logs(classes=2), classes_of(classes=2)
    kept = judge.keep(predictions)
    assert kept.shape == (ROWS,)
    expected = sklearn.roc_auc_score(targets == 0, predictions[:, 0].exp().numpy())
    assert judge.judge(kept, targets)[0] == pytest.approx(expected, abs=1e-12)
    answers = judge.answers(judge.plain, predictions)
    assert answers.dtype == np.float64 and answers == pytest.approx(predictions[:, 0].exp().numpy(), rel=1e-6)
    with pytest.raises(UserError, match=r"competition\.positive is 'bird'"):
        judge_of(form | {"positive": "bird"}, names=two)


def test_the_log_loss_of_two_classes_has_a_temperature() -> None:
    form = {"metric": "log_loss_binary", "submission": "probability", "positive": "dog"}
    random = np.random.default_rng(0)
    margin = random.normal(0, 2, 400)
    targets = (margin + random.logistic(size=400) > 0).astype(np.int64)
    logits = np.stack([np.zeros(400), 3 * margin], axis=1).astype(np.float32)
    predictions = torch.from_numpy(logits).log_softmax(dim=1)
    sure, plain = judge_of(form, names=["cat", "dog"]), judge_of(form, names=["cat", "dog"], calibrate=False)
    choice = sure.fit(sure.keep(predictions), targets)
    assert choice.values[0] == pytest.approx(3, rel=0.3)
    better, worse = (each.judge(each.keep(predictions), targets)[0] for each in (sure, plain))
    assert better < worse
    expected = sklearn.log_loss(targets, plain.answers(plain.plain, predictions), labels=[0, 1])
    assert worse == pytest.approx(expected, abs=1e-6)
    assert sure.answers(choice, predictions) == pytest.approx(
        1 / (1 + np.exp(-3 * margin / choice.values[0])), rel=1e-4
    )


def test_labels_are_given_above_thresholds_that_other_images_chose() -> None:
    predictions, targets = labels_of()
    judge, plain = judge_of(SEVERAL, thresholds="per_label"), judge_of(SEVERAL, choose=False)
    crossed = judge.cross_fit(predictions, targets)
    given = judge.decide(crossed, predictions).numpy()
    expected = sklearn.f1_score(targets.astype(int), given, average="samples", zero_division=0)
    assert judge.judge(judge.keep(predictions), targets)[0] == pytest.approx(expected)
    assert plain.fit(predictions, targets) == plain.plain
    assert (plain.answers(plain.plain, predictions) == (predictions.numpy() > 0.5)).all()
    assert plain.describe(plain.plain, NAMES, ROWS) == ""
    choice = judge.fit(predictions, targets)
    assert (judge.answers(choice, predictions) == (predictions.numpy() > choice.values)).all()
    assert json.loads(json.dumps(judge.facts(choice, NAMES)))["thresholds"].keys() == {"a", "b", "c"}


def test_probabilities_of_labels_have_a_temperature_each() -> None:
    predictions, targets = labels_of()
    judge = judge_of({"task": "several_labels", "metric": "log_loss_columns", "submission": "probabilities"})
    choice = judge.fit(predictions, targets)
    assert len(choice.values) == 3 and len(set(choice.values)) > 1
    assert judge.answers(choice, predictions).dtype == np.float32
    assert set(judge.facts(choice, NAMES)["temperatures"]) == set(NAMES)


def test_numbers_stay_in_the_range_that_was_seen_or_is_stated() -> None:
    seen = np.array([[1.0, np.nan], [3.0, 20.0], [2.0, 10.0]])
    predictions = torch.tensor([[0.0, 15.0], [9.0, 99.0]])
    judge = judge_of(NUMBERS, seen, ["x", "y"])
    assert judge.answers(judge.plain, predictions).tolist() == [[1, 15], [3, 20]]
    assert judge.facts(judge.plain, ["x", "y"]) == {"temperature": 1.0, "answer_range": {"x": [1, 3], "y": [10, 20]}}
    stated = judge_of(NUMBERS, seen, ["x", "y"], answer_range=[0.0, 16.0])
    assert stated.answers(stated.plain, predictions).tolist() == [[0, 15], [9, 16]]
    targets = np.array([[1.0, np.nan], [3.0, 22.0]])
    assert judge.judge(judge.keep(predictions), targets)[0] == pytest.approx(np.sqrt(4 / 3))


def test_grades_are_whole_and_cut_where_kappa_is_best() -> None:
    random = np.random.default_rng(0)
    targets = random.choice(5, (200, 1), p=[0.5, 0.1, 0.27, 0.05, 0.08]).astype(np.float32)
    predictions = torch.from_numpy((targets * 0.5 + 0.6 + random.normal(0, 0.4, (200, 1))).astype(np.float32))
    judge, rounding = judge_of(GRADES, targets, ["grade"]), judge_of(GRADES, targets, ["grade"], choose=False)
    choice = judge.fit(predictions, targets)
    answers = judge.answers(choice, predictions)
    assert set(answers.ravel().tolist()) <= {0, 1, 2, 3, 4} and answers.shape == (200, 1)
    assert judge.facts(choice, ["grade"])["grades"] == [0, 1, 2, 3, 4]
    assert rounding.answers(rounding.plain, predictions).tolist() == predictions.round().clamp(0, 4).tolist()
    scores = [each.judge(predictions, targets)[0] for each in (judge, rounding)]
    assert scores[0] > scores[1]
    expected = sklearn.cohen_kappa_score(
        targets[:, 0].astype(int), predictions.round().clamp(0, 4)[:, 0].int().numpy(), weights="quadratic"
    )
    assert scores[1] == pytest.approx(expected)


def test_grades_of_classes_are_their_numbers() -> None:
    judge = judge_of({"metric": "quadratic_kappa"}, names=["0", "1", "10", "2"])
    predictions, targets = logs(classes=4), classes_of(classes=4)
    value = np.array([0, 1, 10, 2])
    kept = judge.keep(predictions)
    expected = sklearn.cohen_kappa_score(value[targets], value[kept.numpy()], weights="quadratic", labels=range(11))
    assert judge.judge(kept, targets)[0] == pytest.approx(expected)


def test_the_log_loss_of_many_classes_needs_no_large_array(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = judge_of({"metric": "log_loss", "submission": "probabilities"})
    predictions, targets = logs(), classes_of()
    whole = judge.judge(predictions, targets)
    monkeypatch.setattr(decide_module, "MOST_ITEMS", 20)
    score, bounds = judge.judge(predictions, targets)
    assert (score, *bounds) == pytest.approx((whole[0], *whole[1]), rel=1e-9)


@pytest.mark.parametrize("calibrate", [True, False])
def test_a_validation_is_the_same_from_one_block_and_from_many(calibrate: bool, tmp_path: Any) -> None:
    judge = judge_of({"metric": "log_loss", "submission": "probabilities"}, calibrate=calibrate)
    predictions, targets = logs(), classes_of()

    def found(size: int) -> Validation:
        order = np.random.default_rng(3).permutation(ROWS)
        blocks = [(places, predictions[places]) for places in np.split(order, range(size, ROWS, size))]
        return validate(judge, judge, targets, blocks, tmp_path)

    one, other = found(ROWS), found(7)
    assert one.choice == other.choice and one.score == other.score
    for name in ("decided", "predicted", "of_label"):
        assert (getattr(one, name) == getattr(other, name)).all()
    assert one.decided.tolist() == predictions.numpy().argmax(axis=1).tolist()
    assert one.of_label is not None and (one.of_label <= one.predicted).all()


def test_a_validation_of_labels_and_numbers_has_what_is_sent(tmp_path: Any) -> None:
    predictions, targets = labels_of()
    judge = judge_of(SEVERAL)
    found = validate(judge, judge, targets, [(np.arange(ROWS), predictions)], tmp_path)
    assert set(np.unique(found.decided)) <= {0, 1} and (found.predicted == predictions.numpy()).all()
    assert found.thresholds == found.choice.values
    numbers = judge_of(NUMBERS, targets)
    found = validate(numbers, numbers, targets, [(np.arange(ROWS), predictions * 3 - 1)], tmp_path)
    assert found.predicted.min() == 0 and found.predicted.max() == 1


def test_large_rows_lie_in_a_file_without_a_name(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.core.prediction.MOST_BYTES", 100)
    rows = Rows(60, tmp_path / "new")
    values = np.random.default_rng(0).random((60, 3)).astype(np.float32)
    for places in np.split(np.random.default_rng(1).permutation(60), 4):
        rows.fill(places, values[places])
    assert (rows.array == values).all() and rows.array.dtype == np.float32
    assert not list((tmp_path / "new").iterdir())
    assert MOST_BYTES == 1 << 28


def test_settings_of_an_older_run_have_no_choice_to_make() -> None:
    older = to_dict(Settings(name="here"))
    for key in ("choose", "thresholds", "answer_range"):
        del older["predict"][key]
    settings = from_dict(older, "record")
    assert make_judge(settings, NAMES, ()).open is None
