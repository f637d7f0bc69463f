"""Unpacking archives: whole or not at all, nothing outside the target, nothing that was not declared.

An archive comes from elsewhere.  Its table of contents is judged before the first byte is written, and while the files
are written none may become larger than the table says.  Only plain files and folders are made, so no entry can be
written through a link that an earlier one has laid.
"""

import bz2
import ctypes
import errno
import gzip
import io
import logging
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.system.errors import UserError
from pipelines.system.files import CHUNK_BYTES, atomic_folder
from pipelines.system.watch import Watch, unwatched

if TYPE_CHECKING:
    import py7zr

# Images hardly shrink and tables shrink to a tenth; Deflate reaches 1 to 1,000 and LZMA 1 to 7,000 on zeros alone.
MAX_EXPANSION = 200
HARMLESS_BYTES = 1 << 30  # below this an expansion of any ratio is let through: a table of one value repeated is honest
MAX_ENTRIES = 10_000_000  # ImageNet has 1.4 million; each costs memory before anything is known about it
# A table of contents can be packed too, as that of a 7z is, so that a kilobyte would ask for gigabytes.  Beyond the
# harmless ones an entry, that is a file's content, name and checksum, takes so many bytes of an honest archive.
HARMLESS_ENTRIES = 250_000
ENTRY_BYTES = 16
TABLE_BYTES = 128  # of one entry, unpacked: its name, and what else is known of it
MAX_DEPTH = 3  # archives within the archive; Kaggle packs one deep
MAX_HEADER_BYTES = 1 << 20  # of one entry of a tar: its name, and what else is known of it
MAX_IDLE_BYTES = 1 << 16  # what packing may add to files that do not shrink
NESTED = re.compile(r"\.(zip|7z|tgz|tbz2|txz|tar(\.(gz|bz2|xz))?)$", re.IGNORECASE)

# By their first bytes, the compressions of a tar.
TAR_STREAMS: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
Finish = Callable[[Path, "Unpacked"], None]


@dataclass(frozen=True)
class Unpacked:
    """What lies in the target: its files and their bytes, and how many are copies where links were wanted."""

    files: int
    bytes: int
    copied: int = 0


def unpack(
    source: Path,
    target: Path,
    watch: Watch = unwatched,
    finish: Finish = lambda folder, unpacked: None,
    with_libarchive: bool = True,
) -> Unpacked:
    """Unpack `source`, with the archives in it, so that `target` comes into existence only whole.

    Parameters
    ----------
    source: a zip, 7z or tar (plain, gzip, bzip2, xz), told by its first bytes; or a folder, whose files are
        hard-linked, or copied where that is impossible.  An archive within is unpacked where it lies and then removed.
    target: replaced where it exists.  Empty folders are not made.
    watch: shown the files of each archive as they are written.
    finish: called with the folder and what is in it just before the folder becomes `target`; what it raises prevents
        that, and what it writes there is part of the whole.
    with_libarchive: read 7z through libarchive where it is installed: half the time and memory of py7zr.

    Raises `UserError`, naming the archive, for one that is damaged, encrypted, too large or that holds anything but
    plain files within the target; `OSError` for a full disk.  Nothing is left behind then.
    """
    if not source.exists():
        raise UserError(f"There is no archive {source}.")
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{target} lies inside the folder {source} that it is to be filled from; choose another.")
    with atomic_folder(target) as folder:
        unpacking = _Unpacking(watch, with_libarchive)
        if source.is_dir():
            unpacking.link_folder(source.resolve(), folder, str(source))
        else:
            unpacking.allow(source.stat().st_size)
            unpacking.unpack_archive(source, folder, str(source))
        unpacked = Unpacked(unpacking.files, unpacking.bytes, unpacking.copied)
        finish(folder, unpacked)
    return unpacked


class _Refusal(Exception):
    """What is wrong with an archive, as the end of a sentence that begins with its name."""


def _wrong_checksum(name: str) -> _Refusal:
    return _Refusal(f"the checksum of {name!r} is wrong: it is damaged. Download it again.")


def _too_many_entries(what: str) -> _Refusal:
    return _Refusal(
        f"its table of contents is too long for an archive of its size ({what}). If you trust it, unpack it yourself "
        "and give the folder."
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of an archive's table of contents; `refusal` is empty for a plain file or folder."""

    name: str
    bytes: int
    is_folder: bool = False
    refusal: str = ""
    crc: int | None = None


class _Output:
    """One file being written, which takes no byte more and, when closed, no byte less than was declared."""

    def __init__(self, path: Path, entry: _Entry) -> None:
        try:
            self.file = open(path, "xb")  # noqa: SIM115 - py7zr opens and closes apart
        except (FileExistsError, IsADirectoryError):
            raise _Refusal(f"{entry.name!r} would overwrite what is already there.") from None
        self.entry = entry
        self.bytes = self.crc = 0

    def write(self, chunk: bytes | memoryview) -> int:
        self.bytes += len(chunk)
        if self.bytes > self.entry.bytes:
            raise _Refusal(f"{self.entry.name!r} is larger than the {self.entry.bytes:,} bytes that were declared.")
        self.crc = zlib.crc32(chunk, self.crc)
        self.file.write(chunk)
        return len(chunk)

    def close(self) -> None:
        self.file.close()
        if self.bytes != self.entry.bytes:
            raise _Refusal(f"{self.entry.name!r} has {self.bytes:,} bytes of the {self.entry.bytes:,} declared.")
        if self.entry.crc not in (None, self.crc):
            raise _wrong_checksum(self.entry.name)

    def seekable(self) -> bool:  # py7zr would rewind it otherwise
        return False

    def seek(self, offset: int, whence: int = 0) -> int:  # py7zr before 1.1.4 rewinds what it wrote, and writes no more
        return 0


Create = Callable[[str], _Output]
Contents = tuple[Iterable[_Entry], Callable[[Create], None]]  # what is in it, and the function that pours it out


class _Unpacking:
    """The counts and limits that an archive and the archives within it share."""

    def __init__(self, watch: Watch, with_libarchive: bool) -> None:
        self.watch, self.with_libarchive = watch, with_libarchive
        self.files = self.bytes = self.copied = 0
        self.entries = self.declared_bytes = self.allowed_bytes = self.allowed_entries = 0

    def allow(self, source_bytes: int) -> None:
        self.allowed_bytes = max(HARMLESS_BYTES, MAX_EXPANSION * source_bytes)
        self.allowed_entries = min(HARMLESS_ENTRIES + source_bytes // ENTRY_BYTES, MAX_ENTRIES)

    def unpack_archive(self, archive: Path, folder: Path, label: str, depth: int = 0) -> None:
        """Unpack `archive` into the existing `folder`; `label` names it in errors, with the archives around it."""
        try:
            if depth > MAX_DEPTH:
                raise _Refusal(f"it is an archive within {depth} archives; {MAX_DEPTH} is the limit.")
            with self._open(archive) as (entries, pour):
                files = self._judge(entries, folder)
                self._write(files, folder, pour, archive.name)
        except _Refusal as refusal:
            raise UserError(f"{label}: {refusal}") from refusal.__cause__
        except Exception as error:  # the parsers raise whatever the bytes lead them into, KeyErrors included
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL, errno.ENAMETOOLONG):
                raise  # the disk's fault: it is full, or not ours
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{label}: it is damaged or incomplete ({reason}). Download it again.") from error
        self._unpack_nested(files, folder, label, depth)

    def link_folder(self, source: Path, folder: Path, label: str) -> None:
        """Give every file below `source` a second name below `folder`."""
        found = {path.relative_to(source): _linkable(path, source, label) for path in _walk(source)}
        if not found:
            raise UserError(f"{label}: the folder holds no files.")
        sizes = {path: real.stat().st_size for path, real in found.items()}
        for path, real in self.watch(found.items(), source.name, len(found)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            self.copied += not _linked(real, folder / path)
        self.files, self.bytes = len(sizes), sum(sizes.values())
        self.allow(self.bytes)
        self._unpack_nested(map(Path.as_posix, sizes), folder, label, 0)

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
        entries = self.allowed_entries - self.entries
        if head.startswith((b"PK\3\4", b"PK\5\6")):
            return _zip(archive, entries)
        if head.startswith(b"7z\xbc\xaf\x27\x1c"):
            return _seven_zip(archive, entries, _libarchive() if self.with_libarchive else None)
        for start, decompressed in TAR_STREAMS.items():
            if head.startswith(start):
                return _tar(archive, decompressed)
        if head[257:262] == b"ustar":
            return _tar(archive, lambda path: open(path, "rb"))
        if not head:
            raise _Refusal("the file is empty. Download it again.")
        if head.lstrip()[:1] == b"<":
            raise _Refusal("it is a web page, not an archive: log in, accept the rules and download it again.")
        raise _Refusal(f"it is not a zip, 7z or tar (gzip, bzip2, xz); it begins with {head[:16]!r}.")

    def _judge(self, entries: Iterable[_Entry], folder: Path) -> dict[str, _Entry]:
        """Return the files of a table of contents by their path below `folder`; refuse a table that bodes ill."""
        files: dict[str, _Entry] = {}
        total = 0
        for entry in entries:
            self.entries += 1
            if self.entries > self.allowed_entries:
                raise _too_many_entries(f"more than {self.allowed_entries:,} entries")
            if entry.refusal:
                raise _Refusal(f"{entry.name!r} {entry.refusal}: only plain files and folders are unpacked.")
            name = _inside(entry.name)
            if entry.is_folder:
                continue
            if not name or name in files:
                raise _Refusal(f"{entry.name!r} is {'there twice' if name else 'not a name'}.")
            if entry.bytes < 0:
                raise _Refusal(f"{entry.name!r} is declared to have {entry.bytes} bytes.")
            files[name] = entry
            total += entry.bytes
            if self.declared_bytes + total > self.allowed_bytes:
                raise _Refusal(
                    f"unpacked it would exceed {self.allowed_bytes:,} bytes, which images and tables do not. "
                    "If you trust it, unpack it yourself and give the folder."
                )
        if not files:
            raise _Refusal("it holds no files.")
        self.declared_bytes += total
        if total > (free := shutil.disk_usage(folder).free):
            raise _Refusal(
                f"it needs {total / 1e6:,.1f} MB and the disk has {free / 1e6:,.1f} MB free. Free space and try again."
            )
        return files

    def _write(self, entries: dict[str, _Entry], folder: Path, pour: Callable[[Create], None], what: str) -> None:
        """Write the contents that `pour` hands out, and see that they are those of the table."""
        awaited = dict(entries)
        ticks = iter(self.watch(range(len(entries)), what, len(entries)))  # py7zr pushes, so there is no loop to watch
        output: _Output | None = None

        def create(name: str) -> _Output:
            nonlocal output
            entry = awaited.pop(_inside(name), None)
            if entry is None:
                raise _Refusal(f"{name!r} is not in its table of contents.")
            output = _Output(folder / _inside(name), entry)
            next(ticks)
            return output

        for parent in sorted({name.rpartition("/")[0] for name in entries}):
            try:
                (folder / parent).mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise _Refusal(f"the folder {parent!r} would overwrite a file that is already there.") from None
        try:
            pour(create)
        finally:
            if output:
                output.file.close()
        next(ticks, None)  # past the last one, so that a progress bar ends
        if awaited:
            raise _Refusal(f"{len(awaited):,} of its files are missing, {next(iter(awaited))!r} among them.")
        self.files += len(entries)
        self.bytes += sum(entry.bytes for entry in entries.values())


def _inside(name: str) -> str:
    """Return the name of an entry as a path below the target; refuse one that could lead elsewhere."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or re.match("[A-Za-z]:", name):
        raise _Refusal(f"the entry {name!r} does not stay inside the target. Nothing of this archive is unpacked.")
    try:
        if any(len(os.fsencode(part)) > 255 for part in parts):
            raise _Refusal(f"the name {name[:60]!r}… is longer than a file's name can be.")
    except UnicodeEncodeError:
        raise _Refusal(f"the name {name!r} is not valid text.") from None
    return "/".join(parts)


class _ZipStream(io.BufferedReader):
    """The bytes of a zip, of which no more are read at once than a table of so many entries has.

    zipfile reads the table whole, however long it is, and keeps an object for each 46 bytes of it.
    """

    def __init__(self, path: Path, entries: int) -> None:
        super().__init__(io.FileIO(path))
        self.most = max(TABLE_BYTES * entries, CHUNK_BYTES)
        self.length = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self.length - self.tell() if size is None or size < 0 else size
        if wanted > self.most:
            raise _too_many_entries(f"{wanted:,} bytes")
        return super().read(wanted)


@contextmanager
def _zip(path: Path, most_entries: int) -> Iterator[Contents]:
    with _ZipStream(path, most_entries) as stream, zipfile.ZipFile(stream) as archive:

        def pour(create: Create) -> None:
            for info in archive.infolist():
                if not info.is_dir():
                    with archive.open(info) as content:
                        _copy(content, create(info.filename))

        yield map(_zip_entry, archive.infolist()), pour


def _zip_entry(info: zipfile.ZipInfo) -> _Entry:
    refusal = ""
    if info.flag_bits & 1:
        refusal = "is encrypted"
    elif (mode := info.external_attr >> 16) and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        refusal = "is a link" if stat.S_ISLNK(mode) else "is a device or a pipe"
    # the name before zipfile cut it at a NUL
    return _Entry(info.orig_filename, info.file_size, info.is_dir(), refusal)


class _TarStream:
    """The bytes of a tar, decompressed; of the headers of an entry it hands out no more than an honest one has.

    tarfile reads a long name, or a list of holes, whole into memory, however long it claims to be.
    """

    def __init__(self, content: Any) -> None:
        self.content = content
        self.left: int | None = None  # bytes that may still be read before the next entry; None: as many as there are

    def read(self, size: int = -1) -> bytes:
        if self.left is not None:
            if not 0 <= size <= self.left:
                raise _Refusal(f"the headers of an entry are longer than {MAX_HEADER_BYTES:,} bytes.")
            self.left -= size
        return self.content.read(size)

    def seek(self, position: int) -> int:
        return self.content.seek(position)

    def tell(self) -> int:
        return self.content.tell()


@contextmanager
def _tar(path: Path, decompressed: Callable[[Path], Any]) -> Iterator[Contents]:
    with decompressed(path) as content:
        stream = _TarStream(content)
        stream.left = MAX_HEADER_BYTES
        members: list[tarfile.TarInfo] = []
        with tarfile.open(fileobj=stream, mode="r:") as archive:  # type: ignore[call-overload]

            def entries() -> Iterator[_Entry]:
                count = 0
                while member := archive.next():
                    stream.left = MAX_HEADER_BYTES
                    archive.members.clear()  # it keeps each, and millions of folders hardly make an archive longer
                    member.pax_headers = {}
                    count += 1
                    if not member.isdir():
                        members.append(member)
                    kind = "a link" if member.issym() or member.islnk() else "a device or a pipe"
                    refusal = "" if member.isreg() or member.isdir() else f"is {kind}"
                    yield _Entry(member.name, member.size, member.isdir(), refusal)
                stream.left = None
                # tarfile takes a damaged header for the end of the archive; the true end is a block of zeros
                stream.seek(archive.offset)
                if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError(f"no end mark after {count:,} entries")
                behind = 0
                while chunk := stream.read(CHUNK_BYTES):  # the checksum of a gzip, bzip2 or xz comes last
                    behind += len(chunk)
                    if behind > HARMLESS_BYTES:
                        raise _Refusal(f"behind its last entry it goes on for more than {HARMLESS_BYTES:,} bytes.")

            def pour(create: Create) -> None:
                stream.left = None
                for member in members:
                    if content := archive.extractfile(member):
                        _copy(content, create(member.name))

            yield entries(), pour


def _copy(content: Any, output: _Output) -> None:
    while chunk := content.read(CHUNK_BYTES):
        output.write(chunk)
    output.close()


@contextmanager
def _seven_zip(path: Path, most_entries: int, libarchive: Any) -> Iterator[Contents]:
    import py7zr

    encrypted = _Refusal("it is encrypted; unpack it yourself and give the folder.")
    with open(path, "rb") as file:
        try:
            with _bounded_table(most_entries):
                archive = py7zr.SevenZipFile(file)
        except py7zr.exceptions.PasswordRequired:
            raise encrypted from None
        except py7zr.exceptions.Bad7zFile as error:
            if "exceeds limit" not in str(error):
                raise
            raise _too_many_entries(str(error)) from None
        with archive:
            if archive.needs_password():
                raise encrypted
            _refuse_idle_bytes(archive)
            entries = map(_seven_zip_entry, archive.files)
            if libarchive:
                yield entries, lambda create: _pour_libarchive(path, create, libarchive)
            else:
                yield entries, lambda create: _pour_py7zr(archive, create)


@contextmanager
def _bounded_table(entries: int) -> Iterator[None]:
    """Let py7zr refuse a table of contents of more than so many entries, before it makes an object of each.

    Its own limits let gigabytes be taken before anything is known, and it has no argument for them; before 1.1.4 it has
    none.
    """
    from py7zr import archiveinfo

    limits = dict.fromkeys(("MAX_NUMFILES", "MAX_SUBSTREAMS", "MAX_NUMFOLDERS"), entries)
    limits["MAX_HEADER_SIZE"] = TABLE_BYTES * entries
    before = {name: getattr(archiveinfo, name) for name in limits if hasattr(archiveinfo, name)}
    try:
        for name, limit in before.items():
            setattr(archiveinfo, name, min(limit, limits[name]))
        yield
    finally:
        for name, limit in before.items():
            setattr(archiveinfo, name, limit)


def _refuse_idle_bytes(archive: "py7zr.SevenZipFile") -> None:
    """Raise a `_Refusal` where more is packed than the files can need: libarchive would unpack it all, for hours."""
    streams = archive.header.main_streams
    packed = sum(streams.packinfo.packsizes) if streams else 0
    unpacked = sum(info.uncompressed for info in archive.files)
    if packed > 1.1 * unpacked + MAX_IDLE_BYTES:
        raise _Refusal(f"it has {packed:,} bytes of packed data for files of {unpacked:,} bytes.")


def _seven_zip_entry(info: "py7zr.py7zr.ArchiveFile") -> _Entry:
    refusal = ""
    if info.is_symlink or info.is_junction:
        refusal = "is a link"
    elif info.st_fmt not in (None, 0, stat.S_IFDIR if info.is_directory else stat.S_IFREG):
        refusal = "is a device or a pipe"
    return _Entry(info.filename, info.uncompressed, info.is_directory, refusal, info.crc32)


def _libarchive() -> Any:
    """Return the module, or None where it or the system library below it is missing."""
    try:
        import libarchive
    except (ImportError, AttributeError, OSError, TypeError):  # it looks the library up while it is imported
        return None
    return libarchive


def _pour_libarchive(path: Path, create: Create, libarchive: Any) -> None:
    libarchive.ffi.logger.setLevel(logging.ERROR)  # it would log the wrong checksums that we raise
    buffer = ctypes.create_string_buffer(CHUNK_BYTES)
    view = memoryview(buffer)
    with libarchive.read.new_archive_read("7zip", "none") as pointer:
        libarchive.ffi.read_open_filename_w(pointer, str(path), CHUNK_BYTES)
        for entry in libarchive.read.ArchiveRead(pointer):
            if not entry.isdir:
                output = create(entry.pathname)
                # not entry.get_blocks(): it takes the negative count of a wrong checksum for a length
                while count := libarchive.ffi.read_data(pointer, buffer, CHUNK_BYTES):
                    if count < 0:
                        raise _wrong_checksum(entry.pathname)
                    output.write(view[:count])
                output.close()


def _pour_py7zr(archive: "py7zr.SevenZipFile", create: Create) -> None:
    import py7zr

    class Factory:
        def create(self, path: str) -> _Output:
            return create(path.removeprefix("/"))

    try:
        # it puts a folder before the names, which must exist; with a factory it writes nothing there
        archive.extractall("/", factory=Factory())  # type: ignore[arg-type]
    except py7zr.exceptions.CrcError as error:
        raise _wrong_checksum(error.filename) from error


def _walk(folder: Path) -> Iterator[Path]:
    """Yield whatever lies below `folder`, links to folders included, in the order of the names."""
    with os.scandir(folder) as found:
        for entry in sorted(found, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))
            else:
                yield Path(entry.path)


def _linkable(path: Path, source: Path, label: str) -> Path:
    """Return the plain file that `path` is or, within `source`, links to."""
    if not path.is_file():
        raise UserError(f"{label}: {path.relative_to(source)} is not a file, nor a link to one.")
    real = path.resolve() if path.is_symlink() else path
    if not real.is_relative_to(source):
        raise UserError(f"{label}: {path.relative_to(source)} is a link that leads outside the folder, to {real}.")
    return real


def _linked(source: Path, target: Path) -> bool:
    """Give the file `source` the second name `target`, or copy it; return whether it could be linked."""
    try:
        os.link(source, target)
    except OSError as error:
        # another file system; one without hard links; too many links; a file of someone else's
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES):
            raise
        shutil.copyfile(source, target)
        return False
    return True
