"""Unpacking: an archive is unpacked completely, or refused without leaving anything behind."""

import gzip
import io
import os
import stat
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import py7zr
import pytest
from py7zr.properties import FILTER_COPY

from pipelines.dataset import archive_7z, archive_entries, archive_tar, archives
from pipelines.dataset.archives import Unpacked, unpack
from pipelines.settings.data_sections import DataSettings
from pipelines.system.errors import UserError
from pipelines.system.watch import unwatched
from tests.support.archives import contents, make_7z, make_tar, make_zip, refused

FILES = {"labels.csv": b"id,label\n1,cat\n", "train/1.png": os.urandom(3000), "train/2.png": b"", "test/1.png": b"x"}
TOTAL = sum(map(len, FILES.values()))
Item = TypeVar("Item")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar(tmp_path: Path, mode: str) -> None:
    assert unpack(make_tar(tmp_path / "a.bin", FILES, mode), tmp_path / "target") == Unpacked(4, TOTAL)
    assert contents(tmp_path / "target") == FILES


def test_zip_is_told_by_its_bytes(tmp_path: Path) -> None:
    assert unpack(make_zip(tmp_path / "archive.tar", FILES), tmp_path / "target") == Unpacked(4, TOTAL)
    assert contents(tmp_path / "target") == FILES


@pytest.mark.parametrize("with_libarchive", [True, False])
def test_7z(tmp_path: Path, with_libarchive: bool) -> None:
    if with_libarchive and not archive_7z.find_libarchive():
        pytest.skip("libarchive is not installed")
    source = make_7z(tmp_path / "a.7z", FILES)
    assert unpack(source, tmp_path / "target", with_libarchive=with_libarchive) == Unpacked(4, TOTAL)
    assert contents(tmp_path / "target") == FILES


def test_names_with_dots_and_doubled_slashes(tmp_path: Path) -> None:
    unpack(make_tar(tmp_path / "a.tar", {"./a//b.png": b"1", "ä/ö.png": b"2"}), tmp_path / "target")
    assert contents(tmp_path / "target") == {"a/b.png": b"1", "ä/ö.png": b"2"}


def test_nested_archives_are_unpacked_where_they_lie(tmp_path: Path) -> None:
    train = make_7z(tmp_path / "train.7z", {"train/1.png": b"1"}).read_bytes()
    labels = make_zip(tmp_path / "labels.zip", {"labels.csv": b"id,label\n"}).read_bytes()
    deeper = make_zip(tmp_path / "deeper.zip", {"labels.csv.zip": labels}).read_bytes()
    source = make_zip(tmp_path / "a.zip", {"train.7z": train, "tables/deeper.zip": deeper, "weights.npz": labels})
    unpacked = unpack(source, tmp_path / "target")
    assert contents(tmp_path / "target") == {
        "train/1.png": b"1",
        "tables/labels.csv": b"id,label\n",
        "weights.npz": labels,  # a zip by its bytes, but not by its name
    }
    assert unpacked == Unpacked(3, 1 + 9 + len(labels))


def test_nesting_has_a_limit(tmp_path: Path) -> None:
    content = make_zip(tmp_path / "0.zip", {"x": b"x"}).read_bytes()
    for depth in range(1, archives.MAX_DEPTH + 2):
        content = make_zip(tmp_path / "a.zip", {f"{depth}.zip": content}).read_bytes()
    refused(tmp_path / "a.zip", "4.zip: 3.zip: 2.zip: 1.zip: ", "within 4 archives")


def test_nested_archive_overwrites_nothing(tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "inner.zip", {"labels.csv": b"other"}).read_bytes()
    refused(
        make_zip(tmp_path / "a.zip", {"labels.csv": b"1", "inner.zip": inner}), "inner.zip: 'labels.csv' would over"
    )


@pytest.mark.parametrize("nested", ["train.7z", "tables/x.csv.zip", "x.tar.gz"])
def test_damaged_nested_archive_is_named_with_the_one_around_it(tmp_path: Path, nested: str) -> None:
    source = make_zip(tmp_path / "a.zip", {nested: b"7z\xbc\xaf\x27\x1c" + bytes(40)})
    refused(source, f"a.zip: {nested}: it is damaged")


EVIL_NAMES = ["../x", "a/../../x", "/tmp/x", "C:/x", "c:x", "a\\..\\x", "..", "n" * 256]


@pytest.mark.parametrize("name", EVIL_NAMES)
@pytest.mark.parametrize("make", [make_zip, make_tar, make_7z])
def test_names_that_lead_elsewhere(tmp_path: Path, make: Callable[..., Path], name: str) -> None:
    refused(make(tmp_path / "archive", {"good": b"1", name: b"evil"}), "name" if "n" in name else "stay inside")


@pytest.mark.parametrize("name", [*EVIL_NAMES, "//server/share/x", "a/..", "./../x", "\\\\server\\x"])
def test_names_that_lead_elsewhere_in_7z_without_libarchive(tmp_path: Path, name: str) -> None:
    words = "name" if "n" in name[:2] else "stay inside"
    refused(make_7z(tmp_path / "archive", {"good": b"1", name: b"evil"}), words, with_libarchive=False)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_long_tar_name_that_leads_elsewhere(tmp_path: Path, form: int) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
        archive.addfile(tarfile.TarInfo("a/" * 60 + "../" * 70 + "evil"))
    refused(tmp_path / "a.tar", "stay inside")


def test_a_zip_whose_local_name_is_another(tmp_path: Path) -> None:
    source = make_zip(tmp_path / "a.zip", {"good/x": b"1"})
    source.write_bytes(source.read_bytes().replace(b"good/x", b"../bad", 1))  # the first occurrence is the local header
    refused(source, "damaged or incomplete")


@pytest.mark.parametrize("with_libarchive", [True, False])
def test_windows_links_and_odd_kinds_in_7z(tmp_path: Path, with_libarchive: bool) -> None:
    for number, attributes in enumerate((0x400, 0x8000 | (stat.S_IFLNK | 0o777) << 16, 0x8000 | stat.S_IFBLK << 16)):
        source = make_7z(tmp_path / f"{number}.7z", {"good": b"1", "evil": b"/etc"}, attributes)
        refused(source, "'evil' is a", with_libarchive=with_libarchive)


def test_a_tar_writes_neither_through_a_link_nor_into_one(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            link = tarfile.TarInfo("x")
            link.type, link.linkname = kind, str(tmp_path / "precious")
            archive.addfile(link)
            member = tarfile.TarInfo("x")
            member.size = 4
            archive.addfile(member, io.BytesIO(b"evil"))
        refused(tmp_path / "a.tar", "'x' is a link")
    assert (tmp_path / "precious").read_text() == "mine"


def test_no_file_is_unpacked_as_a_program(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("program")
    info.external_attr = (stat.S_IFREG | 0o6777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "#!/bin/sh")
    member = tarfile.TarInfo("program")
    member.mode = 0o6777
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(member)
    for name in ("a.zip", "a.tar"):
        unpack(tmp_path / name, tmp_path / "target")
        assert not (tmp_path / "target/program").stat().st_mode & 0o7111


def test_name_that_is_not_text() -> None:
    with pytest.raises(archive_entries.Refusal, match="not valid text"):
        archive_entries.safe_path("a\ud800")  # 7z allows it, but no library here writes it


def test_nul_in_a_zip_name(tmp_path: Path) -> None:
    source = make_zip(tmp_path / "a.zip", {"aXb.png": b"1"})
    source.write_bytes(source.read_bytes().replace(b"aXb", b"a\0b"))
    refused(source, "stay inside")


@pytest.mark.parametrize("make", [make_zip, make_tar, make_7z])
def test_a_file_where_a_folder_is_wanted(tmp_path: Path, make: Callable[..., Path]) -> None:
    refused(make(tmp_path / "archive", {"a": b"1", "a/b": b"2"}), "overwrite")


def test_nested_archive_wants_a_folder_where_a_file_is(tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "inner.zip", {"a/b": b"1"}).read_bytes()
    refused(make_zip(tmp_path / "a.zip", {"a": b"1", "inner.zip": inner}), "inner.zip: the folder 'a' would overwrite")


KINDS = {stat.S_IFLNK: "link", stat.S_IFIFO: "device or a pipe", stat.S_IFCHR: "device or a pipe"}


@pytest.mark.parametrize("kind", KINDS)
def test_links_and_devices_in_zip_and_7z(tmp_path: Path, kind: int) -> None:
    info = zipfile.ZipInfo("evil")
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc")
        archive.writestr("evil/passwd", "through the link")
    refused(tmp_path / "a.zip", "'evil' is a", KINDS[kind])
    unix = 0x8000 | (kind | 0o777) << 16
    refused(make_7z(tmp_path / "a.7z", {"good": b"1", "evil": b"/etc"}, unix), "'evil' is a", KINDS[kind])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_tar(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("evil")
        member.type, member.linkname = kind, "/tmp"
        archive.addfile(member)
        archive.addfile(tarfile.TarInfo("evil/x"))
    refused(tmp_path / "a.tar", "'evil' is a", "link" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else "device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("make", [make_zip, make_tar, make_7z])
def test_one_name_twice(tmp_path: Path, make: Callable[..., Path]) -> None:
    refused(make(tmp_path / "archive", {"a": b"1", "./a": b"2"}), "there twice")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_no_files(tmp_path: Path, make: Callable[..., Path]) -> None:
    refused(make(tmp_path / "archive", {}), "holds no files")


def test_encrypted(tmp_path: Path) -> None:
    source = make_zip(tmp_path / "a.zip", {"a": b"1"})
    content = bytearray(source.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    source.write_bytes(content)
    refused(source, "'a' is encrypted")
    refused(make_7z(tmp_path / "a.7z", {"a": b"1"}, password="secret"), "is encrypted")
    refused(make_7z(tmp_path / "b.7z", {"a": b"1"}, password="secret", header_encryption=True), "is encrypted")


def declare(source: Path, size: int) -> Path:
    """Set the size of the one file in the table of contents of a zip to `size`."""
    content = bytearray(source.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\1\2") + 24, size)
    source.write_bytes(content)
    return source


@pytest.mark.parametrize("size", [10, 999, 1001, 100_000])
def test_zip_that_lies_about_sizes(tmp_path: Path, size: int) -> None:
    refused(declare(make_zip(tmp_path / "a.zip", {"a": bytes(1000)}), size), "a.zip: ")


def test_absurd_expansion_by_declared_size(tmp_path: Path) -> None:
    refused(declare(make_zip(tmp_path / "a.zip", {"a": b"1"}), 2 << 30), "would exceed 1,073,741,824 bytes")
    member = tarfile.TarInfo("a")
    member.size = 1 << 40
    (tmp_path / "a.tar").write_bytes(member.tobuf())
    refused(tmp_path / "a.tar", "would exceed")
    member.size = -1
    (tmp_path / "b.tar").write_bytes(member.tobuf())
    refused(tmp_path / "b.tar", "-1 bytes")


def test_absurd_expansion_is_counted_over_all_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "HARMLESS_BYTES", 1 << 20)
    zeros = make_7z(tmp_path / "zeros.7z", {"zeros": bytes(900_000)}).read_bytes()
    unpack(make_zip(tmp_path / "a.zip", {"a/zeros.7z": zeros}), tmp_path / "target")
    refused(make_zip(tmp_path / "b.zip", {"a/zeros.7z": zeros, "b/zeros.7z": zeros}), "b/zeros.7z: unpacked it would")
    refused(make_7z(tmp_path / "c.7z", {"zeros": bytes(2 << 20)}), "would exceed")


@pytest.mark.parametrize(
    ("make", "said"),
    [(make_zip, "more than 3 entries"), (make_tar, "more than 3 entries"), (make_7z, "limit 3)")],
)
def test_too_many_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path, dict[str, bytes]], Path], said: str
) -> None:
    monkeypatch.setattr(archives, "HARMLESS_ENTRIES", 3)
    monkeypatch.setattr(archives, "ENTRY_BYTES", 1 << 30)
    refused(make(tmp_path / "archive", FILES), said, "If you trust it")


def test_a_py7zr_without_limits_unpacks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kaggle may have another version than the pinned one."""
    archive = make_7z(tmp_path / "archive", FILES)
    monkeypatch.setattr(py7zr, "archiveinfo", ModuleType("archiveinfo"))
    assert unpack(archive, tmp_path / "target") == Unpacked(4, TOTAL)


def test_entries_are_counted_over_all_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "HARMLESS_ENTRIES", 9)
    monkeypatch.setattr(archives, "ENTRY_BYTES", 1 << 30)
    inner = make_7z(tmp_path / "inner.7z", FILES).read_bytes()
    assert unpack(make_zip(tmp_path / "a.zip", {"a/a.7z": inner}), tmp_path / "target") == Unpacked(4, TOTAL)
    refused(make_zip(tmp_path / "b.zip", {"a/a.7z": inner, "b/b.7z": inner}), "b/b.7z: ", "limit 3)")


def test_what_an_archive_may_hold_grows_with_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "HARMLESS_ENTRIES", 0)
    files = {f"{number}.png": os.urandom(99) for number in range(100)}
    for make in (make_zip, make_7z):
        source = make(tmp_path / "archive", files)
        assert unpack(source, tmp_path / "target").files == 100


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><title>Log in</title>", b"Rar!\x1a\x07\x00", b"PK", b"7z"])
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path / "a.zip", "empty" if not content else "web page" if content[:1] == b"<" else "it ")


def test_missing_source(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no archive"):
        unpack(tmp_path / "a.zip", tmp_path / "target")


FORMATS: dict[str, Callable[[Path], Path]] = {
    "zip": lambda path: make_zip(path, FILES),
    "tar": lambda path: make_tar(path, FILES, "w"),
    "tar.gz": lambda path: make_tar(path, FILES, "w:gz"),
    "tar.xz": lambda path: make_tar(path, FILES, "w:xz"),
    "tar.bz2": lambda path: make_tar(path, FILES, "w:bz2"),
    "7z": lambda path: make_7z(path, FILES),
    "stored.7z": lambda path: make_7z(path, FILES, filters=[{"id": FILTER_COPY}]),
}


@pytest.mark.parametrize("with_libarchive", [True, False])
@pytest.mark.parametrize("form", FORMATS)
def test_truncated(tmp_path: Path, form: str, with_libarchive: bool) -> None:
    whole = FORMATS[form](tmp_path / f"a.{form}").read_bytes()
    used = len(whole.rstrip(b"\0")) if form == "tar" else len(whole)  # a tar is padded with zeros
    for length in (used // 4, used // 2, used - 1):
        (tmp_path / f"a.{form}").write_bytes(whole[:length])
        refused(tmp_path / f"a.{form}", "damaged or incomplete", with_libarchive=with_libarchive)


@pytest.mark.parametrize("with_libarchive", [True, False])
@pytest.mark.parametrize("form", FORMATS)
def test_flipped_bits_never_change_what_is_unpacked(tmp_path: Path, form: str, with_libarchive: bool) -> None:
    """A plain tar has no checksum of its contents: only its errors are checked."""
    source = FORMATS[form](tmp_path / f"a.{form}")
    whole = source.read_bytes()
    caught = 0
    for position in range(0, len(whole), max(1, len(whole) // 25)):
        flipped = bytearray(whole)
        flipped[position] ^= 0x41
        source.write_bytes(flipped)
        try:
            unpack(source, tmp_path / "target", with_libarchive=with_libarchive)
        except UserError:
            caught += 1
            continue
        unpacked = contents(tmp_path / "target")
        assert form == "tar" or sorted(unpacked.values()) == sorted(FILES.values())
    assert caught > 5
    assert not (tmp_path / ".target.partial").exists()


@pytest.mark.parametrize("with_libarchive", [True, False])
def test_wrong_checksum_in_7z(tmp_path: Path, with_libarchive: bool, caplog: pytest.LogCaptureFixture) -> None:
    source = FORMATS["stored.7z"](tmp_path / "a.7z")
    content = bytearray(source.read_bytes())
    content[1000] ^= 1
    source.write_bytes(content)
    refused(source, "the checksum of 'train/1.png' is wrong", with_libarchive=with_libarchive)
    assert not caplog.records  # libarchive would log it too


def test_tar_with_a_damaged_header_is_not_taken_for_its_end(tmp_path: Path) -> None:
    source = make_tar(tmp_path / "a.tar", FILES, "w")
    content = bytearray(source.read_bytes())
    content[content.index(b"test/1.png") + 1] ^= 1
    source.write_bytes(content)
    refused(source, "no end mark")


def test_folder_is_linked(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name, content in FILES.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    make_zip(source / "more.zip", {"more.csv": b"1"})
    (source / "link.csv").symlink_to("labels.csv")
    unpacked = unpack(source, tmp_path / "target")
    assert unpacked == Unpacked(6, TOTAL + len(FILES["labels.csv"]) + 1)
    assert contents(tmp_path / "target") == {**FILES, "more.csv": b"1", "link.csv": FILES["labels.csv"]}
    assert (tmp_path / "target/train/1.png").samefile(source / "train/1.png")
    assert not (tmp_path / "target/link.csv").is_symlink()
    assert (source / "more.zip").exists()


def test_folder_that_holds_what_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    refused(source, "no files")
    (source / "a").mkdir()
    for number, link in enumerate([tmp_path, source, *map(Path, ("missing", "4", "../a"))]):
        (source / "a" / str(number)).symlink_to(link)
    os.mkfifo(source / "pipe")
    circles = [f"a/{number} (a link to {link}) leads to" for number, link in enumerate((tmp_path, source))]
    refused(source, *circles, "a/2 (a link to missing) is a broken link", "a/4 (a link to ../a) leads", "pipe is not a")
    with pytest.raises(UserError, match="inside the folder"):
        unpack(tmp_path, tmp_path / "target")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted only as root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_disk_too_small_by_declared_size(tmp_path: Path, small_disk: Path) -> None:
    source = make_zip(tmp_path / "a.zip", {"a": bytes(2 << 20)})
    with pytest.raises(UserError, match=r"needs 2\.1 MB and the disk has 1\.0 MB free"):
        unpack(source, small_disk / "target")
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize("make", [make_zip, make_tar, make_7z])
def test_disk_that_fills_up_leaves_nothing(tmp_path: Path, small_disk: Path, make: Callable[..., Path]) -> None:
    source = make(tmp_path / "archive", {f"{number}": b"1" for number in range(400)})  # a page of 4 KiB for each
    with pytest.raises(OSError, match="No space left"):
        unpack(source, small_disk / "target")
    assert not list(small_disk.iterdir())


def test_folder_on_another_disk_is_copied_and_counted(tmp_path: Path, small_disk: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_text("a")
    assert unpack(source, small_disk / "target") == Unpacked(1, 1, copied=1)
    assert contents(small_disk / "target") == {"a": b"a"}


def test_finish_decides_before_the_target_gets_its_name(tmp_path: Path) -> None:
    source = make_zip(tmp_path / "a.zip", FILES)

    def finish(folder: Path, unpacked: Unpacked) -> None:
        assert contents(folder) == FILES
        assert unpacked == Unpacked(4, TOTAL)
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        unpack(source, tmp_path / "target", finish=finish)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("with_libarchive", [True, False])
def test_watch_sees_every_file(tmp_path: Path, with_libarchive: bool) -> None:
    seen: list[tuple[str, int | None, int]] = []

    def watch(items: Iterable[Item], what: str, total: int | None = None, unit: str = "files") -> Iterator[Item]:
        number = 0
        for number, item in enumerate(items, start=1):  # noqa: B007 - its last value is used
            yield item
        seen.append((what, total, number))

    source = make_zip(tmp_path / "a.zip", {"b.7z": make_7z(tmp_path / "b.7z", FILES).read_bytes()})
    unpack(source, tmp_path / "target", watch, with_libarchive=with_libarchive)
    assert seen == [("a.zip", 1, 1), ("b.7z", 4, 4)]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"1234", "larger than the 3 bytes"), (b"12", "has 2 bytes, but declares 3"), (b"124", "checksum")],
)
def test_a_file_becomes_what_was_declared(tmp_path: Path, content: bytes, words: str) -> None:
    """The format readers check this too; this check does not depend on them."""
    output = archive_entries.Output(tmp_path / "a", archive_entries.Entry("a", 3, crc=zlib.crc32(b"123")))
    with pytest.raises(archive_entries.Refusal, match=words), output.file:
        output.write(content)
        output.close()


def test_every_declared_file_is_awaited(tmp_path: Path) -> None:
    unpacking = archives._Unpacking(unwatched, with_libarchive=True, data=DataSettings())
    with pytest.raises(archive_entries.Refusal, match="1 of its files are missing, for example 'a'"):
        unpacking._write({"a": archive_entries.Entry("a", 0)}, tmp_path, lambda create: None, "archive")
    with pytest.raises(archive_entries.Refusal, match="'b' is not in its table"):
        unpacking._write({"a": archive_entries.Entry("a", 0)}, tmp_path, lambda create: create("b").close(), "archive")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_headers_of_a_tar_that_claim_to_be_endless(tmp_path: Path, kind: bytes) -> None:
    """tarfile reads headers into memory, and a gzip of a few MB can hold gigabytes of zeros."""
    header = tarfile.TarInfo("a")
    header.type, header.size = kind, 1 << 36
    with gzip.open(tmp_path / "a.tgz", "wb", compresslevel=1) as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT) + bytes(8 << 20))
    refused(tmp_path / "a.tgz", "the headers of an entry are longer than 1,048,576 bytes")


def test_a_tar_that_goes_on_behind_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_tar, "HARMLESS_BYTES", 4 << 20)
    whole = gzip.decompress(make_tar(tmp_path / "a.tgz", FILES).read_bytes())
    (tmp_path / "a.tgz").write_bytes(gzip.compress(whole + bytes(8 << 20)))
    refused(tmp_path / "a.tgz", "continues for over 4,194,304 bytes")


def test_a_tar_with_long_names_and_holes(tmp_path: Path) -> None:
    content = bytes(1 << 20) + b"end"
    (tmp_path / ("a" * 200)).write_bytes(b"")
    with open(tmp_path / "holes", "wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    subprocess.run(["tar", "--sparse", "-C", tmp_path, "-czf", tmp_path / "a.tgz", "a" * 200, "holes"], check=True)
    unpack(tmp_path / "a.tgz", tmp_path / "target")
    assert contents(tmp_path / "target") == {"a" * 200: b"", "holes": content}
