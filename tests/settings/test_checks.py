"""Rules about training: each mistake is named, and what its message advises is accepted."""

from typing import Any

import pytest

from pipelines.settings.loading import load_settings, merge
from pipelines.settings.schema import Settings
from pipelines.settings.training_sections import TrainSettings
from pipelines.system.errors import UserError

SEVERAL = {"task": "several_labels", "metric": "auc_columns", "submission": "probabilities"}
NUMBERS = {"task": "numbers", "metric": "rmse", "submission": "numbers"}
BOXES = {"task": "boxes", "metric": "box_map", "submission": "boxes"}
KAPPA = NUMBERS | {"metric": "quadratic_kappa"}
Changes = dict[str, dict[str, Any]]

# What is set, words of the message, and what it advises to set.
MISTAKES: dict[str, tuple[Changes, str, Changes]] = {
    "labels by softmax": (
        {"competition": SEVERAL, "train": {"loss": "cross_entropy"}},
        r"train\.loss is cross_entropy, but competition\.task is several_labels, which takes auto, binary, focal, asym",
        {"train": {"loss": "auto"}},
    ),
    "one class by sigmoids": (
        {"train": {"loss": "binary"}},
        "takes auto, cross_entropy, focal",
        {"train": {"loss": "auto"}},
    ),
    "boxes by softmax": (
        {"competition": BOXES, "data": {"labels": "x.csv"}, "train": {"loss": "cross_entropy"}},
        r"competition\.task is boxes, which takes auto\. Set",
        {"train": {"loss": "auto"}},
    ),
    "one class as a number": ({"train": {"loss": "huber"}}, "task is one_class", {"competition": NUMBERS}),
    "grades without a list": (
        {"competition": KAPPA, "train": {"loss": "ordinal"}},
        r"competition\.grades is empty; list all grades",
        {"competition": {"grades": [0, 1, 2, 3, 4]}},
    ),
    "a grade twice": (
        {"competition": KAPPA | {"grades": [0, 1, 1]}, "train": {"loss": "ordinal"}},
        r"competition\.grades is \[0, 1, 1\]",
        {"competition": {"grades": [0, 1, 2, 3, 4]}},
    ),
    "weights of numbers": (
        {"competition": NUMBERS, "train": {"class_weights": ["balanced"]}},
        r"set it to \[\]",
        {"train": {"class_weights": []}},
    ),
    "smoothed numbers": (
        {"competition": NUMBERS, "train": {"label_smoothing": 0.1}},
        r"label_smoothing is 0\.1.*set train\.label_smoothing = 0",
        {"train": {"label_smoothing": 0.0}},
    ),
    "names of numbers": (
        {"competition": NUMBERS, "model": {"label_map": "names", "weights": "IMAGENET1K_V1", "name": "resnet18"}},
        r"model\.label_map is 'names', but competition\.task is numbers",
        {"model": {"label_map": ""}},
    ),
    "a weight without a number": (
        {"train": {"class_weights": ["a=2", "b", "c=0", "=3", "d=nan"]}},
        r"class_weights holds 'b', 'c=0', '=3', …; each must be class=2\.5",
        {"train": {"class_weights": ["a=2.5"]}},
    ),
    "balanced and more": (
        {"train": {"class_weights": ["balanced", "a=2"]}},
        "or balanced alone",
        {"train": {"class_weights": ["balanced"]}},
    ),
    "two weights of a class": (
        {"train": {"class_weights": ["a=2", "a=3"]}},
        "names a class twice; give each class one weight",
        {"train": {"class_weights": ["a=3"]}},
    ),
    "a detector for classes": (
        {"model": {"name": "ssd300/vgg16"}},
        r"model\.name is 'ssd300/vgg16', a detector, and competition\.task is 'one_class': name a classifier, .* vgg16",
        {"model": {"name": "vgg16"}},
    ),
    "compiled and side by side": (
        {"hardware": {"compile_training": True, "side_by_side": 8}},
        r"hardware\.side_by_side is 8, but hardware\.compile_training is true; set hardware\.side_by_side = 0",
        {"hardware": {"side_by_side": 0}},
    ),
}


def joined(one: Changes, other: Changes) -> Changes:
    return {section: one.get(section, {}) | other.get(section, {}) for section in one | other}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_setting_that_does_not_fit_is_refused_and_the_advice_is_accepted(name: str) -> None:
    changes, message, advised = MISTAKES[name]
    with pytest.raises(UserError, match=message):
        merge(Settings("x"), changes, "here")
    merge(Settings("x"), joined(changes, advised), "here")


@pytest.mark.parametrize(
    ("competition", "train"),
    [
        ({}, {"loss": "focal", "class_weights": ["a=2"], "label_smoothing": 0.1}),
        (SEVERAL, {"loss": "asymmetric", "class_weights": ["balanced"], "label_smoothing": 0.1}),
        (SEVERAL, {"loss": "focal"}),
        (NUMBERS, {"loss": "huber", "huber_delta": 2.0}),
        (NUMBERS, {"loss": "absolute"}),
        (KAPPA | {"grades": [0, 1, 4]}, {"loss": "ordinal", "label_smoothing": 0.1}),
    ],
)
def test_losses_of_each_task(competition: dict[str, Any], train: dict[str, Any]) -> None:
    merge(Settings("x"), {"competition": competition, "train": train}, "here")


def test_a_weight_belongs_to_the_text_before_the_last_equals_sign() -> None:
    weights = TrainSettings(class_weights=("a=b=2", "Maize, young=0.5", "c=1e3")).weights_by_class
    assert weights == {"a=b": 2, "Maize, young": 0.5, "c": 1000}


@pytest.mark.parametrize("text", ["[cat=2,dog=0.5]", "cat=2,dog=0.5", "['cat=2', 'dog=0.5']"])
def test_weights_may_be_given_on_the_command_line(text: str) -> None:
    settings = load_settings("digits", overrides=[f"train.class_weights={text}"])
    assert settings.train.weights_by_class == {"cat": 2, "dog": 0.5}
