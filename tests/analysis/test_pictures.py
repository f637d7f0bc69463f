"""Pictures and tables of predictions: the right images, names and numbers, for each task and any number of classes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from sklearn.metrics import mean_absolute_error, precision_recall_fscore_support, r2_score, root_mean_squared_error

from pipelines.analysis.pictures import draw_results
from pipelines.analysis.plots import draw_labels, draw_numbers, draw_pictures
from pipelines.analysis.result_tables import confused_pairs, deviations, label_table, number_table, wrong_labels
from pipelines.analysis.results import Results
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.tables import read_csv
from pipelines.settings.layout import RunLayout
from pipelines.settings.metrics import NUMBERS, SEVERAL_LABELS
from tests.support.pictures import noise, png_size
from tests.support.tiny import Tiny

ODD = ["$x$", r"$\frac{$", "größer", "猫", "x" * 100, "=1+1"]


def targets(tiny: Tiny, task: str, classes: list[str], texts: list[str]) -> ImageSet:
    """Return images of the tiny competition with other targets."""
    rows = tiny.rows("train").head(len(texts)).assign(label=texts)
    return replace(tiny.images, rows=rows, classes=classes, task=task)


def files(run: RunLayout) -> set[str]:
    return {path.name for path in run.folder.iterdir()}


def test_classes_get_a_confusion_picture(tiny: Tiny, tmp_path: Path) -> None:
    run, images = RunLayout(tmp_path / "run"), tiny.part("valid")
    decided = np.zeros(len(images), np.int64)
    drawn = draw_results(run, tiny.settings(), Results(images, np.full(len(images), 0.9), decided), "a title")
    assert drawn.files == [run.mistakes, run.confusion]
    assert not drawn.rows
    assert files(run) == {"mistakes.png", "confusion.png"}


def test_many_classes_get_a_table_of_the_most_confused(tiny: Tiny, tmp_path: Path) -> None:
    run, classes = RunLayout(tmp_path / "run"), [f"class {number:05}" for number in range(15_501)]
    images = targets(tiny, "one_class", classes, [classes[15_000]] * 9 + [classes[3]] * 3)
    decided = np.array([7] * 4 + [15_000] * 5 + [3, 15_500, 7])
    drawn = draw_results(run, tiny.settings(), Results(images, np.full(12, 0.5), decided), "a title")
    assert drawn.files == [run.mistakes, run.summary]
    assert files(run) == {"mistakes.png", "summary.csv"}
    assert drawn.headings == ("true class", "predicted", "images", "share")
    assert drawn.rows == [
        ("class 15000", "class 00007", 4, "44% of 9"),
        ("class 00003", "class 00007", 1, "33% of 3"),
        ("class 00003", "class 15500", 1, "33% of 3"),
    ]
    assert read_csv(run.summary)["images"].tolist() == ["4", "1", "1"]


def test_confused_pairs_are_those_of_the_matrix() -> None:
    generator = np.random.default_rng(0)
    labels, decided = generator.integers(0, 7, (2, 500))
    classes = [f"class {number}" for number in range(7)]
    pairs = confused_pairs(labels, decided, classes)
    assert pairs["images"].is_monotonic_decreasing
    counts = dict(zip(zip(pairs["label"], pairs["predicted"], strict=True), pairs["images"], strict=True))
    expected = pd.crosstab(labels, decided)
    assert counts == {
        (f"class {one}", f"class {two}"): expected.loc[one, two]
        for one in range(7)
        for two in range(7)
        if one != two and expected.loc[one, two]
    }
    assert confused_pairs(labels, labels, classes).empty


def flags(*rows: str) -> npt.NDArray[np.bool_]:
    return np.array([[letter == "1" for letter in row] for row in rows])


def test_labels_get_precision_recall_and_their_worst_images(tiny: Tiny, tmp_path: Path) -> None:
    run = RunLayout(tmp_path / "run")
    images = targets(tiny, SEVERAL_LABELS, ["a", "b", "c"], ["a|b", "", "a", "b", "a"])
    decided = flags("100", "001", "100", "010", "100")
    predicted = np.where(decided, 0.8, 0.1)
    drawn = draw_results(
        run, tiny.settings(), Results(images, predicted, decided, thresholds=[0.5, 0.4, 0.3]), "a title"
    )
    assert drawn.files == [run.mistakes, run.by_label, run.summary]
    assert not drawn.rows
    table = read_csv(run.summary)
    assert table.to_dict("list") == {
        "label": ["a", "b", "c"],
        "threshold": ["0.5", "0.4", "0.3"],
        "precision": ["1", "1", "0"],
        "recall": ["1", "0.5", ""],
        "images": ["3", "2", "0"],
        "missed": ["0", "1", "0"],
        "wrongly_given": ["0", "0", "1"],
    }


def test_many_labels_get_a_table_of_the_worst(tiny: Tiny, tmp_path: Path) -> None:
    run, labels = RunLayout(tmp_path / "run"), [f"label {number}" for number in range(100)]
    images = targets(tiny, SEVERAL_LABELS, labels, ["label 3|label 7", "label 3", ""])
    decided = np.zeros((3, 100))
    decided[:, 7] = 1
    drawn = draw_results(run, tiny.settings(), Results(images, decided * 0.9, decided), "a title")
    assert drawn.files == [run.mistakes, run.summary]
    assert drawn.rows[:2] == [("label 3", "nan", "0.000", 2, 2, 0), ("label 7", "0.333", "1.000", 1, 0, 2)]
    assert len(drawn.rows) == 10


def test_the_table_of_labels_is_scikit_learns() -> None:
    actual, decided = np.random.default_rng(0).random((2, 60, 5)) < 0.3
    table = label_table(actual, decided, list("abcde"), [0.5])
    precision, recall, _, images = precision_recall_fscore_support(actual, decided, zero_division=np.nan)
    assert table["precision"].to_numpy() == pytest.approx(precision)
    assert table["recall"].to_numpy() == pytest.approx(recall)
    assert table["images"].tolist() == list(images)
    assert set(table["threshold"]) == {0.5}


def test_numbers_get_scatter_residuals_and_their_worst_images(tiny: Tiny, tmp_path: Path) -> None:
    run, images = RunLayout(tmp_path / "run"), targets(tiny, NUMBERS, ["x", "y"], ["1|10", "2|", "3|30", "|"])
    predicted = np.array([[1.0, 12], [2.5, 7], [3, 20], [9, 9]])
    drawn = draw_results(run, tiny.settings(), Results(images, predicted, predicted), "a title")
    assert drawn.files == [run.mistakes, run.by_number, run.summary]
    assert read_csv(run.summary).to_dict("list") == {
        "number": ["x", "y"],
        "images": ["3", "2"],
        "rmse": ["0.288675", "7.2111"],
        "mae": ["0.166667", "6"],
        "bias": ["0.166667", "-4"],
        "r2": ["0.875", "0.48"],
    }


def test_the_table_of_numbers_is_scikit_learns() -> None:
    actual, predicted = np.random.default_rng(0).normal(5, 2, (2, 50, 3))
    actual[::7, 1] = np.nan
    actual[:, 2] = np.nan
    table = number_table(actual, predicted, ["x", "y", "z"])
    for number in range(2):
        known = np.isfinite(actual[:, number])
        pair = actual[known, number], predicted[known, number]
        row = table.iloc[number]
        assert row["rmse"] == pytest.approx(root_mean_squared_error(*pair))
        assert row["mae"] == pytest.approx(mean_absolute_error(*pair))
        assert row["r2"] == pytest.approx(r2_score(*pair))
        assert row["bias"] == pytest.approx((pair[1] - pair[0]).mean())
    assert table.iloc[2].drop(["number", "images"]).isna().all()
    assert deviations(actual)[2] == 1


@pytest.mark.parametrize("count", [1, 60])
def test_pictures_of_labels_with_odd_names(tmp_path: Path, count: int) -> None:
    labels = (ODD * 10)[:count]
    actual, decided = np.random.default_rng(0).random((2, 30, count)) < 0.3
    decided[:, 0] = False
    draw_labels(tmp_path / "labels.png", label_table(actual, decided, labels, ()), "costs $5 or $6")
    assert png_size(tmp_path / "labels.png")[0] == 900


def test_pictures_of_numbers_with_odd_names_and_of_none(tmp_path: Path) -> None:
    values = np.array([1.0, np.nan, 3.0])
    panels = [(name, values, np.ones(3)) for name in ODD[:3]]
    draw_numbers(tmp_path / "numbers.png", [*panels, ("none", np.full(3, np.nan), values)], "costs $5 or $6")
    assert png_size(tmp_path / "numbers.png") == (1000, 1640)


def test_pictures_leave_room_for_the_longest_text(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "some.png", [(noise(4, 4, 3), "one\ntwo\nthree"), (noise(4, 4, 3), "one")], "a title")
    assert png_size(tmp_path / "some.png") == (1200, 325)


def test_the_text_of_a_mistake_names_the_surest_labels() -> None:
    missed, added = flags("1100000")[0], flags("0011111")[0]
    probabilities = np.array([0.2, 0.1, 0.9, 0.7, 0.8, 0.6, 0.55])
    text = wrong_labels(list("abcdefg"), missed, added, probabilities)
    assert text.splitlines() == ["− b 10%", "− a 20%", "+ c 90%", "+ e 80%", "+ d 70%", "+ 2 more"]
