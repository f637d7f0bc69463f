"""The sentence on over- and underfitting: each rule, at both sides of its bound."""

from typing import Any

import pytest

from pipelines.analysis.fit_words import describe_fit

Curve = list[float]


def history(train: Curve, valid: Curve, scores: Curve, metric: str = "accuracy") -> list[dict[str, Any]]:
    triples = zip(train, valid, scores, strict=True)
    return [
        {"epoch": float(number), "train_loss": one, "valid_loss": other, metric: score, "lr": 0.1}
        for number, (one, other, score) in enumerate(triples, start=1)
    ]


FALLING = [2.0, 1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2]
FLAT = [2.0, 1.0, 0.8, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7]
LEARNED = [0.1, 0.5, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8]
BETTER = [0.1, 0.5, 0.6, 0.65, 0.7, 0.72, 0.74, 0.76, 0.78, 0.8]
CASES = (
    (FALLING, FALLING, BETTER, "Not finished: "),
    (FALLING, FLAT, BETTER, "Not finished: "),
    (FALLING, FLAT, LEARNED, "Fitted: "),
    (FLAT, FLAT, LEARNED, "Levelled off: "),
    (FALLING, [*FLAT[:8], 0.74, 0.76], LEARNED, "Overfitting: "),
    (FALLING, [*FLAT[:8], 0.72, 0.74], LEARNED, "Fitted: "),  # a rise of 4 %
    ([*FLAT[:8], 0.9, 0.9], [*FLAT[:8], 0.9, 0.9], LEARNED, "Levelled off: "),  # training gets worse too
    (FALLING, [*FLAT[:8], 0.9, 0.95], BETTER, "Overfitting of the probabilities, "),
    (FALLING, FLAT, [*LEARNED[:8], 0.81, 0.81], "Fitted: "),  # 1.4 % of the range
    (FALLING, FLAT, [*LEARNED[:8], 0.82, 0.82], "Not finished: "),  # 2.8 %
)


@pytest.mark.parametrize(("train", "valid", "scores", "verdict"), CASES)
def test_the_first_rule_that_holds_is_said(train: Curve, valid: Curve, scores: Curve, verdict: str) -> None:
    said = describe_fit(history(train, valid, scores), "accuracy")
    assert said.startswith(verdict)
    assert said.endswith(".") and ". " not in said.replace("train.", "").replace("augment.", "")


def test_a_score_that_is_lower_when_better_gets_better_by_falling() -> None:
    assert describe_fit(history(FALLING, FALLING, FALLING, "log_loss"), "log_loss").startswith("Not finished: ")
    rising = history(FALLING, FLAT, BETTER, "log_loss")
    assert describe_fit(rising, "log_loss").startswith("Fitted: ")


def test_the_sentence_names_where_the_loss_turned() -> None:
    turned = [2.0, 1.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]
    said = describe_fit(history(FALLING, turned, LEARNED[:4] + [0.69] * 6), "accuracy")
    assert said.startswith("Overfitting: after epoch 3 the validation loss rose from 0.5000 to 1.1500, ")


@pytest.mark.parametrize("epochs", [0, 1, 4])
def test_few_epochs_give_no_verdict(epochs: int) -> None:
    rows = history(FALLING[:epochs], FALLING[:epochs], BETTER[:epochs])
    unknown = history([1.0], [1.0], [float("nan")])
    assert describe_fit(rows + unknown, "accuracy").startswith(f"{epochs} epochs are too few ")


def test_five_epochs_give_a_verdict() -> None:
    assert describe_fit(history(FALLING[:5], FALLING[:5], BETTER[:5]), "accuracy").startswith("Not finished: ")
