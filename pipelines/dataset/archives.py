"""Unpack archives: completely or not at all, nothing outside the target, nothing larger than declared.

An archive is untrusted input. Its table of contents is checked before the first byte is written, and no file may become
larger than the table says. Only plain files and folders are created, so no entry can be written through a link.
"""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from pipelines.dataset.archive_entries import HARMLESS_BYTES, Contents, Create, Entry, Output, Refusal, safe_path
from pipelines.dataset.archive_formats import find_libarchive, open_7z, open_tar, open_zip, tar_opener
from pipelines.system.errors import UserError
from pipelines.system.files import atomic_folder
from pipelines.system.watch import Watch, unwatched

# Images hardly shrink and tables shrink to a tenth; Deflate reaches 1 to 1,000 and LZMA 1 to 7,000 on zeros alone.
MAX_EXPANSION = 200
MAX_ENTRIES = 10_000_000  # ImageNet has 1.4 million; each entry takes memory before it can be checked
# A kilobyte of compressed table, as in a 7z, can claim gigabytes of entries. Beyond HARMLESS_ENTRIES each entry needs
# ENTRY_BYTES of the archive: a real one has content, a name and a checksum.
HARMLESS_ENTRIES = 250_000
ENTRY_BYTES = 16
MAX_DEPTH = 3  # of archives within archives; Kaggle nests one deep
NESTED = re.compile(r"\.(zip|7z|tgz|tbz2|txz|tar(\.(gz|bz2|xz))?)$", re.IGNORECASE)


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
) -> Unpacked:
    """Unpack `source` and the archives inside it to `target`, which is replaced when all is complete.

    source: a zip, 7z or tar (plain, gzip, bzip2, xz), recognised by its first bytes; or a folder, whose files are
        hard-linked, or copied if that is impossible. An archive inside is replaced by its files.
    finish: called with the complete folder before it becomes `target`; it may add files, and an exception cancels all.
    with_libarchive: read 7z with libarchive if it is installed: half the time and memory of py7zr.

    Raises `UserError` for an archive that is damaged, encrypted, too large, or holds anything but plain files inside
    the target; `OSError` for a full disk. Both leave nothing behind.
    """
    if not source.exists():
        raise UserError(f"There is no archive {source}.")
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise UserError(f"The target {target} is inside the folder {source} that is to be unpacked. Move the source.")
    with atomic_folder(target) as folder:
        unpacking = _Unpacking(watch, with_libarchive)
        if source.is_dir():
            unpacking.link_folder(source.resolve(), folder, str(source))
        else:
            unpacking.set_limits(source.stat().st_size)
            unpacking.unpack_archive(source, folder, str(source))
        unpacked = Unpacked(unpacking.files, unpacking.bytes, unpacking.copied)
        finish(folder, unpacked)
    return unpacked


class _Unpacking:
    """The counts and limits that an archive shares with the archives inside it."""

    def __init__(self, watch: Watch, with_libarchive: bool) -> None:
        self.watch, self.with_libarchive = watch, with_libarchive
        self.files = self.bytes = self.copied = 0
        self.entries = self.declared_bytes = self.max_bytes = self.max_entries = 0

    def set_limits(self, source_bytes: int) -> None:
        self.max_bytes = max(HARMLESS_BYTES, MAX_EXPANSION * source_bytes)
        self.max_entries = min(HARMLESS_ENTRIES + source_bytes // ENTRY_BYTES, MAX_ENTRIES)

    def unpack_archive(self, archive: Path, folder: Path, label: str, depth: int = 0) -> None:
        """Unpack `archive` into the existing `folder`; `label` names it in errors, with the archives around it."""
        try:
            if depth > MAX_DEPTH:
                raise Refusal(f"it is an archive within {depth} archives; {MAX_DEPTH} is the limit.")
            with self._open(archive) as (entries, pour):
                files = self._checked(entries, folder)
                self._write(files, folder, pour, archive.name)
        except Refusal as refusal:
            raise UserError(f"{label}: {refusal}") from refusal.__cause__
        except Exception as error:  # on damaged bytes the parsers raise anything, even KeyError
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL, errno.ENAMETOOLONG):
                raise  # an error of the disk, not of the archive
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{label}: it is damaged or incomplete ({reason}). Download it again.") from error
        self._unpack_nested(files, folder, label, depth)

    def link_folder(self, source: Path, folder: Path, label: str) -> None:
        """Hard-link or copy every file below `source` into `folder`."""
        found = {path.relative_to(source): _linkable(path, source, label) for path in _walk(source)}
        if not found:
            raise UserError(f"{label}: the folder holds no files.")
        self.files, self.bytes = len(found), sum(real.stat().st_size for real in found.values())
        for path, real in self.watch(found.items(), source.name, len(found)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            self.copied += not _linked(real, folder / path)
        self.set_limits(self.bytes)
        self._unpack_nested(map(Path.as_posix, found), folder, label, 0)

    def _unpack_nested(self, names: Iterable[str], folder: Path, label: str, depth: int) -> None:
        for name in filter(NESTED.search, names):
            nested = folder / name
            self.unpack_archive(nested, nested.parent, f"{label}: {name}", depth + 1)
            self.files -= 1
            self.bytes -= nested.stat().st_size
            nested.unlink()

    def _open(self, archive: Path) -> AbstractContextManager[Contents]:
        with open(archive, "rb") as file:
            head = file.read(512)
        entries = self.max_entries - self.entries
        if head.startswith((b"PK\3\4", b"PK\5\6")):
            return open_zip(archive, entries)
        if head.startswith(b"7z\xbc\xaf\x27\x1c"):
            return open_7z(archive, entries, find_libarchive() if self.with_libarchive else None)
        if opener := tar_opener(head):
            return open_tar(archive, opener)
        if not head:
            raise Refusal("the file is empty. Download it again.")
        if head.lstrip()[:1] == b"<":
            raise Refusal("it is a web page, not an archive. Log in, accept the rules and download it again.")
        raise Refusal(f"it is not a zip, 7z or tar (gzip, bzip2, xz); it begins with {head[:16]!r}.")

    def _checked(self, entries: Iterable[Entry], folder: Path) -> dict[str, Entry]:
        """Return the files of a table of contents by path below `folder`; raise `Refusal` for any unsafe entry."""
        files: dict[str, Entry] = {}
        total = 0
        for entry in entries:
            self.entries += 1
            if self.entries > self.max_entries:
                raise Refusal.too_many_entries(f"more than {self.max_entries:,} entries")
            if entry.refusal:
                raise Refusal(f"{entry.name!r} {entry.refusal}: only plain files and folders are unpacked.")
            path = safe_path(entry.name)
            if entry.is_folder:
                continue
            if not path or path in files:
                raise Refusal(f"the name {entry.name!r} is {'there twice' if path else 'empty'}.")
            if entry.bytes < 0:
                raise Refusal(f"{entry.name!r} declares a size of {entry.bytes} bytes.")
            files[path] = entry
            total += entry.bytes
            if self.declared_bytes + total > self.max_bytes:
                raise Refusal.too_large(self.max_bytes)
        if not files:
            raise Refusal("it holds no files.")
        self.declared_bytes += total
        if total > (free := shutil.disk_usage(folder).free):
            raise Refusal(f"it needs {total / 1e6:,.1f} MB and the disk has {free / 1e6:,.1f} MB free. Make room.")
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
                raise Refusal(f"{name!r} is not in its table of contents.")
            output = Output(folder / path, awaited.pop(path))
            next(ticks)
            return output

        for parent in sorted({path.rpartition("/")[0] for path in files}):
            try:
                (folder / parent).mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise Refusal(f"the folder {parent!r} would overwrite an existing file.") from None
        try:
            pour(create)
        finally:
            if output:
                output.file.close()
        next(ticks, None)  # ends the progress bar
        if awaited:
            raise Refusal(f"{len(awaited):,} of its files are missing, for example {next(iter(awaited))!r}.")
        self.files += len(files)
        self.bytes += sum(entry.bytes for entry in files.values())


def _walk(folder: Path) -> Iterator[Path]:
    """Yield everything below `folder` except real folders, sorted by name; links to folders are not followed."""
    with os.scandir(folder) as found:
        for entry in sorted(found, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))
            else:
                yield Path(entry.path)


def _linkable(path: Path, source: Path, label: str) -> Path:
    """Return the plain file within `source` that `path` is or links to."""
    if not path.is_file():
        raise UserError(f"{label}: {path.relative_to(source)} is not a file and not a link to one.")
    real = path.resolve() if path.is_symlink() else path
    if not real.is_relative_to(source):
        raise UserError(f"{label}: {path.relative_to(source)} is a link to {real}, which is outside the folder.")
    return real


def _linked(source: Path, target: Path) -> bool:
    """Hard-link `source` to `target`, or copy it; return whether it was linked."""
    try:
        os.link(source, target)
    except OSError as error:
        # another file system, one without hard links, too many links, a file of another user
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES):
            raise
        shutil.copyfile(source, target)
        return False
    return True
