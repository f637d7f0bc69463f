"""What all archive formats share: the entries of a table of contents, and the files written from them."""

import os
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.system.files import CHUNK_BYTES

HARMLESS_BYTES = 1 << 30  # below this size any expansion is allowed, as of a table of one repeated value
TABLE_BYTES = 128  # most bytes that one entry of an uncompressed table of contents takes
UNPACK_YOURSELF = "If you trust it, unpack it yourself and give the folder."


class Refusal(Exception):
    """The reason to refuse an archive: the end of a sentence that begins with the archive's name."""

    @staticmethod
    def wrong_checksum(name: str) -> "Refusal":
        return Refusal(f"the checksum of {name!r} is wrong: the archive is damaged. Download it again.")

    @staticmethod
    def too_many_entries(what: str) -> "Refusal":
        return Refusal(f"its table of contents is too long for an archive of its size ({what}). {UNPACK_YOURSELF}")

    @staticmethod
    def too_large(limit: int) -> "Refusal":
        return Refusal(f"unpacked it would exceed {limit:,} bytes, too much for images and tables. {UNPACK_YOURSELF}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a table of contents; `refusal` is empty for a plain file or folder."""

    name: str
    bytes: int
    is_folder: bool = False
    refusal: str = ""
    crc: int | None = None


class Output:
    """A file being written, which must receive exactly the bytes that its entry declares."""

    def __init__(self, path: Path, entry: Entry) -> None:
        try:
            self.file = open(path, "xb")  # noqa: SIM115 - py7zr opens and closes it in different calls
        except (FileExistsError, IsADirectoryError):
            raise Refusal(f"{entry.name!r} would overwrite an existing file.") from None
        self.entry = entry
        self.bytes = self.crc = 0

    def write(self, chunk: bytes | memoryview) -> int:
        self.bytes += len(chunk)
        if self.bytes > self.entry.bytes:
            raise Refusal(f"{self.entry.name!r} is larger than the {self.entry.bytes:,} bytes that it declares.")
        self.crc = zlib.crc32(chunk, self.crc)
        self.file.write(chunk)
        return len(chunk)

    def write_all(self, content: Any) -> None:
        while chunk := content.read(CHUNK_BYTES):
            self.write(chunk)
        self.close()

    def close(self) -> None:
        self.file.close()
        if self.bytes != self.entry.bytes:
            raise Refusal(f"{self.entry.name!r} has {self.bytes:,} bytes, but declares {self.entry.bytes:,}.")
        if self.entry.crc not in (None, self.crc):
            raise Refusal.wrong_checksum(self.entry.name)

    def seekable(self) -> bool:
        return False  # otherwise py7zr rewinds the file

    def seek(self, offset: int, whence: int = 0) -> int:
        return 0  # py7zr before 1.1.4 rewinds after the last write


Create = Callable[[str], Output]  # opens the output of the entry with this name
Contents = tuple[Iterable[Entry], Callable[[Create], None]]  # the entries, and the function that writes their contents


def safe_path(name: str) -> str:
    """Return the name of an entry as a path below the target; raise `Refusal` if it could lead elsewhere."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or re.match("[A-Za-z]:", name):
        raise Refusal(f"the entry {name!r} does not stay inside the target. Nothing is unpacked.")
    try:
        if any(len(os.fsencode(part)) > 255 for part in parts):
            raise Refusal(f"the name {name[:60]!r}… is too long for a file name.")
    except UnicodeEncodeError:
        raise Refusal(f"the name {name!r} is not valid text.") from None
    return "/".join(parts)
