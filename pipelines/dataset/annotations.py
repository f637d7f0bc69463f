"""Read JSON that lists images, in the form of COCO or as plain records, as a table of text."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pipelines.dataset.encodings import read_json
from pipelines.dataset.tables import Note, silent
from pipelines.system.errors import UserError, few, quoted, refuse

IMAGE_KEYS = ("image_id", "imageId", "id", "image", "ImageId", "img_id")
FILE_KEYS = ("file_name", "filename", "file", "path", "image_path")
LABEL_KEYS = (
    *("category_id", "categoryId", "label_id", "labelId", "class_id", "category", "label", "class"),
    *("labels", "categories", "category_ids", "label_ids"),
)
BOX = "bbox"  # the key of COCO's boxes
VALUE = "value"  # the column of the values of a dictionary
NAME = "category_name"  # the column of the names of categories
PLACE, IMAGE = "\0place", "\0image"  # columns of our own
Records = Sequence[Mapping[str, Any]]


class JsonTable(NamedTuple):
    """A table of text, one row per image and label, indexed by where each is in the file.

    id_column, file_column: those of the ids and of the names of files; files may be without. label_columns: the columns
    that may hold the labels, ids of categories first. of_annotations: whether the form is that of COCO. targets: the
    columns of a CSV in long form. orphans: the places of annotations whose image is not listed, and its id.
    """

    table: pd.DataFrame
    id_column: str
    file_column: str = ""
    label_columns: Sequence[str] = ()
    of_annotations: bool = False
    targets: Sequence[str] = ()
    orphans: Sequence[tuple[str, str]] = ()


def is_json(name: str) -> bool:
    """Return whether a setting names JSON files: it ends in .json, or in that and the extension of a zip."""
    return name.lower().removesuffix(".zip").removesuffix(".gz").endswith(".json")


def read_json_table(
    paths: Sequence[Path], label_column: str = "", note: Note = silent, boxes: Collection[str] = ()
) -> JsonTable:
    """Return the images of the JSON files `paths`, all of one form.

    The forms are: a dictionary with `images`, and maybe `annotations` and `categories`; a list of records; or a
    dictionary of ids with a value, a list of values, or a record each. label_column: which list of values is split into
    rows; else one that is named like labels. `note` receives an encoding that is a guess. boxes: the keys of lists that
    stay in one cell; so do the labels beside such a list, which belong to its boxes by their place.
    Raises `UserError` for another form, and for ids that contradict each other.
    """
    contents = []
    for path in paths:
        content, guess = read_json(path)
        labels = () if isinstance(content, dict) and _is_coco(content) else (label_column, *LABEL_KEYS)
        contents.append(_with_texts(content, boxes, labels) if boxes else content)
        if guess:
            note("note", f"{path.name} is not UTF-8; it was read as {guess}. Check names with accents.")
    if all(isinstance(each, dict) and _is_coco(each) for each in contents):
        return _coco(paths, contents)
    parts = [_records(path, content) for path, content in zip(paths, contents, strict=True)]
    several = len(paths) > 1
    tables = [
        _text_table(part, f"{path.name}: " if several else "", label_column)
        for path, part in zip(paths, parts, strict=True)
    ]
    table = pd.concat(tables).fillna("")
    names = list(map(str, table.columns))
    identity = next((name for name in IMAGE_KEYS if name in names), names[0])
    return JsonTable(table, identity, next((name for name in FILE_KEYS if name in names), ""))


def _with_texts(content: Any, keys: Collection[str], labels: Collection[str]) -> Any:
    """Return JSON with the lists of `keys` as text, and with those of `labels` that are beside one of these."""
    if isinstance(content, dict):
        texts = {key for key in keys if isinstance(content.get(key), list)}
        texts |= {key for key in labels if texts and isinstance(content.get(key), list)}
        return {
            key: json.dumps(value, ensure_ascii=False) if key in texts else _with_texts(value, keys, labels)
            for key, value in content.items()
        }
    return [_with_texts(each, keys, labels) for each in content] if isinstance(content, list) else content


def _is_coco(content: Mapping[str, Any]) -> bool:
    return any(_is_records(content.get(key)) for key in ("images", "annotations", "categories"))


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value[:9])


def _records(path: Path, content: Any) -> Records:
    """Return the records of JSON that is no COCO."""
    if isinstance(content, dict) and len(content) == 1 and _is_records(next(iter(content.values()))):
        content = next(iter(content.values()))
    if isinstance(content, dict) and content:
        if all(isinstance(value, dict) for value in content.values()):
            content = [{"id": key, **value} for key, value in content.items()]
        elif not any(isinstance(value, dict) for value in content.values()):
            content = [{"id": key, VALUE: value} for key, value in content.items()]
    if not _is_records(content):
        raise UserError(
            f"{path} is JSON in a form that is not known. Known are COCO's (a dictionary with images, annotations and "
            "categories), a list of records, and a dictionary of ids with a value or a record each. Write a CSV of its "
            "ids and labels, and name that in data.labels or data.test_table."
        )
    return content


def _text(value: Any) -> str:
    """Return a value of JSON as text: `5` of 5.0, and an empty text of null and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _text_table(records: Records, prefix: str = "", label_column: str = "") -> pd.DataFrame:
    """Return records as columns of text, indexed by their place, which begins with `prefix`.

    A list of labels makes a row for each. Other lists, and dictionaries, are left out.
    """
    keys = list(dict.fromkeys(key for record in records for key in record))
    kinds = {key: {type(record.get(key)) for record in records} for key in keys}
    lists = [key for key in keys if list in kinds[key]]
    labels = [key for key in (label_column, *LABEL_KEYS, VALUE) if key in lists]
    split = next((key for key in labels if all(_is_flat(record.get(key)) for record in records)), "")
    places = [f"{prefix}[{number}]" for number in range(len(records))]
    if split:
        spread = [
            (place, {**record, split: value})
            for place, record in zip(places, records, strict=True)
            for value in _values(record.get(split))
        ]
        places, records = [place for place, _ in spread], [record for _, record in spread]
    kept = [key for key in keys if dict not in kinds[key] and (key not in lists or key == split)]
    columns = {key: [_text(record.get(key)) for record in records] for key in kept}
    return pd.DataFrame(columns, index=pd.Index(places, name="line"), dtype=str)


def _is_flat(value: Any) -> bool:
    return not isinstance(value, list) or not any(isinstance(each, dict | list) for each in value)


def _values(value: Any) -> Sequence[Any]:
    """Return the values of a list, or the value itself; at least one, which may be empty."""
    return (value or [""]) if isinstance(value, list) else [value]


def _coco(paths: Sequence[Path], contents: Sequence[Mapping[str, Any]]) -> JsonTable:
    """Return the table of files in the form of COCO.

    Files with images of their own are read one by one, since numbers of images may repeat between files. Else all are
    taken together: one has the images, another the annotations.
    """
    categories = _categories(paths, [each.get("categories") for each in contents])
    if len(paths) > 1 and all(_is_records(each.get("images")) for each in contents):
        parts = [
            _one_coco(path, f"{path.name}: ", each, categories) for path, each in zip(paths, contents, strict=True)
        ]
        return parts[0]._replace(table=pd.concat([part.table for part in parts]).fillna(""))
    together = {
        key: [record for each in contents for record in each.get(key) or ()] for key in ("images", "annotations")
    }
    return _one_coco(paths[0], "", together, categories)


def _categories(paths: Sequence[Path], found: Sequence[Any]) -> dict[str, dict[str, str]]:
    """Return for each id of a category its other fields. Raises `UserError` if files name it differently."""
    categories: dict[str, dict[str, str]] = {}
    for path, entries in zip(paths, found, strict=True):
        if isinstance(entries, dict):
            entries = [
                {"id": key, **(value if isinstance(value, dict) else {"name": value})} for key, value in entries.items()
            ]
        for entry in entries or ():
            if not isinstance(entry, dict):
                raise UserError(f"{path}: categories holds {quoted(entry)}; each must be a record with an id.")
            key = next((key for key in ("id", *LABEL_KEYS) if key in entry), "")
            fields = {
                NAME if name == "name" else name: _text(value)
                for name, value in entry.items()
                if name != key and not isinstance(value, dict | list)
            }
            identity = _text(entry.get(key))
            if categories.setdefault(identity, fields).get(NAME) != fields.get(NAME):
                raise UserError(
                    f"{path}: category {quoted(identity)} is {quoted(fields.get(NAME, ''))}, and before it was "
                    f"{quoted(categories[identity].get(NAME, ''))}. Name files with the same categories in data.labels."
                )
    return categories


def _one_coco(
    path: Path, prefix: str, content: Mapping[str, Any], categories: Mapping[str, Mapping[str, str]]
) -> JsonTable:
    annotations = content.get("annotations") or []
    if not _is_records(content.get("images")):
        content = {"images": _images_of(path, annotations)}
    images = _text_table(content["images"], f"{prefix}images")
    identity = next((key for key in ("id", *IMAGE_KEYS) if key in images), "")
    file = next((key for key in FILE_KEYS if key in images), "")
    if not (identity or file):
        raise UserError(f"{path}: its images have no id and no file_name, but {few(list(images.columns), 9)}.")
    identity = identity or file
    repeated = sorted(set(images[identity][images[identity].duplicated()]))
    refuse(f"{path}: images of one id", repeated, "Give each an id of its own.")
    if not annotations:
        return JsonTable(images, identity, file, (), True)
    marks, label = _annotations(path, annotations, prefix)
    known = marks[IMAGE].isin(images[identity])
    orphans = list(zip(marks[PLACE][~known], marks[IMAGE][~known], strict=True))
    marks = marks[known].drop(columns=[PLACE]).drop_duplicates()
    joined = images.assign(**{PLACE: images.index}).merge(
        marks, how="left", left_on=identity, right_on=IMAGE, suffixes=("", "_of_annotation")
    )
    joined.index = pd.Index(joined.pop(PLACE), name="line")
    joined = joined.drop(columns=[IMAGE]).fillna("")
    if categories:
        nameless = sorted(set(joined[label]) - {""} - categories.keys())
        refuse(f"{path}: annotations of categories that it does not have", nameless, "Add these categories.")
    for name in dict.fromkeys(name for fields in categories.values() for name in fields):
        values = {key: fields.get(name, "") for key, fields in categories.items()}
        joined[name if name not in joined else f"category_{name}"] = joined[label].map(values).fillna("")
    return JsonTable(joined, identity, file, [label, *([NAME] if NAME in joined else ())], True, orphans=orphans)


def _images_of(path: Path, annotations: Records) -> Records:
    """Return the images that annotations name, for a file that lists no others."""
    key = next((key for key in (*IMAGE_KEYS, *FILE_KEYS) if annotations and key in annotations[0]), "")
    if not key:
        raise UserError(f"{path}: its annotations name no image. Put the complete file there.")
    return [{key: name} for name in dict.fromkeys(_text(record.get(key)) for record in annotations)]


def _annotations(path: Path, annotations: Records, prefix: str) -> tuple[pd.DataFrame, str]:
    """Return the annotations, with their place and the id of their image, and the name of the column of labels."""
    image = next((key for key in (*IMAGE_KEYS, *FILE_KEYS) if key in annotations[0]), "")
    label = next((key for key in LABEL_KEYS if key in annotations[0]), "")
    if not image or not label:
        lacking = "name no image" if not image else "have no category_id"
        raise UserError(f"{path}: its annotations {lacking}, but have {few(list(annotations[0]), 9)}.")
    marks = _text_table(annotations, f"{prefix}annotations").rename_axis(PLACE).reset_index()
    marks[IMAGE] = marks[image]
    return marks.drop(columns=[key for key in {image, "id"} if key in marks and key != label]), label
