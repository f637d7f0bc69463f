"""Suspect targets of several labels and of numbers, and the predictions that they are found in."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from pipelines.analysis.duplicates import find_pairs
from pipelines.analysis.results import Results, read_predictions, write_valid_predictions
from pipelines.analysis.suspects import find_suspects, listing, texts
from pipelines.dataset.image_set import ImageSet
from pipelines.models.device import choose_hardware
from pipelines.settings.layout import RunLayout
from pipelines.settings.metrics import NUMBERS, SEVERAL_LABELS
from pipelines.system.errors import UserError
from pipelines.system.files import write_text
from tests.support.tiny import Tiny

LABELS = ["a", "b", "=c"]


def labelled(tiny: Tiny, task: str, classes: list[str], texts: list[str]) -> ImageSet:
    """Return the first images of the tiny competition with other targets, also in its table."""
    rows = tiny.images.rows.head(len(texts)).assign(label=texts)
    tiny.table.loc[rows.index, "label"] = texts
    return replace(tiny.images, rows=rows, classes=classes, task=task)


def write(tiny: Tiny, images: ImageSet, predicted: npt.NDArray[np.float64], name: str = "one") -> RunLayout:
    run = tiny.layout.run(name)
    write_valid_predictions(run.valid_predictions, Results(images, predicted, predicted > 0.5))
    return run


def test_predictions_of_labels_are_read_as_they_were_written(tiny: Tiny) -> None:
    images = labelled(tiny, SEVERAL_LABELS, LABELS, ["a|b", "", "=c|a"])
    predicted = np.array([[0.9, 0.2, 0.1], [0.1, 0.2, 0.3], [0.75, 0.1, 0.6]])
    run = write(tiny, images, predicted)
    text = run.valid_predictions.read_text()
    assert text.splitlines()[:3] == [
        "id,label,predicted,p_a,p_b,p_=c",
        f"{images.ids[0]},a|b,a,0.900000,0.200000,0.100000",
        f"{images.ids[1]},,,0.100000,0.200000,0.300000",
    ]
    found = read_predictions(run.valid_predictions, tiny.table, SEVERAL_LABELS)
    assert found.places == images.rows.index.tolist()
    assert found.names == LABELS
    assert found.values == pytest.approx(predicted)


def test_predictions_of_numbers_are_read_as_they_were_written(tiny: Tiny) -> None:
    images = labelled(tiny, NUMBERS, ["x", "y"], ["1|2", "|3"])
    predicted = np.array([[1.5, 1e6], [-2.25, 1 / 3]])
    run = write(tiny, images, predicted)
    assert run.valid_predictions.read_text() == (
        f"id,label,predicted\n{images.ids[0]},1|2,1.5|1000000\n{images.ids[1]},|3,-2.25|0.3333333\n"
    )
    assert read_predictions(run.valid_predictions, tiny.table, NUMBERS).values == pytest.approx(predicted)


def test_labels_are_suspect_where_presence_or_absence_is_sure(tiny: Tiny) -> None:
    texts = ["a", "a", "a", "b", "b", ""]
    images = labelled(tiny, SEVERAL_LABELS, ["a", "b"], texts)
    predicted = np.array([[0.9, 0.1], [0.8, 0.95], [0.1, 0.1], [0.1, 0.9], [0.2, 0.8], [0.55, 0.1]])
    found, covered = find_suspects([write(tiny, images, predicted)], tiny.table, SEVERAL_LABELS)
    assert covered == 6
    places = images.rows.index.tolist()
    # Row 1 is sure to have b too, row 2 not to have a; of row 5, 0.55 is less than the 0.6 that rows with a get.
    assert found.index.tolist() == [places[1], places[2]]
    assert found["predicted"].tolist() == ["a|b", ""]
    assert found["p_predicted"].tolist() == pytest.approx([0.95, 0.9])
    assert found["p_label"].tolist() == pytest.approx([0.05, 0.1])
    assert listing(found, tiny.table)["label"].tolist() == ["a", "a"]


def test_runs_of_labels_and_of_numbers_are_averaged(tiny: Tiny) -> None:
    images = labelled(tiny, SEVERAL_LABELS, ["a"], ["a", "a", "", ""])
    one = write(tiny, images, np.array([[0.9], [0.0], [0.1], [0.2]]))
    two = write(tiny, images.select(images.rows.head(2)), np.array([[0.8], [0.9]]), "two")
    assert len(find_suspects([one], tiny.table, SEVERAL_LABELS)[0]) == 1
    assert find_suspects([one, two], tiny.table, SEVERAL_LABELS)[0].empty  # 0.45 is not sure enough
    images = labelled(tiny, NUMBERS, ["x"], [str(number) for number in range(10)])
    values = np.arange(10.0)[:, None] + np.tile([[1], [-1]], (5, 1))
    values[7] += 20
    runs = [write(tiny, images, values), write(tiny, images.select(images.rows.tail(3)), values[7:] - 20, "two")]
    found, covered = find_suspects(runs[:1], tiny.table, NUMBERS)
    assert (found.index.tolist(), found["predicted"].tolist(), covered) == ([images.rows.index[7]], ["26"], 10)
    assert found["deviations"].tolist() == pytest.approx([19 * 0.6744897501960817])
    found, _ = find_suspects(runs, tiny.table, NUMBERS)
    assert found["runs"].tolist() == [2, 2, 2]


def test_a_missing_number_is_no_suspect(tiny: Tiny) -> None:
    images = labelled(tiny, NUMBERS, ["x", "y"], ["1|", "2|5", "3|6", "|7"])
    predicted = np.array([[1.1, 1000], [2.1, 5.1], [3.1, 6.1], [1000, 7.1]])
    found, covered = find_suspects([write(tiny, images, predicted)], tiny.table, NUMBERS)
    assert (len(found), covered) == (0, 4)


@pytest.mark.parametrize("task", [SEVERAL_LABELS, NUMBERS])
@pytest.mark.parametrize(
    "content", ["id,label\n1,1\n", "id,label,predicted\n1,1,x\n", "id,label,predicted,p_a\n1,1,1|2,x\n"]
)
def test_damaged_predictions_are_named(tiny: Tiny, task: str, content: str) -> None:
    labelled(tiny, task, ["1"], ["1"])
    run = tiny.layout.run("one")
    write_text(run.valid_predictions, content)
    with pytest.raises(UserError, match=r"valid_predictions\.csv .*predict that run again"):
        find_suspects([run], tiny.table, task)


def test_runs_with_other_labels_are_named(tiny: Tiny) -> None:
    images = labelled(tiny, SEVERAL_LABELS, ["a", "b"], ["a", "b"])
    runs = [write(tiny, images, np.eye(2)), write(tiny, replace(images, classes=["a", "b", "c"]), np.eye(2, 3), "two")]
    with pytest.raises(UserError, match=r"two/valid_predictions\.csv has other labels than .*one/valid_pred"):
        find_suspects(runs, tiny.table, SEVERAL_LABELS)


@pytest.mark.parametrize(
    ("task", "texts", "conflicts"),
    [
        (SEVERAL_LABELS, ["a|b", "a|b", "a", ""], 2),
        (NUMBERS, ["1|10", "1.01|10", "1|", "5|90"], 1),  # apart by less than a tenth of the deviation; missing
    ],
)
def test_twins_of_other_targets_are_conflicts(tiny: Tiny, task: str, texts: list[str], conflicts: int) -> None:
    images = labelled(tiny, task, ["a", "b"], texts)
    table = images.rows.reset_index(drop=True)
    images = replace(images, table=table, rows=table)
    pixels, marks = np.zeros((4, 32, 32, 3), np.uint8), np.ones(4, np.uint64)
    settings = tiny.settings()
    pairs, _ = find_pairs(images, pixels, marks, settings.audit, choose_hardware(settings.hardware))
    assert len(pairs) == 3
    assert int(pairs["conflict"].sum()) == conflicts
    assert pairs["conflict"].dtype == pd.Series([True]).dtype


def test_the_text_above_a_suspect_says_what_is_contradicted() -> None:
    classes = pd.DataFrame({"predicted": ["dog"], "p_predicted": [0.987]})
    assert texts(classes, ["cat"], "one_class") == ["is cat\nseen as dog 99%"]
    labels = pd.DataFrame({"predicted": ["b|c", "a|b|c|d|e", ""]})
    assert texts(labels, ["a|b", "", "x"], SEVERAL_LABELS) == [
        "a|b\n− a\n+ c",
        "no label\n+ a\n+ b\n+ c\n+ d\nand 1 more",
        "x\n− x",
    ]
    numbers = pd.DataFrame({"predicted": ["30.5"], "deviations": [4.21]})
    assert texts(numbers, ["12"], NUMBERS) == ["is 12\nseen as 30.5\nerror 4.2 σ"]
