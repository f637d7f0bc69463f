"""The labelled rows and the test rows of a competition: each image with its id."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from pipelines.dataset.class_folders import labels_of
from pipelines.dataset.image_paths import image_files, images_by_id, natural_key, normal, posix, without_extension
from pipelines.dataset.tables import find_column, read_csv
from pipelines.settings.schema import DataSettings, SplitSettings
from pipelines.system.errors import UserError, did_you_mean, quoted, shown


def labelled_rows(raw: Path, data: DataSettings, split: SplitSettings, test_paths: Iterable[str] = ()) -> pd.DataFrame:
    """Return the labelled images: `id`, `path` (POSIX, relative to `raw`), `label`, and `group` (empty without groups).

    With a labels CSV, rows and ids are those of the CSV. Without one, each folder in `train_images` is a class, an id
    is the path below `train_images`, and the rows are in natural order. `test_paths`, the images of the test set, may
    be in the same folder, but must not be labelled. Raises `UserError`, with file and line, for anything missing,
    empty, repeated or ambiguous.
    """
    images = image_files(raw, data.train_images, "data.train_images")
    rows = (_listed_rows if data.labels else _class_folder_rows)(raw, data, split, images)
    labelled, tested = set(rows["path"].tolist()), set(test_paths)
    both = sorted(labelled & tested, key=natural_key)
    _refuse(f"{raw}: images both labelled and in the test set", both, "Check data.labels, test_table and test_images.")
    unlabelled = [image for image in images if image not in labelled and image not in tested]
    remedy = f"Label or remove them; if they are test images, list them in data.test_table, now {data.test_table!r}."
    _refuse(f"{raw / data.train_images}: images without a label in {data.labels}", unlabelled, remedy)
    return rows


def _listed_rows(raw: Path, data: DataSettings, split: SplitSettings, images: Sequence[str]) -> pd.DataFrame:
    path = _listing(raw, data.labels, "data.labels")
    table = read_csv(path)
    ids = find_column(table, path, data.id_column, 0)
    labels = find_column(table, path, data.label_column, 1)
    if ids.name == labels.name:
        raise UserError(f"{path}: column {ids.name!r} is both data.id_column and data.label_column. Change one.")
    _refuse_empty(path, "label", labels)
    files = _one_image_each(path, ids, images, data.train_images)
    _refuse_repeated(path, ids, labels, files)
    rows = pd.DataFrame({"id": ids, "path": files, "label": labels, "group": ""})
    if split.group_column:
        rows["group"] = find_column(table, path, split.group_column, 0)
        _refuse_empty(path, f"group (column {split.group_column!r})", rows["group"])
    return rows.reset_index(drop=True)


def _class_folder_rows(raw: Path, data: DataSettings, split: SplitSettings, images: Sequence[str]) -> pd.DataFrame:
    folder = raw / data.train_images
    if split.group_column:
        raise UserError(f"split.group_column is {split.group_column!r}, a column of data.labels, which names no CSV.")
    if not images:
        raise UserError(f"{folder} holds no images. Set data.train_images, or download again.")
    ids = _paths_below(images, data.train_images)
    rows = pd.DataFrame({"id": list(ids), "path": list(ids.values())}, dtype=str)
    return rows.assign(label=labels_of(list(ids), raw, data), group="")


def test_rows(raw: Path, data: DataSettings) -> tuple[pd.DataFrame, int]:
    """Return the test images, `id` and `path`, and the number of images in their folder that are not listed.

    The ids are those of `test_table`, else of `sample_submission`, in the order of that file. Without both they are
    all images of `test_images` in natural order; an id is the name without extension, or the path below `test_images`
    for an image in a subfolder. Without a list and the folder there are no rows. Raises as `labelled_rows` does.
    """
    key = "test_table" if data.test_table else "sample_submission"
    listing = getattr(data, key)
    if not listing and not (data.test_images and (raw / data.test_images).is_dir()):
        return pd.DataFrame({"id": [], "path": []}, dtype=str), 0
    images = image_files(raw, data.test_images, "data.test_images")
    if not listing:
        found = _paths_below(images, data.test_images)
        ids = pd.Series([name if "/" in name else without_extension(name) for name in found], dtype=str)
        twice, remedy = sorted(set(ids[ids.duplicated()])), "Rename or remove one, or list the ids in data.test_table."
        _refuse(f"{raw / data.test_images}: two images for one id", twice, remedy)
        return pd.DataFrame({"id": ids, "path": list(found.values())}, dtype=str), 0
    path = _listing(raw, listing, f"data.{key}")
    table = read_csv(path)
    ids = find_column(table, path, data.id_column if data.id_column in table.columns else "", 0)
    files = _one_image_each(path, ids, images, data.test_images)
    _refuse_repeated(path, ids, pd.Series("", index=ids.index), files)
    unlisted = 0 if posix(data.test_images) == posix(data.train_images) else len(images) - len(files)
    return pd.DataFrame({"id": ids.tolist(), "path": files}, dtype=str), unlisted


def _paths_below(images: Iterable[str], folder: str) -> dict[str, str]:
    """Return {path below `folder`: path} in natural order."""
    top = posix(folder)
    return {image.removeprefix(f"{top}/"): image for image in sorted(images, key=natural_key)}


def _listing(raw: Path, name: str, key: str) -> Path:
    if not (raw / name).is_file():
        names = sorted(path.name for path in raw.glob("*.csv"))
        there = f"{raw} has the CSVs: {', '.join(map(shown, names)) or 'none'}."
        raise UserError(f"There is no file {raw / name}, which {key} names.{did_you_mean(name, names)} {there}")
    return raw / name


def _one_image_each(path: Path, ids: "pd.Series[str]", images: Sequence[str], folder: str) -> list[str]:
    """Return the image of each id in the CSV at `path`; raise `UserError` unless each id matches exactly one."""
    _refuse_empty(path, "id", ids)
    found = images_by_id(ids.tolist(), images, folder)
    matches = [(line, name, found.get(normal(name), [])) for line, name in _by_line(ids)]
    none = [f"line {line}: {quoted(name)}" for line, name, files in matches if not files]
    _refuse(f"{path}: ids without an image in {folder}", none, "Download again, or remove these rows.")
    several = [f"line {line}: {quoted(name)} may be {' or '.join(files)}" for line, name, files in matches if files[1:]]
    remedy = "Write the id as a path, or remove the other images."
    _refuse(f"{path}: ids that match several images", several, remedy)
    return [file for _, _, (file,) in matches]


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
    _refuse(f"{path}: images with two different labels", other, "Remove the rows with the wrong label.")
    _refuse(f"{path}: images listed twice", same, "Remove the second rows.")


def _refuse_empty(path: Path, what: str, values: "pd.Series[str]") -> None:
    cases = [f"line {line}" for line in values.index[values == ""]]
    _refuse(f"{path}: rows with an empty {what}", cases, "Fill it in, or remove these rows.")


def _refuse(problem: str, cases: Sequence[str], remedy: str) -> None:
    """Raise `UserError` with the number of `cases` and the first three; do nothing if there are none."""
    if cases:
        first = "; ".join(map(shown, cases[:3])) + ("; …" if len(cases) > 3 else "")
        raise UserError(f"{problem}, {len(cases)} in all: {first}. {remedy}")
