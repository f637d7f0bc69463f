"""Average the predictions of several networks, or their ranks where the metric looks at the order alone.

Predictions are those of `pipelines/core/tasks.py`: log-probabilities (N, K) of one class, probabilities (N, K) of
several labels, numbers (N, T).  Sums are in float64, in the order of the members.  Boxes are fused (core/fusion.py).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.core.fusion import fuse
from pipelines.settings.metrics import BOXES, ONE_CLASS

MOST_ITEMS = 1 << 22  # values that are averaged together
Array = npt.NDArray[Any]


def combine(members: Sequence[Tensor], weights: Sequence[float], task: str, by_rank: bool = False) -> Tensor:
    """Return the weighted mean of the predictions of all `members`, float32, in the form of each of them.

    One class: the logarithm of the mean probabilities.  by_rank: of the `ranks` instead, over all rows.  weights: not
    negative; they are divided by their sum.
    """
    shares = np.array(weights, np.float64)
    if len({member.shape for member in members}) != 1 or len(members) != len(shares):
        raise ValueError(f"{[tuple(member.shape) for member in members]} cannot be averaged with weights {weights}")
    if not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
        raise ValueError(f"weights must not be negative, and one must be above 0: {weights}")
    if task == BOXES:
        return fuse(members, weights)
    shares /= shares.sum()
    result = torch.empty(members[0].shape)
    if by_rank:
        for column in range(result.shape[1]):
            total = sum(share * _ranked(member, task, column) for member, share in zip(members, shares, strict=True))
            result[:, column] = _as_predictions(total, task)
        return result
    for rows in _parts(members[0]):
        result[rows] = _mean([member[rows].double() for member in members], shares, task).float()
    return result


def ranks(predictions: Tensor, task: str, groups: Array | None = None) -> Tensor:
    """Return each column's ranks, from 1 to N, over N + 1, float32; of one class their logarithms.

    Equal values share their mean rank.  Two classes are ranked by their ratio, so that their ranks add up to 1.
    groups: of each row, (N,); each is ranked by itself, as predictions of different networks are not comparable.
    """
    columns = range(predictions.shape[1])
    return torch.stack([_as_predictions(_ranked(predictions, task, each, groups), task) for each in columns], dim=1)


def _ranked(predictions: Tensor, task: str, column: int, groups: Array | None = None) -> Array:
    """Return the ranks of a column, over N + 1, float64 (N,)."""
    from scipy.stats import rankdata

    values = predictions[:, column].double().numpy()
    if task == ONE_CLASS and predictions.shape[1] == 2:
        values = values - predictions[:, 1 - column].double().numpy()  # it has more digits than a probability near 1
    if groups is None:
        return np.asarray(rankdata(values) / (len(values) + 1))
    found = np.empty(len(values))
    for group in np.unique(groups):
        rows = groups == group
        found[rows] = rankdata(values[rows]) / (rows.sum() + 1)
    return found


def _as_predictions(ranked: Array, task: str) -> Tensor:
    return torch.from_numpy(np.log(ranked) if task == ONE_CLASS else ranked).float()


def _mean(members: Sequence[Tensor], shares: Array, task: str) -> Tensor:
    if task == ONE_CLASS:
        used = [(member, share) for member, share in zip(members, shares.tolist(), strict=True) if share]
        return torch.stack([member + np.log(share) for member, share in used]).logsumexp(dim=0)
    total = torch.zeros_like(members[0])
    for member, share in zip(members, shares.tolist(), strict=True):
        total += share * member
    return total


def _parts(predictions: Tensor) -> Iterator[slice]:
    size = max(1, MOST_ITEMS // max(1, predictions.shape[1]))
    return (slice(start, start + size) for start in range(0, len(predictions), size))
