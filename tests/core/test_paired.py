"""Two runs on the same rows: gain, interval and test are those of independent formulas, whatever the metric."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score
from torch import Tensor

from pipelines.core.blending import Pool, make_pool
from pipelines.core.paired import Paired, compare, mcnemar
from pipelines.core.stored import Stored
from pipelines.dataset.image_set import ImageSet
from pipelines.settings.loading import merge
from pipelines.settings.schema import Settings

Array = npt.NDArray[Any]
NORMAL = 1.959964
NAMES = ["ant", "bee", "cat"]
LOG_LOSS = {"metric": "log_loss", "submission": "probabilities"}
AUC = {"metric": "auc", "submission": "probability", "positive": "bee"}
RMSE = {"task": "numbers", "metric": "rmse", "submission": "numbers"}


def pool_of(
    competition: dict[str, Any], labels: list[str], names: list[str], pair: list[Tensor], folds: Array | None = None
) -> Pool:
    """Return the pool of two runs that have predicted all rows."""
    settings = merge(Settings("here"), {"competition": competition, "predict": {"calibrate": False}}, "here")
    ids = [f"image{number}" for number in range(len(labels))]
    table = pd.DataFrame({"id": ids, "path": ids, "label": labels, "split": "valid", "fold": -1})
    images = ImageSet(table, table, Path(), Path(), names, task=settings.competition.task)
    folds = np.zeros(len(ids), np.int64) if folds is None else folds
    return make_pool(settings, images, [Stored(np.array(ids, object), folds, each) for each in pair])


def of_classes(
    competition: dict[str, Any], rows: int, names: list[str], noises: tuple[float, float], folds: Array | None = None
) -> tuple[Pool, Array]:
    """Return a pool of predictions that know the class under noise, and the classes."""
    targets = np.random.default_rng(0).integers(0, len(names), rows)
    shared = np.random.default_rng(1).normal(0, 1, (rows, len(names)))  # what is difficult for both
    pair = []
    for seed, noise in enumerate(noises):
        values = 2 * np.eye(len(names))[targets] + shared
        values += np.random.default_rng(10 + seed).normal(0, noise, values.shape)
        pair.append(torch.from_numpy(values).float().log_softmax(dim=1))
    return pool_of(competition, [names[target] for target in targets], names, pair, folds), targets


def test_accuracy_is_compared_as_mcnemar_does() -> None:
    pool, targets = of_classes({"metric": "accuracy"}, 600, NAMES, (2.0, 0.5))
    first, second = (each.predictions.numpy().argmax(axis=1) == targets for each in pool.stored)
    found = compare(pool)
    losses, gains = int((first & ~second).sum()), int((second & ~first).sum())
    assert found.alone == (losses, gains) and found.rows == 600
    assert found.scores == pytest.approx((first.mean(), second.mean()))
    assert found.gain == pytest.approx((gains - losses) / 600)
    error = math.sqrt(gains + losses - (gains - losses) ** 2 / 600) / 600
    assert np.array(found.bounds) - found.gain == pytest.approx([-NORMAL * error, NORMAL * error], rel=0.15)
    both = gains + losses
    tail = sum(math.comb(both, k) for k in range(min(losses, gains) + 1)) / 2**both
    assert found.p_value == pytest.approx(min(1, 2 * tail)) and found.verdict == 1


def test_a_log_loss_is_compared_by_the_losses_of_the_rows() -> None:
    pool, targets = of_classes(LOG_LOSS, 500, NAMES, (0.3, 1.5))
    losses = [-each.predictions.double().numpy()[np.arange(500), targets] for each in pool.stored]
    difference = losses[0] - losses[1]
    found = compare(pool)
    assert found.scores == pytest.approx([each.mean() for each in losses], rel=1e-5)
    assert found.gain == pytest.approx(difference.mean(), rel=1e-4) and found.gain < 0
    reach = NORMAL * difference.std(ddof=1) / math.sqrt(500)
    assert found.bounds == pytest.approx((found.gain - reach, found.gain + reach), rel=0.15)
    assert math.isnan(found.p_value) and found.alone and found.verdict == -1


def test_numbers_are_compared_as_by_a_plain_bootstrap() -> None:
    random = np.random.default_rng(5)
    targets = random.normal(size=400).astype(np.float32)
    values = [targets + random.normal(0, noise, 400).astype(np.float32) for noise in (0.5, 0.48)]
    pair = [torch.from_numpy(each[:, None]) for each in values]
    found = compare(pool_of(RMSE, [f"{target:.9g}" for target in targets], ["size"], pair))
    low, high = targets.min(), targets.max()  # answers stay within the targets' range
    squares = [(np.clip(each, low, high) - targets) ** 2 for each in values]
    drawn = random.integers(0, 400, (4000, 400))
    gains = np.sqrt(squares[0][drawn].mean(axis=1)) - np.sqrt(squares[1][drawn].mean(axis=1))
    assert found.gain == pytest.approx(math.sqrt(squares[0].mean()) - math.sqrt(squares[1].mean()), rel=1e-3)
    assert found.bounds[1] - found.gain == pytest.approx(NORMAL * gains.std(), rel=0.15)
    assert found.alone is None and (found.bounds[0] <= 0) == (found.verdict == 0)


def test_an_auc_is_compared_by_the_ranks_within_the_folds() -> None:
    folds = np.arange(200) % 4
    pool, targets = of_classes(AUC, 200, NAMES[:2], (0.5, 0.6), folds)
    shifted = pool.stored[0].predictions * torch.from_numpy(1 + folds[:, None]).float()  # other scales of networks
    moved = pool_of(AUC, [NAMES[each] for each in targets], NAMES[:2], [shifted, pool.stored[1].predictions], folds)
    expected = []
    for each in moved.stored:
        ratio = (each.predictions[:, 1].double() - each.predictions[:, 0].double()).numpy()
        ranks = np.zeros(200)
        for fold in range(4):
            rows = folds == fold
            ranks[rows] = rankdata(ratio[rows]) / (rows.sum() + 1)
        expected.append(roc_auc_score(targets, ranks))
    assert compare(moved).scores == pytest.approx(expected, abs=1e-6)


def test_the_result_is_always_the_same_and_its_sign_follows_the_order() -> None:
    pool, targets = of_classes({"metric": "f1_macro"}, 150, NAMES, (1.0, 1.2))
    found = compare(pool)
    assert found == compare(pool)
    turned = compare(
        pool_of(
            {"metric": "f1_macro"}, [NAMES[each] for each in targets], NAMES, [e.predictions for e in pool.stored][::-1]
        )
    )
    assert turned.gain == pytest.approx(-found.gain) and turned.bounds == pytest.approx(
        (-found.bounds[1], -found.bounds[0])
    )


def test_rows_that_only_one_run_predicted_are_left_out() -> None:
    pool, targets = of_classes({"metric": "accuracy"}, 60, NAMES, (1.0, 1.0))
    settings = merge(Settings("here"), {"competition": {"metric": "accuracy"}}, "here")
    first, second = pool.stored
    some = Stored(second.ids[10:][::-1], second.folds[10:][::-1].copy(), second.predictions[10:].flip(0))
    found = compare(make_pool(settings, pool.images, [first, some]))
    right = [each.predictions.numpy().argmax(axis=1)[10:] == targets[10:] for each in pool.stored]
    assert found.rows == 50 and found.scores == pytest.approx([each.mean() for each in right])


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (Paired((0.5, 0.6), 0.1, (0.05, 0.15), 100), 1),
        (Paired((0.5, 0.6), 0.1, (-0.05, 0.25), 100), 0),
        (Paired((0.6, 0.5), -0.1, (-0.15, -0.05), 100), -1),
        (Paired((0.5, 0.6), 0.1, (0.05, 0.15), 19), 0),  # too few rows
        (Paired((0.5, 0.6), 0.1, (0.05, 0.15), 100, (0, 4), mcnemar((0, 4))), 0),  # four rows can be luck
        (Paired((math.nan, 0.6), math.nan, (math.nan, math.nan), 100), 0),
    ],
)
def test_verdicts(found: Paired, verdict: int) -> None:
    assert found.verdict == verdict


def test_equal_runs_do_not_differ() -> None:
    pool, targets = of_classes({"metric": "accuracy"}, 50, NAMES, (1.0, 1.0))
    same = [pool.stored[0].predictions] * 2
    found = compare(pool_of({"metric": "accuracy"}, [NAMES[each] for each in targets], NAMES, same))
    assert (found.gain, found.bounds, found.alone, found.p_value, found.verdict) == (0, (0, 0), (0, 0), 1, 0)
