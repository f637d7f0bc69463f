"""The labelled rows of a competition: each image with its id and target."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from pipelines.dataset.annotations import JsonTable
from pipelines.dataset.box_tables import box_targets, gather_boxes, target_of
from pipelines.dataset.class_folders import in_class_folders, labels_of, without_tests
from pipelines.dataset.columns import (
    ImageFolder,
    Listing,
    choose_ids,
    choose_targets,
    name_files,
    refuse_other_images,
    several_advice,
)
from pipelines.dataset.encodings import listed_names
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
from pipelines.dataset.matching import OF_TABLE, by_line, one_image_each, repeated
from pipelines.dataset.name_patterns import GROUP, LABEL, described, match_names, named_groups
from pipelines.dataset.named_tables import OF_TESTS, marked_tests, read_labels, sample_answers, sample_columns
from pipelines.dataset.raw_data import Flaw, RawData
from pipelines.dataset.tables import find_column
from pipelines.dataset.target_cells import Targets, of_cells
from pipelines.dataset.targets import join_labels
from pipelines.dataset.vocabulary import is_number
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.metrics import BOXES, NUMBERS, ONE_CLASS, SEVERAL_LABELS
from pipelines.settings.overrides import toml
from pipelines.system.errors import UserError, few, quoted, refuse


def labelled_rows(source: RawData, test_paths: Iterable[str] = ()) -> pd.DataFrame:
    """Return the labelled images: `id`, `path` (POSIX, relative to the raw folder), `label` and `group` (maybe empty).

    `label` is the target as text, as `targets.py` describes it. With data.labels, rows and ids are those of that table.
    Without it, each folder in data.train_images is a class, or data.label_pattern finds the label in the name; an id is
    the path below data.train_images, and the rows are in natural order. `test_paths`, the images of the test set, may
    be in the same folder, but must not be labelled. `source.dropped` receives the rows that data.flaws drops.
    Raises `UserError`, with file and line, for anything missing, empty, repeated or ambiguous.
    """
    raw, data, tests = source.raw, source.data, set(test_paths)
    if source.task == BOXES and not data.labels:
        raise UserError(f"{raw}: data.labels is empty; name the table of boxes, or the folder of their XML files.")
    images = without_tests(image_files(raw, data.train_images, "data.train_images", data.channel_files), data)
    if not images:
        raise UserError(no_images(raw, data.train_images, "data.train_images"))
    rows, known = (_listed_rows if data.labels else _rows_by_name)(source, images, tests)
    if rows.empty:
        raise UserError(f'{raw}: no row has both an image and a target, so data.flaws = "drop" leaves out all.')
    both = sorted(set(rows["path"].tolist()) & tests, key=natural_key)
    refuse(f"{raw}: images both labelled and in the test set", both, _both(data))
    others = [image for image in images if image not in known and image not in tests]
    if source.task == BOXES:
        rows = _with_others(source, rows, others)
    else:
        _leave_out_unlabelled(source, others)
    return rows[["id", "path", "label", "group"]].reset_index(drop=True)


def _both(data: DataSettings) -> str:
    origin = data.labels or f"the class folders of {data.train_images}"
    listed = data.test_table or data.sample_submission or f"the folder {data.test_images}"
    keys = f"data.{'labels' if data.labels else 'train_images'} and data."
    keys += "test_table" if data.test_table else "sample_submission" if data.sample_submission else "test_images"
    return f"They are in {origin} and in {listed}: remove them from one of the two, or correct {keys}."


def _leave_out_unlabelled(source: RawData, images: Sequence[str]) -> None:
    """Refuse or leave out `images` of data.train_images that no row of data.labels names."""
    raw, data = source.raw, source.data
    flaws = [Flaw("", "", image, f"no row of {data.labels} names it") for image in images]
    if data.flaws == "drop":
        source.dropped.extend(flaws)
        return
    tests = f"list them in {data.test_table}" if data.test_table else "name the CSV that lists them in"
    tests += " (data.test_table)" if data.test_table else " data.test_table"
    remedy = f"Add them to that CSV, or remove them. If they are test images, {tests}."
    others = {path.name for path in raw.glob("*.csv")} - {*listed_names(raw, data.labels), data.sample_submission}
    if others:
        labels = few(sorted(others))
        remedy += f" If {labels} labels them, write all labels into one CSV, and name it in data.labels; if it has the "
        remedy += f"same columns, data.labels can name both, as in {toml(f'{data.labels}+{min(others)}')}."
    remedy += ' Or leave them out: data.flaws = "drop".'
    refuse(f"{raw / data.train_images}: images without a label in {data.labels}", list(images), remedy)


def _with_others(source: RawData, rows: pd.DataFrame, images: Sequence[str]) -> pd.DataFrame:
    """Return `rows` and, without boxes, the `images` that no row names; each is a group, if there are groups."""
    if not images:
        return rows
    data, paths = source.data, [_below(image, source.data.train_images) for image in images]
    source.note("note", f"Images that no row of {data.labels} names, and so without a box: {len(images):,}.")
    listed = zip(rows["id"], rows["path"], strict=True)
    short = all(name == without_extension(_below(path, data.train_images)) for name, path in listed)
    stems = list(map(without_extension, paths))
    names = stems if short and len({*stems, *rows["id"]}) == len(stems) + len(rows) else paths
    more = pd.DataFrame({"id": names, "path": images, "label": "", "group": ""}, dtype=str)
    if name := _group_of_names(source):
        more["group"] = _matched(source, paths, images)[name]
    elif source.split.group_column:
        more["group"] = [f"image {path}" for path in paths]
    return pd.concat([rows, more])


def _listed_rows(source: RawData, images: Sequence[str], tests: Collection[str]) -> tuple[pd.DataFrame, set[str]]:
    """Return the rows of data.labels, and all images that it names."""
    raw, data = source.raw, source.data
    apart = posix(data.test_images) if posix(data.test_images) != posix(data.train_images) else ""
    folder = ImageFolder(raw, data.train_images, "data.train_images", images, apart)
    listed, path = read_labels(source), Path(from_raw(raw, data.labels))
    listing = choose_ids(path, listed.table, data.id_column or listed.id_column, folder, 2)
    listing = name_files(listing, folder, data, listed.file_column)
    targets = _targets(source, listing, folder, listed)
    orphans = [Flaw(path.name, place, name, "its image is not listed") for place, name in listed.orphans]
    remedy = "Add these images, or name the file that has them too, joined by a plus."
    source.leave_out(f"{path}: annotations of images that it does not list", orphans, remedy)
    kept = _are_no_tests(source, listing, targets, tests)
    listing = listing.part(kept)
    if listing.ids.empty:
        raise UserError(f"{path}: all its rows are test images. Name the table of the training images in data.labels.")
    files = one_image_each(listing, folder, OF_TABLE, source)
    columns = {"line": [line for line, _ in by_line(listing.ids)], "id": listing.ids.tolist(), "path": files}
    rows = pd.DataFrame(columns, dtype=str)
    rows["label"] = [text for text, keep in zip(targets.texts, kept, strict=True) if keep]
    rows["group"] = _groups(source, listing, rows["path"].tolist())
    missing = pd.Series([none for none, keep in zip(targets.missing, kept, strict=True) if keep], dtype=bool)
    what = "label" if source.task != NUMBERS else "target"
    without = rows[missing & (rows["path"] != "")]
    flaws = [
        Flaw(path.name, line, name, f"empty {what}") for line, name in zip(without["line"], without["id"], strict=True)
    ]
    source.leave_out(f"{path}: rows with an empty {what}", flaws, "Fill it in, or remove these rows.")
    rows = rows[~missing & (rows["path"] != "")]
    if _group_of_names(source):
        rows = rows[rows["group"] != ""]  # others are left out already
    elif source.split.group_column:
        empty = rows["line"][rows["group"] == ""].tolist()
        problem = f"{path}: rows with an empty group (column {source.split.group_column!r})"
        refuse(problem, empty, "Fill it in, or remove these rows.")
    source.note("labels", targets.source)
    source.note("ids", listing.source)
    rows = _one_row_each(source, path, rows, targets, listed)
    if not rows["id"].is_unique:
        text = f"Ids of {path.name} repeat, such as {few(rows['id'][rows['id'].duplicated()].tolist(), 1)}: "
        source.note("note", f"{text}the ids of the split are paths below {data.train_images}.")
        rows = rows.assign(id=[_below(file, data.train_images) for file in rows["path"]])
    return rows, set(files)


def _targets(source: RawData, listing: Listing, folder: ImageFolder, listed: JsonTable) -> Targets:
    """Return the targets of the rows of data.labels."""
    data = source.data
    if source.task == BOXES:
        targets = box_targets(listing, source, listed)
        refuse_other_images(listing, data, folder)
        return targets
    if listed.targets:
        data = replace(data, label_columns=tuple(listed.targets), label_column="", label_separator="")
        return choose_targets(listing, replace(source, data=data), folder, [])
    if listed.of_annotations and not (data.label_column or data.label_columns):
        if not listed.label_columns:
            raise UserError(f"{listing.path} has no annotations. Name the JSON that has them too, joined by a plus.")
        data = replace(data, label_column=_label_column(source, listing, listed.label_columns))
        return choose_targets(listing, replace(source, data=data), folder, [])
    return choose_targets(listing, source, folder, sample_columns(source))


def _label_column(source: RawData, listing: Listing, columns: Sequence[str]) -> str:
    """Return which of `columns`, ids and names of categories, has the words of the sample submission; else the last."""
    answers = sample_answers(source)
    common = {name: len(answers & set(listing.table[name].tolist())) for name in columns}
    best = max(common, key=lambda name: common[name])
    if common[best]:
        return best
    numbers = bool(answers) and all(map(is_number, answers))
    return columns[0] if numbers and all(map(is_number, set(listing.table[columns[0]]) - {""})) else columns[-1]


def _are_no_tests(source: RawData, listing: Listing, targets: Targets, tests: Collection[str]) -> list[bool]:
    """Return which rows are not of test images: those have no target, or a column that says so of them alone.

    The other rows of test images stay, and are refused as labelled and in the test set, or as ids without an image.
    """
    files, names = listing.files, listing.named.tolist()
    pending = [name for name, file in zip(names, files, strict=True) if not file]
    found = images_by_id(pending, sorted(tests), source.data.test_images) if tests and pending else {}
    tested = pd.Series(
        [file in tests or (not file and normal(name) in found) for file, name in zip(files, names, strict=True)]
    )
    if not tested.any():
        column, marks = marked_tests(listing.table[listing.others])
        if column:
            source.note(
                "note",
                f"Column {quoted(column)} of {listing.path.name} marks {marks.sum():,} rows as tests; here they are "
                f"labelled like the others. If they are the test images: data.test_table = {toml(source.data.labels)}, "
                "and data.test_images names their folder.",
            )
        return [True] * len(files)
    unlabelled = tested & (pd.Series(targets.missing) | (pd.Series(targets.texts) == ""))
    reason = "an empty target"
    if (rest := tested & ~unlabelled).any():
        for column in listing.others:
            values = listing.table[column].reset_index(drop=True)
            kinds = set(values[rest])
            if len(kinds) == 1 and min(kinds).casefold() in OF_TESTS and not values[~tested].isin(kinds).any():
                unlabelled, reason = tested, f"{quoted(min(kinds))} in column {quoted(column)}"
    if count := int(unlabelled.sum()):
        source.note(
            "note", f"Rows of {listing.path.name} that are test images, with {reason}: {count:,}. Not used here."
        )
    return (~unlabelled).tolist()


def _groups(source: RawData, listing: Listing, files: Sequence[str]) -> list[str]:
    """Return the group of each row: of split.group_column, or of the names of the files; empty without groups."""
    if name := _group_of_names(source):
        return _matched(source, [_below(file, source.data.train_images) for file in files], files)[name]
    if not source.split.group_column:
        return [""] * len(files)
    return find_column(listing.table, listing.path, source.split.group_column, 0, "split.group_column").tolist()


def _group_of_names(source: RawData) -> str:
    """Return the named group of data.label_pattern that holds the group of an image; empty without one."""
    wanted = source.split.group_column or GROUP
    return wanted if wanted in named_groups(source.data.label_pattern) else ""


def _one_row_each(source: RawData, path: Path, rows: pd.DataFrame, targets: Targets, listed: JsonTable) -> pd.DataFrame:
    """Return one row per image: labels in rows of their own are joined, and repeated rows are left out."""
    if source.task == BOXES:
        before = len(source.dropped)
        gather_boxes(source, path, rows)
        unknown = rows["line"].isin([flaw.line for flaw in source.dropped[before:]])
        lost = set(rows["path"][unknown]) - {image for image, found in source.boxes.items() if found}
        if lost:  # they are not known to be without a box
            source.note(
                "note", f"Images that rows left out of {path.name} leave without a box: {len(lost):,}. Not used."
            )
        rows = _joined(path, rows[~rows["path"].isin(lost)].assign(label=""))
        return rows.assign(label=[target_of(source.boxes, image) for image in rows["path"]])
    if source.task == SEVERAL_LABELS and targets.is_list:
        if not listed.of_annotations and rows["path"].is_unique:
            raise UserError(
                f'{path}: competition.task is "several_labels", but each image has one row with one label. If a cell '
                'has several labels, set data.label_separator, such as data.label_separator = " "; if there is a '
                "column for each label, data.label_columns; if an image has one class, "
                'competition.task = "one_class".'
            )
        return _joined(path, rows)
    same, other = repeated(path.name, rows)
    remedy = "Remove the wrong rows."
    if source.task == ONE_CLASS:
        lines = several_advice(source, (), sample_columns(source))
        remedy += f" Or, if an image may have several labels:{lines}"
    refuse(f"{path}: images with two different labels", other, remedy)
    if not listed.of_annotations:  # of two marks in one image the second says nothing new
        source.leave_out(f"{path}: images listed twice", same, "Remove the second rows.")
    return rows[~rows["path"].duplicated()]


def _joined(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row per image with all its labels. Raises `UserError` for rows of one image in different groups."""
    labels: dict[str, set[str]] = {}
    groups: dict[str, str] = {}
    mixed = []
    for line, file, label, group in zip(rows["line"], rows["path"], rows["label"], rows["group"], strict=True):
        labels.setdefault(file, set()).update({label} - {""})
        if groups.setdefault(file, group) != group:
            mixed.append(f"{line}: {quoted(group)}, before {quoted(groups[file])}")
    refuse(f"{path}: images with rows in different groups", mixed, "Correct these rows, or split.group_column.")
    first = rows[~rows["path"].duplicated()]
    return first.assign(label=[join_labels(labels[file]) for file in first["path"]])


def _rows_by_name(source: RawData, images: Sequence[str], tests: Collection[str]) -> tuple[pd.DataFrame, set[str]]:
    """Return a row for each image, with its label from its name or its folder, and all `images`."""
    raw, data, column = source.raw, source.data, source.split.group_column
    groups = named_groups(data.label_pattern)
    if column and column not in groups:
        raise UserError(
            f"split.group_column is {column!r}, but data.labels names no CSV with such a column. Empty "
            "split.group_column, or name a CSV of id,group in split.group_file."
        )
    paths = {_below(image, data.train_images): image for image in sorted(images, key=natural_key)}
    if LABEL in groups and (data.test_table or data.sample_submission):  # test images may be in the same folder
        paths = {name: path for name, path in paths.items() if path not in tests}
    if data.class_folders:  # other images are left out
        classes = in_class_folders(list(paths), raw, data)
        source.note(
            "labels", f"{len(data.class_folders)} folders in {data.train_images}, which data.class_folders names"
        )
        if others := classes.count(""):
            source.note("note", f"Images in {data.train_images} that are in none of data.class_folders: {others:,}.")
        paths = {name: path for (name, path), label in zip(paths.items(), classes, strict=True) if label}
    names, files = list(paths), list(paths.values())
    found = _matched(source, names, files) if groups else {}
    labels = found[LABEL] if LABEL in groups else labels_of(names, raw, data)
    where = described(data.label_pattern) if LABEL in groups else f"the class folders of {data.train_images}"
    cells = pd.Series(labels, index=files, name="label", dtype=str)
    targets = of_cells(cells, data.label_separator, source.task, where)
    if targets.is_list:
        raise UserError(
            f'{raw / data.train_images}: competition.task is "several_labels", but each image has one label, from '
            f"{where}. If a name has several labels, set data.label_separator; else name the table of labels in "
            'data.labels, or set competition.task = "one_class".'
        )
    if LABEL in groups:
        source.note("labels", where)
    group = _group_of_names(source)
    rows = pd.DataFrame({"id": names, "path": files, "label": targets.texts}, dtype=str)
    rows["group"] = found[group] if group else ""
    used = [found[name] for name in (LABEL, group) if name in found]
    kept = [not none and all(texts) for none, *texts in zip(targets.missing, *used, strict=True)]
    return rows[kept], set(images)


def _matched(source: RawData, names: Sequence[str], files: Sequence[str]) -> dict[str, list[str]]:
    """Return what the groups of data.label_pattern match in `names`; refuse or leave out names without a match."""
    found = match_names(names, source.data.label_pattern)
    wanted = [found[group] for group in found if group in (LABEL, GROUP, source.split.group_column)]
    rows = zip(files, names, *wanted, strict=True)
    flaws = [
        Flaw("", "", file, "data.label_pattern does not match it")
        for file, name, *texts in rows
        if not all(texts) and file
    ]
    problem = (
        f"{source.raw / source.data.train_images}: names that {described(source.data.label_pattern)}, does not match"
    )
    source.leave_out(
        problem, flaws, f"Correct data.label_pattern; it is compared with paths such as {quoted(names[0])}."
    )
    return found


def _below(image: str, folder: str) -> str:
    """Return the path below `folder` that all files of an image have."""
    return common_name(image).removeprefix(f"{posix(folder)}/")
