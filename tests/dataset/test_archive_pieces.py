"""Archives in pieces: joined if all are there, otherwise the missing one is named."""

import io
import os
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.dataset.archives import Unpacked, unpack
from tests.support.archives import contents, make_7z, make_tar, make_zip, refused

FILES = {"labels.csv": b"id,label\n1,cat\n", "train/1.png": os.urandom(3000), "test/1.png": os.urandom(2000)}
TOTAL = sum(map(len, FILES.values()))


def cut(whole: Path, suffixes: list[str]) -> list[Path]:
    """Cut `whole` into equal pieces with these suffixes, and remove it."""
    content = whole.read_bytes()
    size = -(-len(content) // len(suffixes))
    pieces = [whole.with_name(whole.name + suffix) for suffix in suffixes]
    for number, piece in enumerate(pieces):
        piece.write_bytes(content[number * size : (number + 1) * size])
    whole.unlink()
    return pieces


FORMS: dict[str, Callable[[Path], Path]] = {
    "zip": lambda path: make_zip(path, FILES),
    "7z": lambda path: make_7z(path, FILES),
    "tar.gz": lambda path: make_tar(path, FILES),
    "tar": lambda path: make_tar(path, FILES, "w"),
}
NUMBERS = [".001", ".002", ".003"]
SUFFIXES = [
    NUMBERS,
    [".00", ".01", ".02"],
    [".partaa", ".partab", ".partac"],
    ["aa", "ab", "ac"],
    [".aa", ".ab", ".ac"],
]


@pytest.mark.parametrize("suffixes", SUFFIXES)
@pytest.mark.parametrize("form", FORMS)
def test_pieces_are_joined_from_any_of_them(tmp_path: Path, form: str, suffixes: list[str]) -> None:
    (tmp_path / "pieces").mkdir()
    for piece in cut(FORMS[form](tmp_path / "pieces" / f"cats.{form}"), suffixes)[:2]:
        assert unpack(piece, tmp_path / "target") == Unpacked(3, TOTAL)
        assert contents(tmp_path / "target") == FILES


def test_missing_and_short_pieces_are_named(tmp_path: Path) -> None:
    first, second, third = cut(make_zip(tmp_path / "cats.zip", FILES), NUMBERS)
    middle = second.read_bytes()
    second.unlink()
    refused(first, "these are missing: 'cats.zip.002'", "into one folder")
    second.write_bytes(middle[:-10])
    refused(third, f"the piece 'cats.zip.002' has {len(middle) - 10:,} bytes, others have {len(middle):,}")
    second.write_bytes(middle)
    third.unlink()
    refused(first, "joined from cats.zip.001 to cats.zip.002: is a later piece missing?")
    refused(tmp_path / "cats.zip.partab.zip", "There is no archive")


def test_a_copy_and_a_backup_are_not_taken_for_pieces(tmp_path: Path) -> None:
    content = make_zip(tmp_path / "cats.zip", FILES).read_bytes()
    for name in ("cats.zip.1", "cats.zip.bak", "cats.zip.old", "cats (1).zip"):
        (tmp_path / name).write_bytes(content)
        assert unpack(tmp_path / name, tmp_path / "target") == Unpacked(3, TOTAL)


def spanned(
    folder: Path, files: dict[str, bytes], large: bool = False, sizes: tuple[int, ...] = (1000, 1000, 1500)
) -> Path:
    """Write a zip in pieces, as `zip -s` does: offsets count from the start of each piece. large: a zip64 one."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        content.write(b"PK\7\x08")
        archive.start_dir = 4
        for name, data in files.items():
            archive.writestr(name, data)
        entries = archive.infolist()
    whole = bytearray(content.getvalue())
    starts = [sum(sizes[:number]) for number in range(len(sizes) + 1)]

    def piece_of(offset: int) -> int:
        return max(number for number, start in enumerate(starts) if start <= offset)

    table = place = whole.index(b"PK\1\2")
    for entry in entries:
        piece = piece_of(entry.header_offset)
        struct.pack_into("<H", whole, place + 34, piece)
        struct.pack_into("<I", whole, place + 42, entry.header_offset - starts[piece])
        place += 46 + len(entry.filename)
    last, count = len(sizes), len(entries)
    offset = table - starts[piece_of(table)]
    end = b""
    if large:
        end = struct.pack(
            "<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, last, piece_of(table), count, count, place - table, offset
        )
        end += struct.pack("<4sIQI", b"PK\6\7", last, place - starts[-1], last + 1)
    end += struct.pack("<4sHHHHIIH", b"PK\5\6", last, piece_of(table), count, count, place - table, offset, 0)
    whole[place:] = end
    for number in range(last):
        (folder / f"cats.z{number + 1:02}").write_bytes(whole[starts[number] : starts[number + 1]])
    (folder / "cats.zip").write_bytes(whole[starts[-1] :])
    return folder / "cats.zip"


@pytest.mark.parametrize("large", [False, True])
def test_a_zip_whose_offsets_count_from_each_piece(tmp_path: Path, large: bool) -> None:
    last = spanned(tmp_path, FILES, large)
    for piece in (last, tmp_path / "cats.z01", tmp_path / "cats.z02"):
        assert unpack(piece, tmp_path / "target") == Unpacked(3, TOTAL)
        assert contents(tmp_path / "target") == FILES
    (tmp_path / "cats.z02").unlink()
    refused(last, "these are missing: 'cats.z02'")
    last.unlink()
    refused(tmp_path / "cats.z01", "the last piece, 'cats.zip', is not beside it")


def test_a_zip_in_pieces_by_the_program_zip(tmp_path: Path) -> None:
    if not shutil.which("zip"):
        pytest.skip("the program zip is not installed")
    files = {f"{number}.png": os.urandom(40_000) for number in range(5)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    subprocess.run(["zip", "-q", "-s", "64k", "cats.zip", *files], cwd=tmp_path, check=True)
    assert len(list(tmp_path.glob("cats.z*"))) == 4
    unpack(tmp_path / "cats.zip", tmp_path / "target")
    assert contents(tmp_path / "target") == files


@pytest.mark.parametrize("folder", [True, False])
def test_pieces_inside_an_archive_or_a_folder(tmp_path: Path, folder: bool) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    spanned(parts, {f"train/{name}": content for name, content in FILES.items()})
    cut(make_7z(parts / "test.7z", {"test/2.png": b"2" * 500}), NUMBERS)
    files = {path.name: path.read_bytes() for path in parts.iterdir()}
    source = parts if folder else make_zip(tmp_path / "a.zip", files)
    assert unpack(source, tmp_path / "target") == Unpacked(4, TOTAL + 500)
    assert sorted(contents(tmp_path / "target")) == sorted([*(f"train/{name}" for name in FILES), "test/2.png"])
    (parts / "cats.zip").unlink()
    if folder:
        refused(source, "cats.z01: it is a piece of a zip, and the last piece, 'cats.zip', is not beside it")
