"""The metric of a competition: its options, its notes and Kaggle's names for it."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import f1_score

from pipelines.core.metrics import make_metric
from pipelines.settings.data_sections import CompetitionSettings
from pipelines.settings.kaggle_names import metric_of_kaggle_name, options_of_kaggle_name
from pipelines.settings.metrics import METRICS
from tests.core.test_scores import LABELS, metric_of, random_input

ONE = np.ones(3, np.int64)
GAP = np.array([[1.0], [np.nan], [3.0]])


@pytest.mark.parametrize(
    ("name", "predicted", "targets", "note"),
    [
        ("auc", ONE / 2, ONE, "all 3 targets are 1, so it is not defined"),
        ("log_loss_binary", ONE / 2, ONE, "all 3 targets are 1"),
        ("average_precision", ONE / 2, 0 * ONE, "all 3 targets are 0, so it is not defined"),
        ("quadratic_kappa", ONE, ONE, "all 3 targets are 1, so it is not defined"),
        ("auc_columns", np.eye(5)[:3], np.eye(5)[:3], "2 of 5 columns have a single class and are left out: '3', '4'"),
        (
            "average_precision_columns",
            np.eye(5),
            np.eye(5)[:, ::-1] * [0, 1, 1, 1, 1],
            "1 of 5 columns have no positive",
        ),
        ("rmse", GAP, GAP, "1 of 3 targets are missing and are left out"),
        ("r2", np.ones((3, 1)), np.ones((3, 1)), "a column has equal targets only"),
        ("rmsle", np.array([[-1.0], [0.0], [1.0]]), np.ones((3, 1)), "1 answers are below 0 and count as 0"),
        ("rmsle", np.ones((3, 1)), -np.ones((3, 1)), "a target is at most -1, so it is not defined"),
        ("fbeta_macro", np.eye(5)[:3], np.eye(5)[:3], "2 of 5 labels are neither true nor answered and count as 0"),
        ("map_at_k", ONE[:, None], np.eye(5)[:3] * [1, 0, 1, 1, 1], "1 images have no label and count as 0"),
        ("accuracy", ONE[:0], ONE[:0], "there are no images"),
    ],
)
def test_a_note_says_what_the_score_leaves_out(name: str, predicted: Any, targets: Any, note: str) -> None:
    task = METRICS[name].tasks[-1] if targets.ndim == 2 else ""
    metric = metric_of(name, task)
    (found,) = metric.notes(predicted, targets)
    assert found.startswith(f"{name}: {note}")
    assert math.isnan(metric.score(predicted, targets)) is ("not defined" in note or "no images" in note)


@pytest.mark.parametrize("name", METRICS)
def test_there_is_nothing_to_note_of_ordinary_targets(name: str) -> None:
    task = METRICS[name].tasks[0]
    predicted, targets = random_input(METRICS[name].takes, 200, seed=1, task=task)
    assert metric_of(name, task).notes(predicted, targets) == []


def test_the_options_are_those_of_the_competition() -> None:
    made = make_metric(CompetitionSettings(metric="map_at_k", guesses=1), LABELS)
    guesses = np.array([[1, 0], [2, 0]])
    assert made.score(guesses, np.array([0, 2])) == 0.5
    assert (
        make_metric(CompetitionSettings(metric="map_at_k", guesses=2), LABELS).score(guesses, np.array([0, 2])) == 0.75
    )
    above = CompetitionSettings(metric="auc_partial", auc_above=0.0, submission="probability")
    assert make_metric(above, LABELS).score(np.array([0.1, 0.9]), np.array([0, 1])) == 1


@pytest.mark.parametrize(
    ("text", "metrics", "options"),
    [
        ("Categorization Accuracy", ["accuracy"], {}),
        ("Multi Class Log Loss", ["log_loss"], {}),
        ("MulticlassLoss", ["log_loss"], {}),
        ("Log Loss", ["log_loss", "log_loss_binary"], {}),
        ("Mean Columnwise Log Loss", ["log_loss_columns"], {}),
        ("Area Under Receiver Operating Characteristic Curve", ["auc"], {}),
        ("AUC", ["auc"], {}),
        ("Mean Columnwise AUC", ["auc_columns"], {}),
        ("mean column-wise ROC AUC", ["auc_columns"], {}),
        ("Weighted AUC", ["auc_weighted"], {}),
        ("ISIC_pAUC-aboveTPR", ["auc_partial"], {}),
        ("MAP@{K}", ["map_at_k"], {}),
        ("MAP@5", ["map_at_k"], {"guesses": 5}),
        ("Mean Average Precision @ 3", ["map_at_k"], {"guesses": 3}),
        ("Mean Average Precision", ["map_at_k", "average_precision_columns", "box_map", "box_map_at"], {}),
        ("Top-5 Error", ["top_k_error"], {"guesses": 5}),
        ("F-Score (Micro)", ["f1_micro", "fbeta_micro", "fbeta_samples"], {}),
        ("Mean F1-Score", ["f1_micro", "fbeta_micro", "fbeta_samples"], {"beta": 1.0}),
        ("Macro F1 Score", ["f1_macro", "fbeta_macro"], {"beta": 1.0}),
        ("Mean F2 Score", ["f1_micro", "fbeta_micro", "fbeta_samples"], {"beta": 2.0}),
        ("Macro F0.5", ["f1_macro", "fbeta_macro"], {"beta": 0.5}),
        ("Quadratic Weighted Kappa", ["quadratic_kappa"], {}),
        ("Root Mean Squared Error", ["rmse"], {}),
        ("Root Mean Squared Logarithmic Error", ["rmsle"], {}),
        ("MCRMSE", ["mean_column_rmse"], {}),
        ("R2 Score", ["r2"], {}),
        ("Spearman's Rho", ["spearman"], {}),
        ("fbeta_samples", ["fbeta_samples"], {}),
        ("Intersection Over Union", [], {}),
        ("", [], {}),
    ],
)
def test_the_metrics_that_kaggle_may_mean(text: str, metrics: list[str], options: dict[str, float]) -> None:
    assert metric_of_kaggle_name(text) == metrics
    assert options_of_kaggle_name(text) == options
    if len(metrics) > 1:
        assert any(METRICS[name].doubt for name in metrics)


def test_each_metric_is_found_by_its_own_names() -> None:
    for name, facts in METRICS.items():
        for text in (name, name.replace("_", " ").title(), *facts.kaggle):
            found = metric_of_kaggle_name(text)
            assert name in found or (text not in facts.kaggle and found)
            assert text not in facts.kaggle or len(found) == 1 or facts.doubt


def test_the_interval_of_macro_f1_is_that_of_scipys_bootstrap() -> None:
    targets = np.random.default_rng(0).integers(0, 3, 300)
    predicted = np.where(
        np.random.default_rng(1).random(300) < 0.6, targets, np.random.default_rng(2).integers(0, 3, 300)
    )

    def f1(truth: npt.NDArray[Any], answers: npt.NDArray[Any], axis: int = -1) -> npt.NDArray[np.float64]:
        of_each = [
            2 * ((truth == k) & (answers == k)).sum(axis) / ((truth == k).sum(axis) + (answers == k).sum(axis))
            for k in range(3)
        ]
        return np.asarray(np.mean(of_each, axis=0))

    assert f1(targets, predicted) == pytest.approx(f1_score(targets, predicted, average="macro"))
    drawn = bootstrap(
        (targets, predicted), f1, paired=True, method="percentile", n_resamples=1_000, rng=np.random.default_rng(1)
    )
    expected = drawn.confidence_interval
    found = make_metric(CompetitionSettings(metric="f1_macro"), LABELS[:3]).interval(predicted, targets)
    assert found == pytest.approx((expected.low, expected.high), abs=0.01)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_uniform_guess_over_120_classes_is_the_log_of_120(dtype: Any) -> None:
    metric = make_metric(CompetitionSettings(metric="log_loss"), LABELS * 24)
    assert metric.score(np.full((30, 120), 1 / 120, dtype), np.arange(30)) == pytest.approx(4.78749, abs=5e-6)
    certain = np.eye(3, dtype=dtype)
    right = metric.score(certain, np.arange(3))
    assert right == pytest.approx(1e-15, rel=0.2)
    assert math.copysign(1, right) == 1
