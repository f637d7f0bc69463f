"""Download a competition's data: from Kaggle, or from a local archive or folder.

Reads   the competition's TOML; Kaggle, or ARCHIVE: a zip, 7z or tar, or a folder, whose files are hard-linked.
Writes  data/<c>/<slug>.zip, if it came from Kaggle, and its .sha256; it gets this name only after its check.
        data/<c>/raw/: the files with Kaggle's names, with archives inside archives unpacked, and without a single
        folder around everything unless the settings name it; .download.json records the source.
        data/<c>/held_back/labels.csv: the test labels, for the bundled digits only.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipelines import command
from pipelines.settings.layout import Layout
from pipelines.settings.records import DOWNLOAD_RECORD
from pipelines.settings.schema import DataSettings, Settings
from pipelines.system.errors import UserError, printable


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command.parser(__doc__, "download")
    parser.add_argument("--archive", type=Path, help="an archive or a folder with the data, instead of Kaggle")
    words = parser.parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    shown = layout.raw.relative_to(layout.root)
    if layout.raw.exists():
        print(f"Already downloaded: {_contents(layout.raw)} in {shown}.\nTo do it again: rm -r {shown}")
        return

    started = time.monotonic()
    if settings.competition.source == "digits" and not words.archive:
        from pipelines.dataset.digits import write_digits

        write_digits(layout.raw, layout.held_back)
    else:
        archive = words.archive.expanduser() if words.archive else _from_kaggle(settings, layout, words)
        started = time.monotonic()
        _unpack(archive, layout.raw, settings.data)
    print(f"{_contents(layout.raw)} in {shown}, in {command.duration(time.monotonic() - started)}.")
    print(f"Next: {words.repeat('split')}")


def _from_kaggle(settings: Settings, layout: Layout, words: command.Words) -> Path:
    """Return the competition's archive; download it unless it exists."""
    slug = settings.competition.slug
    archive = layout.archive(slug)
    with_archive = f"{words.repeat('download')} ARCHIVE=<the file>"
    shown = archive.relative_to(layout.root)
    if archive.exists():
        print(f"Already downloaded: {shown}. To download it again: rm {shown}")
        return archive
    if settings.competition.source != "kaggle":
        source = settings.competition.address
        raise UserError(f"{settings.name} is not on Kaggle. Get its archive from {source}, then: {with_archive}")
    from pipelines.kaggle.failures import NOTEBOOKS_ONLY
    from pipelines.kaggle.service import COMPETITION_PAGE, Kaggle, not_entered
    from pipelines.system.files import only_one

    try:
        command.print_credential()
    except UserError as error:
        page = f"{COMPETITION_PAGE.format(slug=slug)}/data"
        raise UserError(f"{error}\nOr download the archive in a browser from {page}, then: {with_archive}") from None
    started = time.monotonic()
    lock = only_one(archive.with_name(f".{archive.name}.lock"), f"downloading {archive.name}")
    with lock as held, Kaggle(slug, settings.kaggle.stall_seconds, (held,)) as kaggle:
        from pipelines.kaggle.download import fetch_archive  # while the client starts

        competition = kaggle.competition()
        if not competition.entered:
            raise not_entered(slug)
        print(f"{printable(competition.title)}: rules accepted.", flush=True)
        if competition.notebooks_only:
            print(f"Note: {NOTEBOOKS_ONLY}", flush=True)
        sha256 = fetch_archive(kaggle, archive, command.progress)
    size = f"{archive.stat().st_size / 1e6:,.1f} MB, sha256 {sha256[:12]}…"
    print(f"Downloaded and verified: {shown} ({size}), in {command.duration(time.monotonic() - started)}.")
    return archive


def _unpack(archive: Path, raw: Path, data: DataSettings) -> None:
    """Unpack `archive` to `raw` if it holds what the settings name, and add a record of the source.

    The record is the same each time, so a split stays valid if the same data is unpacked again.
    """
    from pipelines.dataset.archives import Unpacked, unpack
    from pipelines.system.files import file_sha256, write_json

    def finish(folder: Path, unpacked: Unpacked) -> None:
        _check(folder, data, archive)
        sha256 = file_sha256(archive) if archive.is_file() else None
        record = {"source": archive.name, "sha256": sha256, "files": unpacked.files, "bytes": unpacked.bytes}
        write_json(folder / DOWNLOAD_RECORD, record)

    unpacked = unpack(archive, raw, command.progress, finish)
    if unpacked.copied:
        print(f"{unpacked.copied:,} files were copied because {archive} cannot be hard-linked from here.")


def _check(folder: Path, data: DataSettings, archive: Path) -> None:
    """Raise `UserError` unless `folder` holds what the settings name; remove a single folder around everything."""
    found = sorted(folder.iterdir())
    missing = _missing(folder, data)
    if missing and len(found) == 1 and found[0].is_dir() and not _missing(found[0], data):
        wrapper = found[0].rename(folder / ".wrapper")  # it may contain a folder of its own name
        for path in wrapper.iterdir():
            path.rename(folder / path.name)
        wrapper.rmdir()
    elif missing:
        names = [path.name + "/" * path.is_dir() for path in found]
        top = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        raise UserError(
            f"{archive} does not hold what the settings name: {', '.join(missing)}. At its top: {top}. Is it this "
            "competition's, or is [data] in the TOML wrong?"
        )


def _missing(folder: Path, data: DataSettings) -> list[str]:
    """Return `data.key = 'name'` for each file or folder that the settings name and `folder` lacks."""
    kinds = dict.fromkeys(("labels", "sample_submission", "test_table"), Path.is_file)
    kinds |= dict.fromkeys(("train_images", "test_images"), Path.is_dir)
    names = {key: getattr(data, key) for key in kinds}
    return [f"data.{key} = {name!r}" for key, name in names.items() if name and not kinds[key](folder / name)]


def _contents(folder: Path) -> str:
    """Return the number and total size of the files below `folder`, without our own record."""
    files = [Path(directory) / name for directory, _, names in os.walk(folder) for name in names]
    sizes = [path.stat().st_size for path in files if path.name != DOWNLOAD_RECORD]
    return f"{len(sizes):,} files ({sum(sizes) / 1e6:,.1f} MB)"


if __name__ == "__main__":
    sys.exit(command.run(main))
