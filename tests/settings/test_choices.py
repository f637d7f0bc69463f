"""Task, metric and submission fit each other, no option is without an effect, and the advice of messages is right."""

import itertools
from typing import Any

import pytest

from pipelines.settings.choices import NOT_OF_BOXES, SENT, USUAL, advice, effects, fits, metrics_of
from pipelines.settings.data_sections import BOX_NOTATIONS
from pipelines.settings.loading import merge
from pipelines.settings.metrics import METRICS
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from tests.support.answers import advised
from tests.support.forms import FORMS


def load(competition: dict[str, Any], **sections: dict[str, Any]) -> Settings:
    if competition.get("task") == "boxes":
        sections["data"] = {"labels": "x.csv", **sections.get("data", {})}
    return merge(Settings("x"), {"competition": competition, **sections}, "x.toml")


def refusal(competition: dict[str, Any], **sections: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        load(competition, **sections)
    return str(caught.value)


COMBINATIONS = [
    (task, metric, sent)
    for task, metric in itertools.product(SENT, METRICS)
    for sent in dict.fromkeys(itertools.chain(*SENT.values()))
]


def test_what_fits_is_loaded_and_all_else_is_refused() -> None:
    loaded = 0
    for task, metric, sent in COMBINATIONS:
        choice = {"task": task, "metric": metric, "submission": sent}
        if fits(metric, task, sent):
            load(choice)
            loaded += 1
        else:
            assert "Set competition." in refusal(choice), choice
    assert loaded > len(METRICS)
    for task, sent in itertools.chain(*([(task, each) for each in sends] for task, sends in SENT.items())):
        assert metrics_of(task, sent)[0] == USUAL[task, sent]
    assert all(any(fits(metric, task, sent) for task, _, sent in COMBINATIONS) for metric in METRICS)


@pytest.mark.parametrize("number", range(len(FORMS)))
def test_real_competitions_fit(number: int) -> None:
    load(**FORMS[number].settings)


@pytest.mark.parametrize(
    ("competition", "words"),
    [
        ({"metric": "auc"}, ['competition.submission = "probability"', "accuracy, balanced_accuracy"]),
        ({"task": "numbers"}, ["task numbers sends numbers", 'competition.task = "one_class"']),
        (
            {"task": "several_labels", "submission": "label_lists"},
            ["competition.metric is accuracy, which scores labels or probabilities", "fbeta_samples"],
        ),
        ({"task": "several_labels", "metric": "map_at_k", "submission": "probability"}, ["sends label_lists or"]),
    ],
)
def test_a_message_names_what_fits(competition: dict[str, Any], words: list[str]) -> None:
    message = refusal(competition)
    assert all(text in message for text in words), message


NUMBERS = {"task": "numbers", "submission": "numbers", "metric": "rmse"}
BOXES = {"task": "boxes", "submission": "boxes", "metric": "box_map"}
WITHOUT_EFFECT: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"positive": "cat"}, {}, "competition.positive is 'cat'"),
    ({"guesses": 3}, {}, "competition.guesses is 3"),
    ({"beta": 2.0}, {}, "competition.beta is 2.0"),
    ({"grades": [0, 1]}, {}, "competition.grades is [0, 1]"),
    ({"auc_ranges": [0.0, 1.0]}, {}, "competition.auc_ranges is [0.0, 1.0]"),
    ({"auc_weights": [1.0]}, {}, "competition.auc_weights is [1.0]"),
    ({"auc_above": 0.5}, {}, "competition.auc_above is 0.5"),
    ({"answer_separator": ","}, {}, "competition.answer_separator is ','"),
    ({"no_label": "none"}, {}, "competition.no_label is 'none'"),
    ({"decimals": 2}, {}, "competition.decimals is 2"),
    ({"long_form": "{id}_{target}"}, {}, "competition.long_form is '{id}_{target}'"),
    (NUMBERS, {"data": {"label_separator": ",", "labels": "x.csv"}}, "data.label_separator is ','"),
    ({}, {"predict": {"answer_range": [0.0, 1.0]}}, "predict.answer_range is [0.0, 1.0]"),
    ({}, {"predict": {"thresholds": "per_label"}}, "predict.thresholds is 'per_label'"),
    ({}, {"predict": {"choose": False}}, "predict.choose is False"),
    ({}, {"train": {"focal_gamma": 1.0}}, "train.focal_gamma is 1.0"),
    (NUMBERS, {"train": {"huber_delta": 2.0}}, "train.huber_delta is 2.0"),
    ({}, {"data": {"pixel_shape": [8, 8]}}, "data.pixel_shape is [8, 8]"),
    ({"box_iou": 0.4}, {}, "competition.box_iou is 0.4"),
    (
        {"box_answer": "confidence xmin ymin xmax ymax"},
        {},
        "competition.box_answer is 'confidence xmin ymin xmax ymax'",
    ),
    ({"no_boxes": "none"}, {}, "competition.no_boxes is 'none'"),
    ({}, {"data": {"box_columns": ["bbox"]}}, "data.box_columns is ['bbox']"),
    ({}, {"data": {"box_form": "xmin ymin width height"}}, "data.box_form is 'xmin ymin width height'"),
    ({}, {"data": {"box_units": "shares"}}, "data.box_units is 'shares'"),
    ({}, {"data": {"no_box_label": "none"}}, "data.no_box_label is 'none'"),
    ({}, {"model": {"anchor_sizes": [0.1]}}, "model.anchor_sizes is [0.1]"),
    ({}, {"model": {"anchor_ratios": [1.0]}}, "model.anchor_ratios is [1.0]"),
    ({}, {"augment": {"zoom_out": 2.0}}, "augment.zoom_out is 2.0"),
]
OF_OTHERS = {"data.pixel_shape": {"data": {"pixel_columns": "pixel*", "labels": "x.csv"}}}
OF_OTHERS |= {f"train.{key}": {"train": {"loss": key.partition("_")[0]}} for key in ("focal_gamma", "huber_delta")}


@pytest.mark.parametrize("number", range(len(WITHOUT_EFFECT)))
def test_an_option_without_an_effect_is_refused(number: int) -> None:
    competition, sections, words = WITHOUT_EFFECT[number]
    message = refusal(competition, **sections)
    assert f"{words}, which has no effect here: it is for" in message
    assert message.endswith("Remove it.")


OF_OTHER_TASKS: dict[str, Any] = {
    "augment.alternating_flip": True,
    "augment.translate": 2,
    "augment.resize": 9,
    "augment.cutout": 2,
    "augment.mixup": 0.2,
    "augment.cutmix": 1.0,
    "augment.sizes": [8],
    "model.features": "stages",
    "model.hidden": [8],
    "model.label_map": "names",
    "model.dropout": 0.5,
    "finetune.head_epochs": 1,
    "train.class_weights": ["balanced"],
    "train.label_smoothing": 0.1,
    "predict.shift": 2,
    "train.search": True,
    "data.label_columns": ["a"],
    "data.class_folders": ["a=b"],
    "data.pixel_columns": "p*",
    "data.channel_files": ["_a"],
    "data.submitted_labels": "x.csv",
    "hardware.compile_training": True,
}


def test_what_boxes_cannot_do_is_refused() -> None:
    assert OF_OTHER_TASKS.keys() == set(NOT_OF_BOXES)
    for key, value in OF_OTHER_TASKS.items():
        section, _, name = key.partition(".")
        message = refusal(BOXES, **{section: {name: value}})
        assert f"{key} is " in message and "it is for the other tasks than boxes. Remove it." in message, key


@pytest.mark.parametrize(
    ("competition", "data", "words"),
    [
        (
            {"box_answer": "xmin ymin xmax ymax"},
            {},
            "competition.box_answer is 'xmin ymin xmax ymax'; it takes, in this",
        ),
        ({"box_answer": "confidence xmin xmax ymin ymax"}, {}, "with confidence and maybe label."),
        ({"box_answer": "confidence xmin ymin width"}, {}, "or xcentre ycentre width height"),
        ({"box_answer": "confidence confidence xmin ymin xmax ymax"}, {}, "it takes, in this order"),
        (
            {},
            {"box_form": "xmin ymin w h"},
            "data.box_form is 'xmin ymin w h'; it takes, in this order, xmin ymin xmax",
        ),
        ({}, {"box_form": "confidence xmin ymin xmax ymax"}, "xmin ymin width height; or xcentre"),
        ({}, {"box_columns": ["x", "y"]}, "data.box_columns has 2 columns; it takes one, or one for each word of"),
        ({}, {"box_columns": ["a", "b", "c", "d"], "box_form": "label xmin ymin xmax ymax"}, "has 4 columns"),
        ({}, {"box_units": "percent"}, "data.box_units"),
        ({"metric": "box_map_at", "box_iou": 1.0}, {}, "competition.box_iou"),
    ],
)
def test_the_words_of_a_box_are_checked(competition: dict[str, Any], data: dict[str, Any], words: str) -> None:
    assert words in refusal(BOXES | competition, data=data)


def test_each_notation_of_a_box_is_taken() -> None:
    for sides in map(" ".join, BOX_NOTATIONS):
        for answer in (f"label confidence {sides}", f"confidence {sides}", f"confidence label {sides}"):
            load(BOXES | {"box_answer": answer}, data={"box_form": sides, "box_columns": ["bbox"]})
        load(BOXES, data={"box_form": f"label {sides}", "box_columns": ["c", "x", "y", "w", "h"]})


def test_each_option_has_an_effect_somewhere() -> None:
    options = {key for key, (_, applies) in effects(Settings("x")).items() if not applies}
    assert options == {text.partition(" ")[0] for *_, text in WITHOUT_EFFECT}
    used: set[str] = set()
    for task, metric, sent in COMBINATIONS:
        if fits(metric, task, sent):
            settings = load({"task": task, "metric": metric, "submission": sent})
            used |= {key for key, (_, applies) in effects(settings).items() if applies}
    for key, sections in OF_OTHERS.items():
        choice = NUMBERS if key == "train.huber_delta" else {}
        used |= {key} if effects(load(choice, **sections))[key][1] else set()
    assert used == set(effects(Settings("x")))


def test_a_range_of_answers_has_no_effect_on_grades() -> None:
    grades = {**NUMBERS, "metric": "quadratic_kappa"}
    assert "predict.answer_range is [0.0, 4.0], which has no" in refusal(grades, predict={"answer_range": [0.0, 4.0]})


WEIGHTED = {"metric": "auc_weighted", "submission": "probability"}


@pytest.mark.parametrize(
    ("competition", "predict", "words"),
    [
        ({**NUMBERS, "metric": "quadratic_kappa", "grades": [2, 1, 0]}, {}, "competition.grades is [2, 1, 0]; list"),
        ({**NUMBERS, "metric": "quadratic_kappa", "grades": [1]}, {}, "competition.grades is [1]; list all grades"),
        ({**WEIGHTED, "auc_ranges": [0.0, 1.0]}, {}, "auc_ranges is [0.0, 1.0], competition.auc_weights is [2.0, 1.0]"),
        ({**WEIGHTED, "auc_ranges": [1.0, 0.4, 0.0]}, {}, "list the bounds from the lowest up"),
        ({**WEIGHTED, "auc_weights": [0.0, 0.0]}, {}, "a weight, not all 0"),
        (NUMBERS, {"answer_range": [3.0, 2.0]}, "predict.answer_range is [3.0, 2.0]; it takes two numbers"),
        (NUMBERS, {"answer_range": [3.0]}, "predict.answer_range is [3.0]; it takes two numbers"),
    ],
)
def test_lists_of_numbers_are_in_order(competition: dict[str, Any], predict: dict[str, Any], words: str) -> None:
    assert words in refusal(competition, predict=predict)


@pytest.mark.parametrize(
    ("competition", "words"),
    [
        ({"submission": "best_labels", "metric": "map_at_k", "answer_separator": ""}, "answer_separator is empty"),
        ({**NUMBERS, "long_form": "{id}"}, "it takes {id} and {target} once each"),
        ({**NUMBERS, "long_form": "{id}{target}"}, "it needs a text between"),
    ],
)
def test_the_form_of_cells_and_rows_is_checked(competition: dict[str, Any], words: str) -> None:
    assert words in refusal(competition)


def test_advice_leaves_out_what_is_set_and_resets_what_loses_its_effect() -> None:
    settings = load({"submission": "probability", "metric": "auc", "positive": "cat"})
    message = f"these:{advice(settings, {'competition.submission': 'best_labels', 'competition.guesses': 3})}\nor not"
    (found,) = advised(message)
    wanted = {"submission": "best_labels", "metric": "map_at_k", "guesses": 3, "positive": ""}
    assert found == {"competition": wanted}
    assert merge(settings, found, "the message").competition.guesses == 3
    assert advice(settings, {"competition.submission": "probability"}) == ""
