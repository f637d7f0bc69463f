"""Choices on validation predictions: those for other images use all rows, those for a score never a row's own."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from pipelines.core import choices
from pipelines.core.choices import (
    PARTS,
    ColumnTemperatures,
    Cuts,
    Open,
    Temperature,
    Thresholds,
    cross_fit,
    decide,
    describe,
    facts,
    fit,
    how_fitted,
    plain,
)

Array = npt.NDArray[Any]
Case = tuple[Open, Tensor, Array]
NAMES = ["cat", "dog", "owl"]


def case_of(key: str, rows: int = 60) -> Case:
    """Return a kind of choice with predictions and targets."""
    random = np.random.default_rng(1)
    if key == "temperature":
        logits = random.normal(0, 2, (rows, 3)).astype(np.float32)
        labels = (logits + random.gumbel(size=(rows, 3))).argmax(axis=1)  # drawn from their softmax
        return Temperature(), torch.from_numpy(logits * 1.5).log_softmax(dim=1), labels
    if key == "cuts":
        targets = random.integers(0, 4, (rows, 1)).astype(np.float32)
        predictions = targets * 0.5 + random.normal(0.7, 0.5, (rows, 1)).astype(np.float32)
        return Cuts((0, 1, 2, 3)), torch.from_numpy(predictions), targets
    probabilities = random.random((rows, 3)).astype(np.float32)
    flags = (random.random((rows, 3)) < probabilities**2).astype(np.float32)
    kinds: dict[str, Open] = {
        "temperatures": ColumnTemperatures(3),
        "thresholds": Thresholds(3, "samples", 1.0, per_label=True),
    }
    return kinds[key], torch.from_numpy(probabilities), flags


EVERY = ("temperature", "temperatures", "thresholds", "cuts")


def other(target: Array, key: str) -> Array:
    """Return a target that differs from `target`."""
    return (target + 1) % (3 if key == "temperature" else 4 if key == "cuts" else 2)


@pytest.mark.parametrize("key", EVERY)
def test_a_rows_own_target_never_decides_it(key: str) -> None:
    kind, predictions, targets = case_of(key)
    crossed = cross_fit(kind, predictions, targets)
    decided = decide(kind, crossed, predictions)
    moved = 0
    for row in range(0, 60, 7):
        changed = targets.copy()
        changed[row] = other(targets[row], key)
        again = cross_fit(kind, predictions, changed)
        assert torch.equal(decide(kind, again, predictions)[row], decided[row])
        assert again.parts[row % PARTS] == crossed.parts[row % PARTS]
        moved += sum(one != two for one, two in zip(again.parts, crossed.parts, strict=True))
    assert moved > 0  # else this shows nothing


@pytest.mark.parametrize("key", EVERY)
def test_each_part_is_decided_by_a_choice_fitted_on_the_others(key: str) -> None:
    kind, predictions, targets = case_of(key)
    crossed = cross_fit(kind, predictions, targets)
    assert len(crossed.parts) == PARTS and crossed.fitted == 60
    for part in range(PARTS):
        inside = np.arange(60) % PARTS == part
        alone = fit(kind, predictions[~inside], targets[~inside])
        assert alone.values == pytest.approx(crossed.parts[part], rel=1e-6)
        assert torch.equal(
            decide(kind, crossed, predictions)[inside], decide(kind, alone, predictions)[inside]
        ) or torch.allclose(decide(kind, crossed, predictions)[inside], decide(kind, alone, predictions)[inside])


@pytest.mark.parametrize("key", EVERY)
def test_rows_are_decided_the_same_in_pieces(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, predictions, targets = case_of(key)
    crossed = cross_fit(kind, predictions, targets)
    whole = decide(kind, crossed, predictions)
    pieces = [decide(kind, crossed, predictions[first : first + 7], first) for first in range(0, 60, 7)]
    assert torch.equal(torch.cat(pieces), whole)
    monkeypatch.setattr(choices, "MOST_ITEMS", 20)
    assert torch.equal(decide(kind, crossed, predictions), whole)


@pytest.mark.parametrize("key", EVERY)
def test_too_few_rows_leave_the_plain_choice(key: str) -> None:
    kind, predictions, targets = case_of(key, rows=PARTS - 1)
    for choice in (fit(kind, predictions, targets), cross_fit(kind, predictions, targets)):
        assert choice == plain(kind) and not choice.fitted
    assert f"{PARTS - 1} validation images are too few" in describe(choice, NAMES, PARTS - 1)
    assert how_fitted(choice) == ""


def test_the_plain_choices_are_no_temperature_a_half_and_the_nearest_grade() -> None:
    for key in ("temperature", "temperatures"):
        kind, predictions, _ = case_of(key)
        assert torch.equal(decide(kind, plain(kind), predictions), predictions)
    kind, predictions, _ = case_of("thresholds")
    assert torch.equal(decide(kind, plain(kind), predictions), (predictions > 0.5).to(torch.uint8))
    cuts = Cuts((1, 2, 4))
    numbers = torch.tensor([[0.0], [1.4], [1.6], [3.1], [9.0]])
    assert decide(cuts, plain(cuts), numbers).tolist() == [[1], [1], [2], [4], [4]]


def test_missing_targets_are_left_out_of_cut_points() -> None:
    kind, predictions, targets = case_of("cuts")
    holes = targets.copy()
    holes[::3] = np.nan
    known = ~np.isnan(holes[:, 0])
    assert fit(kind, predictions, holes).values == fit(kind, predictions[known], targets[known]).values


def test_a_temperature_at_a_bound_is_none() -> None:
    right = torch.tensor([[0.9, 0.1], [0.2, 0.8]] * 3).log()
    choice = fit(Temperature(), right, np.array([0, 1] * 3))
    assert choice == plain(Temperature())
    assert describe(choice, NAMES, 6).startswith("No temperature: 6 validation images are too few, or all are right")
    assert facts(choice, NAMES) == {"temperature": 1.0}


def test_what_was_chosen_is_told_and_recorded() -> None:
    for key, first in {
        "temperature": "Temperature ",
        "temperatures": "Temperatures ",
        "thresholds": "Thresholds ",
        "cuts": "Cut points ",
    }.items():
        choice = fit(*case_of(key))
        text = describe(choice, NAMES, 60)
        assert text.startswith(first) and text.endswith(", fitted on 60 validation images.")
        assert ("(owl)" in text) == (key in ("temperatures", "thresholds"))
        recorded = facts(choice, NAMES)
        assert recorded["temperature"] == (choice.values[0] if key == "temperature" else 1.0)
        if key in ("temperatures", "thresholds"):
            assert recorded[key] == dict(zip(NAMES, choice.values, strict=True))
        assert ("cuts" in recorded) == (key == "cuts")
        assert "fitted on the others" in how_fitted(choice)


def test_one_threshold_is_told_once() -> None:
    _, predictions, targets = case_of("thresholds")
    kind = Thresholds(3, "micro", 2.0, per_label=False)
    choice = fit(kind, predictions, targets)
    assert describe(choice, NAMES, 60) == f"Threshold {choice.values[0]:.3f}, fitted on 60 validation images."
