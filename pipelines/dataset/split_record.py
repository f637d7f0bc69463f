"""Write and read the record of a split, and say what has changed since the split was made."""

import csv
import hashlib
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines.dataset.encodings import listed_names, listing_file
from pipelines.dataset.image_paths import JUNK, files_of, image_files, posix
from pipelines.dataset.name_patterns import LABEL, named_groups
from pipelines.dataset.recorded_sizes import resized, sample_sizes
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.layout import Layout, split_sha256
from pipelines.settings.loading import differences, overlay, to_dict
from pipelines.settings.metrics import BOXES, ONE_CLASS
from pipelines.settings.schema import Settings
from pipelines.system import files
from pipelines.system.errors import UserError, few, quoted, shown
from pipelines.system.files import file_sha256, read_json
from pipelines.system.shell import removal

if TYPE_CHECKING:
    import pandas as pd

SPLIT_SECTIONS = ("data", "split")  # settings that determine a split
OUTSIDE_A_SPLIT = ("data.accept:", "data.submitted_labels:", "split.tree:")  # the keys among them that change no row
WHITE = "data.white:"  # changes no row either, unless images of tables are written as files
GROUP_FILE = "split.group_file"  # key of its SHA-256 among the inputs of a split
DOWNLOAD_RECORD = ".download.json"  # inside the raw folder
DOWNLOADED = ("sha256", "files", "bytes")  # of the download record: the same data may come from a renamed archive
FOLDERS_NAMED = 10  # of each kind, in a message
NOT_COMPARABLE = "runs of the old split are then not comparable"

Kind = Literal["labelled", "test", "sample"]


@dataclass(frozen=True)
class Change:
    """Something that has changed since the split was made; `kind` says what it is about."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class Listing:
    """The names of the images in the data folders; `empty` are class folders without an image."""

    labelled: list[str]
    test: list[str]
    empty: list[str]

    @property
    def digest(self) -> str:
        names = "\0\0".join("\0".join(part) for part in (self.labelled, self.test, self.empty))
        return hashlib.sha256(names.encode()).hexdigest()


@dataclass(frozen=True)
class _Images:
    """Images as a split counts them. top: the folder. classes: whether the folders in `top` are classes."""

    top: str
    classes: bool

    def folder(self, path: str) -> str:
        """Return the class folder of `path`, or its folder; both below `top`."""
        below = path.removeprefix(f"{self.top}/") if self.top else path
        return below.partition("/")[0] if self.classes else below.rpartition("/")[0]

    def by_folder(self, paths: Iterable[str]) -> dict[str, set[str]]:
        """Return {folder below `top`: names below that folder}; images in `top` itself are left out."""
        found: dict[str, set[str]] = defaultdict(set)
        for path in paths:
            if folder := self.folder(path):
                found[folder].add(path.removeprefix(f"{self.top}/{folder}/" if self.top else f"{folder}/"))
        return found

    @property
    def word(self) -> str:
        return "class folder" if self.classes else "folder"


def list_images(raw: Path, data: DataSettings) -> Listing:
    """Return the present listing of the data folders, without a `stat` per file; a missing folder has no images.

    Images that are rows of a table have no files in the data folders; the table is among the inputs of a split.
    """
    if data.pixel_columns:
        return Listing([], [], [])
    labelled = _images_in(raw, data.train_images, "data.train_images")
    apart = posix(data.test_images) != posix(data.train_images)
    test = _images_in(raw, data.test_images, "data.test_images") if apart and data.test_images else []
    if f"{posix(data.test_images)}/".startswith(f"{posix(data.train_images)}/".lstrip("/")):
        labelled = sorted({*labelled} - {*test})  # a test folder inside that of the labelled images
    empty: list[str] = []
    if _has_class_folders(data) and (raw / data.train_images).is_dir():
        images = _Images(posix(data.train_images), classes=True)
        full = {images.folder(path) for path in (*labelled, *test)}
        with os.scandir(raw / data.train_images) as entries:
            names = [entry.name for entry in entries if entry.name not in full and entry.is_dir()]
        empty = sorted(name for name in names if not name.startswith(".") and name not in JUNK)
    return Listing(labelled, test, empty)


def _has_class_folders(data: DataSettings) -> bool:
    """Return whether every folder in data.train_images is a class, or holds classes."""
    return not (data.labels or data.class_folders or LABEL in named_groups(data.label_pattern))


def _images_in(raw: Path, folder: str, key: str) -> list[str]:
    return image_files(raw, folder, key) if (raw / folder).is_dir() else []


def split_inputs(layout: Layout, settings: Settings) -> dict[str, str]:
    """Return the SHA-256 of each input of a split: the tables, the download record and split.group_file, if present."""
    data = settings.data
    named = (data.labels, data.test_table, data.sample_submission)
    names = [each for name in named if name for each in listed_names(layout.raw, name)]
    paths = {name: listing_file(layout.raw / name) for name in (*names, DOWNLOAD_RECORD)}
    paths[GROUP_FILE] = layout.root / settings.split.group_file  # the root folder if not set
    found = {name: file_sha256(path) for name, path in paths.items() if path.is_file()}
    if settings.competition.task == BOXES and (folder := layout.raw / data.labels).is_dir():
        from pipelines.dataset.voc import xml_files

        contents = "".join(f"{path.relative_to(folder)}\0{file_sha256(path)}\n" for path in xml_files(folder))
        found[data.labels] = hashlib.sha256(contents.encode()).hexdigest()
    return found


def write_split_record(
    layout: Layout, settings: Settings, rows: "pd.DataFrame", links: Mapping[str, int], listing: Listing
) -> None:
    """Write the record of the split `rows`, whose tree has `links`; the tree and split.csv must be complete.

    links: none without a tree.
    """
    sections = to_dict(settings)
    record = {name: sections[name] for name in SPLIT_SECTIONS} | {
        "task": settings.competition.task,
        "images": {name: int((rows["split"] == name).sum()) for name in ("train", "valid", "test")},
        "classes": rows["label"][rows["split"] != "test"].nunique(),
        "links": dict(links),
        "inputs": split_inputs(layout, settings),
        "download": _download(layout),
        "listing": _listing_record(listing, rows["path"].tolist()),
        "sizes": sample_sizes(layout.raw, settings, rows),
        "split_csv_sha256": split_sha256(layout.split_csv),
    }
    files.write_json(layout.split_record, record)


def complete_split_record(layout: Layout, settings: Settings) -> None:
    """Add what a record of an older version lacks; call it after `split_is_made`, which has compared the rest."""
    record = read_json(layout.split_record)
    if "listing" not in record:
        listing = _listing_record(list_images(layout.raw, settings.data), _split_rows(layout))
        files.write_json(layout.split_record, record | {"download": _download(layout), "listing": listing})


def record_tree(layout: Layout, links: Mapping[str, int]) -> None:
    """Write into the record of the split which `links` its tree has; none without a tree."""
    record = read_json(layout.split_record)
    split = record["split"] | {"tree": bool(links)}
    files.write_json(layout.split_record, record | {"split": split, "links": dict(links)})


def tree_is_as_set(layout: Layout, settings: Settings) -> bool:
    """Return whether the tree of the split exists, or does not exist, as `split.tree` says."""
    wanted = settings.split.tree
    return layout.tree.is_dir() == wanted == _has_tree(read_json(layout.split_record))


def _has_tree(record: Mapping[str, Any]) -> bool:
    """Return whether a split was made with a tree; those of older versions were."""
    return bool(record["split"].get("tree", True))


def _listing_record(listing: Listing, used: Iterable[str]) -> dict[str, Any]:
    return {
        "train_images": len(listing.labelled),
        "test_images": len(listing.test),
        "unused": sorted({*listing.labelled} - {file for path in used for file in files_of(path)}),
        "empty_class_folders": listing.empty,
        "sha256": listing.digest,
    }


def _download(layout: Layout) -> dict[str, Any]:
    """Return what the download record says about the data; empty without a record."""
    try:
        content = read_json(layout.raw / DOWNLOAD_RECORD)
        return {name: content[name] for name in DOWNLOADED}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def split_is_made(layout: Layout, settings: Settings, split_command: str) -> bool:
    """Return whether the split of `settings` exists. Raises `UserError` if it was made from anything else.

    It must have its tree only if it was made with one, and `split.tree` still wants it: no stage reads it. The message
    says what has changed and how to split again; its last command is `split_command`.
    """
    if not (layout.split_record.exists() and layout.split_csv.exists()):
        return False
    again = f"split again ({NOT_COMPARABLE}): {split_again(layout, split_command)}"
    record = _read_record(layout, split_command)
    _check_settings(layout, settings, record, again)
    if settings.competition.task == BOXES and not layout.boxes_csv.exists():
        return False
    if split_sha256(layout.split_csv) != record["split_csv_sha256"]:
        names = " or ".join(_short(layout, path) for path in (layout.split_csv, layout.boxes_csv) if path.exists())
        raise UserError(f"{names} was changed after it was made. Put it back, or {again}")
    if found := _changes(layout, settings, record):
        raise UserError(_since(layout, found, split_command))
    without_tree = not (settings.split.tree and _has_tree(record))
    return (without_tree or layout.tree.is_dir()) and (layout.images.is_dir() or not settings.data.pixel_columns)


def _check_settings(layout: Layout, settings: Settings, record: Mapping[str, Any], again: str) -> None:
    """Raise `UserError` if the split was made with other settings. again: how to split again, for the message."""
    recorded = {name: record[name] for name in SPLIT_SECTIONS}
    then = overlay(Settings(settings.name), recorded, str(layout.split_record))
    outside = OUTSIDE_A_SPLIT if settings.data.pixel_columns else (*OUTSIDE_A_SPLIT, WHITE)
    changed = [line for line in differences(settings, then, SPLIT_SECTIONS) if not line.startswith(outside)]
    task, former = settings.competition.task, record.get("task", ONE_CLASS)  # records of older versions lack it
    changed += [f"competition.task: {task!r} now, {former!r} then"] if task != former else []
    if changed:
        problem = f"{settings.name} is already split, with other settings: {'; '.join(changed)}"
        raise UserError(f"{problem}. Undo these, or {again}")


def require_split(layout: Layout, settings: Settings, split_command: str) -> None:
    """Raise `UserError`, with `split_command`, unless the split of `settings` exists and nothing has changed since."""
    if not split_is_made(layout, settings, split_command):
        absent = ", ".join(_short(layout, path) for path in split_parts(layout, settings) if not path.exists())
        raise UserError(f"The split is not complete: {absent} is missing. First: {split_command}")


def split_parts(layout: Layout, settings: Settings) -> list[Path]:
    """Return the files and folders of a complete split."""
    parts = [layout.split_csv, layout.split_record]
    parts += [layout.boxes_csv] if settings.competition.task == BOXES else []
    parts += [layout.tree] if settings.split.tree else []
    return parts + ([layout.images] if settings.data.pixel_columns else [])


def check_unchanged(layout: Layout, settings: Settings, split_command: str, *kinds: Kind) -> str:
    """Raise `UserError` if anything of `kinds` has changed since the split was made; return a note about the rest.

    If there are any `kinds`, `settings` must be those of the split too. The note is empty if nothing else has changed,
    and if the split has no record.
    """
    if not (layout.split_record.exists() and layout.split_csv.exists()):
        return ""
    record = _read_record(layout, split_command)
    if kinds:
        again = f"split again ({NOT_COMPARABLE}): {split_again(layout, split_command)}"
        _check_settings(layout, settings, record, again)
    found = _changes(layout, settings, record)
    if any(change.kind in kinds for change in found):
        raise UserError(_since(layout, found, split_command))
    return f"Note: {_since(layout, found, split_command)}" if found else ""


def _since(layout: Layout, found: Iterable[Change], split_command: str) -> str:
    """Return the message about changes since the split was made."""
    texts = "; ".join(change.text for change in found)
    csv_name, again = _short(layout, layout.split_csv), split_again(layout, split_command)
    problem = f"The data in {_short(layout, layout.raw)} have changed since {csv_name} was made: {texts}"
    return f"{problem}. Put back what was there, or split again ({NOT_COMPARABLE}): {again}"


def split_again(layout: Layout, split_command: str) -> str:
    """Return the commands that remove the split and make it again."""
    return f"{split_removal(layout)} && {split_command}"


def split_removal(layout: Layout) -> str:
    """Return the command that removes what exists of the split."""
    return removal(layout.split_record, layout.split_csv, layout.tree, *_written(layout))


def _written(layout: Layout) -> list[Path]:
    return [path for path in (layout.boxes_csv, layout.images) if path.exists()]


def is_split_by_audit(layout: Layout) -> bool:
    """Return whether the split was made with the current groups CSV of `audit`, which must then not be overwritten.

    `split.group_file` may name it by another path, or through a link.
    """
    groups = layout.audit.groups
    if not (layout.split_record.exists() and groups.is_file()):
        return False
    record = _read_record(layout, "make split")
    group_file = layout.root / record["split"].get("group_file", "")  # absent in older records
    used = group_file.is_file() and group_file.samefile(groups)
    return bool(used and record["inputs"].get(GROUP_FILE) == file_sha256(groups))


def _read_record(layout: Layout, split_command: str) -> dict[str, Any]:
    """Return the split's record. Raises `UserError` if it is damaged."""
    try:
        record = read_json(layout.split_record)
        parts = {name: dict(record[name]) for name in (*SPLIT_SECTIONS, "inputs")}
        return dict(record) | parts | {"split_csv_sha256": str(record["split_csv_sha256"])}
    except (ValueError, KeyError, TypeError) as error:
        problem = f"{_short(layout, layout.split_record)} is damaged ({error!r})"
        raise UserError(f"{problem}. Split again: {split_again(layout, split_command)}") from None


def _changes(layout: Layout, settings: Settings, record: Mapping[str, Any]) -> list[Change]:
    sizes = [Change("labelled", text) for text in resized(layout.raw, record.get("sizes", {}))]
    return [*_changed_inputs(layout, settings, record), *_changed_images(layout, settings, record), *sizes]


def _changed_inputs(layout: Layout, settings: Settings, record: Mapping[str, Any]) -> Iterator[Change]:
    data, then, now = settings.data, record["inputs"], split_inputs(layout, settings)
    for name in dict.fromkeys((*then, *now)):
        if then.get(name) == now.get(name):
            continue
        labels = listed_names(layout.raw, data.labels)
        kind: Kind = "sample" if name == data.sample_submission and name not in labels else "labelled"
        state = "is missing" if name not in now else "has changed" if name in then else "is new"
        if name == GROUP_FILE:
            yield Change(kind, f"{shown(settings.split.group_file)} (split.group_file) {state}")
        elif name != DOWNLOAD_RECORD:
            tests = listed_names(layout.raw, data.test_table)
            yield Change("test" if name in tests else kind, f"{shown(name)} {state}")
        elif name in then and name in now and _download(layout) != record.get("download"):
            yield Change(kind, "they were unpacked from another archive")


def _changed_images(layout: Layout, settings: Settings, record: Mapping[str, Any]) -> Iterator[Change]:
    """Yield what has changed in the listing of images; only if its digest differs, split.csv is read."""
    data, known, now = settings.data, record.get("listing", {}), list_images(layout.raw, settings.data)
    if known.get("sha256") == now.digest:
        return
    rows, present = _split_rows(layout), {*now.labelled, *now.test}
    ignored = {*rows, *known.get("unused", ())}
    listed = bool(data.test_table or data.sample_submission)  # then other test images do not matter
    new_test = [] if listed else sorted({*now.test} - {*now.labelled} - rows.keys())
    new = [path for path in now.labelled if path not in ignored]
    gone = sorted(rows.keys() - present)
    kept = [path for path in rows if path in present]
    images = _Images(posix(data.train_images), _has_class_folders(data) and data.class_level == 1)
    lost = [path for path in gone if rows[path] != "test"]
    texts = _differences(images, lost, new, [path for path in kept if rows[path] != "test"], now.empty)
    then_empty = known.get("empty_class_folders", now.empty)
    before, seen = {*then_empty, *images.by_folder(lost)}, {*now.empty, *images.by_folder(now.labelled)}
    texts += [f"class folder {quoted(name)} is new, and empty" for name in now.empty if name not in before]
    texts += [f"the empty class folder {quoted(name)} is gone" for name in then_empty if name not in seen]
    yield from (Change("labelled", text) for text in texts)
    tests = _Images(posix(data.test_images), classes=False)
    lost = [path for path in gone if rows[path] == "test"]
    kept = [path for path in kept if rows[path] == "test"]
    yield from (Change("test", text) for text in _differences(tests, lost, new_test, kept, []))


def _differences(
    images: _Images, gone: Collection[str], new: Collection[str], kept: Iterable[str], empty: Collection[str]
) -> list[str]:
    """Return texts about whole folders that are new, gone or renamed, then about the other images."""
    lost, added, stay = images.by_folder(gone), images.by_folder(new), images.by_folder(kept)
    lost_folders = [name for name in lost if name not in stay and name not in added]
    new_folders = [name for name in added if name not in stay and name not in lost]
    lines, settled = [], set()
    for old in lost_folders:
        if match := next((name for name in new_folders if name not in settled and added[name] == lost[old]), None):
            settled |= {old, match}
            lines.append(f"{images.word} {quoted(old)} is now {quoted(match)}")
    for folders, found, state in ((lost_folders, lost, "gone"), (new_folders, added, "new")):
        for name in folders:
            if name not in settled:
                word = "now empty" if name in empty else state
                count = len(found[name])
                lines.append(f"{images.word} {quoted(name)} is {word} ({count:,} image{'s' * (count != 1)})")
    more = [f"{len(lines) - FOLDERS_NAMED:,} more {images.word}s differ"] if len(lines) > FOLDERS_NAMED else []
    lines = lines[:FOLDERS_NAMED] + more
    whole = {*lost_folders, *new_folders}
    for paths, state in ((gone, "removed"), (new, "added")):
        if single := [path for path in paths if images.folder(path) not in whole]:
            lines.append(f"{len(single):,} image{'s' * (len(single) != 1)} {state}, e.g. {few(single)}")
    return lines


def _split_rows(layout: Layout) -> dict[str, str]:
    """Return {file: split} of split.csv, without pandas."""
    with open(layout.split_csv, encoding="utf-8", newline="") as file:
        return {image: row["split"] for row in csv.DictReader(file) for image in files_of(row["path"])}


def _short(layout: Layout, path: Path) -> str:
    """Return `path` relative to the working folder."""
    return str(path.relative_to(layout.root)) if path.is_relative_to(layout.root) else str(path)
