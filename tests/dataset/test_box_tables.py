"""Tables that do not hold boxes, or boxes of another notation, are refused with the line and the setting."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image

from pipelines.dataset.image_sizes import image_sizes
from pipelines.dataset.packed import PackedImages
from pipelines.settings.checks import check_together
from pipelines.settings.data_sections import CompetitionSettings, DataSettings
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from tests.support.boxes import HEIGHT, WIDTH, Box, coco, pictures, voc
from tests.support.image_sets import image_set
from tests.support.raw_files import write
from tests.support.rows import read, refused

GOOD = "".join(f"i{number}.png,a,10,10,30,40\n" for number in range(6))
TABLE = {"labels": "labels.csv", "label_column": "kind", "test_images": ""}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    pictures(tmp_path, [f"i{number}.png" for number in range(6)])
    return tmp_path


def table(raw: Path, rows: str, header: str = "name,kind,xmin,ymin,xmax,ymax") -> None:
    write(raw / "labels.csv", f"{header}\n{rows}")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("i0.png,a,30,10,30,40", ("line 8: 'i0.png' (30 10 30 40), empty or inverted", "data.box_form", "data.flaws")),
        ("i0.png,a,30,10,20,40", ("line 8", "empty or inverted box")),
        ("i0.png,a,99.999999,10,100,40", ("line 8", "empty or inverted box")),
        ("i0.png,a,99.999999,10,120,40", ("line 8", "box outside its image")),
        ("i0.png,a,200,10,220,40", ("line 8", "box outside its image")),
        ("i0.png,a,10,10,,40", ("line 8", "not the numbers of a box")),
        ("i0.png,a,10,ten,30,40", ("line 8", "not the numbers of a box")),
        ("i0.png,a,10,10,1e999,40", ("line 8", "not the numbers of a box")),
        ("i0.png,,11,10,30,40", ("line 8", "box without a label")),
        ("i0.png,a,,,,", ("line 8", "label 'a' without a box", "data.no_box_label")),
        ("i0.png,a|b,11,10,30,40", ("'|'",)),
        ("i9.png,a,11,10,30,40", ("ids without an image in train", "i9.png")),
    ],
)
def test_a_row_that_holds_no_box_is_refused(raw: Path, row: str, words: tuple[str, ...]) -> None:
    table(raw, f"{GOOD}{row}\n")
    refused(raw, *words, task="boxes", **TABLE)


def test_flaws_are_left_out_and_listed(raw: Path) -> None:
    table(raw, f"{GOOD}i0.png,a,30,10,20,40\ni1.png,a,,,,\ni2.png,,1,2,3,4\n")
    found = read(raw, "boxes", flaws="drop", **TABLE)
    assert [(flaw.line, flaw.reason) for flaw in found.dropped] == [
        ("line 9", "label 'a' without a box"),
        ("line 10", "box without a label"),
        ("line 8", "empty or inverted box"),
    ]
    assert found.labels == {f"train/i{number}.png": "a" for number in range(6)}


def test_an_image_whose_boxes_are_all_left_out_is_left_out_too(raw: Path) -> None:
    table(raw, "i0.png,a,10,10,30,40\ni0.png,a,,,,\ni1.png,a,,,,\ni2.png,a,30,10,20,40\ni3.png,,,,,\n")
    found = read(raw, "boxes", flaws="drop", **TABLE)
    labels = {"train/i0.png": "a", "train/i3.png": "", "train/i4.png": "", "train/i5.png": ""}
    assert found.labels == labels and len(found.dropped) == 3
    table(raw, "i0.png,a,10,10,30,40\ni1.png,a,,,,\n")
    assert "train/i1.png" not in read(raw, "boxes", flaws="drop", **TABLE).labels


@pytest.mark.parametrize(
    ("rows", "settings", "words"),
    [
        (GOOD, {"box_units": "shares"}, ('data.box_units is "shares"', 'data.box_units = "pixels"')),
        ("i0.png,a,0.1,0.1,0.5,0.5\n", {}, ('data.box_units is "pixels"', 'data.box_units = "shares"')),
        (
            "i0.png,a,0.1,0.1,0.5,0.5\n" * 5 + "i1.png,a,0.1,0.1,0.5,1.0001\n",
            {},
            ("of 6 boxes most have no number above 1, 5 in all: line 2", 'data.box_units = "shares"'),
        ),
        (
            "".join(f"i{number}.png,a,10,10,95,45\n" for number in range(6)),
            {"box_form": "xmin ymin width height", "box_columns": ("xmin", "ymin", "xmax", "ymax")},
            ("6 of 6 boxes leave their image", "data.box_form"),
        ),
        (
            "".join(f"i{number}.png,a,60,30,20,10\n" for number in range(6)),
            {},
            ("6 of 6 boxes", "end before they begin", "data.box_form"),
        ),
        ("i0.png,,,,,\n", {}, ("no row has a box",)),
        (GOOD, {"label_column": "sort"}, ("no column 'sort', which data.label_column names",)),
        (GOOD, {"box_columns": ("x0", "ymin", "xmax", "ymax")}, ("no column 'x0', which data.box_columns names",)),
        (GOOD, {"box_form": "xcentre ycentre width height"}, ("no column 'xcentre', which data.box_form names",)),
    ],
)
def test_another_notation_is_refused(raw: Path, rows: str, settings: dict[str, Any], words: tuple[str, ...]) -> None:
    table(raw, rows)
    refused(raw, *words, task="boxes", **(TABLE | settings))


def test_boxes_need_a_table(raw: Path) -> None:
    refused(raw, "data.labels is empty", task="boxes", test_images="")


def test_a_cell_of_another_form_is_refused(raw: Path) -> None:
    table(raw, 'i0.png,"1 2 3 4 5"\n', "name,boxes")
    refused(raw, "line 2", "not the numbers", task="boxes", labels="labels.csv", box_columns=("boxes",))


def test_an_image_that_is_damaged_is_named_with_its_row(raw: Path) -> None:
    table(raw, GOOD)
    write(raw / "train/i3.png", b"no image")
    refused(raw, "i3.png", "line 5 of labels.csv", "cannot be read", task="boxes", **TABLE)


def test_rows_of_an_image_in_two_groups_are_refused(raw: Path) -> None:
    table(raw, "i0.png,a,10,10,30,40,x\ni0.png,a,11,10,30,40,y\n", "name,kind,xmin,ymin,xmax,ymax,place")
    refused(raw, "different groups", task="boxes", group="place", **TABLE)


def test_ids_of_images_that_no_row_names_are_written_like_the_others(raw: Path) -> None:
    table(raw, "i0,a,10,10,30,40\n")
    found = read(raw, "boxes", **TABLE)
    assert sorted(found.ids) == [f"i{number}" for number in range(6)]


def test_boxes_of_coco_need_its_notation(raw: Path) -> None:
    write(
        raw / "boxes.json",
        '{"images": [{"id": 1, "file_name": "i0.png"}], "categories": [{"id": 1, "name": "a"}], '
        '"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]}',
    )
    refused(raw, 'data.box_form = "xmin ymin width height"', task="boxes", labels="boxes.json", test_images="")


def test_images_are_stretched_in_a_cache_of_their_own(tmp_path: Path) -> None:
    image = Image.new("RGB", (WIDTH, HEIGHT))
    image.paste((255, 255, 255), (0, 0, WIDTH // 4, HEIGHT))
    image.save(tmp_path / "a.png")
    rows = pd.DataFrame({"id": ["a"], "path": ["a.png"]})
    found = {}
    for task in ("one_class", "boxes"):
        packed = PackedImages(image_set(rows, tmp_path, tmp_path / "cache", task=task), 8)
        found[task] = packed.whole()[0, :, :, 0].mean(axis=0)
        found[packed.path.name.rpartition("-")[0]] = packed.path
    assert found["boxes"][:2].min() > 200 and found["boxes"][3:].max() < 5
    assert found["one_class"].max() < 250 and {"labelled-8px", "labelled-8px-stretched"} <= found.keys()
    assert all(path.exists() for path in found.values() if isinstance(path, Path))


def test_settings_that_boxes_need() -> None:
    def problems(**data: str) -> str:
        competition = CompetitionSettings(task="boxes", metric="box_map", submission="boxes")
        settings = Settings("tiny", competition=competition, data=DataSettings(**data))  # type: ignore[arg-type]
        settings = replace(settings, input=replace(settings.input, source="photos"))
        with pytest.raises(UserError) as caught:
            check_together(settings, "tiny.toml")
        return str(caught.value)

    assert 'input.source = "packed"' in problems(labels="labels.csv")
    assert "keep one of the two" in problems(
        labels="labels.csv", label_column="kind", box_form="label xmin ymin xmax ymax"
    )


def test_the_sizes_of_images(tmp_path: Path) -> None:
    rows = pd.DataFrame({"id": ["a", "b"], "path": ["a.png", "b.npy"]})
    Image.new("RGB", (7, 5)).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", np.zeros((4, 9, 3), np.uint8))
    assert image_sizes(image_set(rows, tmp_path, tmp_path)).tolist() == [[7, 5], [9, 4]]
    assert image_sizes(image_set(rows[:0], tmp_path, tmp_path)).shape == (0, 2)
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"a\.png .id 'a', line 2 of split\.csv. cannot be read"):
        image_sizes(image_set(rows, tmp_path, tmp_path))


PAIRS = {"i0.png": ("cat", "red dog"), "i1.png": ("dog's",), "i2.png": ()}


def paired(raw: Path, pairs: Mapping[str, Sequence[str]], write_list: Callable[[Sequence[str]], str]) -> dict[str, Any]:
    """Write a CSV of lists of boxes and of labels, and return its settings."""
    rows = [(name, [[n, 2, 30, 40] for n in range(len(labels))], write_list(labels)) for name, labels in pairs.items()]
    pd.DataFrame(rows, columns=["name", "boxes", "kinds"]).to_csv(raw / "labels.csv", index=False)
    return {"labels": "labels.csv", "label_column": "kinds", "box_columns": ("boxes",), "test_images": ""}


@pytest.mark.parametrize("write_list", [lambda labels: str(list(labels)), json.dumps, lambda x: str(np.array(x, str))])
def test_a_list_of_labels_is_paired_with_the_boxes(raw: Path, write_list: Callable[[Sequence[str]], str]) -> None:
    settings = paired(raw, PAIRS, write_list)
    labels = {name: "|".join(each) for name, each in PAIRS.items()}
    assert read(raw, "boxes", **settings).labels == {f"train/i{n}.png": labels.get(f"i{n}.png", "") for n in range(6)}


@pytest.mark.parametrize("by_id", [False, True])
def test_lists_in_json_are_paired_too(raw: Path, by_id: bool) -> None:
    boxes = {name: [[n, 2, 30, 40] for n in range(len(labels))] for name, labels in PAIRS.items()}
    content: Any = {name: {"bbox": boxes[name], "labels": PAIRS[name]} for name in PAIRS}
    content = content if by_id else [{"file_name": name, **each} for name, each in content.items()]
    write(raw / "boxes.json", json.dumps(content))
    settings: dict[str, Any] = {"labels": "boxes.json", "label_column": "labels", "box_columns": ("bbox",)}
    found = read(raw, "boxes", test_images="", **settings).labels
    assert (found["train/i0.png"], found["train/i1.png"], found["train/i2.png"]) == ("cat|red dog", "dog's", "")


def test_lists_of_other_lengths_are_refused(raw: Path) -> None:
    settings = paired(raw, {"i0.png": ("cat", "dog"), "i1.png": ("cat",)}, lambda labels: str(["cat", "dog"]))
    refused(raw, "line 3: 'i1.png'", "2 labels for 1 boxes", "data.flaws", task="boxes", **settings)


@pytest.mark.parametrize("apart", [" ", ", ", ";"])
def test_labels_of_several_boxes_that_are_no_list_are_refused(raw: Path, apart: str) -> None:
    settings = paired(raw, PAIRS | {"i0.png": ("cat", "dog")}, apart.join)
    refused(raw, "line 2: ", "for 2 boxes", '["cat", "dog"]', task="boxes", **settings)
    settings = paired(raw, PAIRS | {"i0.png": ("cat", "cat")}, lambda labels: "cat" if labels else "")
    assert read(raw, "boxes", **settings).labels["train/i0.png"] == "cat|cat"


def test_a_class_in_brackets_keeps_its_name(raw: Path) -> None:
    table(raw, f"{GOOD}i0.png,[unknown],11,10,30,40\n")
    assert read(raw, "boxes", **TABLE).labels["train/i0.png"] == "[unknown]|a"


def test_xml_whose_names_disagree_is_refused(raw: Path) -> None:
    box = [("a", 10.0, 10.0, 30.0, 40.0)]
    voc(raw / "notes", {f"i{number}.png": box * (number + 1) for number in range(6)})
    settings = {"labels": "notes", "test_images": ""}
    assert len(read(raw, "boxes", **settings).labels) == 6
    (raw / "notes/i0.xml").rename(raw / "notes/other.xml")
    (raw / "notes/i1.xml").rename(raw / "notes/i0.xml")
    (raw / "notes/other.xml").rename(raw / "notes/i1.xml")
    words = ("filename and xml name the images in different orders", "data.id_column", "'xml'")
    refused(raw, *words, task="boxes", **settings)
    assert len(read(raw, "boxes", id_column="xml", **settings).labels) == 6
    for count in (1, 2):
        for number in range(6):  # as a program does that copies its template
            voc(raw / "notes", {"i0.png": box * count})
            (raw / "notes/i0.xml").rename(raw / f"notes/i{number or 6}.xml")
        (raw / "notes/i6.xml").rename(raw / "notes/i0.xml")
        refused(raw, 'data.id_column = "xml"', task="boxes", **settings)


@pytest.mark.parametrize("rows", [1, 3])
def test_columns_that_name_the_images_in_different_orders_are_refused(raw: Path, rows: int) -> None:
    cells = [f"i{n}.png,i{5 - n}.png,{n % 2},a,{10 + row},10,30,40\n" for n in range(6) for row in range(rows)]
    table(raw, "".join(cells), "image,file,number,kind,xmin,ymin,xmax,ymax")
    words = ("its columns image and file name the images in different orders", "data.id_column")
    refused(raw, *words, task="boxes", **TABLE)
    assert len(read(raw, "boxes", id_column="file", **TABLE).labels) == 6


def test_numbers_that_are_names_of_images_too_are_no_ids(tmp_path: Path) -> None:
    pictures(tmp_path, [f"{number}.png" for number in range(12)])
    rows = [f"{n + 3},{2 * n + row},{row},a,{10 + row},10,30,40\n" for n in range(6) for row in range(2)]
    table(tmp_path, "".join(rows), "image,number,class,kind,xmin,ymin,xmax,ymax")
    assert len(read(tmp_path, "boxes", **TABLE).labels) == 12


SIZED = "name,kind,xmin,ymin,xmax,ymax,width,height"


def turn(path: Path) -> None:
    """Store an image as a camera does that is held upright: it is opened as 50 x 100 pixels."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, exif=exif)


@pytest.mark.parametrize("form", ["voc", "coco"])
def test_labels_of_images_as_they_are_stored_are_refused(raw: Path, form: str) -> None:
    boxes: dict[str, list[Box]] = {f"i{number}.png": [("RBC", 10, 5, 90, 40)] for number in range(6)}
    coco(raw / "labels.json", boxes)
    voc(raw / "notes", boxes)
    for file in (raw / "notes").iterdir():
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        file.write_text(file.read_text().replace("</filename>", f"</filename>{size}"))
    settings = {"voc": {"labels": "notes"}, "coco": {"labels": "labels.json", "box_form": "xmin ymin width height"}}
    assert len(read(raw, "boxes", test_images="", **settings[form]).labels) == 6
    turn(raw / "train/i2.png")
    words = ("1 in all", "is 50 x 100, not 100 x 50, its sides swapped", "before its EXIF turns it")
    refused(raw, "'train/i2.png'", *words, task="boxes", test_images="", **settings[form])


@pytest.mark.parametrize(
    ("rows", "settings", "words"),
    [
        (
            "i0.png,a,20,10,190,80,200,100\n",
            {},
            ("line 2: 'train/i0.png' is 100 x 50, not 200 x 100. ", "scale its boxes"),
        ),
        ("i0.png,a,20,10,30,20,10,10\n", {}, ()),  # the size of the box
        ("i0.png,a,20,10,30,20,0,nan\ni1.png,a,20,10,30,20,,\n", {}, ()),
        ("i0.png,a,0.1,0.1,0.2,0.2,200,100\n", {"box_units": "shares"}, ()),
        ("i0.png,a,0.1,0.1,0.2,0.2,50,100\n", {"box_units": "shares"}, ("its sides swapped",)),
    ],
)
def test_sizes_that_a_table_states(raw: Path, rows: str, settings: dict[str, Any], words: tuple[str, ...]) -> None:
    table(raw, rows, SIZED)
    if words:
        refused(raw, *words, task="boxes", **(TABLE | settings))
    else:
        assert read(raw, "boxes", **(TABLE | settings)).labels["train/i0.png"] == "a"


def test_images_with_more_boxes_than_are_predicted_are_counted(raw: Path) -> None:
    table(raw, GOOD + "".join(f"i0.png,a,10,10,{11 + number / 10},40\n" for number in range(100)))
    said = "Images with more than 100 boxes: 1. At most 100 of each are predicted."
    assert read(raw, "boxes", **TABLE).notes["note"] == said
    table(raw, GOOD)
    assert "note" not in read(raw, "boxes", **TABLE).notes
