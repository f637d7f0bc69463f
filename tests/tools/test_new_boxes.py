"""Each form that boxes are published in is recognised, and the stages accept the TOML that `make new` writes for it."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from pipelines import split
from pipelines.analysis.recognise.compose import Known, recognise
from pipelines.analysis.recognise.draft import Draft
from pipelines.dataset.archives import unpack
from pipelines.dataset.boxes import SIDES, read_boxes
from pipelines.dataset.splits import read_split_csv
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.loading import load_settings
from pipelines.system.errors import UserError
from pipelines.tools import new
from tests.support.box_forms import (
    BOX_FORMS,
    CENTRE,
    CLASSES,
    CORNERS,
    HEIGHT,
    SIZE,
    TEST,
    TRAIN,
    TRUE,
    WIDTH,
    BoxForm,
    name,
    pictures,
    sample,
    sheet,
)
from tests.support.clients import run_stage

BY_NAME = {form.name: form for form in BOX_FORMS}
COMPETITION = {"competition.task": "boxes", "competition.submission": "boxes"}


@pytest.mark.parametrize("form", BOX_FORMS, ids=lambda form: form.name)
def test_a_form_of_boxes_is_recognised(form: BoxForm, tmp_path: Path) -> None:
    unpack(form.archive(tmp_path), tmp_path / "raw", data=DataSettings(train_images="", test_images=""))
    draft, _ = recognise("mine", tmp_path / "raw", Known(form.metric, "given"))
    assert not draft.doubts
    toml = tmp_path / "mine.toml"
    toml.write_text(draft.text("make all"), encoding="utf-8")
    settings = load_settings(str(toml))
    expected = COMPETITION | form.settings
    found = {key: getattr(getattr(settings, key.partition(".")[0]), key.partition(".")[2]) for key in expected}
    assert found == expected


@pytest.mark.parametrize("form", BOX_FORMS, ids=lambda form: form.name)
def test_the_stages_accept_the_toml_of_a_form(form: BoxForm, tmp_path: Path) -> None:
    words = ["mine", f"--archive={form.archive(tmp_path)}", f"--metric={form.metric}"]
    for stage, arguments in ((new, words), (split, ["mine"])):
        status, _, errors = run_stage(stage, arguments, tmp_path, {"CALLED_FROM": ""})
        assert (status, errors) == (0, ""), errors
    rows = read_split_csv(tmp_path / "data/mine/split.csv")
    named = dict(zip(rows["id"], rows["path"].map(lambda path: Path(path).stem), strict=True))
    found = read_boxes(tmp_path / "data/mine/boxes.csv")
    sides = (found[SIDES] * [WIDTH, HEIGHT, WIDTH, HEIGHT]).round().astype(int).to_numpy().tolist()
    expected = sorted((name(box.image), *box[2:]) for box in TRUE)
    assert sorted((named[each], *box) for each, box in zip(found["id"], sides, strict=True)) == expected
    assert len(found["label"].unique()) == (1 if form.one_class else 3)
    counts = rows["split"].value_counts()
    assert counts["train"] + counts["valid"] == TRAIN and counts["test"] == TEST


def drafted(files: dict[str, bytes], raw: Path) -> Draft:
    for path, content in files.items():
        (raw / path).parent.mkdir(parents=True, exist_ok=True)
        (raw / path).write_bytes(content)
    return recognise("mine", raw, Known())[0]


def rows_of(form: str, shares: bool = False) -> list[tuple[object, ...]]:
    return [(name(box.image), box.label, *box.sides(form, shares)) for box in TRUE]


def test_values_decide_where_the_names_of_columns_say_another_notation(tmp_path: Path) -> None:
    for form, header in ((CENTRE, "x,y,w,h"), (SIZE, "x1,y1,x2,y2"), (CORNERS, "left,top,width,height")):
        files = pictures() | sample("") | {"train.csv": sheet(f"image,label,{header}", rows_of(form))}
        assert drafted(files, tmp_path / header).get("data.box_form") == form


def test_most_boxes_decide_on_the_units(tmp_path: Path) -> None:
    shares = rows_of(CENTRE, shares=True)
    shares[0] = (*shares[0][:2], 1.05, *shares[0][3:])
    empty = [(name(image), "none", 0, 0, 1, 1) for image in range(TRAIN) for _ in range(10)]
    for units, header, rows, cell in (
        ("shares", "xcenter,ycenter,width,height", shares, "red 0.9 0.5 0.5 0.25 0.5"),
        ("pixels", "xmin,ymin,xmax,ymax", [*rows_of(CORNERS), *empty], "red 0.5 0 0 50 50"),
    ):
        files = pictures() | sample(cell) | {"train.csv": sheet(f"image,label,{header}", rows)}
        assert drafted(files, tmp_path / units).get("data.box_units") == units


@pytest.mark.parametrize("ending", [".jpg", ".npy"])
def test_boxes_are_compared_with_upright_images_of_each_kind(ending: str, tmp_path: Path) -> None:
    last = {row[0]: row for row in rows_of(CORNERS)}  # the rightmost box of each image
    labels = sheet("image,label,xmin,ymin,xmax,ymax", list(last.values()))
    files = sample("red 0.5 0 0 50 50") | {"train.csv": labels}
    for path, content in pictures().items():
        image, target, turned = Image.open(io.BytesIO(content)), io.BytesIO(), Image.Exif()
        if ending == ".npy":
            np.save(target, np.asarray(image))
        else:
            turned[ExifTags.Base.Orientation] = 6
            image.transpose(Image.Transpose.ROTATE_90).save(target, "JPEG", exif=turned)
        files[path.replace(".jpg", ending)] = target.getvalue()
    assert drafted(files, tmp_path).get("data.box_units") == "pixels"


def test_annotations_beside_the_images_are_recognised_without_those_of_the_test_images(tmp_path: Path) -> None:
    files = {path.replace("annotations", "images"): content for path, content in BY_NAME["voc"].make().items()}
    first = next(path for path in files if path.endswith(".xml"))
    files[f"test/{name(TRAIN)}.xml"] = files[first]
    draft = drafted(files, tmp_path)
    assert (draft.get("data.labels"), draft.get("data.train_images")) == ("images", "images")


def test_boxes_that_the_sample_does_not_ask_for_are_no_targets(tmp_path: Path) -> None:
    once = {row[0]: row for row in rows_of(CORNERS)}
    files = pictures() | sample("red", "image,label")
    draft = drafted(files | {"train.csv": sheet("image,label,xmin,ymin,xmax,ymax", list(once.values()))}, tmp_path)
    assert (draft.get("competition.task"), draft.get("data.label_column")) == ("one_class", "label")


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("red 0 0 50 50", "cells such as 'red 0 0 50 50' are no boxes with a confidence"),
        ("red 7.5 0 0 50 50", "are no boxes with a confidence"),
        ("cat 0.5 0 0 50 50", "with one of the labels 'blue', 'green', 'red'"),
    ],
)
def test_cells_that_are_no_boxes_are_refused(cell: str, words: str, tmp_path: Path) -> None:
    labels = {"train.csv": sheet("image,label,xmin,ymin,xmax,ymax", rows_of(CORNERS))}
    with pytest.raises(UserError) as error:
        drafted(pictures() | sample(cell) | labels, tmp_path)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("form", "shares", "cell", "orders"),
    [
        (CORNERS, True, "red 0.1 0.2 0.85 0.9 0.8", ["label {} confidence"]),
        (CORNERS, True, "red 0.1 0.2 0.3 0.4 0.9", ["label confidence {}", "label {} confidence"]),
        (SIZE, True, "red 0.6 0.6 0.3 0.3 0.9", ["label {} confidence"]),
        (CENTRE, True, "red 0.9 0.5 0.5 0.1 0.2", ["label confidence {}"]),
        (CORNERS, False, "red 0 0 50 50 0.9", ["label {} confidence"]),
        (SIZE, False, "red 0 0 50 50 0.9", ["label confidence {}", "label {} confidence"]),
        (CORNERS, False, "red 0.5 0 0 0 0", ["label confidence {}"]),
    ],
)
def test_an_order_fits_the_sides_of_the_sample(
    form: str, shares: bool, cell: str, orders: list[str], tmp_path: Path
) -> None:
    names = {CORNERS: "xmin,ymin,xmax,ymax", SIZE: "x,y,w,h", CENTRE: "xcenter,ycenter,width,height"}
    labels = {"train.csv": sheet(f"image,label,{names[form]}", rows_of(form, shares))}
    draft = drafted(pictures() | sample(cell) | labels, tmp_path)
    assert draft.get("competition.box_answer") == orders[0].format(form)
    for doubt in draft.doubts:
        assert repr(cell) in doubt and all(repr(order.format(form)) in doubt for order in orders)
    assert len(draft.doubts) == len(orders) - 1


@pytest.mark.parametrize("cell", ["0 1 0 0 1 1", "1 0 0 0 1 1"])
def test_a_placeholder_is_read_in_the_usual_order(cell: str, tmp_path: Path) -> None:
    rows = [(row[0], CLASSES.index(str(row[1])), *row[2:]) for row in rows_of(CORNERS)]
    labels = {"train.csv": sheet("image,label,xmin,ymin,xmax,ymax", rows)}
    draft = drafted(pictures() | sample(cell) | labels, tmp_path)
    assert draft.get("competition.box_answer") == f"label confidence {CORNERS}" and not draft.doubts
