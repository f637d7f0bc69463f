"""Read zip, tar and 7z archives.

7z: the table of contents with py7zr; the files with libarchive if it is installed, else with py7zr.
"""

import bz2
import ctypes
import gzip
import io
import logging
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.dataset.archive_entries import HARMLESS_BYTES, TABLE_BYTES, Contents, Create, Entry, Output, Refusal
from pipelines.system.files import CHUNK_BYTES

if TYPE_CHECKING:
    import py7zr

MAX_HEADER_BYTES = 1 << 20  # of the headers of one entry
TAR_OPENERS: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
MAX_OVERHEAD_BYTES = 1 << 16  # that 7z packing may add to incompressible files


class _ZipReader(io.BufferedReader):
    """The bytes of a zip, with one read limited to the size of a table of contents with `entries` entries.

    zipfile reads the whole table at once, whatever its length, and keeps an object for each 46 bytes.
    """

    def __init__(self, path: Path, entries: int) -> None:
        super().__init__(io.FileIO(path))
        self.most = max(TABLE_BYTES * entries, CHUNK_BYTES)
        self.length = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self.length - self.tell() if size is None or size < 0 else size
        if wanted > self.most:
            raise Refusal.too_many_entries(f"{wanted:,} bytes")
        return super().read(wanted)


@contextmanager
def open_zip(path: Path, max_entries: int) -> Iterator[Contents]:
    """Yield the contents of the zip at `path`."""
    with _ZipReader(path, max_entries) as stream, zipfile.ZipFile(stream) as archive:

        def pour(create: Create) -> None:
            for info in archive.infolist():
                if not info.is_dir():
                    with archive.open(info) as content:
                        create(info.filename).write_all(content)

        yield map(_zip_entry, archive.infolist()), pour


def _zip_entry(info: zipfile.ZipInfo) -> Entry:
    mode = info.external_attr >> 16
    refusal = _refusal(stat.S_ISLNK(mode), stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR))
    # orig_filename: zipfile cuts filename at a NUL
    return Entry(info.orig_filename, info.file_size, info.is_dir(), "is encrypted" if info.flag_bits & 1 else refusal)


def _refusal(is_link: bool, is_plain: bool) -> str:
    return "is a link" if is_link else "" if is_plain else "is a device or a pipe"


def tar_opener(head: bytes) -> Callable[[Path], Any] | None:
    """Return the function that opens and decompresses a tar with the first bytes `head`; None for another file."""
    if head[257:262] == b"ustar":
        return lambda path: open(path, "rb")
    return next((opener for start, opener in TAR_OPENERS.items() if head.startswith(start)), None)


class _TarReader:
    """The uncompressed bytes of a tar, with the headers of an entry limited to MAX_HEADER_BYTES.

    tarfile reads a long name or a list of holes into memory at once, whatever its declared length.
    """

    def __init__(self, content: Any) -> None:
        self.content, self.seek, self.tell = content, content.seek, content.tell
        self.left: int | None = MAX_HEADER_BYTES  # bytes until the next entry must begin; None: no limit

    def read(self, size: int = -1) -> bytes:
        if self.left is not None:
            if not 0 <= size <= self.left:
                raise Refusal(f"the headers of an entry are longer than {MAX_HEADER_BYTES:,} bytes.")
            self.left -= size
        return self.content.read(size)


@contextmanager
def open_tar(path: Path, opener: Callable[[Path], Any]) -> Iterator[Contents]:
    """Yield the contents of the tar at `path`; its entries must be read before its files."""
    with opener(path) as content:
        stream = _TarReader(content)
        members: list[tarfile.TarInfo] = []
        with tarfile.open(fileobj=stream, mode="r:") as archive:  # type: ignore[call-overload]

            def pour(create: Create) -> None:
                for member in members:
                    if content := archive.extractfile(member):
                        create(member.name).write_all(content)

            yield _tar_entries(archive, stream, members), pour


def _tar_entries(archive: Any, stream: _TarReader, members: list[tarfile.TarInfo]) -> Iterator[Entry]:
    """Yield all entries of `archive`, and append those that are not folders to `members`."""
    count = 0
    while member := archive.next():
        stream.left = MAX_HEADER_BYTES
        archive.members.clear()  # tarfile keeps all members; millions of folders take little space in an archive
        member.pax_headers = {}
        count += 1
        if not member.isdir():
            members.append(member)
        refusal = _refusal(member.issym() or member.islnk(), member.isreg() or member.isdir())
        yield Entry(member.name, member.size, member.isdir(), refusal)
    stream.left = None
    # tarfile takes a damaged header for the end of the archive; the true end is a block of zeros.
    stream.seek(archive.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no end mark after {count:,} entries")
    trailing = 0
    while chunk := stream.read(CHUNK_BYTES):  # to the end, where gzip, bzip2 and xz have their checksum
        if (trailing := trailing + len(chunk)) > HARMLESS_BYTES:
            raise Refusal(f"it continues for more than {HARMLESS_BYTES:,} bytes after its last entry.")


@contextmanager
def open_7z(path: Path, max_entries: int, libarchive: Any) -> Iterator[Contents]:
    """Yield the contents of the 7z at `path`, read with the module `libarchive` unless it is None."""
    import py7zr

    encrypted = Refusal("it is encrypted. Unpack it yourself and give the folder.")
    with open(path, "rb") as file:
        try:
            with _limited_py7zr(max_entries):
                archive = py7zr.SevenZipFile(file)
        except py7zr.exceptions.PasswordRequired:
            raise encrypted from None
        except py7zr.exceptions.Bad7zFile as error:
            if "exceeds limit" not in str(error):
                raise
            raise Refusal.too_many_entries(str(error)) from None
        with archive:
            if archive.needs_password():
                raise encrypted
            _refuse_unused_data(archive)
            pour = partial(_pour_libarchive, libarchive, path) if libarchive else partial(_pour_py7zr, archive)
            yield map(_7z_entry, archive.files), pour


def find_libarchive() -> Any:
    """Return the module libarchive, or None if it or its system library is missing."""
    try:
        import libarchive
    except (ImportError, AttributeError, OSError, TypeError):  # the import looks up the system library
        return None
    return libarchive


@contextmanager
def _limited_py7zr(entries: int) -> Iterator[None]:
    """Make py7zr refuse a table of contents of more than `entries` entries before it creates their objects.

    py7zr has no argument for its limits, and the built-in ones allow gigabytes. Before 1.1.4 it has no limits.
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


def _refuse_unused_data(archive: "py7zr.SevenZipFile") -> None:
    """Raise `Refusal` for more packed data than the files need: libarchive would unpack it all, for hours."""
    streams = archive.header.main_streams
    packed = sum(streams.packinfo.packsizes) if streams else 0
    unpacked = sum(info.uncompressed for info in archive.files)
    if packed > 1.1 * unpacked + MAX_OVERHEAD_BYTES:
        raise Refusal(f"it has {packed:,} bytes of packed data for files of {unpacked:,} bytes.")


def _7z_entry(info: "py7zr.py7zr.ArchiveFile") -> Entry:
    plain = (None, 0, stat.S_IFDIR if info.is_directory else stat.S_IFREG)
    refusal = _refusal(info.is_symlink or info.is_junction, info.st_fmt in plain)
    return Entry(info.filename, info.uncompressed, info.is_directory, refusal, info.crc32)


def _pour_libarchive(libarchive: Any, path: Path, create: Create) -> None:
    libarchive.ffi.logger.setLevel(logging.ERROR)  # it would log the wrong checksums that are raised here
    buffer = ctypes.create_string_buffer(CHUNK_BYTES)
    view = memoryview(buffer)
    with libarchive.read.new_archive_read("7zip", "none") as pointer:
        libarchive.ffi.read_open_filename_w(pointer, str(path), CHUNK_BYTES)
        for entry in libarchive.read.ArchiveRead(pointer):
            if not entry.isdir:
                output = create(entry.pathname)
                # entry.get_blocks() would use the negative count of a wrong checksum as a length.
                while count := libarchive.ffi.read_data(pointer, buffer, CHUNK_BYTES):
                    if count < 0:
                        raise Refusal.wrong_checksum(entry.pathname)
                    output.write(view[:count])
                output.close()


def _pour_py7zr(archive: "py7zr.SevenZipFile", create: Create) -> None:
    import py7zr

    class Factory:
        def create(self, path: str) -> Output:
            return create(path.removeprefix("/"))

    try:
        # py7zr puts an existing folder before each name; with a factory it writes nothing there.
        archive.extractall("/", factory=Factory())  # type: ignore[arg-type]
    except py7zr.exceptions.CrcError as error:
        raise Refusal.wrong_checksum(error.filename) from error
