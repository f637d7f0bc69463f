"""The names in a zip, which often does not say their encoding or their separator of folders."""

import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence

from pipelines.dataset.archive_entries import Refusal
from pipelines.system.errors import few, quoted

UTF8_FLAG = 0x800
UNICODE_PATH = 0x7075  # the extra field that holds a name in UTF-8 beside one in another encoding
DOS = 0  # the system of zips that Windows made, where no name can hold a backslash
# The usual ones: of Windows in China, Taiwan, Japan, Korea, Western Europe, Russia; then those of DOS.
LIKELY = ("gbk", "big5", "cp932", "cp949", "cp1252", "cp1251", "cp866", "cp850", "cp437")


def entry_names(entries: Sequence[zipfile.ZipInfo], encoding: str) -> list[str]:
    """Return the names of `entries` with slashes between folders.

    encoding: of the names that the zip does not mark as UTF-8; empty: they are UTF-8 if all of them can be. Raises
    `Refusal` if they cannot.
    """
    # zipfile cuts `filename` at a NUL, but not `orig_filename`; unmarked names are read as cp437, which keeps all bytes
    names = [entry.orig_filename for entry in entries]
    raw: dict[int, bytes] = {}
    for number, (entry, name) in enumerate(zip(entries, names, strict=True)):
        if not (name.isascii() or entry.flag_bits & UTF8_FLAG):
            bytes_of_name = name.encode("cp437")
            if (marked := _unicode_path(entry.extra, bytes_of_name)) is not None:
                names[number] = marked
            else:
                raw[number] = bytes_of_name
    if raw:
        for number, name in zip(raw, _decoded(list(raw.values()), encoding), strict=True):
            names[number] = name
    if any("\\" in name for name in names):
        only = not any("/" in name for name in names)
        pairs = zip(entries, names, strict=True)
        names = [name.replace("\\", "/") if only or entry.create_system == DOS else name for entry, name in pairs]
    return names


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    """Return the name in the Unicode path field of `extra`, if it belongs to the name `raw`."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        content, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == UNICODE_PATH and len(content) > 5 and content[1:5] == struct.pack("<I", zlib.crc32(raw)):
            try:
                return content[5:].decode()
            except UnicodeDecodeError:
                return None
    return None


def _decoded(raw: Sequence[bytes], encoding: str) -> list[str]:
    if not encoding:
        try:
            return [name.decode() for name in raw]
        except UnicodeDecodeError:
            raise Refusal(_question(raw)) from None
    try:
        return [name.decode(encoding) for name in raw]
    except UnicodeDecodeError as error:
        raise Refusal(
            f"the name {quoted(error.object)} is not {encoding}, which data.zip_encoding names. {_question(raw)}"
        ) from None


def _question(raw: Sequence[bytes]) -> str:
    """Return the question in which encoding the names read right, with two of them in each likely one."""
    readings = "; ".join(f"{encoding}: {shown}" for encoding, shown in _readings(raw))
    return (
        "its names are not UTF-8, and it does not say what they are. Set data.zip_encoding (zip_encoding under [data] "
        f"in the TOML) to the encoding that reads them right. {readings or 'None of the usual ones reads them'}."
    )


def _readings(raw: Sequence[bytes]) -> Iterator[tuple[str, str]]:
    earlier = set()
    for encoding in LIKELY:
        try:
            names = [name.decode(encoding) for name in raw]
        except UnicodeDecodeError:
            continue
        parts = dict.fromkeys(part for name in names for part in name.split("/") if not part.isascii())
        shown = few(list(parts), 2)
        if all(part.isprintable() for part in parts) and shown not in earlier:
            earlier.add(shown)
            yield encoding, shown
