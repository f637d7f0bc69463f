"""Reading what Kaggle gives: CSVs, folders of images, and which file each id means."""

import csv
import errno
import io
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from pipelines.settings.schema import DataSettings, SplitSettings
from pipelines.system.errors import UserError, did_you_mean, quoted, shown
from pipelines.system.files import write_text

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
# A spreadsheet takes what begins so for a formula, which may call programs; some take the wide forms of East Asia too.
FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
FEW = 3  # cases that an error spells out before it only counts


def read_csv(path: Path, strip: bool = True, may_lack_rows: bool = False) -> pd.DataFrame:
    """Return the CSV at `path` as columns of text, indexed by the line on which each row starts (the header is 1).

    Nothing is guessed: `007` keeps its zeros, and a class named `NA` or `nan` stays a class.  A byte order mark, either
    kind of line end, quoted fields and blank lines are understood.  `strip` takes the spaces off both ends of every
    name and value.

    Raises `UserError`, with the line, for a file that is missing, empty, not UTF-8 or not a table; and for a header
    alone, unless the file `may_lack_rows`.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.") from None
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
            raise
        raise UserError(f"{path} is not a file that can be read: {error.strerror}. Name a CSV.") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        raise UserError(f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8. Save the file as UTF-8.") from None
    rows, lines, start = [], [], 1
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if row:
                rows.append([value.strip() for value in row] if strip else row)
                lines.append(start)
            start = reader.line_num + 1  # line_num is where a row ends; one with line ends in quotes starts earlier
    except csv.Error as error:
        raise UserError(f"{path}, line {start}: not valid CSV: {error}. Mend this row.") from None
    if len(rows) < (1 if may_lack_rows else 2):
        raise UserError(f"{path} {'has a header but no rows' if rows else 'is empty'}. Download it again.")
    header = rows.pop(0)
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise UserError(f"{path}, line {lines[0]}: two columns are named {repeated[0]!r}. Rename one.")
    for line, row in zip(lines[1:], rows, strict=True):
        if len(row) != len(header):
            raise UserError(f"{path}, line {line}: {len(row)} values for {len(header)} columns. Mend this row.")
    columns = dict(zip(header, zip(*rows, strict=True) if rows else [()] * len(header), strict=True))
    return pd.DataFrame(columns, index=pd.Index(lines[1:], name="line"), dtype=str)


def spreadsheet_safe(text: str) -> str:
    """Return `text` for a CSV that people open in a spreadsheet: what would become a formula there gets an apostrophe
    before it; a number stays.

    Not for what is read again, as split.csv, submissions and log.csv are: there labels and ids have to stay exact.
    """
    return f"'{text}" if text.startswith(FORMULA_STARTS) and not NUMBER.fullmatch(text) else text


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write `table`, atomically; `read_csv` without `strip` returns the same texts."""
    write_text(path, table_text(table))


def table_text(table: pd.DataFrame) -> str:
    """Return the CSV of `table`; see `csv_text`."""
    columns = [table[name].tolist() for name in table]
    return csv_text([tuple(table.columns), *zip(*columns, strict=True)])


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return the CSV of `rows`, header first, with Unix line ends; `read_csv` returns the same values."""
    rows = list(rows)
    # Python 3.11 leaves a carriage return without quotes, though its own reader takes it for the end of a line.
    returns = any("\r" in value for row in rows for value in row if isinstance(value, str))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
    writer.writerows(rows)
    return text.getvalue()


def find_column(table: pd.DataFrame, path: Path, wanted: str, position: int) -> "pd.Series[str]":
    """Return the column named `wanted`, or the one at `position` (from 0) when `wanted` is empty.

    Raises `UserError` when `table`, read from `path`, has no such column.
    """
    names = list(table.columns)
    if not wanted and position < len(names):
        return table[names[position]]
    if wanted in names:
        return table[wanted]
    missing = f"column {wanted!r}" if wanted else f"column number {position + 1}"
    raise UserError(f"{path} has no {missing}.{did_you_mean(wanted, names)} It has: {', '.join(map(shown, names))}.")


def natural_key(text: str) -> tuple[tuple[str | int, ...], str]:
    """Return a sort key that puts `2` before `10`: runs of digits compare as numbers."""
    runs = re.split("([0-9]+)", text)  # text and digits in turn, so like always meets like
    return tuple(int(run) if place % 2 else run for place, run in enumerate(runs)), text


def normal(text: str) -> str:
    """Return `text` in Unicode's composed form: some systems list the file `ä` as `a` and a combining diaeresis."""
    return unicodedata.normalize("NFC", text)


def without_extension(name: str) -> str:
    """Return an id or path without its image extension; any other dot belongs to the name."""
    stem, dot, extension = name.rpartition(".")
    return stem if dot + extension.lower() in IMAGE_EXTENSIONS else name


def image_files(raw: Path, folder: str, key: str) -> list[str]:
    """Return the images at any depth below `raw/folder`: POSIX paths relative to `raw`, sorted as text.

    Hidden files and folders are left out; symbolic links are followed.  The listing alone tells folders from files, so
    300,000 images cost no `stat` each.

    Raises `UserError` when the folder, which the setting `key` names, is missing, and for a link that leads nowhere or
    a name that is not UTF-8.
    """
    top = _posix(folder)
    if not (raw / top).is_dir():
        names = sorted(entry.name for entry in raw.iterdir() if entry.is_dir())
        raise UserError(
            f"There is no folder {raw / top}, which {key} names.{did_you_mean(top, names)} "
            f"{raw} has the folders: {', '.join(map(shown, names)) or 'none'}."
        )
    images, pending = [], [top and f"{top}/"]
    while pending:
        prefix = pending.pop()
        with os.scandir(f"{raw}/{prefix}") as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    pending.append(f"{prefix}{entry.name}/")
                elif entry.name.lower().endswith(IMAGE_EXTENSIONS):
                    if not entry.is_file():
                        raise UserError(f"{shown(entry.path)} is a link that leads nowhere. Mend or remove it.")
                    images.append(prefix + entry.name)
    try:
        "".join(images).encode()
    except UnicodeEncodeError:
        name = next(image for image in images if re.search("[\ud800-\udfff]", image))
        raise UserError(f"{raw}: the file name {name!r} is not UTF-8. Rename it.") from None
    return sorted(images)


def _posix(folder: str) -> str:
    """`train/` and `./train` as `train`; the raw folder itself as an empty text."""
    path = PurePosixPath(folder).as_posix()
    return "" if path == "." else path


def files_meant(ids: Iterable[str], images: Sequence[str], folder: str) -> dict[str, list[str]]:
    """Return for each id, in `normal` form, the `images` it may mean: one, or several when it is ambiguous.

    An id is read as a path from the raw folder, else a path from `folder`, else a file's name; then each of these
    without the extension.  The first reading that finds anything counts.  An id that means nothing is left out.
    """
    top = _posix(folder)
    below = len(top) + 1 if top else 0
    readings: tuple[Callable[[str], str], ...] = (
        lambda image: image,
        lambda image: image[below:],
        lambda image: image.rpartition("/")[2],
        without_extension,
        lambda image: without_extension(image[below:]),
        lambda image: without_extension(image.rpartition("/")[2]),
    )
    pending = {normal(identifier) for identifier in ids}
    found: dict[str, list[str]] = {}
    for reading in readings:
        matches: dict[str, list[str]] = {}
        for image in images:
            if (name := normal(reading(image))) in pending:
                matches.setdefault(name, []).append(image)
        found |= matches
        pending -= matches.keys()
        if not pending:
            break
    return found


def labelled_rows(raw: Path, data: DataSettings, split: SplitSettings, test_paths: Iterable[str] = ()) -> pd.DataFrame:
    """Return the labelled images: `id`, `path` (POSIX, relative to `raw`), `label`, and `group` (empty without groups).

    With a labels CSV the rows and ids are the CSV's.  Without one, each folder in `train_images` is a class, an id is
    the path below `train_images`, and the rows come in natural order.  `test_paths` are the images of the test set:
    they may lie in the same folder, but none may be labelled.

    Raises `UserError`, with file and line, for whatever is missing, empty, doubled or ambiguous.
    """
    images = image_files(raw, data.train_images, "data.train_images")
    rows = _listed_rows(raw, data, split, images) if data.labels else _class_folder_rows(raw, data, split, images)
    labelled, tested = set(rows["path"].tolist()), set(test_paths)
    _refuse(
        raw,
        "images both labelled and in the test set",
        sorted(labelled & tested, key=natural_key),
        "Check data.labels, data.test_table and data.test_images.",
    )
    _refuse(
        raw / data.train_images,
        f"images without a label in {data.labels}",
        [image for image in images if image not in labelled and image not in tested],
        f"Label or remove them; if they are test images, list them in data.test_table, now {data.test_table!r}.",
    )
    return rows


def _listed_rows(raw: Path, data: DataSettings, split: SplitSettings, images: Sequence[str]) -> pd.DataFrame:
    path = _named_file(raw, data.labels, "data.labels")
    table = read_csv(path)
    ids = find_column(table, path, data.id_column, 0)
    labels = find_column(table, path, data.label_column, 1)
    if ids.name == labels.name:
        raise UserError(f"{path}: column {ids.name!r} is both data.id_column and data.label_column. Set one of them.")
    _refuse_empty(path, "label", labels)
    files = _one_file_each(path, ids, images, data.train_images)
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
    ids = _ids_below(images, data.train_images)
    _refuse(
        folder,
        "images beside the class folders",
        [identifier for identifier in ids if "/" not in identifier],
        "Move each into the folder of its class, or name the labels CSV in data.labels.",
    )
    rows = pd.DataFrame({"id": list(ids), "path": list(ids.values())}, dtype=str)
    return rows.assign(label=[identifier.partition("/")[0] for identifier in ids], group="")


def _ids_below(images: Iterable[str], folder: str) -> dict[str, str]:
    """Return {path below `folder`: path} in natural order."""
    top = _posix(folder)
    return {image.removeprefix(f"{top}/"): image for image in sorted(images, key=natural_key)}


def test_rows(raw: Path, data: DataSettings) -> tuple[pd.DataFrame, int]:
    """Return the test images, `id` and `path`, and how many more lie in their folder that no list asks for.

    The ids are those of `test_table`, else of `sample_submission`, in that file's order.  Without either they are all
    images of `test_images` in natural order, the id being the name without extension, or the path below
    `test_images` for an image in a subfolder.  With no list and no such folder there are no rows.

    Raises `UserError`, with file and line, for whatever is missing, empty, doubled or ambiguous.
    """
    listing, key = (
        (data.test_table, "data.test_table") if data.test_table else (data.sample_submission, "data.sample_submission")
    )
    if not listing and not (data.test_images and (raw / data.test_images).is_dir()):
        return pd.DataFrame({"id": [], "path": []}, dtype=str), 0
    images = image_files(raw, data.test_images, "data.test_images")
    if not listing:
        found = _ids_below(images, data.test_images)
        ids = pd.Series([name if "/" in name else without_extension(name) for name in found], dtype=str)
        _refuse(
            raw / data.test_images,
            "two images for one id",
            sorted(set(ids[ids.duplicated()])),
            "Rename or remove one, or list the ids in data.test_table.",
        )
        return pd.DataFrame({"id": ids, "path": list(found.values())}, dtype=str), 0
    path = _named_file(raw, listing, key)
    table = read_csv(path)
    ids = find_column(table, path, data.id_column if data.id_column in table.columns else "", 0)
    files = _one_file_each(path, ids, images, data.test_images)
    _refuse_repeated(path, ids, pd.Series("", index=ids.index), files)
    unlisted = 0 if _posix(data.test_images) == _posix(data.train_images) else len(images) - len(files)
    return pd.DataFrame({"id": ids.tolist(), "path": files}, dtype=str), unlisted


def _named_file(raw: Path, name: str, key: str) -> Path:
    path = raw / name
    if not path.is_file():
        names = sorted(file.name for file in raw.glob("*.csv"))
        raise UserError(
            f"There is no file {path}, which {key} names.{did_you_mean(name, names)} "
            f"{raw} has the CSVs: {', '.join(map(shown, names)) or 'none'}."
        )
    return path


def _one_file_each(path: Path, ids: "pd.Series[str]", images: Sequence[str], folder: str) -> list[str]:
    """Return the image that each id in the CSV at `path` means; raise `UserError` unless it is exactly one."""
    _refuse_empty(path, "id", ids)
    found = files_meant(ids.tolist(), images, folder)
    meant = [(line, name, found.get(normal(name), [])) for line, name in _numbered(ids)]
    _refuse(
        path,
        f"ids without an image in {folder}",
        [f"line {line}: {quoted(name)}" for line, name, files in meant if not files],
        "Download again, or remove these rows.",
    )
    _refuse(
        path,
        "ids that several images fit",
        [f"line {line}: {quoted(name)} may be {' or '.join(files)}" for line, name, files in meant if len(files) > 1],
        "Write the id as a path, or remove the images that are not meant.",
    )
    return [file for _, _, (file,) in meant]


def _numbered(values: "pd.Series[str]") -> Iterable[tuple[int, str]]:
    """Each value with its line; a Series' own `items` takes ten times as long."""
    return zip(values.index.tolist(), values.tolist(), strict=True)


def _refuse_repeated(path: Path, ids: "pd.Series[str]", labels: "pd.Series[str]", files: Sequence[str]) -> None:
    """Raise `UserError` when two rows mean the same image, under one id or two."""
    first: dict[str, tuple[int, str]] = {}
    same, other = [], []
    for (line, name), label, file in zip(_numbered(ids), labels.tolist(), files, strict=True):
        earlier_line, earlier_label = first.setdefault(file, (line, label))
        if earlier_line == line:
            continue
        if label == earlier_label:
            same.append(f"line {line}: {quoted(name)}, first on line {earlier_line}")
        else:
            other.append(
                f"line {line}: {quoted(name)} is {quoted(label)}, on line {earlier_line} it is {quoted(earlier_label)}"
            )
    _refuse(path, "images with two different labels", other, "Only you can know which holds: remove the wrong rows.")
    _refuse(path, "images listed twice", same, "Remove the second rows.")


def _refuse_empty(path: Path, what: str, values: "pd.Series[str]") -> None:
    cases = [f"line {line}" for line in values.index[values == ""]]
    _refuse(path, f"rows with an empty {what}", cases, "Fill it in, or remove these rows.")


def _refuse(where: Path, what: str, cases: Sequence[str], way_out: str) -> None:
    """Raise a `UserError` about `cases`, if there are any: how many, and the first few."""
    if cases:
        few = "; ".join(map(shown, cases[:FEW])) + ("; …" if len(cases) > FEW else "")
        raise UserError(f"{where}: {what}, {len(cases)} in all: {few}. {way_out}")
