"""The bytes of an archive: of one file, or of several pieces that were cut from one."""

import bisect
import io
import os
import re
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from pipelines.dataset.archive_entries import Refusal
from pipelines.system.errors import few

EXTENSIONS = (".zip", ".7z", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz")
ANY_EXTENSION = "|".join(re.escape(extension[1:]) for extension in EXTENSIONS)  # a pattern
ARCHIVE = re.compile(rf"\.({ANY_EXTENSION})$", re.IGNORECASE)
NUMBERED = re.compile(rf"(.+\.(?:{ANY_EXTENSION})[._-]?(?:part)?)([0-9]{{2,4}}|[a-z]{{2,3}})", re.IGNORECASE)
SPANNED = re.compile(r"(.+)\.z([0-9]{2,3})", re.IGNORECASE)
END_BYTES, LONGEST_COMMENT = 22, 1 << 16  # of the record at the end of a zip
LOCATOR_BYTES, END64_BYTES = 20, 56  # of the records before it in a large zip


class ZipEnd(NamedTuple):
    """The end of a zip. pieces: how many it has; table: the table's offset in its piece; locator: position or -1."""

    pieces: int
    table: int
    locator: int


@dataclass(frozen=True)
class Source:
    """An archive in one or more files; `end` is set for a zip whose offsets count from the start of each piece."""

    paths: Sequence[Path]
    end: ZipEnd | None = None
    starts: Sequence[int] = field(init=False)

    def __post_init__(self) -> None:
        sizes = [path.stat().st_size for path in self.paths]
        object.__setattr__(self, "starts", list(accumulate(sizes, initial=0)))

    @property
    def size(self) -> int:
        return self.starts[-1]

    @cached_property
    def head(self) -> bytes:
        with io.BufferedReader(self.open()) as file:
            return file.read(512)

    def open(self) -> io.RawIOBase:
        """Return the bytes of all pieces as one file."""
        return io.FileIO(self.paths[0]) if len(self.paths) == 1 else _Joined(self)


class _Joined(io.RawIOBase):
    """The pieces one after the other; one of them is open at a time."""

    def __init__(self, source: Source) -> None:
        self.source, self.position = source, 0
        self.number, self.file = -1, io.FileIO(os.devnull)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = (0, self.position, self.source.size)[whence] + offset
        if position < 0:
            raise OSError("negative position")
        self.position = position
        return position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        if self.position >= self.source.size:
            return 0
        number = bisect.bisect_right(self.source.starts, self.position) - 1
        if number != self.number:
            self.file.close()
            self.number, self.file = number, io.FileIO(self.source.paths[number])
        self.file.seek(self.position - self.source.starts[number])
        count = self.file.readinto(buffer) or 0
        if self.source.end and self.source.end.locator >= 0:
            self._join_locator(memoryview(buffer)[:count], self.source.end.locator)
        self.position += count
        return count

    def _join_locator(self, view: memoryview, locator: int) -> None:
        """Make the locator of a large zip say that there is one piece: zipfile refuses to read more."""
        said = b"PK\6\7" + bytes(12) + b"\1\0\0\0"
        for place in (*range(4, 8), *range(16, 20)):
            if 0 <= locator + place - self.position < len(view):
                view[locator + place - self.position] = said[place]

    def close(self) -> None:
        self.file.close()
        super().close()


def gather(path: Path, siblings: Collection[str] | None = None) -> Source:
    """Return the archive that `path` is or is a piece of. siblings: the names in its folder; None: they are listed.

    Raises `Refusal` if pieces are missing or too short.
    """
    name = path.name
    if match := SPANNED.fullmatch(name):
        names = _listed(path, siblings)
        last = next((each for each in names if each.lower() == f"{match[1]}.zip".lower()), None)
        if not last:
            raise Refusal(f"it is a piece of a zip, and the last piece, {match[1] + '.zip'!r}, is not beside it.")
        return _spanned(path.with_name(last), names)
    if name.lower().endswith(".zip"):
        end = _zip_end(path)
        return _spanned(path, _listed(path, siblings)) if end and end.pieces > 1 else Source([path])
    if (match := NUMBERED.fullmatch(name)) and _counts(match[2]):
        names = _listed(path, siblings)
        if _is_sure(match[2]) or any(match[1] + first in names for first in ("aa", "AA", "aaa", "AAA")):
            return _numbered(path, match[1], match[2], names)
    return Source([path])


def is_piece(name: str) -> bool:
    """Return whether `name`, of a file inside an archive, is that of a piece."""
    match = NUMBERED.fullmatch(name)
    return bool(SPANNED.fullmatch(name) or (match and _counts(match[2]) and _is_sure(match[2])))


def _listed(path: Path, siblings: Collection[str] | None) -> Collection[str]:
    return {each.name for each in path.parent.iterdir()} if siblings is None else siblings


def _counts(suffix: str) -> bool:
    return suffix.lower() not in ("gz", "xz", "bz2")


def _is_sure(suffix: str) -> bool:
    """Return whether `suffix` is a number of `split` by itself: `ab`, but not `bak`, which may be anything."""
    return suffix.isdigit() or set(suffix[:-1].lower()) == {"a"}


def _number(suffix: str) -> int:
    if suffix.isdigit():
        return int(suffix)
    number = 0
    for letter in suffix.lower():
        number = 26 * number + ord(letter) - ord("a")
    return number


def _suffix(number: int, like: str) -> str:
    if like.isdigit():
        return f"{number:0{len(like)}}"
    letters = ""
    for _ in like:
        number, place = divmod(number, 26)
        letters = chr(ord("a") + place) + letters
    return letters if like.islower() else letters.upper()


def _numbered(path: Path, stem: str, suffix: str, names: Collection[str]) -> Source:
    """Return the archive cut by bytes: `x.zip.001`, `x.7z.002`, `x.tar.gz.aa`."""
    there = {}
    for name in names:
        rest = name.removeprefix(stem)
        if rest != name and len(rest) == len(suffix) and rest.isdigit() == suffix.isdigit() and rest.isalnum():
            there[_number(rest)] = name
    first = 1 if suffix.isdigit() and 0 not in there else 0
    _refuse_missing([stem + _suffix(number, suffix) for number in range(first, max(there)) if number not in there])
    source = Source([path.with_name(there[number]) for number in sorted(there)])
    sizes = [end - start for start, end in zip(source.starts, source.starts[1:], strict=False)]
    for piece, size in zip(source.paths[:-1], sizes[:-1], strict=True):
        if size != sizes[0] and size < max(sizes):
            raise Refusal(
                f"the piece {piece.name!r} has {size:,} bytes, others have {max(sizes):,}: it is incomplete. Copy or "
                "download this piece again."
            )
    return source


def _spanned(last: Path, names: Collection[str]) -> Source:
    """Return the zip whose pieces are `x.z01`, `x.z02`, … and `last`, `x.zip`."""
    end = _zip_end(last)
    if not end:
        raise Refusal(f"the last piece, {last.name!r}, has no end of a zip: it is incomplete. Download it again.")
    there = {int(match[2]): name for name in names if (match := SPANNED.fullmatch(name)) and match[1] == last.stem}
    wanted = range(1, end.pieces)
    _refuse_missing([f"{last.stem}.z{number:02}" for number in wanted if number not in there])
    paths = [*(last.with_name(there[number]) for number in wanted), last]
    before = sum(path.stat().st_size for path in paths[:-1])
    return Source(paths, end._replace(locator=end.locator + before) if end.locator >= 0 else end)


def _refuse_missing(names: Sequence[str]) -> None:
    if names:
        more = f" ({len(names)} in all)" if names[3:] else ""
        raise Refusal(f"it is in pieces, and these are missing: {few(names)}{more}. Put all pieces into one folder.")


def _zip_end(path: Path) -> ZipEnd | None:
    """Return what the record at the end of the zip `path` says; None if there is none."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - LONGEST_COMMENT - END_BYTES - LOCATOR_BYTES - END64_BYTES)
        file.seek(start)
        tail = file.read()
    place = tail.rfind(b"PK\5\6")
    if not 0 <= place <= len(tail) - END_BYTES:
        return None
    disk, table = struct.unpack_from("<H10xI", tail, place + 4)
    locator = place - LOCATOR_BYTES
    if not (locator >= 0 and tail[locator : locator + 4] == b"PK\6\7"):
        return ZipEnd(disk + 1, table, -1)
    pieces = struct.unpack_from("<I", tail, locator + 16)[0]
    if locator >= END64_BYTES and tail.startswith(b"PK\6\6", locator - END64_BYTES):
        table = struct.unpack_from("<Q", tail, locator - END64_BYTES + 48)[0]
    return ZipEnd(max(1, pieces), table, start + locator)
