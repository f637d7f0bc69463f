"""A sample submission that shows other answers than would be sent: an error whose settings fit the sample."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.dataset.submission import class_list
from pipelines.settings.loading import merge
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from tests.support.answers import advised
from tests.support.raw_files import write

SAMPLE = {"data": {"sample_submission": "sample.csv"}}
SEVERAL = {"competition": {"task": "several_labels", "submission": "label_lists", "metric": "fbeta_micro"}}
EACH = {"competition": {"submission": "probabilities", "metric": "log_loss"}}
ONE = {"competition": {"submission": "probability", "metric": "auc"}}
BEST = {"competition": {"submission": "best_labels", "metric": "map_at_k"}}
NUMBERS = {"competition": {"task": "numbers", "submission": "numbers", "metric": "rmse"}}
WHALES = ["new_whale", "w_1", "w_2", "w_3", "w_4", "w_5"]


def settings_of(*sections: dict[str, Any]) -> Settings:
    settings: dict[str, dict[str, Any]] = {}
    for each in (SAMPLE, *sections):
        for name, values in each.items():
            settings[name] = {**settings.get(name, {}), **values}
    return merge(Settings("x"), settings, "here")


def refused(raw: Path, labels: list[str], settings: Settings) -> str:
    with pytest.raises(UserError) as caught:
        class_list(labels, settings, raw)
    return str(caught.value)


CASES: dict[str, tuple[dict[str, Any], list[str], list[str], str, dict[str, Any]]] = {
    # settings, labels, lines of the sample, words of the message, settings that it names
    "a probability, labels would be sent": (
        *({}, ["0", "1"], ["id,has_cactus", "1,0.5", "2,0.5"], "column 'has_cactus' has '0.5'"),
        {"competition": {"submission": "probability", "metric": "auc"}},
    ),
    "a probability of one of two words": (
        *({}, ["cat", "dog"], ["id,label", "1,0.5"], "The sample has a probability for each id."),
        {"competition": {"submission": "probability", "metric": "auc", "positive": "dog"}},
    ),
    "a probability, one for each class would be sent": (
        *(EACH, ["0", "1"], ["id,has_cactus", "1,0.5"], "one column of values, 'has_cactus'"),
        {"competition": {"submission": "probability", "metric": "auc"}},
    ),
    "a number, labels would be sent": (
        *({}, ["7", "12", "80"], ["Id,Pawpularity", "a,99.24", "b,12.5"], "The sample has a number for each id."),
        {"competition": {"task": "numbers", "submission": "numbers", "metric": "rmse"}},
    ),
    "five guesses, labels would be sent": (
        *({}, WHALES, ["Image,Id", "a,new_whale w_1 w_2 w_9 w_4"], "The sample has 5 labels in one cell."),
        {"competition": {"submission": "best_labels", "metric": "map_at_k"}},
    ),
    "three guesses between semicolons": (
        *({}, WHALES, ["Image,Id", "a,new_whale; w_1; w_2"], "The sample has 3 labels in one cell."),
        {"competition": {"submission": "best_labels", "metric": "map_at_k", "guesses": 3, "answer_separator": "; "}},
    ),
    "lists, labels would be sent": (
        *({}, WHALES, ["Image,Id", "a,w_1 w_2", "b,w_3"], "The sample has up to 2 labels in one cell."),
        {
            "competition": {"task": "several_labels", "submission": "label_lists", "metric": "fbeta_samples"},
            "data": {"label_separator": " "},
        },
    ),
    "a column per class, labels would be sent": (
        *({}, ["cat", "dog"], ["id,dog,cat", "a,0.5,0.5"], "does not have 2 columns"),
        {"competition": {"submission": "probabilities", "metric": "log_loss"}},
    ),
    "a label, probabilities would be sent": (
        *(EACH, ["cat", "dog", "emu"], ["id,label", "a,cat"], "The sample has a label for each id."),
        {"competition": {"submission": "labels", "metric": "accuracy"}},
    ),
    "a label, a probability would be sent": (
        *(ONE, ["0", "1"], ["id,label", "a,0", "b,1.5"], "values that are no probabilities, '1.5'"),
        {"competition": {"task": "numbers", "submission": "numbers", "metric": "rmse"}},
    ),
    "words, a probability would be sent": (
        *({"competition": {**ONE["competition"], "positive": "dog"}}, ["cat", "dog"], ["id,label", "a,cat"]),
        "values that are no probabilities, 'cat'",
        {"competition": {"submission": "labels", "metric": "accuracy", "positive": ""}},
    ),
    "another number of guesses": (
        *(BEST, WHALES, ["Image,Id", "a,w_1 w_2 w_3"], "each cell of column 'Id' has 3 labels, but 5 would be sent"),
        {"competition": {"guesses": 3}},
    ),
    "guesses between bars": (
        *(BEST, WHALES, ["Image,Id", "a,w_1|w_2|w_3|w_4|w_5"], "has 'w_1|w_2|w_3|w_4|w_5', but the labels are"),
        {"competition": {"answer_separator": "|"}},
    ),
    "lists between commas": (
        *(SEVERAL, ["rust", "scab|rust"], ["image,labels", 'a,"rust,scab"', "b,scab"], "'rust,scab'"),
        {"competition": {"answer_separator": ","}},
    ),
    "a word for no label": (
        *(SEVERAL, ["rust", "scab|rust"], ["image,labels", "a,nothing"], "If 'nothing' means no label:"),
        {"competition": {"no_label": "nothing"}},
    ),
    "a row for each image and class": (
        *({}, ["cat", "dog"], ["id,what,p", "a,cat,0.5", "a,dog,0.5"], "does not have 2 columns"),
        {"competition": {"submission": "probabilities", "metric": "log_loss", "long_form": "{id},{target}"}},
    ),
    "no probabilities but numbers": (
        *(EACH, ["1", "2"], ["id,1,2", "a,25.5,1.5"], "values that are no probabilities, '25.5', '1.5'"),
        {"competition": {"task": "numbers", "submission": "numbers", "metric": "rmse"}},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_sample_of_other_answers_names_the_settings_that_fit(tmp_path: Path, name: str) -> None:
    sections, labels, lines, words, wanted = CASES[name]
    write(tmp_path / "sample.csv", "\n".join(lines) + "\n")
    settings = settings_of(sections)
    message = refused(tmp_path, labels, settings)
    assert words in message
    (found,) = advised(message)
    others = {"data": wanted["data"]} if "data" in wanted else {}
    was, changes = settings.competition, wanted["competition"].items()
    assert found == {"competition": {key: value for key, value in changes if getattr(was, key) != value}, **others}
    if name != "no probabilities but numbers":  # whose labels must come from two columns
        assert class_list(labels, merge(settings, found, "the message"), tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_accepted_samples_pass_unless_their_columns_differ(tmp_path: Path, name: str) -> None:
    sections, labels, lines, *_ = CASES[name]
    write(tmp_path / "sample.csv", "\n".join(lines) + "\n")
    settings = settings_of(sections, {"data": {"accept": ["sample_labels"]}})
    if "sample_labels" in refused(tmp_path, labels, settings_of(sections)):
        assert class_list(labels, settings, tmp_path)


GOOD: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({}, ["cat", "dog"], ["id,label", "1,cat"]),
    ({}, ["cat", "dog"], ["id,label", "1,"]),
    ({}, ["hot dog", "cat", "dog"], ["id,label", "1,hot dog"]),
    (ONE, ["0", "1"], ["id,label", "1,0"]),
    (ONE, ["0", "1"], ["id,label", "1,0.5"]),
    (BEST, WHALES, ["Image,Id", "a,new_whale w_1 w_8 w_9 w_4"]),
    (BEST, WHALES, ["Image,Id", "a,new_whale"]),
    (BEST, WHALES[:3], ["Image,Id", "a,new_whale w_1 w_2"]),  # all labels there are
    (SEVERAL, ["rust", "", "scab|rust"], ["image,labels", "a,rust", "b,"]),
    (NUMBERS, ["3", "4"], ["id,age", "a,0"]),
    (EACH, ["cat", "dog"], ["id,cat,dog,emu", "1,0.1,0.1,0.1"]),
]


@pytest.mark.parametrize("number", range(len(GOOD)))
def test_samples_of_real_competitions_pass(tmp_path: Path, number: int) -> None:
    sections, labels, lines = GOOD[number]
    write(tmp_path / "sample.csv", "\n".join(lines) + "\n")
    assert class_list(labels, settings_of(sections), tmp_path)
