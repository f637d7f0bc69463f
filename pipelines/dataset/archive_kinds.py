"""What a file is that was given as an archive and is none: its name, and what to do with it."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipelines.dataset.archive_entries import NotAnArchive, Refusal
from pipelines.dataset.archive_pieces import Source
from pipelines.dataset.archive_tar import is_tar
from pipelines.system.errors import few, one_line, quoted

GIVE = "give the folder: ARCHIVE=folder."
UNPACK = "Unpack it ({}) and give the folder: ARCHIVE=folder."
NOT_ALONE = "Put it into a folder with the images, as the settings name them, and give the folder: ARCHIVE=folder."
OTHER_FILE = "Give the archive of the competition, or a folder with its files: ARCHIVE=folder."

# Files and folders that operating systems and editors leave beside the data.
JUNK = frozenset(("__MACOSX", ".DS_Store", "Thumbs.db", "ehthumbs.db", "desktop.ini", ".ipynb_checkpoints", "@eaDir"))
# First bytes, the name of the kind, and what to do.
KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"Rar!\x1a\x07", "a RAR archive", UNPACK.format("unrar x, or 7z x")),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard", UNPACK.format("tar --zstd -xf, or zstd -d for one file")),
    (b"\x04\x22\x4d\x18", "compressed with LZ4", UNPACK.format("lz4 -dc … | tar xf -")),
    (b"\x1f\x9d", "compressed with compress (.Z)", UNPACK.format("tar xZf, or 7z x")),
    (b"LZIP", "compressed with lzip", UNPACK.format("tar --lzip -xf")),
    (b"\x5d\x00\x00", "compressed with LZMA alone", UNPACK.format("tar --lzma -xf")),
    (b"MSCF", "a Windows cabinet (.cab)", UNPACK.format("7z x")),
    (b"!<arch>\n", "an ar archive or a Debian package", UNPACK.format("ar x, or 7z x")),
    (b"xar!", "a xar archive or a macOS package", UNPACK.format("7z x")),
    (b"hsqs", "a SquashFS image", UNPACK.format("unsquashfs")),
    (b"PAR1", "a Parquet table", "Write its images to files and its labels to a CSV, and " + GIVE),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "Write its images to files and its labels to a CSV, and " + GIVE),
    (b"\x93NUMPY", "a NumPy array", "Write its images to files and its labels to a CSV, and " + GIVE),
    (b"SQLite format 3\0", "an SQLite database", "Write its images to files and " + GIVE),
    (b"%PDF", "a PDF document", OTHER_FILE),
    (b"\x89PNG", "a PNG image", NOT_ALONE),
    (b"\xff\xd8\xff", "a JPEG image", NOT_ALONE),
    (b"GIF8", "a GIF image", NOT_ALONE),
    (b"II*\0", "a TIFF image", NOT_ALONE),
    (b"MM\0*", "a TIFF image", NOT_ALONE),
    (b"MZ", "a Windows program", "If it is an archive that unpacks itself: " + UNPACK.format("7z x")),
    (b"\x7fELF", "a program", OTHER_FILE),
    (b"d8:announce", "a torrent, not the data", "Download the data with a BitTorrent program, and give what it saves."),
)
LFS = b"version https://git-lfs"
LFS_BYTES = range(100, 201)  # of a pointer
UNFINISHED = re.compile(r"\.(part|partial|crdownload|download|aria2|opdownload|!ut|tmp)$", re.IGNORECASE)
CD_MARK, CD_PLACE = b"CD001", 0x8001  # of an ISO 9660 image


def what_it_is(source: Source) -> str:
    """Return what `source` is, and what to do."""
    head, name = source.head, source.paths[0].name
    if not head:
        return "the file is empty. Download or copy it again."
    if not head.strip(b"\0"):
        return "it begins with zeros: its download did not finish. Download it again."
    if UNFINISHED.search(name):
        return "its name is that of an unfinished download. Finish the download and give the whole file."
    for start, kind, advice in KINDS:
        if head.startswith(start):
            return f"it is {kind}, not a zip, 7z or tar. {advice}"
    with source.open() as file:
        file.seek(CD_PLACE)
        if file.read(len(CD_MARK)) == CD_MARK:
            return f"it is an ISO image of a disc. {UNPACK.format('7z x')}"
    return _what_text_is(head) or (
        f"it is not a zip, 7z or tar (gzip, bzip2, xz); it begins with {head[:16]!r}. {OTHER_FILE}"
    )


def _what_text_is(head: bytes) -> str:
    """Return the same for a text: a web page, an answer of a service, a Git LFS pointer, a table; empty for others."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(LFS):
        return (
            "it is a Git LFS pointer: a note that stands for the file in a git repository. Run git lfs pull there, and "
            "give the file."
        )
    if text.startswith(b"<"):
        return "it is a web page, not an archive. Log in, accept the rules and download it again."
    readable = head.decode("utf-8", "replace")
    if any(not (character.isprintable() or character in "\r\n\t\ufeff\ufffd") for character in readable):
        return ""
    shown = quoted(one_line(readable[:120]).lstrip("\ufeff"))
    if text[:1] in b"{[" and text:
        return (
            f"it is JSON, not an archive: {shown}. If this is the answer of a web service, do what it says and "
            "download again; otherwise put it into a folder with the images and give the folder: ARCHIVE=folder."
        )
    return f"it is a text or a table, not an archive; it begins with {shown}. {NOT_ALONE}"


def refuse_single(source: Source, opener: Callable[[Any], Any]) -> None:
    """Raise `Refusal` if `source`, which `opener` decompresses, is one file instead of a tar."""
    with source.open() as packed, opener(packed) as content:
        head = content.read(512)
    if head and not is_tar(head):
        raise NotAnArchive(f"it is one compressed file, not an archive of several. Decompress it (7z x). {NOT_ALONE}")


def refuse_pointers(folder: Path, sizes: Mapping[str, int]) -> None:
    """Raise `Refusal` if files of `folder`, given with their sizes, are Git LFS pointers instead of data."""
    pointers = []
    for name, size in sizes.items():
        if size in LFS_BYTES:
            with open(folder / name, "rb") as file:
                if file.read(len(LFS)) == LFS:
                    pointers.append(name)
    if pointers:
        raise Refusal(
            f"{len(pointers):,} of its files are Git LFS pointers, which stand for the data: {few(pointers)}. Clone "
            "the git repository, run git lfs pull there, and give its folder: ARCHIVE=folder."
        )


def is_junk(name: str) -> bool:
    """Return whether a file or folder with this name, without folders around it, is never data."""
    return name in JUNK or name.startswith("._")


def junk_in(path: str) -> str:
    """Return the junk file or folder at `path` or around it; empty if `path` is data."""
    parts = path.split("/")
    first = next((number for number, part in enumerate(parts) if is_junk(part)), len(parts))
    return "/".join(parts[: first + 1]) if first < len(parts) else ""
