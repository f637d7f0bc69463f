"""Reading tar archives: plain, or compressed with gzip, bzip2 or xz."""

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from pipelines.dataset.archive_entries import HARMLESS_BYTES, UNPACK_YOURSELF, Contents, Create, Damage, Entry, Refusal
from pipelines.dataset.archive_pieces import Source
from pipelines.system.files import CHUNK_BYTES

MAX_HEADER_BYTES = 1 << 20  # of the headers of one entry
OPENERS: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


def decompressor(head: bytes) -> Callable[[Any], Any] | None:
    """Return the function that decompresses an open file with the first bytes `head`; None if it is not compressed."""
    return next((opener for start, opener in OPENERS.items() if head.startswith(start)), None)


def is_tar(head: bytes) -> bool:
    """Return whether `head`, a block of 512 bytes, begins a tar; old ones have no mark but a checksum."""
    if not head.strip(b"\0"):  # the end mark, with which an empty tar begins
        return True
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        return True
    except tarfile.HeaderError:
        return head[257:262] == b"ustar"


class _BoundedReader:
    """The uncompressed bytes of a tar; refuses headers longer than MAX_HEADER_BYTES.

    tarfile reads a long name or a list of holes into memory at once, whatever its declared length.
    """

    def __init__(self, content: Any) -> None:
        self.content = content
        self.left: int | None = MAX_HEADER_BYTES  # bytes until the next entry must begin; None: no limit

    def read(self, size: int = -1) -> bytes:
        if self.left is not None:
            if not 0 <= size <= self.left:
                raise Refusal(f"the headers of an entry are longer than {MAX_HEADER_BYTES:,} bytes. {UNPACK_YOURSELF}")
            self.left -= size
        return self.content.read(size)

    def seek(self, position: int) -> int:
        return self.content.seek(position)

    def tell(self) -> int:
        return self.content.tell()


@contextmanager
def open_tar(source: Source) -> Iterator[Contents]:
    """Yield the contents of the tar `source`; its entries must be read before its files."""
    with io.BufferedReader(source.open()) as packed, (decompressor(source.head) or nullcontext)(packed) as content:
        stream = _BoundedReader(content)
        members: list[tuple[str, tarfile.TarInfo]] = []
        with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8") as archive:  # type: ignore[call-overload]

            def pour(create: Create) -> None:
                linked = {id(member) for name, member in members if name != member.name}
                written: dict[int, str] = {}  # going back in a compressed tar would decompress it again
                for name, member in members:
                    output = create(name)
                    first = written.get(id(member))
                    with open(first, "rb") if first else archive.extractfile(member) as content:
                        output.write_all(content)
                    if id(member) in linked:
                        written.setdefault(id(member), output.file.name)

            yield _entries(archive, stream, members), pour


def _entries(archive: Any, stream: _BoundedReader, members: list[tuple[str, tarfile.TarInfo]]) -> Iterator[Entry]:
    """Yield all entries of `archive`, and append to `members` the names of files with the members that hold them."""
    count = 0
    earlier: dict[str, tarfile.TarInfo] = {}  # by name, for hard links; filled at the first
    while member := archive.next():
        stream.left = MAX_HEADER_BYTES
        archive.members.clear()  # tarfile keeps all members; millions of folders take little space in an archive
        member.pax_headers = {}
        count += 1
        held = member
        if member.islnk():  # a second name of an earlier file
            earlier = earlier or dict(members)
            held = earlier.get(member.linkname, member)
        if not member.isdir():
            members.append((member.name, held))
            if earlier:
                earlier[member.name] = held
        refusal = Entry.LINK if held.issym() or held.islnk() else Entry.DEVICE
        plain = held.isreg() or held.isdir()
        yield Entry(member.name, held.size, member.isdir(), "" if plain else refusal)
    stream.left = None
    # tarfile takes a damaged header for the end of the archive; the true end is a block of zeros.
    stream.seek(archive.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise Damage(f"no end mark after {count:,} entries")
    trailing = 0
    while chunk := stream.read(CHUNK_BYTES):  # to the end, where gzip, bzip2 and xz have their checksum
        trailing += len(chunk)
        if trailing > HARMLESS_BYTES:
            raise Refusal(f"it continues for over {HARMLESS_BYTES:,} bytes after its last entry. {UNPACK_YOURSELF}")


@contextmanager
def open_single(source: Source, name: str, most: int) -> Iterator[Contents]:
    """Yield one file, `name`, that was compressed without a tar around it; refuse more than `most` bytes."""
    opener = OPENERS[next(start for start in OPENERS if source.head.startswith(start))]

    def size() -> int:
        total = 0
        with io.BufferedReader(source.open()) as packed, opener(packed) as content:
            while chunk := content.read(CHUNK_BYTES):
                total += len(chunk)
                if total > most:
                    raise Refusal.too_large(most)
        return total

    def pour(create: Create) -> None:
        with io.BufferedReader(source.open()) as packed, opener(packed) as content:
            create(name).write_all(content)

    yield [Entry(name, size())], pour
