"""Predicted boxes: which are right, the files that say so, and boxes that are probably wrong."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pipelines.analysis import box_pictures
from pipelines.analysis.box_results import class_table, compare
from pipelines.analysis.box_suspects import find_box_suspects, write_box_suspects
from pipelines.analysis.drawn_boxes import COLOURS, legend, with_boxes
from pipelines.analysis.pictures import draw_results
from pipelines.analysis.results import Results, read_predictions, write_valid_predictions
from pipelines.dataset.tables import read_csv
from pipelines.system.errors import UserError
from tests.support.box_pages import add_run, guesses, make_boxes, numbers_in, opened, padded
from tests.support.pictures import png_size

TRUE = np.array(
    [
        [(0, 0.0, 0.0, 0.2, 0.2), (1, 0.5, 0.5, 0.9, 0.9)],
        [(0, 0.1, 0.1, 0.4, 0.4), [np.nan] * 5],
        [[np.nan] * 5, [np.nan] * 5],
    ],
    np.float32,
)
FOUND = padded(
    [
        [(0, 0.9, 0.0, 0.0, 0.2, 0.2), (0, 0.8, 0.0, 0.0, 0.2, 0.19), (0, 0.7, 0.5, 0.5, 0.9, 0.9)],
        [(0, 0.6, 0.1, 0.1, 0.4, 0.39), (1, 0.2, 0.0, 0.0, 1.0, 1.0)],
        [(1, 0.1, 0.2, 0.2, 0.3, 0.3)],
    ]
)


def test_right_missed_and_false_boxes() -> None:
    compared = compare(TRUE, FOUND, 2, cut=0.0)
    assert compared.right.tolist() == [[1, 1, 2], [1, 0, 1], [0, 0, 1]]  # a copy and another class are false
    assert compared.worst.tolist() == [0, 1, 2]
    compared = compare(TRUE, FOUND, 2)
    assert compared.cut == pytest.approx(0.6)  # 2 right of 4, of 3 true ones: F1 = 4 / 7 against 2 / 4 at 0.9
    assert compared.right.tolist() == [[1, 1, 2], [1, 0, 0], [0, 0, 0]]
    assert compared.text(0) == "1 right, 1 missed, 2 false"


def test_the_table_of_the_classes() -> None:
    table = class_table(compare(TRUE, FOUND, 3), ["a", "b", "c"])
    assert table["boxes"].tolist() == [2, 1, 0] and table["missed"].tolist() == [0, 1, 0]
    assert table["recall_50"].tolist()[:2] == [1, 0] and np.isnan(table["recall_50"][2])
    # Of a, places 1 and 4 of 4 are right: precision 1 up to a recall of 0.5, and 1/2 beyond it.
    assert table["ap_50"].tolist()[:2] == pytest.approx([(51 + 50 / 2) / 101, 0]) and np.isnan(table["ap_50"][2])
    assert table["false"].tolist() == [2, 0, 0]


def test_the_legend_of_the_curves_says_which_class_has_no_true_box() -> None:
    axes = Figure().add_subplot()
    box_pictures._curves(compare(TRUE, FOUND, 3), ["a", "b", "c"], {0: 0.75, 2: np.nan}, axes)
    assert axes.get_legend_handles_labels()[1] == ["a, AP 0.750", "c, no true box"]


def test_nothing_is_found() -> None:
    compared = compare(TRUE, np.zeros_like(FOUND), 2)
    assert compared.right.tolist() == [[0, 2, 0], [0, 1, 0], [0, 0, 0]]
    assert "0 right, 3 missed, 0 false" in compared.describe()


def test_the_files_of_a_run(tmp_path: Path) -> None:
    site = make_boxes(tmp_path)
    settings, valid = opened(site)
    run, found = site.layout.run("a"), guesses(numbers_in(valid))
    run.folder.mkdir(parents=True)
    results = Results(valid, found, found)
    write_valid_predictions(run.valid_predictions, results)
    drawn = draw_results(run, settings, results, "a title")
    assert drawn.files == [run.mistakes, run.of_boxes, run.summary]
    assert [png_size(path)[0] for path in drawn.files[:2]] == [1280, 1280]
    read = read_predictions(run.valid_predictions, valid.table, "boxes")
    assert np.array_equal(read.values.astype(np.float32), found)
    table, right = read_csv(run.valid_predictions), results.compared.right
    assert table[["right", "missed", "false"]].to_numpy(int).tolist() == right.tolist()
    assert [len(text.split("|")) if text else 0 for text in table["predicted"]] == right[:, [0, 2]].sum(1).tolist()
    assert read_csv(run.summary)["label"].tolist() == ["cat", "dog", "owl"]
    run.valid_predictions.write_text(run.valid_predictions.read_text().replace("0.9", "no", 1))
    with pytest.raises(UserError, match="is damaged"):
        read_predictions(run.valid_predictions, valid.table, "boxes")


def test_where_not_all_are_sent_those_that_are_count(tmp_path: Path) -> None:
    _, valid = opened(make_boxes(tmp_path))
    found = guesses(numbers_in(valid))
    sent = np.where(np.repeat(found.reshape(len(found), -1, 6)[:, :, 1] > 0.5, 6, axis=1), found, 0)
    compared = Results(valid, found, sent).compared
    assert compared.cut == 0 and compared.right[:, 2].sum() == 0


def test_boxes_are_drawn_where_they_are() -> None:
    black = np.zeros((40, 60, 3), np.uint8)
    drawn = with_boxes(black, np.array([(1, 0.5, 0.25, 0.75, 0.75), [np.nan] * 5]))
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 30, 30, 45)
    colour = Image.new("RGB", (1, 1), COLOURS[1]).getpixel((0, 0))
    assert tuple(drawn[10, 35]) == colour and not black.any()
    drawn = with_boxes(black, np.zeros((3, 6)), np.array([(0, 0.5, 0.25, 0.75, 0.75)]))
    assert (drawn == 255).all(axis=2).any() and (np.ptp(drawn, axis=2) == 0).all()
    names = ["a", "b", "größer 猫", "x" * 100, *map(str, range(20))]
    assert legend(names, with_true=True).shape == legend(names[:1], with_true=False).shape


def test_boxes_that_predictions_contradict(tmp_path: Path) -> None:
    site = make_boxes(tmp_path, count=60)
    _, valid = opened(site)
    found = guesses(numbers_in(valid)).reshape(len(valid), -1, 6)
    wrong = int(np.flatnonzero(found[:, 0, 1] > 0.8)[0])
    label = valid.classes[int(found[wrong, 0, 0])]
    found[wrong, 0, 0] = (found[wrong, 0, 0] + 1) % 3  # a sure one of another class
    found[wrong, 0, 1] = 0.99
    add_run(site, predicted=found.reshape(len(valid), -1))
    everything = dataclasses.replace(valid, rows=valid.table)
    suspects, covered = find_box_suspects([site.layout.run("a")], everything)
    assert covered == len(valid)
    first = suspects.iloc[0]
    assert suspects.index[0] == valid.rows.index[wrong] and first["box_label"] == label
    assert first["predicted"] == valid.classes[int(found[wrong, 0, 0])]
    missed = suspects[suspects["predicted"] == "nothing"]
    assert len(missed) == sum(bool(number % 5) * (1 + number % 3) for number in numbers_in(valid) if number % 4 == 0)
    site.layout.audit.folder.mkdir()
    write_box_suspects(site.layout.audit, suspects, everything, "a title")
    assert read_csv(site.layout.audit.suspects)["id"].iloc[0] == valid.ids[wrong]
    assert "Wrong boxes: " in site.stage("tools.audit")
