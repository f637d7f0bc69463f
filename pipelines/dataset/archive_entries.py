"""What all archive formats share: the entries of a table of contents, and the files written from them."""

import errno
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipelines.system.errors import quoted
from pipelines.system.files import CHUNK_BYTES

HARMLESS_BYTES = 1 << 30  # below this size any expansion is allowed: a table of one repeated value is honest
TABLE_BYTES = 128  # most bytes that one entry of an uncompressed table of contents takes


DEEPEST = 100  # folders around a file
LONGEST_NAME = 255  # bytes; the limit of common file systems
UNSTORABLE = (errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ)  # raised for names that a file system does not allow
UNPACK_YOURSELF = "If you trust it, unpack it yourself and give the folder: ARCHIVE=folder."


class Refusal(Exception):
    """The reason to refuse an archive: the end of a sentence that begins with the archive's name."""

    @staticmethod
    def too_many_entries(what: str) -> "Refusal":
        return Refusal(f"its table of contents is too long for an archive of its size ({what}). {UNPACK_YOURSELF}")

    @staticmethod
    def too_large(limit: int) -> "Refusal":
        return Refusal(f"unpacked it would exceed {limit:,} bytes, too much for images and tables. {UNPACK_YOURSELF}")


class NotAnArchive(Refusal):
    """What the file is that was given as an archive."""


class Damage(Refusal):
    """What fails its checksum or its structure."""

    @staticmethod
    def wrong_checksum(name: str) -> "Damage":
        return Damage(f"the checksum of {quoted(name)} is wrong")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a table of contents; `refusal`, after its name, is empty for a plain file or folder."""

    LINK: ClassVar[str] = (
        "is a link, and only plain files are unpacked. Unpack the archive yourself and give the folder, whose links "
        "are followed: ARCHIVE=folder"
    )
    DEVICE: ClassVar[str] = (
        "is a device or a pipe, and only plain files are unpacked. Unpack the archive yourself without it and give the "
        "folder: ARCHIVE=folder"
    )

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
            raise Refusal(_overwriting(path, entry.name)) from None
        except OSError as error:
            if error.errno in UNSTORABLE:
                raise Refusal(unstorable(entry.name, error)) from None
            raise
        self.entry = entry
        self.bytes = self.crc = 0

    def write(self, chunk: bytes | memoryview) -> int:
        self.bytes += len(chunk)
        if self.bytes > self.entry.bytes:
            raise Damage(f"{quoted(self.entry.name)} is larger than the {self.entry.bytes:,} bytes that it declares")
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
            raise Damage(f"{quoted(self.entry.name)} has {self.bytes:,} bytes, but declares {self.entry.bytes:,}")
        if self.entry.crc not in (None, self.crc):
            raise Damage.wrong_checksum(self.entry.name)

    def seekable(self) -> bool:  # otherwise py7zr rewinds the file
        return False

    def seek(self, offset: int, whence: int = 0) -> int:  # py7zr before 1.1.4 rewinds after the last write
        return 0


Create = Callable[[str], Output]  # opens the output of the entry with this name
Contents = tuple[Iterable[Entry], Callable[[Create], None]]  # the entries, and the function that writes their contents


def _overwriting(path: Path, name: str) -> str:
    """Return why the file `path` of the entry `name` cannot be created where something is."""
    others = {each.name.casefold(): each.name for each in path.parent.iterdir()}
    if path.name not in others.values():  # the disk takes capital and small letters for the same
        return (
            f"{quoted(name)} and {others.get(path.name.casefold())!r} are one name on this disk. Work in a folder on a "
            "disk that tells capital from small letters."
        )
    return f"{quoted(name)} would overwrite an existing file. {UNPACK_YOURSELF}"


def unstorable(name: str, error: OSError) -> str:
    """Return why the disk refused to create `name`."""
    return (
        f"this disk cannot store the name {quoted(name)} ({error.strerror}). Work in a folder on another disk or with "
        "a shorter path."
    )


def safe_path(name: str) -> str:
    """Return the name of an entry as a path below the target; raise `Refusal` if it could lead elsewhere.

    The path is in Unicode's composed form, as settings name it: macOS stores `ä` as `a` and a combining mark.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or re.match("[A-Za-z]:", name):
        raise Refusal(
            f"the entry {quoted(name)} does not stay inside the target. Nothing is unpacked. {UNPACK_YOURSELF}"
        )
    try:
        lengths = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        raise Refusal(f"the name {quoted(name)} is not valid text in UTF-8. {UNPACK_YOURSELF}") from None
    if max(lengths, default=0) > LONGEST_NAME:
        raise Refusal(
            f"the name {name[:60]!r}… has {max(lengths)} bytes, and a file system takes {LONGEST_NAME}. Unpack it "
            "yourself with shorter names and give the folder: ARCHIVE=folder."
        )
    if len(parts) > DEEPEST:
        raise Refusal(
            f"the name {name[:60]!r}… lies {len(parts)} folders deep, and {DEEPEST} is the limit. {UNPACK_YOURSELF}"
        )
    return unicodedata.normalize("NFC", "/".join(parts))
