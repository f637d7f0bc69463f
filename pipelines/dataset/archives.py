"""Unpack archives: completely or not at all, nothing outside the target, nothing larger than declared.

An archive is untrusted input. Its table of contents is checked before the first byte is written, and no file may become
larger than the table says. Only plain files and folders are created, so no entry can be written through a link.
"""

import errno
import lzma
import re
import shutil
import tarfile
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from pipelines.dataset.archive_7z import find_libarchive, open_7z
from pipelines.dataset.archive_entries import (
    HARMLESS_BYTES,
    UNPACK_YOURSELF,
    UNSTORABLE,
    Contents,
    Create,
    Damage,
    Entry,
    NotAnArchive,
    Output,
    Refusal,
    safe_path,
    unstorable,
)
from pipelines.dataset.archive_folder import files_below, linked
from pipelines.dataset.archive_kinds import OTHER_FILE, junk_in, refuse_pointers, refuse_single, what_it_is
from pipelines.dataset.archive_pieces import ARCHIVE, Source, gather, is_piece
from pipelines.dataset.archive_places import Inner, place
from pipelines.dataset.archive_tar import decompressor, is_tar, open_single, open_tar
from pipelines.dataset.archive_zip import open_zip
from pipelines.settings.data_sections import DataSettings
from pipelines.system.errors import UserError, did_you_mean, few, quoted
from pipelines.system.files import atomic_folder
from pipelines.system.watch import Watch, unwatched

# Images hardly shrink and tables shrink to a tenth; Deflate reaches 1 to 1,000 and LZMA 1 to 7,000 on zeros alone.
MAX_EXPANSION = 200
MAX_ENTRIES = 10_000_000  # ImageNet has 1.4 million; each entry takes memory before it can be checked
# A kilobyte of compressed table, as in a 7z, can claim gigabytes of entries. Beyond HARMLESS_ENTRIES each entry needs
# ENTRY_BYTES of the archive: an honest one has content, a name and a checksum.
HARMLESS_ENTRIES = 250_000
ENTRY_BYTES = 16
MAX_DEPTH = 3  # of archives within archives; Kaggle nests one deep
SINGLE = re.compile(r"\.(csv|tsv|txt|json|jsonl)\.(gz|bz2|xz)$", re.IGNORECASE)  # a table compressed by itself
ZIP_HEADS = (b"PK\3\4", b"PK\5\6", b"PK\7\x08", b"PK00PK\3\4")  # the last two: a zip in pieces, or that was one
# The modules whose errors, and the types of errors, that damaged bytes cause.
PARSERS = frozenset(("zipfile", "tarfile", "py7zr", "libarchive", "gzip", "bz2", "lzma", "_compression", "compression"))
INSIDE = (
    "It lies inside another archive: unpack that one yourself, replace or remove this file, and give the folder: "
    "ARCHIVE=folder."
)
DAMAGES = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError)


@dataclass(frozen=True)
class Unpacked:
    """The number of files in the target, their bytes, and how many were copied instead of hard-linked."""

    files: int
    bytes: int
    copied: int = 0


def unpack(
    source: Path,
    target: Path,
    watch: Watch = unwatched,
    finish: Callable[[Path, Unpacked], None] = lambda folder, unpacked: None,
    with_libarchive: bool = True,
    data: DataSettings | None = None,
) -> Unpacked:
    """Unpack `source` and the archives inside it to `target`, which appears only when it is complete.

    source: a zip, 7z or tar (plain, gzip, bzip2, xz), recognised by its first bytes, or one of its pieces; or a folder,
        whose files are hard-linked, or copied if that is impossible. An archive inside is replaced by its files.
        Files of operating systems, such as `.DS_Store`, are left out.
    target: replaced if it exists. Empty folders are not created.
    finish: called with the complete folder before it becomes `target`; it may add files, and an exception cancels all.
    with_libarchive: read 7z with libarchive if it is installed: half the time and memory of py7zr.
    data: the names that decide where archives inside are unpacked, and the encoding of names in a zip.

    Raises `DamagedArchive` for an archive that is damaged; `UserError` for one that is unsupported, encrypted, too
    large, or holds anything but plain files inside the target; `OSError` for a full disk. All leave nothing behind.
    """
    if not source.exists():
        beside = [path.name for path in source.parent.iterdir()] if source.parent.is_dir() else []
        raise UserError(f"There is no archive {source}. Correct the path.{did_you_mean(source.name, beside)}")
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise UserError(
            f"The target {target} is inside the folder {source}, which was given. Move the data to a folder that holds "
            "nothing else, and give that: ARCHIVE=folder."
        )
    with atomic_folder(target) as folder:
        unpacking = _Unpacking(watch, with_libarchive, data or DataSettings())
        if source.is_dir():
            unpacking.link_folder(source, folder, target)
        else:
            unpacking.unpack_given(source, folder)
        unpacked = Unpacked(unpacking.files, unpacking.bytes, unpacking.copied)
        finish(folder, unpacked)
    return unpacked


class DamagedArchive(UserError):
    """An archive that fails its checksum or its structure."""


class _Unpacking:
    """The counts and limits that an archive shares with the archives inside it."""

    def __init__(self, watch: Watch, with_libarchive: bool, data: DataSettings) -> None:
        self.watch, self.with_libarchive, self.data = watch, with_libarchive, data
        self.files = self.bytes = self.copied = 0
        self.entries = self.declared_bytes = self.max_bytes = self.max_entries = 0
        self.given_depth = 0  # of the archives that the user has as files, not inside an archive

    def set_limits(self, source_bytes: int) -> None:
        self.max_bytes = max(HARMLESS_BYTES, MAX_EXPANSION * source_bytes)
        self.max_entries = min(HARMLESS_ENTRIES + source_bytes // ENTRY_BYTES, MAX_ENTRIES)

    def unpack_given(self, path: Path, folder: Path) -> None:
        """Unpack the archive that the user gave into the existing `folder`."""
        try:
            source = gather(path)
        except Refusal as refusal:
            raise UserError(f"{path}: {refusal}") from None
        self.set_limits(source.size)
        self.unpack_archive(source, folder, str(path))

    def unpack_archive(self, source: Source, folder: Path, label: str, depth: int = 0) -> list[str]:
        """Unpack `source` into the existing `folder` and return the paths of its files.

        label: the name in errors, with the archives around it.
        """
        try:
            if depth > MAX_DEPTH:
                raise Refusal(f"it is an archive within {depth} archives; {MAX_DEPTH} is the limit. {UNPACK_YOURSELF}")
            with self._open(source, depth) as (entries, pour):
                files = self._checked(entries, folder)
                self._write(files, folder, pour, source.paths[0].name)
            refuse_pointers(folder, {name: entry.bytes for name, entry in files.items()})
        except Damage as damage:
            raise self._damaged(source, label, depth, str(damage)) from damage.__cause__
        except Refusal as refusal:
            inside = f" {INSIDE}" if isinstance(refusal, NotAnArchive) and depth > self.given_depth else ""
            raise UserError(f"{label}: {refusal}{inside}") from refusal.__cause__
        except MemoryError as error:
            raise UserError(
                f"{label}: it needs more memory than there is, or it is damaged. {UNPACK_YOURSELF}"
            ) from error
        except Exception as error:
            if not _from_damage(error):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise self._damaged(source, label, depth, reason) from error
        self._remove_junk(files, folder)
        return self._unpack_nested(list(files), folder, label, depth)

    def _damaged(self, source: Source, label: str, depth: int, reason: str) -> DamagedArchive:
        names = [path.name for path in source.paths]
        joined = f" It was joined from {names[0]} to {names[-1]}: is a later piece missing?" if names[1:] else ""
        advice = INSIDE if depth > self.given_depth else "Copy or download it again."
        return DamagedArchive(f"{label}: it is damaged or incomplete ({reason}).{joined} {advice}")

    def link_folder(self, source: Path, folder: Path, target: Path) -> None:
        """Hard-link or copy every file below `source` into `folder`, which becomes `target`."""
        self.given_depth = 1
        found = files_below(source, target, str(source))
        sizes = {name: real.stat().st_size for name, real in found.items()}
        for name, real in self.watch(found.items(), source.name, len(found)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            self.copied += not linked(real, folder / name)
        self.files, self.bytes = len(sizes), sum(sizes.values())
        self.set_limits(self.bytes)
        try:
            refuse_pointers(folder, sizes)
        except Refusal as refusal:
            raise UserError(f"{source}: {refusal}") from None
        self._unpack_nested(list(found), folder, str(source), 0)

    def _forget(self, size: int) -> None:
        self.files -= 1
        self.bytes -= size

    def _remove_junk(self, files: dict[str, Entry], folder: Path) -> None:
        """Remove what operating systems left in `folder`, also from `files`."""
        junk = {name: top for name in files if (top := junk_in(name))}
        for name in junk:
            self._forget(files.pop(name).bytes)
        for path in map(folder.joinpath, set(junk.values())):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _unpack_nested(self, names: list[str], folder: Path, label: str, depth: int) -> list[str]:
        """Replace the archives among the files `names` of `folder` by their files; return the names of all files."""
        archives = [name for name in names if ARCHIVE.search(name) or SINGLE.search(name) or is_piece(name)]
        if not archives:
            return names
        inner: list[Inner] = []
        used: set[str] = set()
        for name in archives:
            if name in used:
                continue
            parent = name[: name.rfind("/") + 1]
            beside = [each.removeprefix(parent) for each in archives if each.startswith(parent)]
            try:
                source = gather(folder / name, beside)
            except Refusal as refusal:
                raise UserError(f"{label}: {name}: {refusal}") from None
            unpacked = folder / parent / f".{source.paths[-1].name}.unpacked"
            unpacked.mkdir()
            files = self.unpack_archive(source, unpacked, f"{label}: {name}", depth + 1)
            inner.append(Inner(name, unpacked, files))
            for path in source.paths:
                self._forget(path.stat().st_size)
                path.unlink()
                used.add(parent + path.name)
        return place(inner, [name for name in names if name not in used], folder, self.data, label, self._forget)

    def _open(self, source: Source, depth: int) -> AbstractContextManager[Contents]:
        head, name = source.head, source.paths[0].name
        entries = self.max_entries - self.entries
        if head.startswith(ZIP_HEADS) or source.end:
            return open_zip(source, entries, self.data.zip_encoding)
        if head.startswith(b"7z\xbc\xaf\x27\x1c"):
            return open_7z(source, entries, find_libarchive() if self.with_libarchive else None)
        if opener := decompressor(head):
            if depth and SINGLE.search(name):
                return open_single(source, name.rpartition(".")[0], self.max_bytes - self.declared_bytes)
            if not ARCHIVE.search(name):
                refuse_single(source, opener)
            return open_tar(source)
        if head.strip(b"\0") and is_tar(head):
            return open_tar(source)
        if zipfile.is_zipfile(source.paths[0]):  # behind a program that unpacks it
            return open_zip(source, entries, self.data.zip_encoding)
        raise NotAnArchive(what_it_is(source))

    def _checked(self, entries: Iterable[Entry], folder: Path) -> dict[str, Entry]:
        """Return the files of a table of contents by path below `folder`; raise `Refusal` for any unsafe entry."""
        files: dict[str, Entry] = {}
        refused: list[Entry] = []
        total = 0
        for entry in entries:
            self.entries += 1
            if self.entries > self.max_entries:
                raise Refusal.too_many_entries(f"more than {self.max_entries:,} entries")
            if entry.refusal:
                refused.append(entry)
                continue
            path = safe_path(entry.name)
            if entry.is_folder:
                continue
            if not path or path in files:
                raise Refusal(
                    f"the name {quoted(entry.name)} is {'there twice' if path else 'empty'}. {UNPACK_YOURSELF}"
                )
            if entry.bytes < 0:
                raise Damage(f"{quoted(entry.name)} declares a size of {entry.bytes} bytes")
            files[path] = entry
            total += entry.bytes
            if self.declared_bytes + total > self.max_bytes:
                raise Refusal.too_large(self.max_bytes)
        if refused:
            others = f" {len(refused) - 1:,} other entries cannot be unpacked either." if refused[1:] else ""
            raise Refusal(f"{quoted(refused[0].name)} {refused[0].refusal}.{others}")
        if not files:
            raise Refusal(f"it holds no files. {OTHER_FILE}")
        self.declared_bytes += total
        if total > (free := shutil.disk_usage(folder).free):
            raise Refusal(
                f"it needs {total / 1e6:,.1f} MB and the disk has {free / 1e6:,.1f} MB free. Free space and try again."
            )
        return files

    def _write(self, files: dict[str, Entry], folder: Path, pour: Callable[[Create], None], what: str) -> None:
        """Write the contents that `pour` delivers, and check that they are exactly the `files`."""
        awaited = dict(files)
        ticks = iter(self.watch(range(len(files)), what, len(files)))  # py7zr calls back, so no loop can be watched
        output: Output | None = None

        def create(name: str) -> Output:
            nonlocal output
            path = safe_path(name)
            if path not in awaited:
                raise Damage(f"{quoted(name)} is not in its table of contents")
            output = Output(folder / path, awaited.pop(path))
            next(ticks)
            return output

        for parent in sorted({path.rpartition("/")[0] for path in files}):
            try:
                (folder / parent).mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise Refusal(
                    f"the folder {quoted(parent)} would overwrite an existing file. {UNPACK_YOURSELF}"
                ) from None
            except OSError as error:
                if error.errno in UNSTORABLE:
                    raise Refusal(unstorable(parent, error)) from None
                raise
        try:
            pour(create)
        finally:
            if output:
                output.file.close()
        next(ticks, None)  # ends the progress bar
        if awaited:
            raise Damage(f"{len(awaited):,} of its files are missing, for example {few(list(awaited))}")
        self.files += len(files)
        self.bytes += sum(entry.bytes for entry in files.values())


def _from_damage(error: Exception) -> bool:
    """Return whether `error`, not a `Refusal`, came from damaged bytes, and not from a fault of our own code."""
    if isinstance(error, OSError):
        return error.errno in (None, errno.EINVAL)
    if isinstance(error, DAMAGES):
        return True
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = max(number for number, module in enumerate(modules) if module.startswith("pipelines."))
    called = modules[ours + 1].partition(".")[0] if ours + 1 < len(modules) else ""
    return called in PARSERS
