"""Averages of predictions and of ranks, against plain NumPy."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from pipelines.core import ensembles
from pipelines.core.ensembles import combine, ranks
from pipelines.settings.choices import SENT, by_ranks, fits
from pipelines.settings.data_sections import CompetitionSettings
from pipelines.settings.metrics import METRICS, NUMBERS, ONE_CLASS, SEVERAL_LABELS

WEIGHTS = [1.0, 3.0, 0.0]


def predictions(task: str, columns: int, rows: int = 40, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(rows, columns, generator=generator) * 3
    if task == ONE_CLASS:
        return outputs.log_softmax(dim=1)
    return outputs.sigmoid() if task == SEVERAL_LABELS else outputs * 100


def plain_ranks(column: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """One more than the number of lower values, and half of the number of other equal ones."""
    lower, equal = (column[:, None] > column).sum(axis=1), (column[:, None] == column).sum(axis=1)
    return (1 + lower + (equal - 1) / 2) / (len(column) + 1)


@pytest.mark.parametrize(("task", "columns"), [(ONE_CLASS, 2), (ONE_CLASS, 5), (SEVERAL_LABELS, 4), (NUMBERS, 3)])
def test_weighted_mean_of_predictions(task: str, columns: int) -> None:
    members = [predictions(task, columns, seed=seed) for seed in range(3)]
    found = combine(members, WEIGHTS, task)
    values = [member.numpy().astype(np.float64) for member in members]
    if task == ONE_CLASS:
        values = [np.exp(value) for value in values]
        assert np.allclose(found.exp().sum(dim=1), 1, atol=1e-6)
    expected = 0.25 * values[0] + 0.75 * values[1]
    assert found.dtype == torch.float32
    assert np.allclose(found.numpy(), np.log(expected) if task == ONE_CLASS else expected, rtol=1e-6)


@pytest.mark.parametrize("task", [ONE_CLASS, SEVERAL_LABELS, NUMBERS])
def test_single_member_stays_as_it_is(task: str) -> None:
    member = predictions(task, 3) * (200 if task == ONE_CLASS else 1)  # probabilities below those of a float64
    assert torch.equal(combine([member], [0.3], task), member)


def test_mean_of_probabilities_of_zero() -> None:
    never, always = torch.tensor([[-torch.inf, 0.0]]), torch.tensor([[0.0, -torch.inf]])
    assert combine([never, always], [1, 3], ONE_CLASS).exp().tolist() == [[0.75, 0.25]]
    assert combine([never, never], [1, 3], ONE_CLASS).exp().tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(("task", "columns"), [(ONE_CLASS, 5), (SEVERAL_LABELS, 4), (NUMBERS, 1)])
def test_ranks_of_each_column_with_ties(task: str, columns: int) -> None:
    member = predictions(task, columns)
    member[3:9] = member[3]
    found = ranks(member, task)
    for column in range(columns):
        expected = plain_ranks(member[:, column].numpy())
        assert np.allclose(found[:, column].exp() if task == ONE_CLASS else found[:, column], expected, rtol=1e-6)


def test_ranks_of_two_classes_add_up_to_one_and_keep_the_auc() -> None:
    logits = torch.randn(500, generator=torch.Generator().manual_seed(0)) * 20
    logits[100:120] = 1.5
    member = torch.stack([-logits, logits], dim=1).log_softmax(dim=1)
    shares = ranks(member, ONE_CLASS).double().exp()
    assert torch.allclose(shares.sum(dim=1), torch.ones(500, dtype=torch.float64), atol=1e-7)
    # Of these, softmax in float32 makes 1 out of many different ones.
    assert np.allclose(shares[:, 1], plain_ranks(logits.numpy()), rtol=1e-6)
    truth = (torch.randn(500, generator=torch.Generator().manual_seed(1)) + logits / 20 > 0).numpy()
    assert roc_auc_score(truth, shares[:, 1]) == pytest.approx(roc_auc_score(truth, logits), abs=1e-12)


def test_groups_are_ranked_each_by_itself() -> None:
    member, groups = predictions(SEVERAL_LABELS, 3, rows=31), np.arange(31) % 3
    found = ranks(member, SEVERAL_LABELS, groups)
    for group in range(3):
        assert torch.equal(found[groups == group], ranks(member[groups == group], SEVERAL_LABELS))


@pytest.mark.parametrize(("task", "columns"), [(ONE_CLASS, 2), (ONE_CLASS, 3), (SEVERAL_LABELS, 2)])
def test_weighted_mean_of_ranks(task: str, columns: int) -> None:
    members = [predictions(task, columns, seed=seed) for seed in range(3)]
    found = combine(members, WEIGHTS, task, by_rank=True)
    each = [ranks(member, task).double() for member in members]
    if task == ONE_CLASS:
        assert torch.allclose(found.double().exp(), 0.25 * each[0].exp() + 0.75 * each[1].exp(), rtol=1e-6)
        assert columns != 2 or torch.allclose(found.exp().sum(dim=1), torch.ones(len(found)), atol=1e-6)
    else:
        assert torch.allclose(found.double(), 0.25 * each[0] + 0.75 * each[1], rtol=1e-6)


def test_ranks_do_not_depend_on_a_members_scale() -> None:
    logits = torch.randn(200, generator=torch.Generator().manual_seed(0))
    pair = torch.stack([-logits, logits], dim=1)
    sharp, flat = ((pair * scale).log_softmax(dim=1) for scale in (4, 0.25))
    assert torch.equal(ranks(sharp, ONE_CLASS), ranks(flat, ONE_CLASS))


def test_many_rows_are_averaged_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    members = [predictions(ONE_CLASS, 4, seed=seed) for seed in range(2)]
    at_once = combine(members, [1, 1], ONE_CLASS)
    monkeypatch.setattr(ensembles, "MOST_ITEMS", 50)
    assert torch.equal(combine(members, [1, 1], ONE_CLASS), at_once)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")]])
def test_weights_that_give_no_mean(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        combine([predictions(NUMBERS, 1)] * 2, weights, NUMBERS)


def test_members_of_different_shapes() -> None:
    with pytest.raises(ValueError, match="cannot be averaged"):
        combine([predictions(NUMBERS, 1), predictions(NUMBERS, 2)], [1, 1], NUMBERS)


def test_ranks_are_only_averaged_where_they_can_be_sent() -> None:
    """Whatever task, metric and submission go together: a column's order must be that of the mean ranks."""
    found = set()
    for task in SENT:
        for metric in METRICS:
            for submission in filter(lambda each: fits(metric, task, each), SENT[task]):
                values: dict[str, Any] = {"metric": metric, "task": task, "submission": submission}
                competition = CompetitionSettings(**values)
                two, three = (by_ranks(competition, list("abc"[:count])) for count in (2, 3))
                if two:
                    found.add((metric, task, submission, three))
    assert found == {
        ("auc", ONE_CLASS, "probability", True),
        ("auc_weighted", ONE_CLASS, "probability", True),
        ("auc_partial", ONE_CLASS, "probability", True),
        ("average_precision", ONE_CLASS, "probability", True),
        ("auc_columns", ONE_CLASS, "probabilities", False),
        ("average_precision_columns", ONE_CLASS, "probabilities", False),
        ("auc_columns", SEVERAL_LABELS, "probabilities", True),
        ("average_precision_columns", SEVERAL_LABELS, "probabilities", True),
    }
