"""The stage `split` of competitions with boxes: every form of table, one split.csv and one boxes.csv."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import command, split
from pipelines.dataset.boxes import SIDES, read_boxes, targets_of
from pipelines.dataset.splits import read_split_csv
from pipelines.settings.layout import Layout, split_sha256
from pipelines.settings.overrides import toml
from pipelines.system.files import read_json, write_json
from tests.support.boxes import BOXES, HEIGHT, WIDTH, Box, coco, pictures, voc
from tests.support.raw_files import write

TASK = {"competition.task": "boxes", "competition.metric": "box_map", "competition.submission": "boxes"}
CSV = {"data.labels": "labels.csv", "data.label_column": "kind"}


def per_object(cells: Callable[[Box], Sequence[object]], header: str, none: str = "") -> Callable[[Path], None]:
    """Return what writes a row for each box.  none: the cells of an image without a box; empty: no row."""

    def rows() -> Iterator[str]:
        for name, boxes in BOXES.items():
            yield from (f"{name},{','.join(map(str, cells(box)))}" for box in boxes)
            if none and not boxes:
                yield f"{name},{none}"

    return lambda raw: lines(raw, header, rows())


def per_image(text: Callable[[Box], str], join: Callable[[list[str]], str]) -> Callable[[Path], None]:
    return lambda raw: lines(raw, "name,boxes", (f'{name},"{join(list(map(text, BOXES[name])))}"' for name in BOXES))


def lines(raw: Path, header: str, rows: Iterator[str]) -> None:
    write(raw / "labels.csv", "\n".join([header, *rows]) + "\n")


def whole(texts: list[str]) -> str:
    return f"[{', '.join(texts)}]" if texts else ""


FORMS: dict[str, tuple[Callable[[Path], None], dict[str, object]]] = {
    "columns": (
        per_object(lambda box: (*box[1:], box[0]), "name,xmin,ymin,xmax,ymax,kind"),
        {},
    ),
    "columns by other names": (
        per_object(lambda box: (box[0], *box[1:]), "name,kind,left,top,right,bottom", "none,,,,"),
        {"data.box_columns": ["left", "top", "right", "bottom"], "data.no_box_label": "none"},
    ),
    "no box with numbers": (
        per_object(lambda box: (box[0], *box[1:]), "name,kind,xmin,ymin,xmax,ymax", "No finding,0,0,1,1"),
        {"data.no_box_label": "No finding"},
    ),
    "size": (
        per_object(lambda b: (b[0], b[1], b[2], b[3] - b[1], b[4] - b[2]), "name,kind,x,y,w,h", ",,,,"),
        {"data.box_columns": ["x", "y", "w", "h"], "data.box_form": "xmin ymin width height"},
    ),
    "shares of centre and size": (
        per_object(
            lambda b: (
                b[0],
                *((b[1] + b[3]) / 2 / WIDTH, (b[2] + b[4]) / 2 / HEIGHT),
                *((b[3] - b[1]) / WIDTH, (b[4] - b[2]) / HEIGHT),
            ),
            "name,kind,xcentre,ycentre,width,height",
            ",nan,nan,nan,nan",
        ),
        {"data.box_form": "xcentre ycentre width height", "data.box_units": "shares"},
    ),
    "one cell": (
        per_object(lambda b: (b[0], f'"[{b[1]}, {b[2]}, {b[3] - b[1]}, {b[4] - b[2]}]"'), "name,kind,bbox"),
        {"data.box_columns": ["bbox"], "data.box_form": "xmin ymin width height"},
    ),
    "all boxes in a cell": (
        per_image(lambda box: " ".join(map(str, box)), " ".join),
        {"data.label_column": "", "data.box_columns": ["boxes"], "data.box_form": "label xmin ymin xmax ymax"},
    ),
    "all boxes in a cell, without labels": (
        per_image(lambda box: str(list(box[1:])), whole),
        {"data.label_column": "", "data.box_columns": ["boxes"]},
    ),
    "one class": (
        per_object(lambda box: box[1:], "name,xmin,ymin,xmax,ymax"),
        {"data.label_column": ""},
    ),
    "voc": (
        lambda raw: voc(raw / "annotations", BOXES),
        {"data.labels": "annotations", "data.label_column": ""},
    ),
    "coco": (
        lambda raw: coco(raw / "boxes.json", BOXES),
        {"data.labels": "boxes.json", "data.label_column": "", "data.box_form": "xmin ymin width height"},
    ),
    "records": (
        lambda raw: (
            write(
                raw / "boxes.json",
                json.dumps([{"image": name, "rects": [box[1:] for box in BOXES[name]]} for name in BOXES]),
            ),
            None,
        )[1],
        {"data.labels": "boxes.json", "data.label_column": "", "data.box_columns": ["rects"]},
    ),
}
UNLABELLED = ("all boxes in a cell, without labels", "one class", "records")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with images of BOXES, and two test images, without a table."""
    monkeypatch.chdir(tmp_path)
    raw = Layout(tmp_path, "tiny").raw
    pictures(raw, list(BOXES))
    pictures(raw, ["t1.png", "t2.png"], "test")
    return tmp_path


def call(work: Path, settings: dict[str, object], *words: str) -> int:
    sections: dict[str, list[str]] = {}
    for key, value in (TASK | CSV | settings).items():
        section, name = key.split(".")
        sections.setdefault(section, []).append(f"{name} = {toml(value)}")
    write(work / "tiny.toml", "\n".join(f"[{name}]\n" + "\n".join(each) + "\n" for name, each in sections.items()))
    return command.run(split.main, ["tiny.toml", *words])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_boxes(work: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, settings = FORMS[form]
    layout = Layout(work, "tiny")
    make(layout.raw)
    assert call(work, settings) == 0, capsys.readouterr().err
    rows, boxes = read_split_csv(layout.split_csv), read_boxes(layout.boxes_csv)
    labels = {name: [box[0] if form not in UNLABELLED else "object" for box in BOXES[name]] for name in BOXES}
    found = dict(zip(rows["path"], rows["label"], strict=True))
    assert found == {f"train/{name}": "|".join(sorted(labels[name])) for name in BOXES} | {
        "test/t1.png": "",
        "test/t2.png": "",
    }
    name_of = dict(zip(rows["id"], rows["path"].str.removeprefix("train/"), strict=True))
    wanted = [(name, label, *box[1:]) for name in BOXES for label, box in zip(labels[name], BOXES[name], strict=True)]
    assert [(name_of[each.id], each.label) for each in boxes.itertuples()] == [each[:2] for each in wanted]
    scale = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
    assert boxes[SIDES].to_numpy() * scale == pytest.approx(np.array([each[2:] for each in wanted]), abs=1e-9)
    assert targets_of(boxes, rows["id"].tolist(), sorted(set(boxes["label"]))).shape == (16, 2, 5)
    said = capsys.readouterr().out
    assert f"any number of boxes of {1 if form in UNLABELLED else 2} classes" in said
    assert "images without a box: 2" in said and "per image" in said


def test_images_that_no_row_names_have_no_box(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, settings = FORMS["columns"]
    make(Layout(work, "tiny").raw)
    assert call(work, settings) == 0
    assert "Note: Images that no row of labels.csv names, and so without a box: 2." in capsys.readouterr().out


def test_boxes_in_folds_and_groups(work: Path) -> None:
    layout = Layout(work, "tiny")
    rows = (
        f"{name},{','.join(map(str, box[1:]))},{box[0]},{int(name[1:3]) // 2}"
        for name, boxes in BOXES.items()
        for box in boxes
    )
    lines(layout.raw, "name,xmin,ymin,xmax,ymax,kind,place", rows)
    assert call(work, {"split.folds": 3, "split.group_column": "place"}) == 0
    rows_of = read_split_csv(layout.split_csv)
    labelled = rows_of[rows_of["split"] != "test"]
    assert len(labelled) == 14 and set(labelled["fold"]) <= {-1, 0, 1, 2}
    named = labelled[labelled["label"] != ""]
    groups = named["id"].str[1:3].astype(int) // 2
    assert (named.groupby(groups)["fold"].nunique() == 1).all()


def test_classes_and_numbers_of_boxes_are_in_proportion(work: Path) -> None:
    layout = Layout(work, "tiny")
    make, settings = FORMS["columns"]
    make(layout.raw)
    assert call(work, settings | {"split.folds": 4}) == 0
    rows = read_split_csv(layout.split_csv)
    assert rows[rows["label"] == "RBC|WBC"]["fold"].tolist().count(0) == 1
    assert sorted(rows[rows["label"] == "RBC|WBC"]["fold"]) == [0, 1, 2, 3]


def test_a_split_again_notices_other_boxes(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(work, "tiny")
    make, settings = FORMS["voc"]
    make(layout.raw)
    assert call(work, settings) == 0 and call(work, settings) == 0
    assert "nothing to do" in capsys.readouterr().out
    before, content = split_sha256(layout.split_csv), layout.boxes_csv.read_text()
    layout.boxes_csv.write_text(content.replace("0.1,", "0.2,"))
    assert split_sha256(layout.split_csv) != before
    assert call(work, settings) == 2
    assert "boxes.csv was changed" in capsys.readouterr().err
    layout.boxes_csv.unlink()
    assert call(work, settings) == 0 and layout.boxes_csv.read_text() == content
    path = layout.raw / "annotations/i00.xml"
    path.write_text(path.read_text().replace(">10<", ">11<"))
    assert call(work, settings) == 2
    assert "annotations has changed" in capsys.readouterr().err
    assert call(work, settings | {"competition.task": "several_labels"}) == 2


def test_images_of_another_size_are_noticed(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(work, "tiny")
    make, settings = FORMS["columns"]
    make(layout.raw)
    assert call(work, settings) == 0
    for path in layout.raw.glob("train/i0[2-7].png"):
        Image.new("RGB", (200, 100)).save(path)
    assert call(work, settings) == 2
    message = capsys.readouterr().err
    assert "6 of 12 images have another size, e.g. 'train/i02.png' with 200 x 100 pixels instead of 100 x 50" in message
    assert "split again (runs of the old split are then not comparable): rm -r " in message
    record = read_json(layout.split_record)
    write_json(layout.split_record, {name: value for name, value in record.items() if name != "sizes"})
    assert call(work, settings) == 0  # the record of an older version
    layout.split_record.unlink()
    assert call(work, settings) == 0 and call(work, settings) == 0
    assert read_json(layout.split_record)["sizes"]["train/i02.png"] == [200, 100]
    Image.new("RGB", (200, 100)).save(layout.raw / "train/i13.png")  # it has no box
    (layout.raw / "train/i02.png").write_bytes(b"no image")
    assert call(work, settings) == 0


def test_sizes_of_few_images_are_recorded_and_only_for_boxes_in_pixels(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.dataset.recorded_sizes.MOST", 4)
    layout = Layout(work, "tiny")
    for form, expected in (("columns", [0, 3, 6, 9]), ("shares of centre and size", [])):
        make, settings = FORMS[form]
        make(layout.raw)
        assert call(work, settings) == 0
        assert [*read_json(layout.split_record)["sizes"]] == [f"train/i{number:02}.png" for number in expected]
        layout.split_record.unlink()


def test_boxes_that_leave_their_image_are_clipped(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(work, "tiny")
    rows = (f"{name},10,10,20,20,a" for name in list(BOXES)[:12])
    lines(
        layout.raw, "name,xmin,ymin,xmax,ymax,kind", iter(["i00.png,-5,10,120,60,b", "i00.png,-5,10,120,60,b", *rows])
    )
    assert call(work, {}) == 0
    said = capsys.readouterr().out
    assert "that leave their image, and are clipped: 2 of 14" in said and "that repeat: 1 of 14" in said
    boxes = read_boxes(layout.boxes_csv)
    assert boxes.loc[boxes["label"] == "b", SIDES].to_numpy().tolist() == [[0.0, 0.2, 1.0, 1.0]]
