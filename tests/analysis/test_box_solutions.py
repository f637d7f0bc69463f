"""Solutions of boxes in the forms that they are published in: read once, and a perfect submission scores 1."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.analysis.scoring import score_submission
from pipelines.analysis.solutions import read_solution
from pipelines.settings.loading import merge
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from tests.support.raw_files import write

CLASSES = ["RBC", "WBC"]
CORNERS = "label confidence xmin ymin xmax ymax"


def scored(folder: Path, sent: list[str], solution: list[str], data: dict[str, Any], **more: Any) -> tuple[Any, ...]:
    """Return the score of the lines `sent` against those of `solution`, and the notes on the solution."""
    competition = {"task": "boxes", "submission": "boxes", "metric": "box_map", "box_answer": CORNERS, **more}
    settings = merge(Settings("x"), {"competition": competition, "data": {"label_column": "label", **data}}, "x")
    submission = write(folder / "sent.csv", "\n".join(["id,text", *sent]) + "\n")
    path = write(folder / "solution.csv", "\n".join(solution) + "\n")
    truth, notes = read_solution(path, submission, {name: name for name in CLASSES}, settings)
    return score_submission(submission, path, settings, truth, CLASSES).score, notes


@pytest.mark.parametrize(
    ("units", "sent", "sides"),
    [("pixels", "0 2 9 9", "-1,2,9,9"), ("shares", "0 0.2 1 0.9", "-0.0004,0.2,1.0004,0.9")],
)
def test_true_boxes_are_clipped_as_split_clips_them(tmp_path: Path, units: str, sent: str, sides: str) -> None:
    solution = ["id,label,xmin,ymin,xmax,ymax", f"a,RBC,{sides}"]
    assert scored(tmp_path, [f"a,RBC 1 {sent}"], solution, {"box_units": units})[0] == pytest.approx(1)


def test_pixels_are_not_clipped_to_shares(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 2: a side is above 1, and"):
        scored(tmp_path, ["a,"], ["id,label,xmin,ymin,xmax,ymax", "a,RBC,0,2,9,9"], {"box_units": "shares"})


@pytest.mark.parametrize("confidence", ["", "0.5 "])
def test_a_column_of_cells_has_confidences_in_all_or_in_none(tmp_path: Path, confidence: str) -> None:
    boxes = [f"0.{n} 0.{n} 0.{n + 1} 0.{n + 1}" for n in range(1, 6)]  # five of 4 words, or four of 5
    cells = {"a": boxes, "b": boxes[:2], "c": boxes[3:], "d": []}
    sent = [f"{name},{' '.join(f'1 {box}' for box in each)}" for name, each in cells.items()]
    solution = [f"{name},{' '.join(confidence + box for box in each)}" for name, each in cells.items()]
    more = {"box_answer": "confidence xmin ymin xmax ymax"}
    data = {"box_units": "shares", "label_column": ""}
    assert scored(tmp_path, sent, ["id,text", *solution], data, **more)[0] == pytest.approx(1)


@pytest.mark.parametrize("own", [False, True])
def test_ids_without_the_extension_are_joined(tmp_path: Path, own: bool) -> None:
    sent = ["a.jpg,RBC 1 0 0 9 9 WBC 1 5 5 9 9", "b.jpg,RBC 1 1 1 5 5", "c.jpg,"]
    rows = ["id,label,xmin,ymin,xmax,ymax", "a,RBC,0,0,9,9", "a,WBC,5,5,9,9", "b,RBC,1,1,5,5"]
    cells = ["id,text", "a,RBC 0 0 9 9 WBC 5 5 9 9", "b,RBC 1 1 5 5"]
    score, notes = scored(tmp_path, sent, cells if own else rows, {})
    assert score == pytest.approx(1) and notes[1:] == ["Ids were joined by their names: 'a' is 'a.jpg'."]


@pytest.mark.parametrize("own", [False, True])
def test_labels_in_other_words_are_refused(tmp_path: Path, own: bool) -> None:
    def solution(*labels: str) -> list[str]:
        rows = [f"{name},{label} 0 0 9 9" for name, label in zip("ab", labels, strict=True)]
        return ["id,text", *rows] if own else ["id,label,xmin,ymin,xmax,ymax", *(row.replace(" ", ",") for row in rows)]

    sent = ["a,RBC 1 0 0 9 9", "b,RBC 1 1 1 5 5"]
    with pytest.raises(
        UserError, match=r"none of its labels \(boxes: 'rbc', 'wbc'\) is in .*\('RBC', 'WBC'\), so noth"
    ):
        scored(tmp_path, sent, solution("rbc", "wbc"), {})
    with pytest.raises(UserError, match="so nothing can be right"):
        scored(tmp_path, ["a,rbc 1 0 0 9 9", "b,"], solution("RBC", "WBC"), {})
    assert scored(tmp_path, sent, solution("RBC", "wbc"), {})[1][1].startswith("Warning: 1 of 2 labels are no class")
    assert scored(tmp_path, ["a,", "b,"], solution("RBC", "WBC"), {})[0] == 0


def test_each_way_to_write_that_there_is_no_box(tmp_path: Path) -> None:
    form, sent = "label xmin ymin xmax ymax", ["a,RBC 1 0 0 9 9", "b,14 1 0 0 1 1"]
    data = {"label_column": "", "box_form": form, "no_box_label": "No finding"}
    for solution, columns in (
        (["id,boxes", "a,RBC 0 0 9 9", "b,No finding"], ["boxes"]),
        (["id,kind,x1,y1,x2,y2", "a,RBC,0,0,9,9", "b,No finding,,,,"], ["kind", "x1", "y1", "x2", "y2"]),
        (["id,text", "a,RBC 0 0 9 9", "b,14 0 0 1 1"], ["boxes"]),
        (["id,text", "a,RBC 1 0 0 9 9", "b,14 1 0 0 1 1"], ["boxes"]),
    ):
        given = data | {"box_columns": columns}
        score, notes = scored(tmp_path, sent, solution, given, no_boxes="14 1 0 0 1 1")
        assert score == pytest.approx(1) and len(notes) == 1
