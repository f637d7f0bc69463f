"""Boxes become cells in each notation and come back; a sample or a file of another notation is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines.analysis.outcome import in_units
from pipelines.analysis.scoring import score_submission
from pipelines.analysis.solutions import read_solution
from pipelines.core.box_scores import box_map
from pipelines.dataset.answer_summary import describe_answers
from pipelines.dataset.box_cells import box_cell, boxes_in, digits_of
from pipelines.dataset.boxes import FOUND
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.sent import form_of
from pipelines.dataset.submission import class_list, write_submission
from pipelines.dataset.submission_check import check_submission
from pipelines.settings.loading import merge
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from tests.support.found_boxes import random_boxes
from tests.support.raw_files import write

IDS = ["a", "b", "c", "d"]
CLASSES = ["RBC", "WBC", "x"]
CORNERS, SIZES, CENTRES = (
    *("label confidence xmin ymin xmax ymax", "confidence xmin ymin width height"),
    "xcentre ycentre width height confidence label",
)


def settings_of(form: str = CORNERS, units: str = "shares", sample: str = "", **more: Any) -> Settings:
    competition = {"task": "boxes", "submission": "boxes", "metric": "box_map", "box_answer": form, **more}
    return merge(
        Settings("x"), {"competition": competition, "data": {"sample_submission": sample, "box_units": units}}, "x"
    )


def answers() -> Any:
    predicted = random_boxes(4, 0, 3)[0].astype(np.float64)
    predicted[3] = 0
    return predicted


def written(raw: Path, sent: Any, settings: Settings) -> list[str]:
    write_submission(raw / "made.csv", IDS, sent, CLASSES, settings, raw)
    assert check_submission(raw / "made.csv", CLASSES, settings, raw) == 4
    return (raw / "made.csv").read_text().splitlines()


@pytest.mark.parametrize("form", [CORNERS, SIZES, CENTRES])
@pytest.mark.parametrize(("units", "none"), [("shares", ""), ("pixels", "none"), ("pixels", "14 1 0 0 1 1")])
def test_boxes_come_back_from_their_cells(tmp_path: Path, form: str, units: str, none: str) -> None:
    settings, sent = settings_of(form, units, no_boxes=none), answers()
    boxes = sent.reshape(4, -1, FOUND)
    boxes[..., 2:] *= 1 if units == "shares" else [640, 480, 640, 480]
    header, *lines = written(tmp_path, sent, settings)
    assert header == "id,PredictionString" and lines[3] == f"d,{none}"
    for line, name, row in zip(lines, IDS, boxes, strict=True):
        assert line.startswith(f"{name},")
        labels, found = boxes_in(line[2:], settings)
        row = row[row[:, 1] > 0]
        assert np.allclose(found, row[:, 1:], atol=1e-5 if units == "shares" else 0.011)
        assert "label" not in form or labels == [CLASSES[int(number)] for number in row[:, 0]]
    (summary,) = describe_answers(sent, CLASSES, settings, tmp_path)
    assert summary.startswith("Boxes: ") and summary.endswith("none in 1 of 4 answers")


def test_boxes_without_an_area_are_not_sent_and_whole_pixels_stay_whole(tmp_path: Path) -> None:
    sample = write(tmp_path / "s.csv", "image,text\nb,RBC 0.5 0 0 50 50\na,WBC 1 3 4 5 6\nc,\nd,x 1 0 0 1 1\n")
    sent = np.zeros((4, 12))
    sent[0, :12] = [1, 0.5, 10.2, 10.2, 10.4, 30, 0, 0.25, 1.4, 2.5, 30.6, 40]
    lines = written(tmp_path, sent, settings_of(units="pixels", sample=sample.name))
    assert lines == ["image,text", "b,", "a,RBC 0.250000 1 2 31 40", "c,", "d,"]
    cells = pd.read_csv(sample, keep_default_na=False)["text"].tolist()
    assert digits_of(cells, settings_of(units="pixels")) == 0
    assert digits_of([cells[0]] * 3, settings_of(units="pixels")) == 2  # a placeholder
    assert digits_of([*cells, "x 1 0 0 1.5 1"], settings_of(units="pixels")) == 2


@pytest.mark.parametrize("form", [CORNERS, SIZES, CENTRES])
@pytest.mark.parametrize(("units", "digits"), [("shares", 6), ("pixels", 2), ("pixels", 0)])
def test_boxes_at_the_edges_come_back_within_rounding(form: str, units: str, digits: int) -> None:
    settings, generator = settings_of(form, units), np.random.default_rng(0)
    size = np.ones(2) if units == "shares" else np.array([641.0, 480.0])
    boxes = np.sort(generator.random((2000, 2, 2)), axis=1)
    for place, (corner, edge) in enumerate([(0, 0), (1, 1)] * 2):
        boxes[place::5, corner, place // 2] = edge  # the left, right, upper and lower edge, and none
    boxes = (boxes * size).reshape(-1, 4)
    sent = np.column_stack([np.zeros(2000), np.ones(2000), boxes])
    cells = [box_cell(row, CLASSES, settings, digits) for row in sent]
    kept = (np.round(boxes, digits)[:, :2] < np.round(boxes, digits)[:, 2:]).all(axis=1)
    found = np.concatenate([boxes_in(cell, settings)[1] for cell in cells])[:, 1:]
    assert np.allclose(found, np.round(boxes[kept], digits), atol=1e-9) and kept.sum() > 1900
    assert (found > -1e-9).all() and (found < np.tile(size, 2) + 1e-9).all()


def test_a_centre_has_the_digits_that_it_needs_and_a_sample_may_have_rounded_it(tmp_path: Path) -> None:
    settings = settings_of(CENTRES, "pixels", "s.csv")
    for digits, cell in ((0, "16.5 25 33 10 1.000000 RBC"), (2, "16.50 25.00 33.00 10.00 1.000000 RBC")):
        assert box_cell(np.array([0, 1, 0, 20, 33, 30]), CLASSES, settings, digits) == cell
    assert box_cell(np.array([0, 1, 0, 20, 11.67, 30]), CLASSES, settings, 2).startswith("5.835 25.00 11.67 10.00 ")
    for text in ("16 25 33 10", "16.0 25.0 33.0 10.0"):
        write(tmp_path / "s.csv", f"id,PredictionString\na,50 50 10 10 1 RBC\nb,{text} 1 RBC\n")
        assert class_list(["RBC", "WBC"], settings, tmp_path) == ["RBC", "WBC"]
        assert digits_of(["50 50 10 10 1 RBC", f"{text} 1 RBC"], settings) == 0
    with pytest.raises(ValueError, match="a box leaves its image"):
        boxes_in("16 25 34 10 1 RBC", settings)


def test_sides_are_in_pixels_of_the_images(tmp_path: Path) -> None:
    pytest.importorskip("pipelines.dataset.image_sizes")
    from PIL import Image

    rows = pd.DataFrame({"id": ["a", "b"], "path": ["a.png", "b.png"], "label": "", "split": "test", "fold": -1})
    for name, size in zip(rows["path"], [(100, 50), (10, 20)], strict=True):
        Image.new("RGB", size).save(tmp_path / name)
    images = ImageSet(rows, rows, tmp_path, tmp_path, CLASSES, task="boxes")
    sent = np.array([[0, 0.5, -0.1, 0.1, 0.5, 1.2]] * 2, np.float32)
    assert np.allclose(
        in_units(sent, images, settings_of(units="pixels")), [[0, 0.5, 0, 5, 50, 50], [0, 0.5, 0, 2, 5, 20]]
    )
    assert np.allclose(in_units(sent, images, settings_of()), [[0, 0.5, 0, 0.1, 0.5, 1]] * 2)


@pytest.mark.parametrize(
    ("form", "cell", "problem"),
    [
        (CORNERS, "RBC 0.5 0 0 50", "it has 5 words, and each box has 6"),
        (SIZES, "RBC 0.5 0 0 50 50", "it has 6 words, and each box has 5"),
        (CORNERS, "0.5 RBC 0 0 50 50", "'RBC' is not a number"),
        (CORNERS, "RBC 0.5 60 60 50 50", "a box ends before it begins"),
        (CORNERS, "RBC 7 0 0 50 50", "a confidence is not between 0 and 1"),
        (CORNERS, "1 0.5 0 0 50 50", r"boxes of '1', but the labels of the boxes are 'RBC', 'WBC'.*data.label_column"),
        (CENTRES, "10 10 50 50 1 RBC", "a box leaves its image"),
    ],
)
def test_a_sample_of_another_notation_is_refused(tmp_path: Path, form: str, cell: str, problem: str) -> None:
    write(tmp_path / "s.csv", f"id,PredictionString\na,\nb,{cell}\n")
    settings, labels = settings_of(form, "pixels", "s.csv"), ["RBC|RBC", "", "RBC" if form == SIZES else "WBC"]
    with pytest.raises(UserError, match=problem) as caught:
        class_list(labels, settings, tmp_path)
    assert "data.label_column" in str(caught.value) or (cell in str(caught.value) and form in str(caught.value))
    accepted = merge(settings, {"data": {"accept": ["sample_labels"]}}, "x")
    assert class_list(labels, accepted, tmp_path) == sorted({"RBC", labels[-1]})


def test_several_classes_are_not_sent_without_a_label(tmp_path: Path) -> None:
    problem = "without a label, but the boxes have 2 classes: 'RBC', 'WBC'. Add the word label"
    for column, advice in (("name", 'data.label_column = "", or write'), ("", "no label: write the same label")):
        settings = merge(settings_of(SIZES), {"data": {"label_column": column}}, "x")
        with pytest.raises(UserError, match=f"{problem}.*{advice}"):
            class_list(["RBC|RBC", "", "WBC"], settings, tmp_path)
        assert class_list(["RBC|RBC", ""], settings, tmp_path) == ["RBC"]


@pytest.mark.parametrize("form", [CORNERS, CENTRES])
def test_a_sample_in_other_units_than_the_labels_is_refused(tmp_path: Path, form: str) -> None:
    def classes(units: str, *sides: str, **data: Any) -> list[str]:
        cells = [f"RBC 1 {each}" if form == CORNERS else f"{each} 1 RBC" for each in sides]
        write(tmp_path / "s.csv", "id,text\na,\n" + "".join(f"{cell[-3:]},{cell}\n" for cell in cells))
        return class_list(["RBC", "WBC"], merge(settings_of(form, units, "s.csv"), {"data": data}, "x"), tmp_path)

    with pytest.raises(UserError, match=r"'.*0[.]25 .*', and no side above 1, .*\n?.* data.box_units = \"shares\""):
        classes("pixels", "0.25 0.5 0.5 0.75")
    with pytest.raises(UserError, match=r"0[.]6 .*, and no side above 1"):
        classes("pixels", "0 0 1 1", "0.6 0.5 1.0004 0.75")
    with pytest.raises(UserError, match=r"'.*25 40.*', with sides above 1, .* data.box_units = \"pixels\""):
        classes("shares", "25 40 50 60")
    for units, *sides in (("pixels", "0 0 1 1"), ("shares", "0 0 1 1"), ("pixels", "5 5.5 7 8.5"), ("pixels", "")):
        assert classes(units, *filter(None, sides)) == ["RBC", "WBC"]
    assert classes("pixels", "0.25 0.5 0.5 0.75", accept=["sample_labels"]) == ["RBC", "WBC"]


def test_labels_with_a_space_and_two_columns_of_answers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Labels have a space.*'red cell'"):
        class_list(["red cell"], settings_of(), tmp_path)
    assert class_list(["red cell"], settings_of(SIZES), tmp_path) == ["red cell"]
    write(tmp_path / "s.csv", "id,xmin,ymin\na,1,1\n")
    with pytest.raises(UserError, match="does not have 2 columns"):
        class_list(["RBC"], settings_of(sample="s.csv"), tmp_path)


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("RBC 0.5 0.1 0.1 0.5", "it has 5 words"),
        ("RBC nan 0.1 0.1 0.5 0.5", "'nan' is not a number"),
        ("RBC 0.5 0.1 0.1 0.5 1e999", "a box leaves its image"),
        ("RBC 0.5 0.1 0.1 0.1 0.5", "has no area"),
        ("RBC 0.5 0.1 0.1 5 5", 'data.box_units is "shares"'),
        ("cow 0.5 0.1 0.1 0.5 0.5", "'cow' is not a known label"),
    ],
)
def test_a_changed_file_is_refused_by_line_and_cell(tmp_path: Path, cell: str, problem: str) -> None:
    lines = written(tmp_path, answers(), settings_of())
    write(tmp_path / "made.csv", "\n".join([*lines[:2], f"b,{cell}", *lines[3:]]) + "\n")
    with pytest.raises(UserError, match=f"line 3: '{cell}': .*{problem}"):
        check_submission(tmp_path / "made.csv", CLASSES, settings_of(), tmp_path)


@pytest.mark.parametrize("form", ["rows", "one cell", "submission", "without confidence"])
def test_a_solution_in_each_form_has_the_score_of_the_arrays(tmp_path: Path, form: str) -> None:
    sent, (_, targets) = answers(), random_boxes(4, 0, 3)
    targets[3] = np.nan
    settings = merge(settings_of(CENTRES, no_boxes="none"), {"data": {"label_column": "name"}}, "x")
    written(tmp_path, sent, settings)
    lines, own = ["ID,name,xmin,ymin,xmax,ymax"], ["id,PredictionString,Usage"]
    for name, boxes in zip(IDS, targets, strict=True):
        boxes = boxes[~np.isnan(boxes[:, 0])]
        rows = [(CLASSES[int(number)], *(f"{side:.9f}" for side in sides)) for number, *sides in boxes.tolist()]
        lines += [",".join([name, *row]) for row in rows]
        confidence = "" if form == "without confidence" else "1 "
        middle = [
            f"{(x + X) / 2:.9f} {(y + Y) / 2:.9f} {X - x:.9f} {Y - y:.9f} {confidence}{CLASSES[int(number)]}"
            for number, x, y, X, Y in boxes.tolist()
        ]
        own.append(f"{name},{' '.join(middle) or 'none'},{'Public' if name in 'ab' else 'Private'}")
    if form == "one cell":
        settings = merge(settings, {"data": {"box_columns": ["box"]}}, "x")
        lines = [
            "id,name,box",
            *(f'{each[0]},{each[1]},"[{", ".join(each[2:])}]"' for each in (line.split(",") for line in lines[1:])),
        ]
    solution = write(
        tmp_path / "solution.csv", "\n".join(own if form in ("submission", "without confidence") else lines) + "\n"
    )
    truth, _ = read_solution(solution, tmp_path / "made.csv", {name: name for name in CLASSES}, settings)
    score, count, notes = score_submission(tmp_path / "made.csv", solution, settings, truth, CLASSES)
    assert count == 4 and notes == []
    assert score == pytest.approx(box_map(sent, targets, 3), abs=1e-4)
    if "Usage" in own[0] and form == "submission":
        assert truth["usage"].tolist() == ["Public", "Public", "Private", "Private"]


def test_a_solution_without_its_columns_is_refused(tmp_path: Path) -> None:
    written(tmp_path, answers(), settings_of())
    solution = write(tmp_path / "solution.csv", "id,xmin,ymin\na,1,2\n")
    with pytest.raises(UserError, match="has no column 'xmax', 'ymax', of the true boxes"):
        read_solution(solution, tmp_path / "made.csv", {}, settings_of())
    write(solution, "id,xmin,ymin,xmax,ymax\na,0.5,0.5,0.1,0.1\n")
    with pytest.raises(UserError, match="line 2: a box ends before it begins"):
        read_solution(solution, tmp_path / "made.csv", {}, settings_of())


def test_what_is_sent_depends_on_the_form_of_boxes_only_for_boxes() -> None:
    assert form_of(settings_of(SIZES))["competition.box_answer"] == SIZES
    assert not any("box" in key for key in form_of(Settings("x")))
