"""Reading 7z archives: the table of contents with py7zr, the files with libarchive if it is installed."""

import ctypes
import io
import logging
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.dataset.archive_entries import (
    TABLE_BYTES,
    UNPACK_YOURSELF,
    Contents,
    Create,
    Damage,
    Entry,
    Output,
    Refusal,
)
from pipelines.dataset.archive_pieces import Source
from pipelines.system.files import CHUNK_BYTES

if TYPE_CHECKING:
    import py7zr

MAX_OVERHEAD_BYTES = 1 << 16  # that packing may add to incompressible files


@contextmanager
def open_7z(source: Source, max_entries: int, libarchive: Any) -> Iterator[Contents]:
    """Yield the contents of the 7z `source`; the module `libarchive` reads it, if it is one file, unless it is None."""
    import py7zr

    encrypted = Refusal("it is encrypted. Unpack it with its password (7z x) and give the folder: ARCHIVE=folder.")
    with io.BufferedReader(source.open()) as file:
        try:
            with _bounded_table(max_entries):
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
            entries = map(_entry, archive.files)
            if libarchive and len(source.paths) == 1:
                yield entries, lambda create: _pour_libarchive(source.paths[0], create, libarchive)
            else:
                yield entries, lambda create: _pour_py7zr(archive, create)


def find_libarchive() -> Any:
    """Return the module libarchive, or None if it or its system library is missing."""
    try:
        import libarchive
    except (ImportError, AttributeError, OSError, TypeError):  # the import looks up the system library
        return None
    return libarchive


@contextmanager
def _bounded_table(entries: int) -> Iterator[None]:
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
        raise Refusal(f"it has {packed:,} bytes of packed data for files of {unpacked:,} bytes. {UNPACK_YOURSELF}")


def _entry(info: "py7zr.py7zr.ArchiveFile") -> Entry:
    refusal = ""
    if info.is_symlink or info.is_junction:
        refusal = Entry.LINK
    elif info.st_fmt not in (None, 0, stat.S_IFDIR if info.is_directory else stat.S_IFREG):
        refusal = Entry.DEVICE
    return Entry(info.filename, info.uncompressed, info.is_directory, refusal, info.crc32)


def _pour_libarchive(path: Path, create: Create, libarchive: Any) -> None:
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
                        raise Damage.wrong_checksum(entry.pathname)
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
        raise Damage.wrong_checksum(error.filename) from error
