"""Reading zip archives."""

import io
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.dataset.archive_entries import TABLE_BYTES, Contents, Create, Entry, Refusal
from pipelines.system.files import CHUNK_BYTES


class _BoundedReader(io.BufferedReader):
    """The bytes of a zip; refuses a single read that is larger than a table of contents with `entries` entries.

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
    with _BoundedReader(path, max_entries) as stream, zipfile.ZipFile(stream) as archive:

        def pour(create: Create) -> None:
            for info in archive.infolist():
                if not info.is_dir():
                    with archive.open(info) as content:
                        create(info.filename).write_all(content)

        yield map(_entry, archive.infolist()), pour


def _entry(info: zipfile.ZipInfo) -> Entry:
    refusal = ""
    if info.flag_bits & 1:
        refusal = "is encrypted"
    elif (mode := info.external_attr >> 16) and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        refusal = "is a link" if stat.S_ISLNK(mode) else "is a device or a pipe"
    # orig_filename: zipfile cuts filename at a NUL
    return Entry(info.orig_filename, info.file_size, info.is_dir(), refusal)
