"""The test rows of a competition: each image with the id that the submission needs."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from pipelines.dataset.columns import ImageFolder, Listing, choose_ids, id_columns, name_files
from pipelines.dataset.image_paths import (
    common_name,
    from_raw,
    image_files,
    natural_key,
    no_images,
    posix,
    without_extension,
)
from pipelines.dataset.long_form import images_of, long_form_of
from pipelines.dataset.matching import OF_SAMPLE, OF_TABLE, by_line, one_image_each, repeated
from pipelines.dataset.named_tables import known_targets, listed_paths, only_tests, read_tests
from pipelines.dataset.raw_data import Flaw, RawData
from pipelines.dataset.tables import find_column, index_columns, read_listing
from pipelines.settings.choices import advice
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.metrics import NUMBERS
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, few, quoted, refuse, shown


def test_rows(source: RawData) -> tuple[pd.DataFrame, int]:
    """Return the test images, `id` and `path`, and the number of images in their folder that are not listed.

    The images are those of `test_table`, else of `sample_submission`, in the order of that file; the ids are those of
    the sample, if there is one. An id that the sample repeats gives one row. Without both they are all images of
    `test_images` in natural order; an id is the name without extension, or the path below `test_images` for an image in
    a subfolder. Without a list and the folder there are no rows. Raises as `labelled_rows` does.
    """
    raw, data = source.raw, source.data
    listed = bool(data.test_table or data.sample_submission)
    if not listed and not (data.test_images and (raw / data.test_images).is_dir()):
        return pd.DataFrame({"id": [], "path": []}, dtype=str), 0
    images = image_files(raw, data.test_images, "data.test_images", data.channel_files)
    if not listed:
        return _folder_rows(source, images), 0
    if not images:
        raise UserError(no_images(raw, data.test_images, "data.test_images"))
    folder = ImageFolder(raw, data.test_images, "data.test_images", images)
    rows = _table_rows(source, folder) if data.test_table else _sample_rows(source, folder)
    unlisted = 0 if posix(data.test_images) == posix(data.train_images) else len(images) - len(rows)
    return rows, unlisted


def _folder_rows(source: RawData, images: Sequence[str]) -> pd.DataFrame:
    raw, data = source.raw, source.data
    found = paths_below(images, data.test_images)
    ids = pd.Series([name if "/" in name else without_extension(name) for name in found], dtype=str)
    twice, remedy = sorted(set(ids[ids.duplicated()])), "Rename or remove one, or list the ids in data.test_table."
    refuse(f"{raw / data.test_images}: two images for one id", twice, remedy)
    return pd.DataFrame({"id": ids, "path": list(found.values())}, dtype=str)


def paths_below(images: Iterable[str], folder: str) -> dict[str, str]:
    """Return {path below `folder`, as all files of an image have it: path} in natural order."""
    top = posix(folder)
    return {common_name(image).removeprefix(f"{top}/"): image for image in sorted(images, key=natural_key)}


def _table_rows(source: RawData, folder: ImageFolder) -> pd.DataFrame:
    listing = _test_table(source, folder)
    files = one_image_each(listing, folder, OF_TABLE, source)
    kept = [bool(file) for file in files]
    listing, files = listing.part(kept), [file for file in files if file]
    source.leave_out(f"{listing.path}: images listed twice", _twice(listing, files), "Remove the second rows.")
    first = (~pd.Series(files).duplicated()).tolist()
    listing, files = listing.part(first), [file for file, keep in zip(files, first, strict=True) if keep]
    ids = listing.ids.tolist()
    if source.data.sample_submission:
        ids = _sample_ids(source, listing, files, _sample(source, replace(folder, images=files)))
    return pd.DataFrame({"id": ids, "path": files}, dtype=str)


def _twice(listing: Listing, files: Sequence[str]) -> list[Flaw]:
    """Return the rows of a listing whose image, one of `files` for each row, an earlier row has."""
    if len(set(files)) == len(files):
        return []
    lines = [line for line, _ in by_line(listing.ids)]
    columns = {"line": lines, "id": listing.ids.tolist(), "path": files, "label": ""}
    return repeated(listing.path.name, pd.DataFrame(columns, dtype=str))[0]


def _sample_rows(source: RawData, folder: ImageFolder) -> pd.DataFrame:
    listing = _sample(source, folder)
    files = one_image_each(listing, folder, OF_SAMPLE)
    refuse(f"{listing.path}: images listed twice", list(map(str, _twice(listing, files))), "Remove the second rows.")
    return pd.DataFrame({"id": listing.ids.tolist(), "path": files}, dtype=str)


def _test_table(source: RawData, folder: ImageFolder) -> Listing:
    data = source.data
    listed, path = read_tests(source.raw, data.test_table, source.note), Path(from_raw(source.raw, data.test_table))
    if data.test_table == data.labels:
        listed = only_tests(source, listed)
    wanted = data.id_column if data.id_column in listed.table.columns else listed.id_column
    listing = choose_ids(path, listed.table, wanted, folder, 1)
    listing = name_files(listing, folder, data, listed.file_column)
    if not listing.is_complete:
        naming = [listing.by(name, folder) for name in id_columns(listing, folder)]
        if naming and all(each.files == naming[0].files for each in naming):
            listing = naming[0]
    source.note("tests" if data.sample_submission else "test ids", listing.source)
    return listing


def _sample(source: RawData, folder: ImageFolder) -> Listing:
    """Return the listing of the sample submission, each id once."""
    data, note = source.data, source.note
    path = listed_paths(source.raw, data.sample_submission, "data.sample_submission")[0]
    table = read_listing(
        path, lambda _, text: note("note", f"{text} The submission will have commas, as Kaggle wants.")
    )
    ids = find_column(table, path, data.sample_id, index_columns(table), "data.sample_id")
    if form := source.competition.long_form:
        images = images_of(ids, form, known_targets(source))
        table, ids = table.assign(**{str(ids.name): images}), images
    twice = ids.duplicated() & (ids != "")
    if twice.any() and not form:
        example = few(ids[twice].tolist(), 1)
        note("note", f"{path.name} repeats ids, such as {example}: {twice.sum():,} rows get the answer of their image.")
    table = table[~twice]
    listing = choose_ids(path, table, str(ids.name), folder, 2)
    _refuse_long_form(source, listing, folder)
    if not data.test_table:
        listing = name_files(listing, folder, replace(data, file_column=""))
    note("test ids", listing.source)
    return listing


def _refuse_long_form(source: RawData, listing: Listing, folder: ImageFolder) -> None:
    """Raise `UserError`, with the settings, if the ids of the sample are an image and a target each."""
    if any(listing.files) or source.competition.long_form:
        return
    if form := long_form_of(listing.ids.tolist(), folder.may_have):
        settings = Settings("", competition=source.competition, data=source.data)
        sent = "numbers" if source.task == NUMBERS else "probabilities"
        lines = advice(settings, {"competition.long_form": form, "competition.submission": sent})
        raise UserError(
            f"{listing.path}: its ids, such as {quoted(listing.ids.iloc[0])}, are an image and a target each. For a "
            f"row per image and target:{lines}"
        )


def _sample_ids(source: RawData, listing: Listing, files: Sequence[str], sample: Listing) -> list[str]:
    """Return for each row of the test table the id that the sample submission has for its image, or its own.

    The sample may name the images in another form, or by another column of the test table. Raises `UserError` if the
    sample wants an image that the table lacks, or if its ids mean different images by different columns.
    """
    note, wanted = source.note, sample.ids.tolist()
    images, column = _images_of_ids(listing, files, sample, source.data)
    if column:
        note("note", f"The ids of {sample.path.name} are those in column {shown(column)!r} of {listing.path.name}.")
    id_of = dict(zip(images, wanted, strict=True))
    known = set(files)
    absent = [
        f"{line}: {quoted(name)}"
        for (line, name), image in zip(by_line(sample.ids), images, strict=True)
        if image not in known
    ]
    remedy = (
        "A submission needs a row for each. Set data.test_table to the CSV that lists their images; or set "
        'data.test_table = "", which finds them in data.test_images by these ids.'
    )
    refuse(f"{sample.path}: ids that {listing.path.name} has no image for", absent, remedy)
    refuse(f"{sample.path}: images listed twice", list(map(str, _twice(sample, images))), "Remove the second rows.")
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


def _images_of_ids(
    listing: Listing, files: Sequence[str], sample: Listing, data: DataSettings
) -> tuple[list[str], str]:
    """Return the image of each id of the sample, and the column of the test table that has these ids, if one is used.

    An id may be the name of an image, or a value of a column of the table. Raises `UserError` if both fit and differ.
    """
    wanted = sample.ids.tolist()
    readings = {}
    if all(sample.files):
        readings[""] = sample.files
    columns = [str(listing.ids.name), *listing.others]
    for column in columns:
        values = listing.table[column].tolist()
        if set(wanted) <= set(values) and len(set(values)) == len(values):
            by_value = dict(zip(values, files, strict=True))
            readings[column] = [by_value[name] for name in wanted]
    stated = str(listing.ids.name) if listing.names is not None else data.id_column
    if stated and stated in readings:  # the settings say what an id is
        return readings[stated], stated if stated != listing.ids.name else ""
    first = next(iter(readings), "")
    if different := [column for column, images in readings.items() if images != readings[first]]:
        names = [column or "the names of the files" for column in (first, *different)]
        raise UserError(
            f"{sample.path}: its ids mean different images by {few(names, 5)} of {listing.path}. Set data.id_column to "
            "the column of the ids, and data.file_column to that of the files."
        )
    if not readings:
        return sample.files, ""
    return readings[first], first if first != listing.ids.name else ""
