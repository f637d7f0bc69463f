"""Each metric of the table equals an independent implementation, on random and on degenerate input.

Where the code uses scikit-learn, the reference is a plain loop from the published definition, and the other way round.
"""

import inspect
import itertools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn

from pipelines.core import scores
from pipelines.core.box_scores import COCO_IOUS, match, mean_precision
from pipelines.core.metrics import Metric, make_metric
from pipelines.core.scores import NO_GUESS, Array
from pipelines.settings.data_sections import CompetitionSettings
from pipelines.settings.metrics import METRICS, NUMBERS, ONE_CLASS, SEVERAL_LABELS, Takes
from pipelines.system.errors import UserError
from tests.support.found_boxes import perfect, precision_by_loop, random_boxes

LABELS = [str(number) for number in range(5)]  # so that they may be grades
EXACT: dict[str, Any] = {"abs": 1e-9, "rel": 1e-9}


def metric_of(name: str, task: str = "", classes: Sequence[str] = LABELS, **options: Any) -> Metric:
    """Return the metric for the first task that it scores."""
    return make_metric(CompetitionSettings(metric=name, task=task or METRICS[name].tasks[0], **options), classes)  # type: ignore[arg-type]


def random_input(takes: Takes, images: int, seed: int, task: str = ONE_CLASS) -> tuple[Array, Array]:
    """Return predictions that are better than chance, and targets; some probabilities are equal."""
    generator = np.random.default_rng(seed)
    numbers = generator.integers(0, 5, images)
    flags = (generator.random((images, 5)) < [0.1, 0.3, 0.5, 0.7, 0.2]).astype(np.float32)
    guess = np.where(generator.random(images) < 0.6, numbers, generator.integers(0, 5, images))
    shares = np.round(np.clip(0.4 * flags + 0.6 * generator.random((images, 5)), 0, 1), 2)
    match takes:
        case "label" | "grades":
            return guess, numbers
        case "probabilities":
            return shares + 0.01, numbers
        case "positive":
            return shares[:, 1], flags[:, 1].astype(np.int64)
        case "ranking":
            return np.argsort(-shares - np.eye(5)[guess], axis=1)[:, :3], flags if task == SEVERAL_LABELS else numbers
        case "label_sets":
            return (shares > 0.5).astype(np.uint8), flags
        case "columns":
            return shares, flags
        case "boxes":
            return random_boxes(images, seed)
    values = generator.gamma(2.0, 3.0, (images, 2)).astype(np.float32)
    return values * generator.uniform(0.5, 1.5, values.shape), values


# Independent implementations


def mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def columns(score: Callable[[Array, Array], float]) -> Callable[[Array, Array], float]:
    def over_all(predicted: Array, targets: Array) -> float:
        cells = np.eye(predicted.shape[1])[targets] if targets.ndim == 1 else targets
        known = [~np.isnan(cells[:, k]) for k in range(cells.shape[1])]
        pairs = [(predicted[rows, k].astype(float), cells[rows, k].astype(float)) for k, rows in enumerate(known)]
        return mean([score(*pair) for pair in pairs if len(pair[1])])

    return over_all


def auc_of_pairs(predicted: Array, targets: Array) -> float:
    pairs = [(one, other) for one in predicted[targets == 1] for other in predicted[targets != 1]]
    return mean([1.0 if one > other else 0.5 if one == other else 0.0 for one, other in pairs])


def roc(predicted: Array, targets: Array) -> list[tuple[float, float]]:
    """Return the corners (false, true positive rate) of the ROC curve."""
    found = [(0.0, 0.0)]
    for threshold in sorted(set(predicted.tolist()), reverse=True):
        above = predicted >= threshold
        found.append((float(np.mean(above[targets != 1])), float(np.mean(above[targets == 1]))))
    return found


def area_between(low: float, high: float, predicted: Array, targets: Array) -> float:
    """Return the area between the ROC curve and a false positive rate of 1, for true positive rates low to high."""
    if len(set(targets.tolist())) < 2:
        return math.nan
    area, corners = 0.0, roc(predicted, targets)
    for (f0, t0), (f1, t1) in itertools.pairwise(corners):
        start, stop = max(t0, low), min(t1, high)
        if start < stop:
            ends = [f0 + (f1 - f0) * (rate - t0) / (t1 - t0) for rate in (start, stop)]
            area += (stop - start) * (1 - sum(ends) / 2)
    return area


def weighted_auc(predicted: Array, targets: Array) -> float:
    return (2 * area_between(0, 0.4, predicted, targets) + area_between(0.4, 1, predicted, targets)) / (0.8 + 0.6)


def average_precision(predicted: Array, targets: Array) -> float:
    total, before, true = 0.0, 0.0, float((targets == 1).sum())
    for threshold in sorted(set(predicted.tolist()), reverse=True) if true else ():
        above = predicted >= threshold
        right = float((targets[above] == 1).sum())
        total += right / float(above.sum()) * (right / true - before)
        before = right / true
    return total if true else math.nan


def map_at_k(predicted: Array, targets: Array) -> float:
    """As ml_metrics.mapk of Kaggle's "Mean Average Precision @ k"."""
    found = []
    for guesses, target in zip(predicted.tolist(), targets, strict=True):
        true = {int(target)} if targets.ndim == 1 else set(np.flatnonzero(target).tolist())
        hits = score = 0.0
        for place, guess in enumerate(guesses):
            if guess in true and guess not in guesses[:place]:
                hits += 1
                score += hits / (place + 1)
        found.append(score / min(len(true), len(guesses)) if true else 0.0)
    return mean(found)


def fbeta(right: float, given: float, true: float, beta: float) -> float:
    if not right:
        return 0.0
    precision, recall = right / given, right / true
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


def fbeta_of_lines(axis: int | None, beta: float = 2.0) -> Callable[[Array, Array], float]:
    def score(predicted: Array, targets: Array) -> float:
        sums = [np.atleast_1d(each.sum(axis)) for each in ((predicted == 1) & (targets == 1), predicted, targets)]
        return mean(
            [fbeta(float(right), float(given), float(true), beta) for right, given, true in zip(*sums, strict=True)]
        )

    return score


def kappa(predicted: Array, targets: Array, grades: Sequence[int] = range(5)) -> float:
    number = len(grades)
    observed = np.zeros((number, number))
    for answer, target in zip(predicted.ravel(), targets.ravel(), strict=True):
        if not math.isnan(target):
            observed[grades.index(int(target)), grades.index(int(answer))] += 1
    weights = np.array([[(i - j) ** 2 / max(1, number - 1) ** 2 for j in range(number)] for i in range(number)])
    expected = np.outer(observed.sum(axis=1), observed.sum(axis=0)) / max(1, observed.sum())
    below = (weights * expected).sum()
    return 1 - (weights * observed).sum() / below if below else math.nan


def log_loss_of_cells(predicted: Array, targets: Array) -> float:
    shares = [min(max(float(share), 1e-15), 1 - 1e-15) for share in predicted]
    return mean([-math.log(p if t == 1 else 1 - p) for p, t in zip(shares, targets, strict=True)])


def known_cells(score: Callable[[Array, Array], float]) -> Callable[[Array, Array], float]:
    def of_known(predicted: Array, targets: Array) -> float:
        known = ~np.isnan(targets)
        return score(predicted[known].astype(float), targets[known].astype(float)) if known.any() else math.nan

    return of_known


def rmse(predicted: Array, targets: Array) -> float:
    return math.sqrt(mean(((predicted - targets) ** 2).tolist()))


def r2(predicted: Array, targets: Array) -> float:
    spread, errors = float(np.var(targets)) * len(targets), float(((predicted - targets) ** 2).sum())
    if len(targets) < 2:
        return math.nan
    return 1 - errors / spread if spread else float(errors == 0)


def rmsle(predicted: Array, targets: Array) -> float:
    return rmse(np.log(1 + np.maximum(predicted, 0)), np.log(1 + targets))


def correlation(of: Callable[..., Any]) -> Callable[[Array, Array], float]:
    def score(predicted: Array, targets: Array) -> float:
        equal = len(set(predicted.tolist())) < 2 or len(set(targets.tolist())) < 2
        return math.nan if equal else float(of(predicted, targets).statistic)

    return score


def precision_of(ious: Array, predicted: Array, targets: Array) -> float:
    """Return the mean average precision of our own matches; the score is that of pycocotools."""
    return float(mean_precision(match(predicted, targets, ious, len(LABELS)))[0])


REFERENCES: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": lambda predicted, targets: float(sklearn.accuracy_score(targets, predicted)),
    "balanced_accuracy": lambda predicted, targets: mean([np.mean(predicted[targets == k] == k) for k in set(targets)]),
    "log_loss": lambda predicted, targets: float(
        sklearn.log_loss(targets, predicted / predicted.sum(axis=1, keepdims=True), labels=range(5))
    ),
    "log_loss_binary": log_loss_of_cells,
    "log_loss_columns": columns(log_loss_of_cells),
    "top_k_error": lambda predicted, targets: mean(
        [float(t not in p) for p, t in zip(predicted, targets, strict=True)]
    ),
    "map_at_k": map_at_k,
    "auc": auc_of_pairs,
    "auc_columns": columns(auc_of_pairs),
    "auc_weighted": weighted_auc,
    "auc_partial": lambda *pair: area_between(0.8, 1, *pair),
    "average_precision": average_precision,
    "average_precision_columns": columns(average_precision),
    "f1_macro": lambda predicted, targets: float(
        sklearn.f1_score(targets, predicted, average="macro", zero_division=0)
    ),
    "f1_micro": lambda predicted, targets: float(sklearn.f1_score(targets, predicted, average="micro")),
    "fbeta_macro": fbeta_of_lines(0),
    "fbeta_micro": fbeta_of_lines(None),
    "fbeta_samples": fbeta_of_lines(1),
    "quadratic_kappa": kappa,
    "rmse": known_cells(rmse),
    "mae": known_cells(lambda predicted, targets: mean(np.abs(predicted - targets).tolist())),
    "r2": columns(r2),
    "mean_column_rmse": columns(rmse),
    "rmsle": known_cells(rmsle),
    "pearson": columns(correlation(stats.pearsonr)),
    "spearman": columns(correlation(stats.spearmanr)),
    "box_map": lambda *pair: precision_of(COCO_IOUS, *pair),
    "box_map_at": lambda *pair: precision_of(COCO_IOUS[:1], *pair),
    "box_precision": precision_by_loop,
}
OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"beta": 2.0} for name in ("fbeta_macro", "fbeta_micro", "fbeta_samples")},
    **{name: {"guesses": 3} for name in ("map_at_k", "top_k_error")},
}


def check(name: str, predicted: Array, targets: Array, task: str = "") -> float:
    """Check the score against its reference; return it."""
    metric = metric_of(
        name, task or (SEVERAL_LABELS if targets.ndim == 2 and name != "r2" else ""), **OPTIONS.get(name, {})
    )
    score = metric.score(predicted, targets)
    assert score == pytest.approx(REFERENCES[name](predicted, targets), nan_ok=True, **EXACT)
    return score


def test_each_metric_has_a_function_a_reference_and_a_name_of_kaggle() -> None:
    public = {name for name, each in vars(scores).items() if inspect.isfunction(each) and not name.startswith("_")}
    assert list(REFERENCES) == list(METRICS)
    assert set(METRICS) <= public
    for name, facts in METRICS.items():
        options = list(inspect.signature(getattr(scores, name)).parameters)[2:]
        assert options == (list(facts.options))
        assert set(facts.options) - {"classes"} <= set(vars(CompetitionSettings()))
        assert facts.definition and facts.kaggle == tuple(each.lower() for each in facts.kaggle)


@pytest.mark.parametrize("images", [1, 2, 3, 7, 40, 300])
@pytest.mark.parametrize("name", METRICS)
def test_random_input(name: str, images: int) -> None:
    facts = METRICS[name]
    for task in facts.tasks:
        if facts.takes == "label_sets" and task == ONE_CLASS:
            continue
        predicted, targets = random_input(facts.takes, images, seed=images, task=task)
        before = predicted.copy(), targets.copy()
        score = check(name, predicted, targets, task)
        assert images < 40 or score > 0
        assert np.array_equal(before[0], predicted) and np.array_equal(before[1], targets, equal_nan=targets.ndim == 3)


@pytest.mark.parametrize("name", [name for name, facts in METRICS.items() if facts.takes in ("positive", "columns")])
def test_probabilities_that_are_all_equal_and_one_class(name: str) -> None:
    whole = METRICS[name].takes == "columns"
    predicted, targets = random_input(METRICS[name].takes, 30, seed=1)
    check(name, np.full_like(predicted, 0.5), targets)
    for value in (0, 1):
        one = np.full_like(targets, value)
        score = check(name, predicted, one)
        defined = name.startswith("log_loss") or (name.startswith("average") and value)
        assert math.isnan(score) is not bool(defined)
    if whole:
        some = targets.copy()
        some[:, 2] = 1
        check(name, predicted, some)


@pytest.mark.parametrize("name", ["auc_columns", "average_precision_columns", "log_loss_columns"])
def test_columns_of_one_class_per_image_and_of_missing_targets(name: str) -> None:
    predicted, numbers = random_input("probabilities", 50, seed=2)
    numbers[numbers == 3] = 4  # a class that does not occur
    check(name, np.clip(predicted, 0, 1), numbers)
    predicted, flags = random_input("columns", 50, seed=3)
    flags[::3, 1] = flags[:, 4] = np.nan
    check(name, predicted, flags)


@pytest.mark.parametrize("name", [name for name, facts in METRICS.items() if facts.takes == "label"])
def test_classes_that_are_only_true_or_only_predicted(name: str) -> None:
    check(name, np.array([0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 3]))
    check(name, np.array([0, 0, 1, 1, 1]), np.zeros(5, np.int64))
    assert check(name, np.full(4, 2), np.full(4, 2)) == 1
    assert check(name, np.full(4, 1), np.full(4, 2)) == 0


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_fbeta_of_one_class_is_scikit_learns(average: str, beta: float) -> None:
    predicted, targets = random_input("label", 60, seed=4)
    targets[targets == 2] = 3
    metric = metric_of(f"fbeta_{average}", ONE_CLASS, beta=beta)
    assert metric.facts.takes == "label"
    expected = sklearn.fbeta_score(targets, predicted, beta=beta, average=average, zero_division=0)
    assert metric.score(predicted, targets) == pytest.approx(expected, **EXACT)
    if beta == 1:
        assert metric.score(predicted, targets) == pytest.approx(metric_of(f"f1_{average}").score(predicted, targets))


@pytest.mark.parametrize("average", ["macro", "micro", "samples"])
def test_fbeta_of_labels_that_do_not_occur_and_of_images_without_labels(average: str) -> None:
    predicted, targets = random_input("label_sets", 40, seed=5)
    predicted[:, 0] = targets[:, 0] = 0  # a label that is neither true nor sent
    predicted[:4] = targets[2:6] = 0  # images without labels, sent or true
    score = check(f"fbeta_{average}", predicted, targets)
    expected = sklearn.fbeta_score(targets, predicted, beta=2, average=average, zero_division=0)
    assert score == pytest.approx(expected, **EXACT)
    assert check(f"fbeta_{average}", predicted * 0, targets * 0) == 0
    assert check(f"fbeta_{average}", targets, targets) == (1 if average == "micro" else pytest.approx(score, abs=1))


def test_a_ranking_counts_a_repeated_guess_once_and_a_missing_one_never() -> None:
    predicted = np.array([[1, 1, 1], [2, 2, 0], [NO_GUESS, 4, 4], [NO_GUESS] * 3])
    flags = np.array([[0, 1, 1, 0, 0], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]], np.float32)
    assert check("map_at_k", predicted, flags) == pytest.approx((1 / 2 + (1 + 2 / 3) / 2 + 0 + 0) / 4)
    assert check("map_at_k", predicted, np.array([1, 0, 4, 3]), ONE_CLASS) == pytest.approx((1 + 1 / 3 + 1 / 2) / 4)
    assert check("top_k_error", predicted, np.array([1, 0, 4, 3])) == 0.25


def test_kappa_counts_a_grade_that_does_not_occur() -> None:
    predicted, targets = np.array([0, 1, 3, 4, 4, 0]), np.array([0, 1, 4, 4, 3, 1])  # no grade 2
    stated = metric_of("quadratic_kappa", grades=(0, 1, 2, 3, 4)).score(predicted, targets)
    assert stated == pytest.approx(kappa(predicted, targets), **EXACT)
    assert stated == metric_of("quadratic_kappa").score(predicted, targets)  # of the classes 0 to 4
    assert stated == metric_of("quadratic_kappa", NUMBERS, ["grade"]).score(predicted[:, None], targets[:, None] * 1.0)
    inferred = sklearn.cohen_kappa_score(targets, predicted, weights="quadratic")
    assert abs(stated - inferred) > 0.01
    gaps = metric_of("quadratic_kappa", grades=(0, 1, 3, 4), classes=["0", "1", "3", "4"])
    assert gaps.score(predicted, targets) == pytest.approx(kappa(predicted, targets, [0, 1, 3, 4]), **EXACT)


def test_kappa_of_one_grade_is_0_or_not_defined() -> None:
    assert math.isnan(check("quadratic_kappa", np.full(4, 2), np.full(4, 2)))
    assert check("quadratic_kappa", np.array([2, 1, 2, 2]), np.full(4, 2)) == 0
    assert math.isnan(metric_of("quadratic_kappa", NUMBERS, ["g"]).score(np.ones((3, 1)), np.full((3, 1), np.nan)))


def test_kappa_refuses_grades_that_are_not_listed_and_classes_that_are_no_numbers() -> None:
    with pytest.raises(UserError, match=r"competition.grades is \[0, 1\], but there are the grades '4' too"):
        metric_of("quadratic_kappa", NUMBERS, ["g"], grades=(0, 1)).score(np.array([[0], [1]]), np.array([[0], [4]]))
    with pytest.raises(UserError, match="whose grades are whole numbers, but there are the classes 'mild'"):
        metric_of("quadratic_kappa", classes=["0", "mild"])


@pytest.mark.parametrize("name", [name for name, facts in METRICS.items() if facts.takes == "numbers"])
def test_numbers_that_are_missing_or_equal(name: str) -> None:
    predicted, targets = random_input("numbers", 40, seed=6)
    targets[::3, 0] = targets[::4, 1] = np.nan
    check(name, predicted, targets)
    targets[:, 1] = np.nan  # a column without targets is left out
    check(name, predicted, targets)
    assert math.isnan(check(name, predicted, targets * np.nan))
    equal = np.full((9, 1), 3.0)
    check(name, equal, equal)
    check(name, equal + 1, equal)
    check(name, np.arange(9.0)[:, None], equal)
    check(name, equal, np.arange(9.0)[:, None])
    check(name, equal + 0.1, np.full((9, 1), 1 / 3))


def test_rmsle_counts_an_answer_below_0_as_0_and_has_no_score_for_such_a_target() -> None:
    assert check("rmsle", np.array([[-3.0], [1.0]]), np.array([[2.0], [1.0]])) == pytest.approx(math.log(3) / 2**0.5)
    assert math.isnan(metric_of("rmsle", NUMBERS, ["x"]).score(np.ones((2, 1)), np.array([[1.0], [-1.0]])))


def test_log_loss_clips_and_rescales_as_kaggle_does() -> None:
    certain = np.eye(3)[[0, 1, 2]]
    assert metric_of("log_loss").score(certain, np.array([1, 1, 2])) == pytest.approx(-math.log(1e-15) / 3, rel=1e-9)
    assert check("log_loss_binary", np.array([0.0, 1.0]), np.array([1, 1])) == pytest.approx(-math.log(1e-15) / 2)
    assert metric_of("log_loss").score(np.full((2, 120), 3.0), np.array([5, 7])) == pytest.approx(math.log(120))


@pytest.mark.parametrize(
    ("targets", "predicted", "score"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], 0.2),  # ISIC 2024: at most 0.2
        ([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4], 0.0),
        ([0, 1, 0, 1], [0.5] * 4, 0.2**2 / 2),
    ],
)
def test_the_partial_auc_is_isic_2024s(targets: list[int], predicted: list[float], score: float) -> None:
    assert check("auc_partial", np.array(predicted), np.array(targets)) == pytest.approx(score, abs=1e-12)


def test_the_weighted_auc_of_one_weight_is_the_auc() -> None:
    predicted, targets = random_input("positive", 80, seed=7)
    plain = metric_of("auc").score(predicted, targets)
    for ranges, weights in (((0.0, 1.0), (3.0,)), ((0.0, 0.3, 0.5, 1.0), (2.0, 2.0, 2.0))):
        weighted = metric_of("auc_weighted", auc_ranges=ranges, auc_weights=weights)
        assert weighted.score(predicted, targets) == pytest.approx(plain, **EXACT)
    top = metric_of("auc_weighted", auc_ranges=(0.8, 1.0), auc_weights=(1.0,)).score(predicted, targets)
    assert top == pytest.approx(metric_of("auc_partial").score(predicted, targets) / 0.2, **EXACT)


@pytest.mark.parametrize("name", METRICS)
def test_better_predictions_go_in_the_direction_of_the_table(name: str) -> None:
    facts = METRICS[name]
    predicted, targets = random_input(facts.takes, 100, seed=8, task=facts.tasks[0])
    match facts.takes:
        case "probabilities":
            best: Array = np.eye(5)[targets]
        case "boxes":
            best = perfect(targets)
        case "ranking":
            best = (targets[:, None] + np.arange(3)) % 5
        case _:
            best = targets.astype(np.float64 if facts.takes in ("positive", "columns", "numbers") else np.int64)
    metric = metric_of(name, facts.tasks[0], **OPTIONS.get(name, {}))
    gain = metric.score(best, targets) - metric.score(predicted, targets)
    assert (gain > 0) is metric.higher_is_better is facts.higher_is_better
    assert metric.score(predicted[:0], targets[:0]) is not None and math.isnan(metric.score(predicted[:0], targets[:0]))


def test_many_classes_need_little_memory() -> None:
    import tracemalloc

    generator = np.random.default_rng(9)
    predicted, targets = generator.integers(0, 15_501, (2, 20_000))
    classes = [""] * 15_501
    for name in ("accuracy", "balanced_accuracy", "f1_macro", "f1_micro", "fbeta_macro"):
        metric = metric_of(name, ONE_CLASS, classes)
        metric.score(predicted, targets)  # imports
        tracemalloc.start()
        assert 0 <= metric.score(predicted, targets) < 0.01
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 10_000_000


def test_the_training_loop_does_not_import_scikit_learn(tmp_path: Path) -> None:
    source = Path(scores.__file__).read_text(encoding="utf-8")
    assert not re.search(r"^(from|import) (sklearn|scipy)", source, re.MULTILINE)
