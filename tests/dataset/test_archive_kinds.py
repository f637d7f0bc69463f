"""What is given as an archive: other compressions are read or named, and what is no archive is named for what it is."""

import bz2
import gzip
import json
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import inflate64
import pytest
from backports import zstd

from pipelines.dataset.archives import DamagedArchive, Unpacked, unpack
from pipelines.system.errors import UserError
from tests.support.archives import contents, make_tar, make_zip, refused

TEXT = b"0123456789" * 5000
Item = TypeVar("Item")


def packed_zip(path: Path, method: int, content: bytes, packed: bytes, flags: int = 0) -> Path:
    """Write a zip of the file `a`, whose bytes are `packed` by a method of compression that zipfile lacks."""
    fields = (method, 0, 33, zlib.crc32(content), len(packed), len(content), 1)
    local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 45, flags, *fields, 0) + b"a" + packed
    table = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 45, 45, flags, *fields, 0, 0, 0, 0, 0, 0) + b"a"
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(table), len(local), 0)
    path.write_bytes(local + table + end)
    return path


def deflate64(content: bytes) -> bytes:
    deflater = inflate64.Deflater()
    return deflater.deflate(content) + deflater.flush()


METHODS: list[tuple[int, Callable[[bytes], bytes]]] = [(9, deflate64), (93, zstd.compress), (95, lzma.compress)]


@pytest.mark.parametrize(("method", "pack"), METHODS)
def test_methods_of_compression_that_zipfile_lacks(tmp_path: Path, method: int, pack: Callable[[bytes], bytes]) -> None:
    source = packed_zip(tmp_path / "a.zip", method, TEXT, pack(TEXT))
    assert unpack(source, tmp_path / "target") == Unpacked(1, len(TEXT))
    assert contents(tmp_path / "target") == {"a": TEXT}
    packed_zip(source, method, TEXT[:-1] + b"x", pack(TEXT))
    refused(source, "Bad CRC-32 for file 'a'")
    packed_zip(source, method, TEXT[:-1], pack(TEXT))
    refused(source, "'a' is larger than the 49,999 bytes that it declares")
    packed_zip(source, method, TEXT, pack(TEXT)[:-5])
    refused(source, "damaged or incomplete")


@pytest.mark.parametrize(("method", "name"), [(1, "Shrink"), (6, "Implode"), (98, "PPMd"), (77, "method 77")])
def test_methods_of_compression_that_nothing_reads_are_named(tmp_path: Path, method: int, name: str) -> None:
    message = refused(packed_zip(tmp_path / "a.zip", method, TEXT, b"?"), f"'a' is compressed with {name},", "7z x")
    assert "damaged" not in message


@pytest.mark.parametrize(("method", "flags"), [(8, 1), (99, 1), (99, 0), (8, 0x41)])
def test_encrypted_files_are_named_so(tmp_path: Path, method: int, flags: int) -> None:
    refused(packed_zip(tmp_path / "a.zip", method, TEXT, b"?", flags), "'a' is encrypted", "password")


def test_how_many_files_cannot_be_unpacked(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(3):
            link = tarfile.TarInfo(f"{number}.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/data/1.png"
            archive.addfile(link)
    refused(tmp_path / "a.tar", "'0.png' is a link", "whose links are followed: ARCHIVE=folder. 2 other entries cannot")


KINDS = {
    b"Rar!\x1a\x07\x01\0": "a RAR archive, not a zip, 7z or tar. Unpack it (unrar x, or 7z x)",
    b"\x28\xb5\x2f\xfd\x04": "compressed with Zstandard",
    b"\x04\x22\x4d\x18\x60": "compressed with LZ4",
    b"PAR1\x15\x04": "a Parquet table",
    b"\x89HDF\r\n\x1a\n\0": "an HDF5 file",
    b"%PDF-1.7": "a PDF document",
    b"\x89PNG\r\n\x1a\n": "a PNG image",
    b"\xff\xd8\xff\xe0": "a JPEG image",
    b"MZ\x90\0\3": "a Windows program",
    bytes(0x8001) + b"CD001": "zeros",
    b"\1" + bytes(0x8000) + b"CD001": "an ISO image of a disc",
    bytes(20_000): "its download did not finish",
    b"id,label\n1,cat\n": "a text or a table, not an archive; it begins with 'id,label 1,cat'. Put it into a folder",
    b"\xef\xbb\xbf<!DOCTYPE html>": "a web page",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n": "a Git LFS pointer",
    json.dumps({"code": 403, "message": "rules not accepted"}).encode(): "rules not accepted",
    b"\x80\x02}q\0": "begins with b'\\x80\\x02}q",
}


@pytest.mark.parametrize("content", KINDS, ids=range(len(KINDS)))
def test_what_is_no_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cats.zip").write_bytes(content)
    message = refused(tmp_path / "cats.zip", f"{tmp_path}/cats.zip: it ", KINDS[content])
    assert "damaged" not in message


def test_an_unfinished_download_is_named(tmp_path: Path) -> None:
    (tmp_path / "cats.zip.crdownload").write_bytes(b"\x80\x81")
    refused(tmp_path / "cats.zip.crdownload", "unfinished download")
    content = make_zip(tmp_path / "cats.zip", {"a": TEXT}).read_bytes()
    (tmp_path / "cats.zip").write_bytes(content[:-30])
    there = f"which belongs at its end, is not among its {len(content) - 30} bytes"
    refused(tmp_path / "cats.zip", f"the table of contents, {there}", "Copy or download it again")


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("form", COMPRESSIONS)
def test_one_compressed_file_is_no_damaged_tar(tmp_path: Path, form: str) -> None:
    packed = COMPRESSIONS[form](b"id,label\n")
    source = tmp_path / f"labels.csv.{form}"
    source.write_bytes(packed)
    refused(source, "it is one compressed file, not an archive of several", "ARCHIVE=folder")
    archive = make_zip(tmp_path / "a.zip", {f"labels.csv.{form}": packed, f"brain.nii.{form}": packed})
    assert unpack(archive, tmp_path / "target") == Unpacked(2, 9 + len(packed))
    assert contents(tmp_path / "target") == {"labels.csv": b"id,label\n", f"brain.nii.{form}": packed}


def test_hard_links_in_a_tar_are_files(tmp_path: Path) -> None:
    """As tar writes data/, whose tree of classes is hard links to the raw files."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "a.png").write_bytes(b"image")
    for name in ("tree/b.png", "tree/c.png"):
        (tmp_path / name).hardlink_to(tmp_path / "a.png")
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        for name in ("a.png", "tree/b.png", "tree/c.png"):
            archive.add(tmp_path / name, name)
        assert [member.islnk() for member in archive.getmembers()] == [False, True, True]
    assert unpack(tmp_path / "a.tgz", tmp_path / "target") == Unpacked(3, 15)
    assert contents(tmp_path / "target") == dict.fromkeys(("a.png", "tree/b.png", "tree/c.png"), b"image")


def test_what_is_no_archive_inside_one_can_be_removed(tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"<html>", b"PK\3\4 cut", b"Rar!\x1a\x07")):
        source = make_zip(tmp_path / f"{number}.zip", {"labels.csv": b"1", "notes.zip": content})
        refused(source, "notes.zip: ", "unpack that one yourself, replace or remove this file, and give the folder")
        folder = tmp_path / f"{number}"
        with zipfile.ZipFile(source) as archive:
            archive.extractall(folder)
        (folder / "notes.zip").unlink()
        unpack(folder, tmp_path / "target")
        assert contents(tmp_path / "target") == {"labels.csv": b"1"}


def test_old_tars_without_a_mark(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("a"))
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[257:265] = bytes(8)
    content[148:156] = b"%06o\0 " % (sum(content[:148]) + sum(content[156:512]) + 8 * 32)
    for packed in (bytes(content), gzip.compress(content)):
        (tmp_path / "a.bin").write_bytes(packed)
        unpack(tmp_path / "a.bin", tmp_path / "target")
        assert contents(tmp_path / "target") == {"a": b""}


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def test_pointers_instead_of_the_data_are_named(tmp_path: Path) -> None:
    files = {"labels.csv": b"id,label\n", "train/1.png": POINTER, "train/2.png": POINTER}
    refused(make_zip(tmp_path / "a.zip", files), "2 of its files are Git LFS pointers", "'train/1.png'", "git lfs pull")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1.png").write_bytes(POINTER)
    refused(tmp_path / "folder", "1 of its files are Git LFS pointers")


def test_a_fault_of_our_own_is_not_called_damage(tmp_path: Path) -> None:
    def watch(items: Iterable[Item], what: str, total: int | None = None, unit: str = "files") -> Iterator[Item]:
        raise TypeError("a bug")

    for source in (make_zip(tmp_path / "a.zip", {"a": b"1"}), make_tar(tmp_path / "a.tgz", {"a": b"1"})):
        with pytest.raises(TypeError, match="a bug"):
            unpack(source, tmp_path / "target", watch)
    assert not (tmp_path / "target").exists()


def test_only_damage_is_told_apart(tmp_path: Path) -> None:
    damaged = bytearray(make_zip(tmp_path / "a.zip", {"a": TEXT}).read_bytes())
    damaged[40] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(damaged)
    with pytest.raises(DamagedArchive, match="Copy or download it again"):
        unpack(tmp_path / "a.zip", tmp_path / "target")
    around = make_zip(tmp_path / "b.zip", {"a.zip": bytes(damaged)})
    with pytest.raises(DamagedArchive, match="inside another archive: unpack that one yourself"):
        unpack(around, tmp_path / "target")
    with pytest.raises(UserError) as caught:
        unpack(packed_zip(tmp_path / "c.zip", 98, TEXT, b"?"), tmp_path / "target")
    assert not isinstance(caught.value, DamagedArchive)
