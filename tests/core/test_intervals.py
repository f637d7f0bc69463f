"""Intervals: closed forms equal SciPy's, the others its bootstrap; they are deterministic and hold the truth."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.stats import norm

from pipelines.core import bootstrap, scores
from pipelines.core.intervals import INTERVALS
from pipelines.core.metrics import Metric
from pipelines.core.scores import Array
from pipelines.settings.metrics import METRICS, NUMBERS, ONE_CLASS
from tests.core.test_scores import OPTIONS, metric_of, random_input

CASES = [(name, task) for name, facts in METRICS.items() for task in facts.tasks]


def case(name: str, task: str, images: int, seed: int) -> tuple[Metric, Array, Array]:
    metric = metric_of(name, task, **OPTIONS.get(name, {}))
    takes = metric.facts.takes
    predicted, targets = random_input(takes, images, seed, task)
    if takes == "columns" and task == ONE_CLASS:
        targets = random_input("probabilities", images, seed)[1]
        predicted = np.clip(predicted + 0.3 * np.eye(5)[targets], 0, 1)
    if takes == "grades" and task == NUMBERS:
        predicted, targets = predicted[:, None].astype(np.float64), targets[:, None].astype(np.float32)
    return metric, predicted, targets


@pytest.mark.parametrize(("name", "task"), CASES)
def test_an_interval_holds_the_score_narrows_with_more_images_and_is_deterministic(name: str, task: str) -> None:
    widths = []
    for images in (60, 3_000):
        metric, predicted, targets = case(name, task, images, seed=3)
        low, high = metric.interval(predicted, targets)
        assert low <= metric.score(predicted, targets) <= high
        assert metric.interval(predicted, targets) == (low, high)
        widths.append(high - low)
    assert 3.5 < widths[0] / widths[1] < 15  # the square root of 50 is 7.1
    with pytest.raises(ValueError, match="no images"):
        metric.interval(predicted[:0], targets[:0])


@pytest.mark.parametrize(("name", "task"), CASES)
def test_an_interval_is_about_as_wide_as_the_plain_bootstrap(name: str, task: str) -> None:
    """The bootstrap of the score itself, whose standard deviation tells how far resamples differ."""
    metric, predicted, targets = case(name, task, 300, seed=4)
    generator = np.random.default_rng(5)
    draws = generator.integers(300, size=(80, 300))
    low, high = metric.interval(predicted, targets)
    score, (predicted,), targets = metric.by_rows([predicted], targets)
    spread = np.std([score(predicted[rows], targets[rows]) for rows in draws])
    assert (high - low) / 2 / 1.96 == pytest.approx(spread, rel=0.3)


@pytest.mark.parametrize(("name", "task"), CASES)
def test_one_image_and_one_class_have_a_wide_interval_or_none(name: str, task: str) -> None:
    metric, predicted, targets = case(name, task, 1, seed=6)
    low, high = metric.interval(predicted, targets)
    score = metric.score(predicted, targets)
    assert (math.isnan(low) and math.isnan(high)) or low <= score <= high
    assert not (math.isnan(low) and not math.isnan(score)) or metric.facts.takes == "numbers"
    _, predicted, targets = case(name, task, 30, seed=7)
    same = np.repeat(targets[:1], 30, axis=0)
    low, high = metric.interval(predicted, same)
    assert math.isnan(metric.score(predicted, same)) <= math.isnan(low) == math.isnan(high)


@pytest.mark.parametrize("hits", [0, 1, 93, 257, 259])
@pytest.mark.parametrize("name", ["accuracy", "f1_micro", "fbeta_micro", "top_k_error", "map_at_k"])
def test_a_share_has_wilsons_interval(name: str, hits: int) -> None:
    predicted, targets = (np.arange(259) >= hits).astype(np.int64), np.zeros(259, np.int64)
    metric = metric_of(name, ONE_CLASS)
    right = 259 - hits if name == "top_k_error" else hits
    expected = stats.binomtest(right, 259).proportion_ci(method="wilson")
    found = metric.interval(predicted[:, None] if metric.facts.takes == "ranking" else predicted, targets)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_log_loss_has_the_interval_of_a_mean() -> None:
    predicted, targets = random_input("positive", 400, seed=8)
    losses = -np.log(np.clip(np.where(targets == 1, predicted, 1 - predicted), 1e-15, 1))
    expected = norm.interval(0.95, losses.mean(), losses.std(ddof=1) / 20)
    assert metric_of("log_loss_binary").interval(predicted, targets) == pytest.approx(expected, rel=1e-9)
    one = metric_of("log_loss_binary").interval(predicted[:1], targets[:1])
    assert one == pytest.approx((0, -math.log(1e-15)))


def test_the_auc_has_delongs_variance() -> None:
    """Of the placements of each class among the other (E. R. DeLong et al., 1988), by a loop over pairs."""
    predicted, targets = random_input("positive", 120, seed=9)
    above, below = predicted[targets == 1], predicted[targets == 0]
    wins = (above[:, None] > below) + (above[:, None] == below) / 2
    variance = wins.mean(axis=1).var() / len(above) + wins.mean(axis=0).var() / len(below)
    count = wins.mean() * (1 - wins.mean()) / variance
    expected = stats.binomtest(round(wins.mean() * 1000), 1000).proportion_ci(method="wilson")  # near 0.8
    low, high = metric_of("auc").interval(predicted, targets)
    reach = 1.96 * math.sqrt(variance)
    assert (high - low) / 2 == pytest.approx(reach, rel=0.02)
    assert expected.low < wins.mean() < expected.high
    assert count > 0


@pytest.mark.parametrize("name", ["auc", "average_precision", "accuracy", "map_at_k"])
def test_a_perfect_score_leaves_room_below_it(name: str) -> None:
    metric = metric_of(name)
    truth = np.arange(20) % 2
    predicted = truth[:, None] if metric.facts.takes == "ranking" else truth
    low, high = metric.interval(predicted * 1.0 if metric.facts.takes == "positive" else predicted, truth)
    assert 0.6 < low < 0.9
    assert high == 1


@pytest.mark.parametrize(
    "name", [*(name for name in bootstrap.INTERVALS if name != "f1_macro"), "box_map", "box_map_at"]
)
def test_a_bootstrap_of_sums_gives_each_image_its_weight(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With equal weights it is the score itself; with others, that of the images drawn as often."""
    metric, predicted, targets = case(name, METRICS[name].tasks[-1], 25, seed=10)
    seen: list[tuple[Array, Array]] = []
    plain = bootstrap.of_weights

    def recorded(score: Any, images: int, cost: float) -> bootstrap.Bounds:
        def watched(weights: Array) -> Array:
            seen.append((weights, score(weights)))
            return seen[-1][1]

        return plain(watched, images, cost)

    monkeypatch.setattr(bootstrap, "of_weights", recorded)
    metric.interval(predicted, targets)
    if name == "balanced_accuracy":
        assert not seen  # it counts pairs of classes
        return
    assert seen[-1][1] == pytest.approx([metric.score(predicted, targets)], rel=1e-9)
    weights, found = seen[0]
    for row, score in zip(weights[:20], found, strict=False):
        drawn = np.repeat(np.arange(25), row.astype(int))
        expected = metric.score(predicted[drawn], targets[drawn])
        assert score == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True) or expected in (0, 1)


def test_the_number_of_resamples_is_bounded_by_the_work() -> None:
    assert bootstrap.resamples(50_000) == bootstrap.RESAMPLES
    assert bootstrap.resamples(500_000, cost=2) == bootstrap.FEWEST_RESAMPLES
    assert bootstrap.resamples(100_000) == bootstrap.WORK // 100_000


def test_every_metric_has_an_interval_and_a_new_one_gets_the_plain_bootstrap() -> None:
    assert set(INTERVALS) == set(METRICS)
    predicted, targets = random_input("numbers", 80, seed=11)
    called = bootstrap.of_calls(scores.rmse)(predicted, targets)
    assert called == pytest.approx(metric_of("rmse").interval(predicted, targets), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task"), [(name, task) for name, task in CASES if name not in ("spearman", "f1_micro", "mean_column_rmse")]
)
def test_95_of_100_intervals_hold_the_truth(name: str, task: str) -> None:
    metric, everything, truths = case(name, task, 50_000, seed=12)
    truth = metric.score(everything, truths)
    generator = np.random.default_rng(13)
    held = 0
    for _ in range(100):
        drawn = generator.integers(50_000, size=300)
        low, high = metric.interval(everything[drawn], truths[drawn])
        held += low <= truth <= high
    assert 87 <= held <= 100
