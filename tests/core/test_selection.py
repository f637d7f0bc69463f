"""Weights of a blend: those of a plain reference, never chosen on the rows they score, 0 for useless members."""

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from pipelines.core import bootstrap, selection
from pipelines.core.decide import Judge, make_judge
from pipelines.core.selection import (
    Candidates,
    Selection,
    best_member,
    correlations,
    estimate,
    gain_of,
    parts_of,
    select,
)
from pipelines.settings.loading import merge
from pipelines.settings.metrics import BOXES, METRICS, NUMBERS, ONE_CLASS, SEVERAL_LABELS
from pipelines.settings.schema import Settings
from tests.support.found_boxes import random_boxes

Array = npt.NDArray[Any]
NAMES = ["ant", "bee", "cat"]
ACCURACY = {"metric": "accuracy"}
LOG_LOSS = {"metric": "log_loss", "submission": "probabilities"}
AUC = {"metric": "auc", "submission": "probability", "positive": "bee"}


def judge_of(competition: dict[str, Any], seen: Any = (), names: list[str] | None = None, **predict: Any) -> Judge:
    settings = merge(Settings(name="here"), {"competition": competition, "predict": predict}, "here")
    return make_judge(settings, NAMES if names is None else names, seen, calibrated=True)


def classes_of(rows: int, seed: int = 0, classes: int = 3) -> Array:
    return np.random.default_rng(seed).integers(0, classes, rows)


def noisy(targets: Array, noise: float, seed: int, classes: int = 3) -> Tensor:
    """Return log-probabilities that know the class `targets` under normal noise."""
    signal = np.eye(classes)[targets] * 2
    values = signal + np.random.default_rng(seed).normal(0, noise, signal.shape)
    return torch.from_numpy(values).float().log_softmax(dim=1)


def three(competition: dict[str, Any], rows: int = 60, **predict: Any) -> Candidates:
    targets = classes_of(rows)
    members = [noisy(targets, noise, seed) for seed, noise in enumerate((1.5, 1.7, 2.0))]
    return Candidates(judge_of(competition, **predict), members, targets)


def reference(candidates: Candidates, rounds: int) -> tuple[list[int], list[float]]:
    """Return the members added and their scores by the plain definition, without a shortcut."""
    bag, scores = list[int](), list[float]()
    for _ in range(rounds):
        found = []
        for member in range(len(candidates)):
            tried = [*bag, member]
            mean = torch.stack([candidates.members[each].exp() for each in tried]).mean(dim=0)
            kept = candidates.judge.keep(mean.log())
            score = round(candidates.judge.metric.score(kept.numpy(), candidates.targets), 6)
            loss = -mean[torch.arange(len(mean)), torch.from_numpy(candidates.targets)].log().mean().item()
            found.append((-score, member not in bag, round(loss, 6), member))
        best = min(found)
        bag.append(best[-1])
        scores.append(-best[0])
    length = scores.index(max(scores)) + 1
    return bag[:length], scores[:length]


@pytest.mark.parametrize("seed", range(5))
def test_greedy_selection_equals_the_plain_definition(seed: int) -> None:
    targets = classes_of(40, seed)
    members = [noisy(targets, 1 + 0.5 * number, 10 * seed + number) for number in range(4)]
    candidates = Candidates(judge_of(ACCURACY), members, targets)
    found = select(candidates, rounds=6)
    bag, scores = reference(candidates, 6)
    assert list(found.added) == bag and found.scores == pytest.approx(scores)
    assert found.weights == tuple(bag.count(member) / len(bag) for member in range(4))


def test_a_known_optimum_is_found() -> None:
    # Targets are 2 a + b over 3: the weights 2/3 and 1/3 have no error at all.
    random = np.random.default_rng(0)
    first, second = (torch.from_numpy(random.normal(size=(30, 1)).astype(np.float32)) for _ in range(2))
    targets = ((2 * first + second) / 3).numpy()
    judge = judge_of({"task": "numbers", "metric": "rmse", "submission": "numbers"}, targets, ["size"])
    found = select(Candidates(judge, [first, second], targets))
    assert found.weights == pytest.approx((2 / 3, 1 / 3)) and found.added == (0, 1, 0)
    assert found.scores[-1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("competition", [ACCURACY, LOG_LOSS])
def test_a_useless_member_gets_no_weight(competition: dict[str, Any]) -> None:
    good = three(competition, rows=150)
    useless = noisy(classes_of(150, seed=9), 1.0, 9)  # sure of classes that have nothing to do with the images
    found = select(Candidates(good.judge, [*good.members, useless], good.targets))
    assert found.weights[3] == 0 and sum(found.weights) == pytest.approx(1)


def test_of_members_that_score_the_same_one_inside_the_bag_is_added() -> None:
    targets = classes_of(30)
    perfect = noisy(targets, 0.0, 0)
    sharper = (perfect * 3).log_softmax(dim=1)
    candidates = Candidates(judge_of(ACCURACY), [perfect, sharper], targets)
    found = select(candidates, rounds=3)
    assert found.added == (1,)  # the lower loss; a longer bag scores no better
    assert best_member(candidates) == 1


def test_scores_that_are_not_finite_are_never_chosen() -> None:
    targets = np.array([0, 1] * 10)
    fine = noisy(targets, 1.0, 0, classes=2)
    broken = torch.full_like(fine, math.nan)
    judge = judge_of(LOG_LOSS, names=["a", "b"], calibrate=False)
    assert select(Candidates(judge, [broken, fine], targets)).weights == (0, 1)
    one_class = Candidates(judge_of(AUC, names=["ant", "bee"]), [fine, fine], np.zeros(20, np.int64))
    found = select(one_class)  # no AUC is defined, so nothing is chosen
    assert found.weights == (0.5, 0.5) and found.added == ()


def case_of(metric: str, task: str) -> Candidates:
    """Return members of falling quality for a metric under a task."""
    facts, random, rows = METRICS[metric], np.random.default_rng(3), 80
    sends = facts.sends[0] if task != NUMBERS else "numbers"
    competition: dict[str, Any] = {"task": task, "metric": metric, "submission": sends}
    if task == SEVERAL_LABELS and "label_lists" in facts.sends:
        competition["submission"] = "label_lists"
    competition |= {"auc_ranges": [0, 0.4, 1], "auc_weights": [2, 1]} if metric == "auc_weighted" else {}
    competition |= {"auc_above": 0.8} if metric == "auc_partial" else {}
    competition |= {"guesses": 2} if "guesses" in facts.options else {}
    names = ["0", "1", "2"]
    if task == ONE_CLASS:
        if facts.takes == "positive":
            names, competition["positive"] = ["0", "1"], "1"
        targets = random.integers(0, len(names), rows)
        members = [noisy(targets, 1.5 + number / 2, number, len(names)) for number in range(3)]
        return Candidates(judge_of(competition, targets, names), members, targets)
    if task == SEVERAL_LABELS:
        flags = (random.random((rows, 3)) < 0.4).astype(np.float32)
        logits = [flags * 3 - 1.5 + random.normal(0, 1 + number / 2, flags.shape) for number in range(3)]
        return Candidates(
            judge_of(competition, flags, names), [torch.from_numpy(each).sigmoid().float() for each in logits], flags
        )
    if task == BOXES:
        predicted = [random_boxes(rows, 3, 3, noise=0.005 + number / 200) for number in range(3)]
        targets = predicted[0][1]
        return Candidates(
            judge_of(competition, targets, names), [torch.from_numpy(each) for each, _ in predicted], targets
        )
    numbers = random.integers(0, 5, (rows, 1)).astype(np.float32)
    guesses = [torch.from_numpy(numbers + random.normal(0, 0.5 + each / 4, numbers.shape)).float() for each in range(3)]
    return Candidates(judge_of(competition, numbers, ["grade"]), guesses, numbers)


@pytest.mark.parametrize(("metric", "task"), [(name, task) for name, facts in METRICS.items() for task in facts.tasks])
def test_every_metric_selects_and_estimates(metric: str, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "FEWEST_RESAMPLES", 5)
    candidates = case_of(metric, task)
    found = select(candidates, rounds=2)
    assert sum(found.weights) == pytest.approx(1)
    assert (found == Selection(candidates.equal)) if task == BOXES else 1 <= len(found.added) <= 2
    best = max if candidates.judge.higher_is_better else min
    assert task == BOXES or found.scores[-1] == pytest.approx(best(found.scores), abs=1e-6)
    known = estimate(candidates, np.arange(80) % 2, rounds=1)
    assert math.isfinite(known.gain.value) and known.gain.error >= 0
    assert known.predictions.shape == candidates.members[0].shape and known.predictions.isfinite().all()
    assert len(known.by_part) == len(known.best) == 2


@pytest.mark.parametrize(("metric", "task"), [("accuracy", ONE_CLASS), ("fbeta_macro", SEVERAL_LABELS)])
def test_the_weights_of_a_part_do_not_depend_on_its_targets(
    metric: str, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "FEWEST_RESAMPLES", 2)
    candidates = case_of(metric, task)
    parts = np.arange(80) % 3
    plain = estimate(candidates, parts, rounds=3)
    seen = False
    for part in range(3):
        mine = np.flatnonzero(parts == part)
        targets = candidates.targets.copy()
        targets[mine] = targets[np.random.default_rng(part).permutation(mine)]
        again = estimate(Candidates(candidates.judge, candidates.members, targets), parts, rounds=3)
        assert again.by_part[part] == plain.by_part[part] and again.best[part] == plain.best[part]
        assert torch.equal(again.predictions[mine], plain.predictions[mine])
        seen |= again.by_part != plain.by_part
    assert seen  # else this shows nothing


def test_the_gain_of_luck_is_not_believed() -> None:
    # Members of the same quality on few rows: the weights that look best there gain nothing elsewhere.
    clear = 0
    for seed in range(12):
        targets = classes_of(60, seed)
        members = [noisy(targets, 2.0, 100 * seed + number) for number in range(6)]
        candidates = Candidates(judge_of(ACCURACY), members, targets)
        clear += estimate(candidates, parts_of([str(row) for row in range(60)], None), rounds=4).gain.is_clear
    assert clear <= 4


def test_a_gain_equals_the_difference_of_the_scores_and_its_error_that_of_paired_means() -> None:
    candidates = three(ACCURACY, rows=400)
    first, second = candidates.members[0], candidates.members[2]
    right = [member.numpy().argmax(axis=1) == candidates.targets for member in (first, second)]
    difference = right[0].astype(float) - right[1]
    gain = gain_of(candidates, first, second)
    assert gain.value == pytest.approx(difference.mean())
    assert gain.error == pytest.approx(difference.std(ddof=1) / math.sqrt(400), rel=0.2)
    none = gain_of(candidates, first, first)
    assert (none.value, none.error, none.is_clear) == (0, 0, False)
    losses = three(LOG_LOSS, rows=400)
    better = gain_of(losses, losses.members[0], losses.members[2])
    assert better.value > 0 and better.is_clear  # a lower loss is a gain


def test_members_are_scored_as_the_blend_where_no_temperature_is_best() -> None:
    targets = classes_of(40)
    right, other = (torch.from_numpy(np.eye(3)[targets] * size).float().log_softmax(dim=1) for size in (0.05, 0.06))
    candidates = Candidates(judge_of(LOG_LOSS), [right, other], targets)
    plain = -right[torch.arange(40), torch.from_numpy(targets)].double().mean().item()
    assert candidates.score(right) == pytest.approx(plain)
    assert gain_of(candidates, other, right).value == pytest.approx(plain - candidates.score(other), rel=1e-3)


def test_parts_are_folds_or_follow_the_ids() -> None:
    ids = [f"image{number}" for number in range(100)]
    assert parts_of(ids, np.array([3, 1] * 50)).tolist() == [1, 0] * 50
    parts = parts_of(ids, None)
    assert set(parts) == set(range(5)) and (parts == parts_of(ids, np.zeros(100))).all()
    assert (parts_of(ids[::-1], None) == parts[::-1]).all()  # of the id alone
    assert parts_of(ids[:1], None).tolist() == [0]


def test_many_rows_are_thinned_before_members_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "MOST_VALUES", 60)
    monkeypatch.setattr(selection, "LEAST_ROWS", 10)
    candidates = three(ACCURACY, rows=90)
    assert len(candidates.drawn().targets) == 20
    rows = candidates.drawn_rows(60, 10)
    assert (np.diff(rows) > 0).all() and (rows == candidates.drawn_rows(60, 10)).all()
    assert sum(select(candidates).weights) == pytest.approx(1)


def test_correlations_of_errors() -> None:
    targets = classes_of(200)
    first, other = noisy(targets, 1.5, 0), noisy(targets, 1.5, 1)
    found = correlations(Candidates(judge_of(ACCURACY), [first, first, other], targets))
    assert found[0, 1] == pytest.approx(1) and abs(found[0, 2]) < 0.3
    assert found == pytest.approx(found.T, abs=1e-12)
    wrong = [1 - each.exp().numpy()[np.arange(200), targets] for each in (first, other)]
    assert found[0, 2] == pytest.approx(np.corrcoef(np.stack(wrong))[0, 1], abs=1e-6)


def test_correlations_leave_out_unknown_numbers_and_constant_errors() -> None:
    random = np.random.default_rng(1)
    targets = random.normal(size=(50, 2)).astype(np.float32)
    targets[::5, 1] = np.nan
    residuals = [random.normal(size=(50, 2)).astype(np.float32) for _ in range(2)]
    members = [torch.from_numpy(np.nan_to_num(targets) + each) for each in residuals]
    judge = judge_of({"task": "numbers", "metric": "rmse", "submission": "numbers"}, targets, ["a", "b"])
    found = correlations(Candidates(judge, [*members, torch.from_numpy(np.nan_to_num(targets))], targets))
    known = ~np.isnan(targets[:, 1])
    each = [
        np.corrcoef(residuals[0][rows, column], residuals[1][rows, column])[0, 1]
        for column, rows in ((0, slice(None)), (1, known))
    ]
    assert found[0, 1] == pytest.approx(np.mean(each), abs=1e-5)
    assert np.isnan(found[0, 2]) and np.isnan(found[2, 2])


def test_mixing_takes_means_of_probabilities_or_of_numbers() -> None:
    candidates = three(ACCURACY)
    mixed = candidates.mix((0.5, 0.25, 0.25))
    expected = sum(weight * member.exp() for weight, member in zip((0.5, 0.25, 0.25), candidates.members, strict=True))
    assert mixed.dtype == torch.float32 and torch.allclose(mixed.exp(), torch.as_tensor(expected), atol=1e-6)
    numbers = case_of("rmse", NUMBERS)
    assert torch.allclose(numbers.mix(numbers.equal), torch.stack(list(numbers.members)).mean(dim=0))
    for first, second in itertools.pairwise(candidates.members):
        assert not torch.equal(first, second)
