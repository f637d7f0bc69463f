"""The sentence on how a training went."""

import math
from collections.abc import Sequence

from pipelines.analysis.fit_words import describe_fit


def history(train: Sequence[float], valid: Sequence[float], scores: Sequence[float]) -> list[dict[str, float]]:
    rows = zip(train, valid, scores, strict=True)
    return [
        {"epoch": epoch, "train_loss": a, "valid_loss": b, "accuracy": c, "rmse": 1 - c}
        for epoch, (a, b, c) in enumerate(rows, 1)
    ]


FALLING = [2.0, 1.6, 1.3, 1.1, 0.9, 0.7, 0.5, 0.4]


def test_a_rising_validation_loss_with_a_falling_training_loss_is_overfitting() -> None:
    rows = history(FALLING, [2.0, 1.5, 1.2, 1.1, 1.2, 1.3, 1.4, 1.5], [0.2, 0.4, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6])
    said = describe_fit(rows, "accuracy")
    assert said.startswith("It overfits: since epoch 4 ") and "from 1.1000 to 1.5000" in said
    assert describe_fit(rows, "rmse").startswith("It overfits")


def test_a_score_that_still_gains_could_go_on() -> None:
    rows = history(FALLING, FALLING, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    assert describe_fit(rows, "accuracy").startswith("It could go on: accuracy")
    assert describe_fit(rows, "rmse").startswith("It could go on: rmse")


def test_a_flat_end_has_levelled_off() -> None:
    rows = history(FALLING, [2.0, 1.0, 0.9, 0.8, 0.8, 0.8, 0.8, 0.8], [0.1, 0.6, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8])
    assert describe_fit(rows, "accuracy").startswith("It has levelled off")


def test_a_rise_of_both_losses_is_not_overfitting() -> None:
    rising = [2.0, 1.0, 1.2, 1.4, 1.6, 1.8, 1.9, 2.0]
    assert not describe_fit(history(rising, rising, [0.5] * 8), "accuracy").startswith("It overfits")


def test_a_short_or_unscored_history_says_nothing() -> None:
    assert describe_fit(history(FALLING[:3], FALLING[:3], FALLING[:3]), "accuracy") == ""
    assert describe_fit([{"epoch": 1.0, "train_loss": 1.0}] * 9, "accuracy") == ""
    assert describe_fit(history(FALLING, [math.nan] * 8, FALLING), "accuracy") == ""
