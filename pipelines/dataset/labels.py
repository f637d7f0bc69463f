"""The labelled rows and the test rows of a competition: each image with its id."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pandas as pd

from pipelines.dataset.class_folders import labels_of, without_tests
from pipelines.dataset.columns import ImageFolder, Listing, choose_ids, choose_labels, id_columns
from pipelines.dataset.image_paths import (
    common_name,
    from_raw,
    image_files,
    images_by_id,
    natural_key,
    no_images,
    normal,
    posix,
    without_extension,
)
from pipelines.dataset.tables import Note, find_column, index_columns, read_listing, silent
from pipelines.settings.data_sections import DataSettings, SplitSettings
from pipelines.system.errors import UserError, did_you_mean, few, quoted, refuse, shown

OF_SAMPLE = (
    "A submission needs a row for each: put these images there. If a CSV lists each id with its image, name it in "
    "data.test_table."
)

MONTHS = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
CHANGED = re.compile(rf"[0-9]+([.,][0-9]+)?E\+[0-9]+|[0-9]+-({MONTHS})|({MONTHS})-[0-9]+")  # by a spreadsheet


def labelled_rows(
    raw: Path, data: DataSettings, split: SplitSettings, test_paths: Iterable[str] = (), note: Note = silent
) -> pd.DataFrame:
    """Return the labelled images: `id`, `path` (POSIX, relative to `raw`), `label`, and `group` (empty without groups).

    With a labels CSV, rows and ids are those of the CSV. Without one, each folder in `train_images` is a class, an id
    is the path below `train_images`, and the rows are in natural order. `test_paths`, the images of the test set, may
    be in the same folder, but must not be labelled. `note` receives the columns taken and how ids were compared.
    Raises `UserError`, with file and line, for anything missing, empty, repeated or ambiguous.
    """
    images = image_files(raw, data.train_images, "data.train_images", data.channel_files)
    images = without_tests(images, data)
    if not images:
        raise UserError(no_images(raw, data.train_images, "data.train_images"))
    images_of = _listed_rows if data.labels else _class_folder_rows
    rows = images_of(raw, data, split, images, note)
    labelled, tested = set(rows["path"].tolist()), set(test_paths)
    both = sorted(labelled & tested, key=natural_key)
    source = data.labels or f"the class folders of {data.train_images}"
    listed = data.test_table or data.sample_submission or f"the folder {data.test_images}"
    keys = f"data.{'labels' if data.labels else 'train_images'} and data."
    keys += "test_table" if data.test_table else "sample_submission" if data.sample_submission else "test_images"
    remedy = f"They are in {source} and in {listed}: remove them from one of the two, or correct {keys}."
    refuse(f"{raw}: images both labelled and in the test set", both, remedy)
    unlabelled = [image for image in images if image not in labelled and image not in tested]
    listed = (
        f"list them in {data.test_table} (data.test_table)"
        if data.test_table
        else "name the CSV that lists them in data.test_table"
    )
    remedy = f"Add them to that CSV, or remove them. If they are test images, {listed}."
    if others := sorted({path.name for path in raw.glob("*.csv")} - {data.labels, data.sample_submission}):
        remedy += f" If {few(others)} labels them, write all labels into one CSV, and name it in data.labels."
    refuse(f"{raw / data.train_images}: images without a label in {data.labels}", unlabelled, remedy)
    return rows


def _listed_rows(
    raw: Path, data: DataSettings, split: SplitSettings, images: Sequence[str], note: Note
) -> pd.DataFrame:
    path = _listing(raw, data.labels, "data.labels")
    tests = posix(data.test_images)
    folder = ImageFolder(
        raw, data.train_images, "data.train_images", images, tests if tests != posix(data.train_images) else ""
    )
    table = read_listing(path, note)
    listing = choose_ids(path, table, data.id_column, folder, 2)
    labels = choose_labels(listing, data, folder)
    _refuse_empty(path, "label", labels)
    files = _one_image_each(listing, folder, "Put these images there, or remove these rows.")
    _refuse_repeated(path, listing.ids, labels, files)
    rows = pd.DataFrame({"id": listing.ids, "path": files, "label": labels, "group": ""})
    if split.group_column:
        rows["group"] = find_column(table, path, split.group_column, 0, "split.group_column")
        _refuse_empty(path, f"group (column {split.group_column!r})", rows["group"])
    source = f"column {shown(str(labels.name))!r} of {path.name}"
    if labels.name not in table:
        source = f"the one column of {path.name} that is 1 in each row ({few(sorted(set(labels)), 5)})"
    note("labels", source)
    note("ids", listing.source)
    return rows.reset_index(drop=True)


def _class_folder_rows(
    raw: Path, data: DataSettings, split: SplitSettings, images: Sequence[str], note: Note
) -> pd.DataFrame:
    if split.group_column:
        raise UserError(
            f"split.group_column is {split.group_column!r}, but data.labels names no CSV with such a column. Empty "
            "split.group_column, or name a CSV of id,group in split.group_file."
        )
    ids = _paths_below(images, data.train_images)
    rows = pd.DataFrame({"id": list(ids), "path": list(ids.values())}, dtype=str)
    return rows.assign(label=labels_of(list(ids), raw, data), group="")


def test_rows(raw: Path, data: DataSettings, note: Note = silent) -> tuple[pd.DataFrame, int]:
    """Return the test images, `id` and `path`, and the number of images in their folder that are not listed.

    The images are those of `test_table`, else of `sample_submission`, in the order of that file; the ids are those of
    the sample, if there is one. Without both they are all images of `test_images` in natural order; an id is the name
    without extension, or the path below `test_images` for an image in a subfolder. Without a list and the folder there
    are no rows. Takes `note`, and raises, as `labelled_rows` does.
    """
    listed = bool(data.test_table or data.sample_submission)
    if not listed and not (data.test_images and (raw / data.test_images).is_dir()):
        return pd.DataFrame({"id": [], "path": []}, dtype=str), 0
    images = image_files(raw, data.test_images, "data.test_images", data.channel_files)
    if not listed:
        return _folder_rows(raw, data, images), 0
    if not images:
        raise UserError(no_images(raw, data.test_images, "data.test_images"))
    folder = ImageFolder(raw, data.test_images, "data.test_images", images)
    listing = (_test_table if data.test_table else _sample)(raw, data, folder, note)
    remedy = "Put these images there, or remove these rows." if data.test_table else OF_SAMPLE
    files = _one_image_each(listing, folder, remedy)
    _refuse_repeated(listing.path, listing.ids, pd.Series("", index=listing.ids.index), files)
    ids = listing.ids.tolist()
    if data.test_table and data.sample_submission:
        sample = _sample(raw, data, replace(folder, images=files), note)
        ids = _sample_ids(listing, files, sample, note)
    unlisted = 0 if posix(data.test_images) == posix(data.train_images) else len(images) - len(files)
    return pd.DataFrame({"id": ids, "path": files}, dtype=str), unlisted


def _folder_rows(raw: Path, data: DataSettings, images: Sequence[str]) -> pd.DataFrame:
    found = _paths_below(images, data.test_images)
    ids = pd.Series([name if "/" in name else without_extension(name) for name in found], dtype=str)
    twice, remedy = sorted(set(ids[ids.duplicated()])), "Rename or remove one, or list the ids in data.test_table."
    refuse(f"{raw / data.test_images}: two images for one id", twice, remedy)
    return pd.DataFrame({"id": ids, "path": list(found.values())}, dtype=str)


def _test_table(raw: Path, data: DataSettings, folder: ImageFolder, note: Note) -> Listing:
    path = _listing(raw, data.test_table, "data.test_table")
    table = read_listing(path, note)
    listing = choose_ids(path, table, data.id_column if data.id_column in table.columns else "", folder, 1)
    if not listing.is_complete:
        naming = [listing.by(name, folder) for name in id_columns(listing, folder)]
        if naming and all(each.files == naming[0].files for each in naming):
            listing = naming[0]
    note("tests" if data.sample_submission else "test ids", listing.source)
    return listing


def _sample(raw: Path, data: DataSettings, folder: ImageFolder, note: Note) -> Listing:
    path = _listing(raw, data.sample_submission, "data.sample_submission")
    table = read_listing(
        path, lambda _, text: note("note", f"{text} The submission will have commas, as Kaggle wants.")
    )
    listing = choose_ids(path, table, table.columns[index_columns(table)], folder, 2)
    _refuse_empty(path, "id", listing.ids)
    note("test ids", listing.source)
    return listing


def _sample_ids(listing: Listing, files: Sequence[str], sample: Listing, note: Note) -> list[str]:
    """Return for each row of the test table the id that the sample submission has for its image, or its own.

    The sample may name the images in another form, or by another column of the test table. Raises `UserError` if the
    sample wants an image that the table lacks.
    """
    wanted = sample.ids.tolist()
    images = sample.files
    if not any(images):
        column = next((name for name in listing.others if set(wanted) <= set(listing.table[name].tolist())), "")
        if column:
            by_value = dict(zip(listing.table[column].tolist(), files, strict=True))
            images = [by_value[name] for name in wanted]
            note("note", f"The ids of {sample.path.name} are those in column {shown(column)!r} of {listing.path.name}.")
    id_of = dict(zip(images, wanted, strict=True))
    known = set(files)
    absent = [
        f"line {line}: {quoted(name)}"
        for (line, name), image in zip(_by_line(sample.ids), images, strict=True)
        if image not in known
    ]
    remedy = (
        "A submission needs a row for each. Set data.test_table to the CSV that lists their images; or set "
        'data.test_table = "", which finds them in data.test_images by these ids.'
    )
    refuse(f"{sample.path}: ids that {listing.path.name} has no image for", absent, remedy)
    _refuse_repeated(sample.path, sample.ids, pd.Series("", index=sample.ids.index), images)
    result = [id_of.get(file, name) for file, name in zip(files, listing.ids.tolist(), strict=True)]
    if extra := len(known - set(images)):
        note(
            "note",
            f"Images of {listing.path.name} that are not in {sample.path.name}, and so not submitted: {extra:,}.",
        )
    twice = sorted({name for name, count in Counter(result).items() if count > 1})
    refuse(
        f"{listing.path} and {sample.path}: ids that mean different images in the two", twice, "Correct one of them."
    )
    return result


def _paths_below(images: Iterable[str], folder: str) -> dict[str, str]:
    """Return {path below `folder`, as all files of an image have it: path} in natural order."""
    top = posix(folder)
    return {common_name(image).removeprefix(f"{top}/"): image for image in sorted(images, key=natural_key)}


def _listing(raw: Path, name: str, key: str) -> Path:
    if not Path(from_raw(raw, name)).is_file():
        names = sorted(
            path.relative_to(raw).as_posix() for path in (*raw.glob("*.*"), *raw.glob("*/*.csv")) if path.is_file()
        )
        there = f"Correct {key}. {raw} has the files: {', '.join(map(shown, names[:30])) or 'none'}."
        raise UserError(f"There is no file {raw / name}, which {key} names.{did_you_mean(name, names)} {there}")
    return Path(from_raw(raw, name))


def _one_image_each(listing: Listing, folder: ImageFolder, remedy: str) -> list[str]:
    """Return the image of each row of a listing; raise `UserError` unless each id matches exactly one."""
    path, ids, matches = listing.path, listing.ids, listing.matches
    _refuse_empty(path, "id", ids)
    found = [(line, name, matches.found.get(normal(name), [])) for line, name in _by_line(ids)]
    none = [f"line {line}: {quoted(name)}" for line, name, files in found if not files]
    if 2 * len(none) > len(ids):
        held = f"{folder.path} holds {len(folder.images):,} images, such as {shown(folder.images[0])}."
        if len(none) == len(ids) and remedy != OF_SAMPLE:
            remedy = f"No id names one. Set {folder.key} to their folder, or correct column {shown(str(ids.name))}."
        remedy = f"{held} {_elsewhere(listing, folder) or remedy}"
    elif none:
        remedy = _elsewhere(listing, folder) or remedy
    if changed := [name for _, name, files in found if not files and CHANGED.fullmatch(name)]:
        remedy = (
            f"{few(changed)} look as a spreadsheet rewrites ids that it takes for numbers or dates. Put back the "
            "original CSV, and save it with no spreadsheet."
        )
    refuse(f"{path}: ids without an image in {folder.folder}", none, remedy)
    several = [f"line {line}: {quoted(name)} may be {' or '.join(files)}" for line, name, files in found if files[1:]]
    refuse(f"{path}: ids that match several images", several, "Write the id as a path, or remove the other images.")
    return [file for _, _, (file,) in found]


def _elsewhere(listing: Listing, folder: ImageFolder) -> str:
    """Return which column, or which other folder, has what the ids of a listing should name; else an empty text."""
    if columns := id_columns(listing, folder):
        names = ", ".join(map(shown, columns))
        first = shown(str(listing.ids.name))
        return f"These are the names in {names}, but the ids come from {first}. Put {names} first in this file."
    others = folder.others and f"{folder.others}/"
    everywhere = [each for each in image_files(folder.raw, "", folder.key) if not others or not each.startswith(others)]
    found = images_by_id(listing.ids, everywhere, "")
    if len(found) < listing.ids.nunique() or any(len(images) > 1 for images in found.values()):
        return ""
    place = os.path.commonpath([PurePosixPath(image).parent for images in found.values() for image in images])
    setting = f"{folder.key} = {json.dumps(place or '.', ensure_ascii=False)}"
    return f"The images of these ids are elsewhere. Set {setting}."


def _by_line(values: "pd.Series[str]") -> Iterable[tuple[int, str]]:
    """Return pairs of line and value; `Series.items` takes ten times as long."""
    return zip(values.index.tolist(), values.tolist(), strict=True)


def _refuse_repeated(path: Path, ids: "pd.Series[str]", labels: "pd.Series[str]", files: Sequence[str]) -> None:
    """Raise `UserError` if two rows have the same image, under one id or two."""
    first: dict[str, tuple[int, str]] = {}
    same, other = [], []
    for (line, name), label, file in zip(_by_line(ids), labels.tolist(), files, strict=True):
        earlier, known = first.setdefault(file, (line, label))
        if label != known:
            other.append(f"line {line}: {quoted(name)} is {quoted(label)}, on line {earlier} it is {quoted(known)}")
        elif line != earlier:
            same.append(f"line {line}: {quoted(name)}, first on line {earlier}")
    remedy = "Remove the rows with the wrong label. Several labels or boxes for one image are not supported."
    refuse(f"{path}: images with two different labels", other, remedy)
    refuse(f"{path}: images listed twice", same, "Remove the second rows.")


def _refuse_empty(path: Path, what: str, values: "pd.Series[str]") -> None:
    cases = [f"line {line}" for line in values.index[values == ""]]
    refuse(f"{path}: rows with an empty {what}", cases, "Fill it in, or remove these rows.")
