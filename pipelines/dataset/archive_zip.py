"""Reading zip archives."""

import copy
import io
import lzma
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.dataset.archive_entries import TABLE_BYTES, Contents, Create, Damage, Entry, Refusal
from pipelines.dataset.archive_pieces import Source
from pipelines.dataset.archive_zip_names import entry_names
from pipelines.system.files import CHUNK_BYTES

METHODS = {  # of compression that zipfile lacks, by their numbers in PKWARE's APPNOTE
    1: "Shrink",
    6: "Implode",
    9: "Deflate64",
    10: "PKWARE Implode",
    93: "Zstandard",
    95: "xz",
    96: "a JPEG variant",
    97: "WavPack",
    98: "PPMd",
}
READ_BY_ZIPFILE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
DEFLATE64, ZSTANDARD, XZ = 9, 93, 95
ENCRYPTED, ENCRYPTED_BY_AES = 1, 99  # a flag bit and a method
SMALL_BYTES = 1 << 10  # 28 MB at most when Deflate64 expands them, which has no limit of its own
LZMA_BYTES = 1 << 30  # of memory


class _BoundedReader(io.BufferedReader):
    """The bytes of a zip; refuses a single read that is larger than a table of contents with `entries` entries.

    zipfile reads the whole table at once, whatever its length, and keeps an object for each 46 bytes.
    """

    def __init__(self, source: Source, entries: int) -> None:
        super().__init__(source.open())
        self.most = max(TABLE_BYTES * entries, CHUNK_BYTES)
        self.length = source.size

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self.length - self.tell() if size is None or size < 0 else size
        if wanted > self.most:
            raise Refusal.too_many_entries(f"{wanted:,} bytes")
        return super().read(wanted)


@contextmanager
def open_zip(source: Source, max_entries: int, encoding: str = "") -> Iterator[Contents]:
    """Yield the contents of the zip `source`; `encoding` is that of names that it does not mark as UTF-8."""
    with _BoundedReader(source, max_entries) as stream, _opened(stream, source) as archive:
        infos = archive.infolist()
        if source.end:  # offsets count from the start of the piece with the number `volume`
            shift = archive.start_dir - source.end.table
            for info in infos:
                if info.volume >= len(source.paths):
                    raise zipfile.BadZipFile(f"{info.filename!r} is in a piece that does not exist")
                info.header_offset += source.starts[info.volume] - shift
        names = entry_names(infos, encoding)

        def pour(create: Create) -> None:
            for info, name in zip(infos, names, strict=True):
                if not name.endswith("/"):
                    with open_entry(archive, info) as content:
                        create(name).write_all(content)

        yield map(_entry, infos, names), pour


def _opened(stream: io.BufferedReader, source: Source) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        if "not a zip file" not in str(error):
            raise
        what = f"the table of contents, which belongs at its end, is not among its {source.size:,} bytes"
        raise Damage(what) from None
    except UnicodeDecodeError as error:
        raise Refusal(
            f"a name is marked as UTF-8 and is not: {error.object!r}. Unpack it yourself and give the "
            "folder: ARCHIVE=folder."
        ) from None


def open_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
    """Return the contents of an entry to read, which end in an error if their checksum is wrong.

    Raises `Refusal` for encryption, and for a method of compression that nothing here reads.
    """
    if problem := _packing_problem(info):
        raise Refusal(f"{info.filename!r} {problem}.")
    if info.compress_type in READ_BY_ZIPFILE:
        return archive.open(info)
    packed = copy.copy(info)  # zipfile then delivers the packed bytes and compares no checksum
    packed.compress_type, packed.file_size = zipfile.ZIP_STORED, info.compress_size
    del packed.CRC
    return _Decompressed(archive.open(packed), _decompressor(info.compress_type), info)


class _Decompressed(io.RawIOBase):
    """The bytes of `packed`, decompressed."""

    def __init__(self, packed: Any, decompressor: Any, info: zipfile.ZipInfo) -> None:
        self.packed, self.decompressor, self.info = packed, decompressor, info
        self.crc = 0

    def read(self, size: int = -1) -> bytes:
        content = b""
        while not content and not self.decompressor.eof:
            packed = self.packed.read(SMALL_BYTES) if self.decompressor.needs_input else b""
            if self.decompressor.needs_input and not packed:
                raise zipfile.BadZipFile("the compressed data end too early")
            try:
                content = self.decompressor.decompress(packed, CHUNK_BYTES)
            except Exception as error:  # each package has its own
                raise zipfile.BadZipFile(str(error)) from error
        self.crc = zlib.crc32(content, self.crc)
        if self.decompressor.eof and not content and self.crc != self.info.CRC:
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {self.info.filename!r}")
        return content

    def close(self) -> None:
        self.packed.close()
        super().close()


class _Inflater64:
    """Deflate64 with the interface of the other decompressors."""

    needs_input = True

    def __init__(self) -> None:
        import inflate64  # py7zr requires it

        self.inflater = inflate64.Inflater()

    @property
    def eof(self) -> bool:
        return self.inflater.eof

    def decompress(self, packed: bytes, most: int) -> bytes:
        return self.inflater.inflate(packed)


def _decompressor(method: int) -> Any:
    """Return what decompresses `method`, or None if no installed package does."""
    try:
        if method == DEFLATE64:
            return _Inflater64()
        if method == ZSTANDARD:
            from backports import zstd  # py7zr requires it

            return zstd.ZstdDecompressor()
    except ImportError:
        return None
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LZMA_BYTES) if method == XZ else None


def _packing_problem(info: zipfile.ZipInfo) -> str:
    """Return why the contents of `info` cannot be read, and what to do; empty if they can."""
    if info.flag_bits & ENCRYPTED or info.compress_type == ENCRYPTED_BY_AES:
        return "is encrypted. Unpack the archive with its password (7z x) and give the folder: ARCHIVE=folder"
    method = info.compress_type
    if method in READ_BY_ZIPFILE or _decompressor(method):
        return ""
    return (
        f"is compressed with {METHODS.get(method, f'method {method}')}, which is not supported here. Unpack the "
        "archive with 7-Zip (7z x) and give the folder: ARCHIVE=folder"
    )


def _entry(info: zipfile.ZipInfo, name: str) -> Entry:
    refusal = _packing_problem(info)
    if not refusal and (mode := info.external_attr >> 16) and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        refusal = Entry.LINK if stat.S_ISLNK(mode) else Entry.DEVICE
    return Entry(name, info.file_size, name.endswith("/"), refusal, info.CRC)
