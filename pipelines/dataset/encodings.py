"""Read the text of a table, whichever program wrote it."""

import codecs
import errno
import gzip
import io
import json
import zipfile
import zlib
from pathlib import Path
from shlex import quote
from typing import Any

from pipelines.system.errors import UserError, quoted

LARGEST = 1 << 30  # bytes of text in a compressed file
AND = "+"  # between the names of several files
PACKED = (".zip", ".gz")  # of a table that is compressed by itself
# By first bytes: what a file is that is no text.
KINDS = (
    (b"PAR1", "a Parquet file"),
    (b"PK\x03\x04", "an Excel workbook or another zip file"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\x00", "an xz file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"ARROW1", "a Feather file"),
    (b"%PDF", "a PDF"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
)
TEXT_KINDS = (  # by first and last characters
    ("{", "}", "JSON"),
    ("[", "]", "JSON"),
    ("<", ">", "a web page or XML"),
    ("version https://git-lfs", "", "a Git LFS pointer, not the file itself (`git lfs pull` gets that)"),
)
MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
GUESSES = ("cp1252", "gb18030", "shift_jis", "euc_kr", "cp1251", "big5", "cp1250")


def read_text(path: Path, foreign: bool = False) -> str:
    """Return the text of the UTF-8 file at `path`; of a `foreign` one also UTF-16 with a byte order mark, gzip, and a
    zip of one file.

    Raises `UserError` for a file that is missing or no text: with its kind; or with the first byte that is not UTF-8,
    its line, and the command that converts the file.
    """
    content = _unpacked(path, _read(path)) if foreign else _read(path)
    for start, kind in KINDS:
        if content.startswith(start):
            raise UserError(f"{path} is {kind}, not a CSV. {_conversion(path, kind)}")
    marked = next((name for mark, name in MARKS if content.startswith(mark)), "")
    encoding = marked if foreign else ""
    if not encoding and (marked or b"\0" * 4 in (content[1:8:2], content[:8:2])):
        guess = marked or ("utf-16le" if content[1:2] == b"\0" else "utf-16be")
        raise UserError(f"{path} is no UTF-8 text, but probably {guess.upper()}. Convert it: {_iconv(path, guess)}")
    try:
        text = content.decode(encoding or "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(_describe(path, content, error.start, encoding)) from None
    for first, last, kind in TEXT_KINDS:
        if text[:99].lstrip().startswith(first) and text[-99:].rstrip().endswith(last):
            raise UserError(f"{path} is {kind}, not a CSV. {_conversion(path, kind)}")
    return text


def listed_names(raw: Path, name: str) -> list[str]:
    """Return the names of the files that the value of a setting names: one, or several joined by a plus."""
    return [name] if AND not in name or (raw / name).exists() else [part.strip() for part in name.split(AND)]


def listing_file(path: Path) -> Path:
    """Return `path`; if no such file exists, the zip of it that lies beside it, or the file that such a zip held."""
    if path.is_file():
        return path
    packed = path.suffix.lower() in PACKED
    others = [path.with_suffix("")] if packed else [path.with_name(path.name + suffix) for suffix in PACKED]
    return next((other for other in others if other.is_file()), path)


def read_json(path: Path) -> tuple[Any, str]:
    """Return the content of the JSON file at `path`, and its encoding if that is a guess; it may be zipped.

    Text that is no UTF-8 is read as cp1252, or as latin-1 if it is not that either. Raises `UserError` for a file that
    is missing or not JSON.
    """
    content, guess = _unpacked(path, _read(path)), ""
    try:
        try:
            return json.loads(content), guess
        except UnicodeDecodeError:
            try:
                text, guess = content.decode("cp1252"), "cp1252"
            except UnicodeDecodeError:
                text, guess = content.decode("latin-1"), "latin-1"
            return json.loads(text), guess
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        problem = f"{path} is not valid JSON: {error.msg} in {where}."
        raise UserError(f"{problem} Put the complete file there.") from None


def _unpacked(path: Path, content: bytes) -> bytes:
    """Return `content`, or what the gzip file or the zip of one file that it is holds."""
    if content.startswith(b"\x1f\x8b"):
        content = _decompressed(path, content)
    if content.startswith(b"PK\x03\x04"):
        content = _unzipped(path, content)
    return content


def _read(path: Path) -> bytes:
    try:
        return listing_file(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.") from None
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
            raise
        raise UserError(f"{path} is not a file that can be read: {error.strerror}. Give the path of a CSV.") from None


def _decompressed(path: Path, content: bytes) -> bytes:
    try:
        with gzip.open(io.BytesIO(content)) as file:
            text = file.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is a damaged gzip file: {error}. Put a complete copy there.") from None
    if len(text) > LARGEST:
        raise UserError(f"{path} holds more than {LARGEST:,} bytes. Unpack it (gunzip), and name the CSV instead.")
    return text


def _unzipped(path: Path, content: bytes) -> bytes:
    """Return the only file in a zip, such as Kaggle sends for a single CSV; `content` itself if it is another zip."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [name for name in archive.namelist() if not name.startswith("__MACOSX")]
            if len(names) != 1 or names[0].endswith(".xml"):
                return content
            with archive.open(names[0]) as file:
                text = file.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{path} is a zip that cannot be read: {error}. Put the CSV itself there.") from None
    if len(text) > LARGEST:
        raise UserError(f"{path} holds more than {LARGEST:,} bytes. Unpack it (unzip), and name the CSV instead.")
    return text


def _conversion(path: Path, kind: str) -> str:
    if kind == "a gzip file":
        return f"Unpack it: gunzip {quote(str(path))}"
    readers = {"JSON": "read_json", "a Parquet file": "read_parquet", "a Feather file": "read_feather"}
    if "Excel" in kind or kind in readers:
        reader = readers.get(kind, "read_excel")
        return f"Save it as a CSV beside it, as pandas.{reader}(…).to_csv(…, index=False) does, and name that CSV."
    return "Name the CSV instead, or put one there."


def _describe(path: Path, content: bytes, start: int, encoding: str) -> str:
    """Return the message about the byte at `start`, with the words around it in each encoding that may be meant."""
    if encoding:
        return f"{path} begins as {encoding.upper()} text, but byte {start} is not. Save it as UTF-8 again."
    line = content[:start].count(b"\n") + 1
    problem = f"{path}, line {line}: byte 0x{content[start]:02x} is not UTF-8."
    first = content.rfind(b"\n", 0, start) + 1
    row = content[first : (content.find(b"\n", start) + 1 or len(content))].strip()
    readings: dict[str, str] = {}
    for guess in GUESSES:
        try:
            readings.setdefault(row.decode(guess), guess)
        except UnicodeDecodeError:
            continue
    shown = ", ".join(f"{guess} {quoted(reading[:60])}" for reading, guess in list(readings.items())[:4])
    guess = next(iter(readings.values()), "cp1252")
    return (
        f"{problem} The line is, by encoding: {shown or 'none fits'}. Convert the file from the right one, such as "
        f"{guess}: {_iconv(path, guess)}"
    )


def _iconv(path: Path, encoding: str) -> str:
    source, target = quote(str(path)), quote(f"{path}.utf8")
    return f"iconv -f {encoding.replace('_', '-')} -t utf-8 {source} > {target} && mv {target} {source}"
