"""Whether a raw folder holds what the settings name: removes folders around everything, or says what to set."""

import os
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from pipelines.dataset.encodings import listed_names, listing_file
from pipelines.dataset.image_paths import IMAGE_EXTENSIONS
from pipelines.settings.data_sections import DataSettings
from pipelines.system.errors import UserError, few, shown

KINDS: dict[str, Callable[[Path], bool]] = {
    **dict.fromkeys(("labels", "sample_submission", "test_table"), Path.is_file),
    **dict.fromkeys(("train_images", "test_images"), Path.is_dir),
}
DEPTH = 4  # of folders around everything
MOST_FOUND = 5_000  # files and folders that are compared with a name
SHOWN = 20
NOT_UNPACKED = tuple(".rar .zst .lz4 .z .lz .lzma .iso .parquet .h5 .hdf5 .tfrecords .tfrec".split())


def check_layout(folder: Path, data: DataSettings, archive: Path) -> None:
    """Remove folders around everything that the settings name from `folder`.

    Raises `UserError` if `folder` lacks some of it. The message lists the missing names and the settings to use.
    """
    missing = missing_names(folder, data)
    if not missing:
        return
    levels = ([each for each in level if not missing_names(each, data)] for level in _levels(folder))
    holders = next(filter(None, levels), [])
    if len(holders) == 1:
        _lift(holders[0], folder, archive)
        return
    lacking = ", ".join(f"data.{key} = {getattr(data, key)!r}" for key in missing)
    message = f"{archive} does not hold what the settings name: {lacking}. At its top: {_listing(folder)}."
    found = _found_instead(folder, data, missing)
    if holders:
        places = [each.relative_to(folder).as_posix() for each in holders]
        message += f" Several folders hold it: {few(places)}."
        found = {key: f"{places[0]}/{name}" for key in KINDS if (name := getattr(data, key))}
    if packed := sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(NOT_UNPACKED)):
        message += f" {few(packed)} cannot be read here: unpack or convert this, and give the folder: ARCHIVE=folder."
    absent = [f'{key} = ""' for key in ("sample_submission", "test_table") if key in missing and key not in found]
    empty = f" If it has none, set {' and '.join(absent)}." if absent else ""
    raise UserError(f"{message} {_advice(found)}{empty}")


def missing_names(folder: Path, data: DataSettings) -> list[str]:
    """Return the keys of [data] that name a file or folder that `folder` lacks; images in tables need no folder."""
    kinds = {key: kind for key, kind in KINDS.items() if kind is not Path.is_dir or not data.pixel_columns}
    return [key for key, kind in kinds.items() if (name := getattr(data, key)) and not _holds(folder, name, kind)]


def _holds(folder: Path, name: str, kind: Callable[[Path], bool]) -> bool:
    """Return whether `folder` has what a setting names, which may be several files, and files may be zipped."""
    if kind is Path.is_dir:
        return kind(folder / name)
    return all(kind(listing_file(folder / part)) for part in listed_names(folder, name))


def _levels(folder: Path) -> Iterator[list[Path]]:
    """Yield the folders below `folder`, level by level."""
    level = [folder]
    for _ in range(DEPTH):
        level = [each for place in level for each in sorted(place.iterdir()) if each.is_dir()]
        yield level


def _lift(holder: Path, folder: Path, archive: Path) -> None:
    """Move everything in `holder` up to `folder`, and remove the empty folders around it."""
    lifted = holder.rename(folder / ".lifted")  # it may hold a folder of the same name
    around = holder.parent
    while around != folder and not any(around.iterdir()):
        around.rmdir()
        around = around.parent
    for path in sorted(lifted.iterdir()):
        if (folder / path.name).exists():
            raise UserError(
                f"{archive}: {shown(path.name)} is both at its top and in {holder.relative_to(folder)}/, which holds "
                f"what the settings name. {_unpack_and_give(holder.relative_to(folder).as_posix())}"
            )
        path.rename(folder / path.name)
    lifted.rmdir()


def _unpack_and_give(folder: str) -> str:
    return f"Unpack the archive yourself and give that folder: ARCHIVE=…/{folder}."


def _listing(folder: Path) -> str:
    names = [shown(path.name) + "/" * path.is_dir() for path in sorted(folder.iterdir())]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _found_instead(folder: Path, data: DataSettings, missing: Sequence[str]) -> dict[str, str]:
    """Return for the `missing` keys the paths below `folder` that they may mean."""
    files, folders = _below(folder)
    found = {}
    for key in missing:
        images = KINDS[key] is Path.is_dir
        if near := _nearest(getattr(data, key), folders if images else files):
            found[key] = near
        elif images and any(path.name.lower().endswith(IMAGE_EXTENSIONS) for path in folder.iterdir()):
            found[key] = "."
    return found


def _below(folder: Path) -> tuple[list[str], list[str]]:
    """Return the files that are no images, and the folders, at most MOST_FOUND and DEPTH deep."""
    files: list[str] = []
    folders: list[str] = []
    for level in [[folder], *_levels(folder)]:
        for place in level:
            with os.scandir(place) as entries:
                for entry in entries:
                    name = Path(entry.path).relative_to(folder).as_posix()
                    if entry.is_dir():
                        folders.append(name)
                    elif not entry.name.lower().endswith(IMAGE_EXTENSIONS):
                        files.append(name)
            if len(files) + len(folders) > MOST_FOUND:
                return sorted(files), sorted(folders)
    return sorted(files), sorted(folders)


def _nearest(name: str, paths: Sequence[str]) -> str:
    """Return the one of `paths` that is most like `name`; empty if none is."""
    wanted = name.strip("/").casefold()
    for cut in (str, lambda path: path.rpartition("/")[2]):
        by_form: dict[str, str] = {}
        for path in sorted(paths, key=lambda path: path.count("/")):
            by_form.setdefault(cut(path).casefold(), path)
        for near in (cut(wanted), *get_close_matches(cut(wanted), by_form, 1, 0.75)):
            if near in by_form:
                return by_form[near]
    return ""


def _advice(found: dict[str, str]) -> str:
    question = "Is it this competition's archive?"
    if not found:
        return f"{question} If so, correct these names under [data] in the TOML."
    values = ", ".join(f'{key} = "{value}"' for key, value in found.items())
    return f"{question} If so, set under [data] in the TOML: {values}."
