"""The solution for a linear head equals scikit-learn's for the same problem."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor, nn

from pipelines.core.solve import Examples, make_solver, solve
from pipelines.core.tasks import Task, make_task, measure_scale
from pipelines.dataset.loading import Loading
from pipelines.models.features import FeatureBatches, Features
from pipelines.settings.training_sections import TrainSettings
from pipelines.system.watch import unwatched
from tests.support.tiny import Tiny

COUNT, WIDTH, PENALTY = 60, 5, 0.02
FROZEN = (
    *("model.name=shufflenet_v2_x0_5", "model.weights=x", "finetune.frozen_stages=-1", "train.optimizer=lbfgs"),
    *("train.lr=1", "train.batch_size=16"),
)


def features() -> np.ndarray:
    """Features of very different means and deviations; the last one is always the same."""
    random = np.random.default_rng(0)
    values = random.normal(size=(COUNT, WIDTH)) * [1, 100, 0.01, 5, 0] + [0, 1000, 3, -2, 7]
    return values.astype(np.float32)


def solved(
    tiny: Tiny, task: Task, targets: np.ndarray, outputs: int, penalty: float = PENALTY
) -> tuple[nn.Linear, float]:
    head = nn.Linear(WIDTH, outputs)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    optimizer = make_solver(head, TrainSettings(optimizer="lbfgs", lr=1))
    found = Features([features()], [np.arange(COUNT)[:, None]], 0, 0, [])
    loading = Loading(tiny.settings(*FROZEN), 3, torch.device("cpu"), training=True)
    source = FeatureBatches(np.arange(COUNT).astype(str), found, torch.from_numpy(targets), loading)
    return head, solve(head, optimizer, Examples(source, 1), task, penalty, unwatched)


def standardised() -> np.ndarray:
    values = features().astype(np.float64)
    return (values - values.mean(0)) / np.where(values.std(0) > 0, values.std(0), 1)


def outputs_of(head: nn.Linear) -> Tensor:
    with torch.inference_mode():
        return head(torch.from_numpy(features()))


def test_one_class_is_logistic_regression(tiny: Tiny) -> None:
    targets = np.random.default_rng(1).integers(3, size=COUNT)
    targets[:30] = (standardised()[:30, 1] > 0).astype(np.int64)
    head, loss = solved(tiny, make_task(tiny.settings(), tiny.classes, {}), targets, 3)
    expected = LogisticRegression(C=1 / (COUNT * PENALTY), tol=1e-8, max_iter=1000).fit(standardised(), targets)
    probabilities = expected.predict_proba(standardised())
    assert np.allclose(outputs_of(head).softmax(1).numpy(), probabilities, atol=2e-3)
    assert loss == pytest.approx(-np.log(probabilities[np.arange(COUNT), targets]).mean(), abs=1e-3)


def test_several_labels_are_a_regression_each(tiny: Tiny) -> None:
    targets = (np.random.default_rng(1).random((COUNT, 2)) < [0.3, 0.6]).astype(np.uint8)
    settings = tiny.settings()
    settings = replace(settings, competition=replace(settings.competition, task="several_labels"))
    head, _ = solved(tiny, make_task(settings, ["a", "b"], {}), targets, 2)
    for number, column in enumerate(targets.T):
        # The loss is a mean over images and labels, so each label has half of it.
        expected = LogisticRegression(C=1 / (2 * COUNT * PENALTY), tol=1e-8, max_iter=1000).fit(standardised(), column)
        ours = outputs_of(head).sigmoid()[:, number].numpy()
        assert np.allclose(ours, expected.predict_proba(standardised())[:, 1], atol=2e-3)


def test_numbers_are_ridge_regression_on_the_known_rows(tiny: Tiny) -> None:
    targets = (standardised()[:, :1] * 3 + 10 + np.random.default_rng(1).normal(size=(COUNT, 1))).astype(np.float32)
    targets[::7] = np.nan
    known = ~np.isnan(targets[:, 0])
    settings = tiny.settings()
    settings = replace(settings, competition=replace(settings.competition, task="numbers"))
    scale = measure_scale(targets)
    task = make_task(settings, ["a"], scale)
    head, _ = solved(tiny, task, targets, 1)
    ours = task.merge([outputs_of(head)])[:, 0].numpy()
    plain = (targets[known, 0] - scale["mean"][0]) / scale["std"][0]
    # torch's mean of the squared errors is over the known rows of each batch, here of all; the penalty is halved.
    ridge = Ridge(alpha=PENALTY / 2 * known.sum(), tol=1e-9).fit(standardised()[known], plain)
    assert np.allclose(ours, ridge.predict(standardised()) * scale["std"][0] + scale["mean"][0], atol=0.01)


def test_a_constant_feature_counts_for_nothing_and_a_penalty_shrinks(tiny: Tiny) -> None:
    targets = np.arange(COUNT) % 3
    task = make_task(tiny.settings(), tiny.classes, {})
    head, _ = solved(tiny, task, targets, 3)
    assert head.weight.isfinite().all()
    assert head.weight[:, -1].abs().max() < 1e-6
    strong, loss = solved(tiny, task, targets, 3, penalty=1e4)
    assert np.allclose(outputs_of(strong).softmax(1).numpy(), 1 / 3, atol=1e-2)
    assert loss == pytest.approx(np.log(3), abs=1e-3)


def test_more_features_than_are_held_are_read_again(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    targets, task = np.arange(COUNT) % 3, make_task(tiny.settings(), tiny.classes, {})
    held, _ = solved(tiny, task, targets, 3)
    monkeypatch.setattr("pipelines.core.solve.HELD_BYTES", 0)
    again, _ = solved(tiny, task, targets, 3)
    assert np.allclose(outputs_of(held), outputs_of(again), atol=1e-2)


@pytest.mark.parametrize("held", [1 << 32, 0])
def test_parts_of_the_rows_give_the_same_solution(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """As where all rows times thousands of classes would be too many outputs; missing numbers count for nothing."""
    targets = (standardised()[:, :2] * [3, 1] + 10).astype(np.float32)
    targets[:20, 0] = np.nan
    settings = tiny.settings()
    settings = replace(settings, competition=replace(settings.competition, task="numbers"))
    task = make_task(settings, ["a", "b"], measure_scale(targets))
    whole, loss = solved(tiny, task, targets, 2)
    monkeypatch.setattr("pipelines.core.solve.MOST_OUTPUTS", 14)
    monkeypatch.setattr("pipelines.core.solve.MOST_KEPT", 0)
    monkeypatch.setattr("pipelines.core.solve.HELD_BYTES", held)
    parts, same = solved(tiny, task, targets, 2)
    assert np.allclose(outputs_of(whole), outputs_of(parts), atol=1e-2)
    assert same == pytest.approx(loss, abs=1e-4)
