"""Get a competition's data into its raw folder, for `download` and `new`."""

import os
import time
from pathlib import Path

from pipelines import command
from pipelines.dataset.archives import DamagedArchive, Unpacked, unpack
from pipelines.dataset.split_record import DOWNLOAD_RECORD
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.layout import Layout
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, printable
from pipelines.system.shell import removal


def obtain(settings: Settings, layout: Layout, words: command.Words, stage: str) -> None:
    """Make the raw folder, unless it is there, and print what it holds.

    stage: the make target, which messages name. Raises `UserError` if the folder came from another archive.
    """
    shown = layout.raw.relative_to(layout.root)
    if layout.raw.exists():
        if words.archive:
            _refuse_another(words.archive, layout.raw, shown)
        print(f"Already downloaded: {_contents(layout.raw)} in {shown}.\nTo do it again: {removal(layout.raw)}")
        return

    started = time.monotonic()
    if settings.competition.source == "digits" and not words.archive:
        from pipelines.dataset.digits import write_digits

        write_digits(layout.raw, layout.held_back)
    else:
        archive = words.archive if words.archive else _from_kaggle(settings, layout, words, stage)
        started = time.monotonic()
        try:
            _unpack(archive, layout.raw, settings.data)
        except DamagedArchive as error:
            if words.archive:
                raise
            again = f"{removal(archive)} && {words.repeat(stage)}"
            raise UserError(f"{error} It was whole when it came from Kaggle. First: {again}") from error
    print(f"{_contents(layout.raw)} in {shown}, in {command.duration(time.monotonic() - started)}.")


def _refuse_another(archive: Path, raw: Path, shown: Path) -> None:
    """Raise `UserError` if `raw` came from another archive, or from what `archive` was before it changed."""
    from pipelines.system.files import file_sha256, read_note

    record = raw / DOWNLOAD_RECORD
    if not record.exists():
        return
    known = read_note(record)
    renamed = known.get("source") != archive.name
    if not renamed and (archive.is_dir() or archive.stat().st_mtime <= record.stat().st_mtime):
        return
    if archive.is_file() and file_sha256(archive) == known.get("sha256"):
        return
    problem = f"came from {known.get('source')}, not from {archive.name}"
    if not renamed:
        problem = f"came from {archive.name} as it was before it changed"
    first = removal(raw)
    raise UserError(f"{shown} {problem}. To keep these data, leave out ARCHIVE=. To use {archive.name}, first: {first}")


def _from_kaggle(settings: Settings, layout: Layout, words: command.Words, stage: str) -> Path:
    """Return the competition's archive; download it unless it exists."""
    slug = settings.competition.slug
    archive = layout.archive(slug)
    with_archive = words.repeat(stage, ARCHIVE="<the file>")
    shown = archive.relative_to(layout.root)
    if archive.exists():
        print(f"Already downloaded: {shown}. To download it again: {removal(archive)}")
        return archive
    if settings.competition.source != "kaggle":
        source = settings.competition.address
        raise UserError(f"{settings.name} is not on Kaggle. Get its archive from {source}, then: {with_archive}")
    from pipelines.kaggle.failures import CODE_ONLY
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
        if competition.code_only and settings.competition.takes == "file" and stage != "new":  # which sets it
            print(f"Note: {CODE_ONLY}", flush=True)
        sha256 = fetch_archive(kaggle, archive, command.progress)
    size = f"{archive.stat().st_size / 1e6:,.1f} MB, sha256 {sha256[:12]}…"
    print(f"Downloaded and verified: {shown} ({size}), in {command.duration(time.monotonic() - started)}.")
    return archive


def _unpack(archive: Path, raw: Path, data: DataSettings) -> None:
    """Unpack `archive` to `raw` if it holds what the settings name, and add a record of the source.

    The record is the same each time, so a split stays valid if the same data is unpacked again.
    """
    from pipelines.dataset.archive_layout import check_layout
    from pipelines.system.files import file_sha256, write_json

    def finish(folder: Path, unpacked: Unpacked) -> None:
        check_layout(folder, data, archive)
        sha256 = file_sha256(archive) if archive.is_file() else None
        record = {"source": archive.name, "sha256": sha256, "files": unpacked.files, "bytes": unpacked.bytes}
        write_json(folder / DOWNLOAD_RECORD, record)

    unpacked = unpack(archive, raw, command.progress, finish, data=data)
    if unpacked.copied:
        print(f"{unpacked.copied:,} files were copied because {archive} cannot be hard-linked from here.")


def _contents(folder: Path) -> str:
    """Return the number and total size of the files below `folder`, without our own record."""
    files = [Path(directory) / name for directory, _, names in os.walk(folder) for name in names]
    sizes = [path.stat().st_size for path in files if path.name != DOWNLOAD_RECORD]
    return f"{len(sizes):,} files ({sum(sizes) / 1e6:,.1f} MB)"
