"""Find the image of each row of a listing, and say what is wrong with rows that have none, or share one."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from pipelines.dataset.columns import ImageFolder, Listing, id_columns
from pipelines.dataset.image_paths import image_files, images_by_id, normal
from pipelines.dataset.raw_data import Flaw, RawData, line_of
from pipelines.settings.overrides import toml
from pipelines.system.errors import few, quoted, refuse, shown

OF_SAMPLE = (
    "A submission needs a row for each: put these images there. If a CSV lists each id with its image, name it in "
    "data.test_table."
)
OF_TABLE = "Put these images there, or remove these rows."

MONTHS = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
CHANGED = re.compile(rf"[0-9]+([.,][0-9]+)?E\+[0-9]+|[0-9]+-({MONTHS})|({MONTHS})-[0-9]+")  # by a spreadsheet


def one_image_each(listing: Listing, folder: ImageFolder, remedy: str, source: RawData | None = None) -> list[str]:
    """Return the image of each row of a listing; an empty text for a row that `source` leaves out.

    Raises `UserError` unless each id matches exactly one image. Without `source` no row may be left out.
    """
    path, ids = listing.path, listing.ids
    refuse_empty(path, "id", ids)
    odd = [place for place, file in enumerate(listing.files) if not file]
    rows = zip(by_line(ids.iloc[odd]), listing.named.iloc[odd].tolist(), strict=True)
    found = [(line, name, text, listing.matches.found.get(normal(text), [])) for (line, name), text in rows]
    several = [f"{line}: {quoted(name)} may be {' or '.join(files)}" for line, name, _, files in found if files[1:]]
    none = [(line, name, text) for line, name, text, files in found if not files]
    if none:
        renamed = listing.named is not ids
        flaws = [
            Flaw(path.name, line, name, f"no image in {folder.folder}", f", {shown(text)}" if renamed else "")
            for line, name, text in none
        ]
        problem = f"{path}: ids without an image in {folder.folder}"
        if source and source.data.flaws == "drop" and len(none) < len(ids):
            source.leave_out(problem, flaws, "")
        else:
            remedy = _remedy(listing, folder, [name for _, name, _ in none], remedy)
            if source:
                source.leave_out(problem, flaws, remedy) if len(none) < len(ids) else None
            refuse(problem, list(map(str, flaws)), remedy)
    refuse(f"{path}: ids that match several images", several, "Write the id as a path, or remove the other images.")
    return listing.files


def _remedy(listing: Listing, folder: ImageFolder, none: Sequence[str], remedy: str) -> str:
    """Return what mends that the ids `none` have no image."""
    count, of_sample = len(listing.ids), remedy == OF_SAMPLE
    template = str(listing.named.name) if str(listing.named.name).startswith("data.") else ""
    if template:
        remedy = f"Correct {template} or {folder.key}."
    elif len(none) == count and not of_sample:
        column = shown(str(listing.named.name))
        remedy = f"No id names one. Set {folder.key} to their folder, or correct column {column}."
    remedy = _elsewhere(listing, folder, "data.sample_id" if of_sample else "data.id_column") or remedy
    if 2 * len(none) > count:
        held = f"{folder.path} holds {len(folder.images):,} images, such as {shown(folder.images[0])}."
        remedy = f"{held} {remedy}"
    if changed := [name for name in none if CHANGED.fullmatch(name)]:
        remedy = (
            f"{few(changed)} look as a spreadsheet rewrites ids that it takes for numbers or dates. Put back the "
            "original CSV, and save it with no spreadsheet."
        )
    return remedy


def _elsewhere(listing: Listing, folder: ImageFolder, key: str) -> str:
    """Return which column, or which other folder, has what the ids of a listing should name; else an empty text.

    key: the setting that chooses the column of the ids.
    """
    if columns := id_columns(listing, folder):
        names = ", ".join(map(shown, columns))
        first = shown(str(listing.ids.name))
        setting = f"{key} = {toml(columns[0])}"
        return f"These are the names in {names}, but the ids come from {first}. Set {setting}."
    others = folder.others and f"{folder.others}/"
    everywhere = [each for each in image_files(folder.raw, "", folder.key) if not others or not each.startswith(others)]
    found = images_by_id(listing.named, everywhere, "")
    if len(found) < listing.named.nunique() or any(len(images) > 1 for images in found.values()):
        return ""
    place = os.path.commonpath([PurePosixPath(image).parent for images in found.values() for image in images])
    setting = f"{folder.key} = {toml(place or '.')}"
    return f"The images of these ids are elsewhere. Set {setting}."


def by_line(values: "pd.Series[str]") -> Iterable[tuple[str, str]]:
    """Return pairs of where a value is and the value; `Series.items` takes ten times as long."""
    return zip(map(line_of, values.index.tolist()), values.tolist(), strict=True)


def repeated(table: str, rows: pd.DataFrame) -> tuple[list[Flaw], list[str]]:
    """Return the `rows` (`line`, `id`, `path`, `label`) whose image an earlier row has with the same label, and texts
    about those whose image has another label there.  table: the name of their file.
    """
    if rows["path"].is_unique:
        return [], []
    first: dict[str, tuple[str, str]] = {}
    same, other = [], []
    columns = (rows[name].tolist() for name in ("line", "id", "path", "label"))
    for line, name, path, label in zip(*columns, strict=True):
        earlier, known = first.setdefault(path, (line, label))
        on = f"on {earlier}" if earlier.startswith("line") else f"in {earlier}"
        if label != known:
            other.append(f"{line}: {quoted(name)} is {quoted(label)}, {on} it is {quoted(known)}")
        elif line != earlier:
            same.append(Flaw(table, line, name, f"listed before, {on}", f", first {on}"))
    return same, other


def refuse_empty(path: Path, what: str, values: "pd.Series[str]") -> None:
    cases = [line_of(place) for place in values.index[values == ""]]
    refuse(f"{path}: rows with an empty {what}", cases, "Fill it in, or remove these rows.")
