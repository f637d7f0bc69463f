"""JSON in the form of COCO and as records: ids, files, labels, groups, encodings, several files."""

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.raw_files import touch, write
from tests.support.rows import advised, read, refused

IMAGES: list[dict[str, Any]] = [
    {"id": 7, "file_name": "a.png", "location": 3, "size": [4, 4]},
    {"id": 8, "file_name": "b.png", "location": 5, "size": [4, 4]},
]
MARKS: list[dict[str, Any]] = [
    {"id": 1, "image_id": 8, "category_id": 2, "bbox": [0, 0, 1, 1]},
    {"id": 2, "image_id": 7, "category_id": 10},
]
KINDS = [{"id": 2, "name": "red fox", "genus": "Vulpes"}, {"id": 10, "name": "lynx", "genus": "Lynx"}]
A, B = "train/a.png", "train/b.png"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    touch(tmp_path, A, B, "test/9.png")
    return tmp_path


def save(raw: Path, name: str, **content: Any) -> dict[str, str]:
    write(raw / name, json.dumps(content))
    return {"labels": name}


def sample(raw: Path, text: str) -> dict[str, str]:
    write(raw / "sample.csv", text)
    return {"sample_submission": "sample.csv"}


def test_the_words_of_the_sample_are_taken(raw: Path) -> None:
    labels = save(raw, "t.json", images=IMAGES, annotations=MARKS, categories=KINDS)
    names, ids, genera = {A: "lynx", B: "red fox"}, {A: "10", B: "2"}, {A: "Lynx", B: "Vulpes"}
    found = read(raw, **labels)
    assert (found.labels, found.ids) == (names, ["7", "8"])
    assert found.notes["labels"] == "column 'category_name' of t.json"
    assert found.notes["ids"] == "column 'id' of t.json, files by 'file_name'"
    assert read(raw, **labels, **sample(raw, "id,label\n9,2\n")).labels == ids
    assert read(raw, **labels, **sample(raw, "id,label\n9,0\n")).labels == ids  # a placeholder
    assert read(raw, **labels, **sample(raw, "id,label\n9,lynx\n")).labels == names
    assert read(raw, **labels, **sample(raw, "id,2,10\n9,0.5,0.5\n")).labels == ids
    assert read(raw, **labels, **sample(raw, "id,lynx,red fox\n9,0.5,0.5\n")).labels == names
    assert read(raw, **labels, label_column="genus").labels == genera
    assert read(raw, **labels, label_column="category_id").labels == ids
    refused(raw, "no column 'genera', which data.label_column names", **labels, label_column="genera")


def test_the_group_is_a_field_of_the_image(raw: Path) -> None:
    labels = save(raw, "t.json", images=IMAGES, annotations=MARKS, categories=KINDS)
    assert read(raw, group="location", **labels).groups == {A: "3", B: "5"}
    refused(raw, "no column 'place', which split.group_column names", group="place", **labels)


def test_ids_under_another_name_and_no_names_of_categories(raw: Path) -> None:
    images = [{"image_id": "x1", "file_name": "train/a.png"}, {"image_id": "x2", "file_name": "/data/train/b.png"}]
    marks = [{"image_id": "x1", "category_id": 4}, {"image_id": "x2", "category_id": 3}]
    kinds = [{"category_id": 3, "family": "F"}, {"category_id": 4, "family": "G"}]
    labels = save(raw, "t.json", images=images, annotations=marks, categories=kinds)
    found = read(raw, **labels)
    assert (found.labels, found.ids) == ({A: "4", B: "3"}, ["x1", "x2"])
    assert read(raw, **labels, label_column="family").labels == {A: "G", B: "F"}
    assert read(raw, **save(raw, "t.json", images=images, annotations=marks)).labels == {A: "4", B: "3"}
    assert read(
        raw, **save(raw, "t.json", annotations=[{"image_id": "a", "label": 1}, {"image_id": "b", "label": 0}])
    ).labels == {A: "1", B: "0"}


def test_several_annotations_of_one_image(raw: Path) -> None:
    marks = [*MARKS, {"id": 3, "image_id": 7, "category_id": 10, "bbox": [1, 1, 2, 2]}]
    labels = save(raw, "t.json", images=IMAGES, annotations=marks, categories=KINDS)
    assert read(raw, **labels).labels == {A: "lynx", B: "red fox"}
    marks += [{"id": 4, "image_id": 7, "category_id": 2}]
    labels = save(raw, "t.json", images=IMAGES, annotations=marks, categories=KINDS)
    words = "images with two different labels, 1 in all: images[0]: '7' is 'red fox', in images[0] it is 'lynx'"
    message = refused(raw, words, **labels)
    assert read(raw, **advised(message) | labels).labels == {A: "lynx|red fox", B: "red fox"}
    labels = save(raw, "t.json", images=IMAGES, annotations=MARKS[:1], categories=KINDS)
    assert read(raw, "several_labels", **labels).labels == {A: "", B: "red fox"}
    message = refused(raw, "rows with an empty label, 1 in all: images[0]", **labels)
    assert read(raw, **labels, **{key: advised(message)[key] for key in ("flaws",)}).labels == {B: "red fox"}


def test_lists_of_labels_in_an_annotation(raw: Path) -> None:
    """As imaterialist-challenge-fashion-2018 has them."""
    images = [{"imageId": "a", "url": "http://x"}, {"imageId": "b", "url": "http://y"}]
    marks = [{"imageId": "b", "labelId": ["62", "17"]}, {"imageId": "a", "labelId": []}]
    labels = save(raw, "t.json", images=images, annotations=marks)
    assert read(raw, "several_labels", **labels).labels == {A: "", B: "17|62"}


def test_several_files(raw: Path) -> None:
    parts = {"images": IMAGES, "annotations": MARKS, "categories": KINDS}
    for key, value in parts.items():
        save(raw, f"{key}.json", **{key: value})
    expected = {A: "lynx", B: "red fox"}
    assert read(raw, labels="images.json+annotations.json + categories.json").labels == expected
    for name, image, mark in (("one", 0, 1), ("two", 1, 0)):  # ids may repeat between files
        save(
            raw,
            f"{name}.json",
            images=[{**IMAGES[image], "id": 1}],
            annotations=[dict(MARKS[mark], image_id=1)],
            categories=KINDS,
        )
    found = read(raw, labels="one.json+two.json")
    assert (found.labels, found.ids) == (expected, ["a.png", "b.png"])
    assert found.notes["note"].startswith("Ids of one.json+two.json repeat, such as '1'")
    save(raw, "two.json", images=IMAGES[1:], annotations=MARKS[:1], categories=[{"id": 2, "name": "wolf"}])
    refused(raw, "category '2' is 'wolf', and before it was 'red fox'", labels="one.json+two.json")


def test_annotations_that_name_what_is_absent(raw: Path) -> None:
    marks = [*MARKS, {"image_id": 99, "category_id": 2}]
    labels = save(raw, "t.json", images=IMAGES, annotations=marks, categories=KINDS)
    refused(raw, "annotations of images that it does not list, 1 in all: annotations[2]: '99'", **labels)
    found = read(raw, **labels, flaws="drop")
    assert [flaw[:4] for flaw in found.dropped] == [("t.json", "annotations[2]", "99", "its image is not listed")]
    refused(
        raw,
        "categories that it does not have, 1 in all: 10",
        **save(raw, "t.json", images=IMAGES, annotations=MARKS, categories=KINDS[:1]),
    )
    refused(raw, "images of one id, 2 in all: 7; 8", **save(raw, "t.json", images=IMAGES * 2, annotations=MARKS))
    refused(raw, "has no annotations", **save(raw, "t.json", images=IMAGES))
    refused(
        raw, "its annotations have no category_id", **save(raw, "t.json", images=IMAGES, annotations=[{"image_id": 7}])
    )


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ([{"id": "a", "label": "x"}, {"id": "b", "label": "y"}], {A: "x", B: "y"}),
        ({"a": "x", "b": "y"}, {A: "x", B: "y"}),
        ({"a": {"label": "x", "n": 1}, "b": {"label": "y"}}, {A: "x", B: "y"}),
        ({"data": [{"file": "a.png", "label": 1.0}, {"file": "b.png", "label": True}]}, {A: "1", B: "1"}),
    ],
)
def test_plain_records(raw: Path, content: Any, labels: dict[str, str]) -> None:
    write(raw / "t.json", json.dumps(content))
    assert read(raw, labels="t.json").labels == labels


def test_records_with_lists_of_labels(raw: Path) -> None:
    for content in ({"a": ["y", "x"], "b": []}, [{"id": "a", "labels": ["x", "y"]}, {"id": "b", "labels": None}]):
        write(raw / "t.json", json.dumps(content))
        assert read(raw, "several_labels", labels="t.json").labels == {A: "x|y", B: ""}
    write(raw / "t.json", json.dumps([{"id": "a", "tags": ["x", "y"]}, {"id": "b", "tags": ["y"]}]))
    assert read(raw, "several_labels", labels="t.json", label_column="tags").labels == {A: "x|y", B: "y"}


def test_other_encodings_than_utf_8(raw: Path) -> None:
    kinds = [{"id": 2, "name": "Müller"}, {"id": 10, "name": "lynx"}]
    text = json.dumps({"images": IMAGES, "annotations": MARKS, "categories": kinds}, ensure_ascii=False)
    for encoding, note in (("utf-8-sig", ""), ("utf-16", ""), ("cp1252", "t.json is not UTF-8; it was read as cp1252")):
        write(raw / "t.json", text.encode(encoding))
        found = read(raw, labels="t.json")
        assert found.labels[B] == "Müller"
        assert found.notes.get("note", "").startswith(note)
    write(raw / "t.json", text.replace("ü", "\x81").encode("latin-1"))
    assert "latin-1" in read(raw, labels="t.json").notes["note"]


def test_compressed_tables_under_either_name(raw: Path) -> None:
    content = json.dumps({"images": IMAGES, "annotations": MARKS, "categories": KINDS})
    with zipfile.ZipFile(raw / "t.json.zip", "w") as archive:
        archive.writestr("t.json", content)
    with zipfile.ZipFile(raw / "t.csv.zip", "w") as archive:
        archive.writestr("t.csv", "id,label\na,lynx\nb,red fox\n")
    for name in ("t.json", "t.json.zip", "t.csv", "t.csv.zip"):
        assert read(raw, labels=name).labels == {A: "lynx", B: "red fox"}
    (raw / "t.json.zip").unlink()
    write(raw / "t.json", content)
    assert len(read(raw, labels="t.json.zip").labels) == 2
    write(raw / "u.json.gz", gzip.compress(content.encode()))
    assert len(read(raw, labels="u.json").labels) == 2


def test_json_that_cannot_be_read(raw: Path) -> None:
    write(raw / "t.json", '{"images": [')
    refused(raw, "t.json is not valid JSON: Expecting value in line 1, column 13", labels="t.json")
    for content in ("[1, 2]", '"text"', "{}", '{"a": {"b": 1}, "c": 2}'):
        write(raw / "t.json", content)
        refused(raw, "JSON in a form that is not known", labels="t.json")
