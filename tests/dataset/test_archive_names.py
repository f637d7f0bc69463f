"""The names in archives: encodings and separators, junk of operating systems, names that a disk refuses."""

import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from pipelines.dataset.archives import Unpacked, unpack
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.loading import load_settings
from pipelines.system.errors import UserError
from tests.support.archives import contents, make_7z, make_raw_zip, make_tar, make_zip, refused

GBK = {"train/柳叶/1.png".encode("gbk"): b"1", "train/枫叶/1.png".encode("gbk"): b"2", b"labels.csv": b"3"}


def test_names_that_do_not_say_so_but_are_utf_8(tmp_path: Path) -> None:
    unpack(make_raw_zip(tmp_path / "a.zip", {"Größe/é.png".encode(): b"1", b"x": b"2"}), tmp_path / "target")
    assert contents(tmp_path / "target") == {"Größe/é.png": b"1", "x": b"2"}


def test_names_in_another_encoding_are_asked_about_and_the_setting_decodes_them(tmp_path: Path) -> None:
    source = make_raw_zip(tmp_path / "a.zip", GBK)
    message = refused(source, "Set data.zip_encoding", "gbk: '柳叶', '枫叶'", "cp1252: 'ÁøÒ¶', '·ãÒ¶'")
    assert "cp932" not in message  # it cannot decode them
    unpack(source, tmp_path / "target", data=DataSettings(zip_encoding="gbk"))
    assert contents(tmp_path / "target") == {"train/柳叶/1.png": b"1", "train/枫叶/1.png": b"2", "labels.csv": b"3"}
    refused(source, "is not utf-8, which data.zip_encoding names", "gbk: ", data=DataSettings(zip_encoding="utf-8"))


def test_names_of_an_inner_zip_are_asked_about_too(tmp_path: Path) -> None:
    inner = make_raw_zip(tmp_path / "inner.zip", GBK).read_bytes()
    refused(make_zip(tmp_path / "a.zip", {"inner.zip": inner}), "a.zip: inner.zip: its names are not UTF-8")
    unpack(tmp_path / "a.zip", tmp_path / "target", data=DataSettings(zip_encoding="gbk"))
    assert "train/柳叶/1.png" in contents(tmp_path / "target")


@pytest.mark.parametrize("encoding", ["cp932", "gbk"])
def test_a_byte_of_a_letter_is_not_taken_for_a_backslash(tmp_path: Path, encoding: str) -> None:
    raw = {"表": b"\x95\x5c", "乗": b"\x81\x5c"}  # the second byte is that of a backslash
    name = next(iter(raw)) if encoding == "cp932" else raw["乗"].decode("gbk")
    source = make_raw_zip(tmp_path / "a.zip", {name.encode(encoding): b"1"})
    unpack(source, tmp_path / "target", data=DataSettings(zip_encoding=encoding))
    assert contents(tmp_path / "target") == {name: b"1"}


def test_the_unicode_path_beside_a_name_counts_if_it_belongs_to_it(tmp_path: Path) -> None:
    raw = "枫叶.png".encode("gbk")

    def field(checksum: int) -> bytes:
        content = b"\1" + struct.pack("<I", checksum) + "枫叶.png".encode()
        return struct.pack("<HH", 0x7075, len(content)) + content

    unpack(make_raw_zip(tmp_path / "a.zip", {raw: b"1"}, extra=field(zlib.crc32(raw))), tmp_path / "target")
    assert contents(tmp_path / "target") == {"枫叶.png": b"1"}
    refused(make_raw_zip(tmp_path / "b.zip", {raw: b"1"}, extra=field(7)), "Set data.zip_encoding")


def test_a_name_that_is_marked_as_utf_8_and_is_not(tmp_path: Path) -> None:
    source = make_zip(tmp_path / "a.zip", {"ä.png": b"1"})
    source.write_bytes(source.read_bytes().replace("ä".encode(), b"\xff\xfe"))
    refused(source, "marked as UTF-8 and is not", "Unpack it yourself")


def test_an_unknown_encoding_is_refused_with_the_settings(tmp_path: Path) -> None:
    for name in ("klingon", "base64", "utf-16"):
        (tmp_path / "c.toml").write_text(f'[data]\nzip_encoding = "{name}"\n')
        with pytest.raises(UserError, match=f"zip_encoding is '{name}'"):
            load_settings(str(tmp_path / "c.toml"))


def test_a_tar_whose_names_are_not_utf_8(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="gbk") as archive:
        archive.addfile(tarfile.TarInfo("柳叶.png"))
    refused(tmp_path / "a.tar", "is not valid text in UTF-8", "unpack it yourself")


def test_names_are_in_composed_form(tmp_path: Path) -> None:
    """macOS writes decomposed letters, which settings and labels do not have."""
    files = {"e\u0301te\u0301/a\u0308.png": b"1"}
    for make in (make_zip, make_tar, make_7z):
        unpack(make(tmp_path / "archive", files), tmp_path / "target")
        assert contents(tmp_path / "target") == {"\u00e9t\u00e9/\u00e4.png": b"1"}
    (tmp_path / "source" / "e\u0301").mkdir(parents=True)
    (tmp_path / "source" / "e\u0301" / "1").write_bytes(b"1")
    unpack(tmp_path / "source", tmp_path / "target")
    assert contents(tmp_path / "target") == {"\u00e9/1": b"1"}


def windows_zip(path: Path, names: list[str], system: int = 3) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo("x")
            info.filename, info.create_system = name, system
            archive.writestr(info, b"" if name.endswith("\\") else b"1")
    return path


def test_backslashes_that_separate_folders(tmp_path: Path) -> None:
    unpack(windows_zip(tmp_path / "a.zip", ["train\\", "train\\cat\\1.png", "labels.csv"]), tmp_path / "target")
    assert contents(tmp_path / "target") == {"train/cat/1.png": b"1", "labels.csv": b"1"}


def test_backslashes_beside_slashes(tmp_path: Path) -> None:
    names = ["train\\1.png", "test/1.png"]
    unpack(windows_zip(tmp_path / "a.zip", names, system=0), tmp_path / "target")
    assert contents(tmp_path / "target") == {"train/1.png": b"1", "test/1.png": b"1"}
    refused(windows_zip(tmp_path / "b.zip", names), "'train\\\\1.png' does not stay inside")


@pytest.mark.parametrize("name", ["..\\..\\x", "C:\\x", "\\x", "\\\\server\\x", "a\\..\\..\\x"])
@pytest.mark.parametrize("system", [0, 3])
def test_backslashes_that_lead_elsewhere(tmp_path: Path, name: str, system: int) -> None:
    refused(windows_zip(tmp_path / "a.zip", ["good\\1", name], system), "does not stay inside the target")


JUNK = {
    "__MACOSX/train/._1.png": b"\0\5\26\7",
    "__MACOSX/._inner.zip": b"\0\5\26\7",
    "train/.DS_Store": b"Bud1",
    "train/._1.png": b"\0\5\26\7",
    "train/Thumbs.db": b"\xd0\xcf",
    "train/@eaDir/1.png/SYNOPHOTO_THUMB_M.png": b"1",
    "desktop.ini": b"1",
    ".ipynb_checkpoints/labels-checkpoint.csv": b"1",
}


def test_what_systems_leave_beside_the_data_is_left_out(tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "inner.zip", {"train/2.png": b"2", "__MACOSX/train/._2.png": b"x"}).read_bytes()
    files = {"train/1.png": b"1", "inner.zip": inner, **JUNK}
    for source in (
        make_zip(tmp_path / "a.zip", files),
        make_tar(tmp_path / "a.tgz", files),
        make_7z(tmp_path / "a.7z", files),
    ):
        assert unpack(source, tmp_path / "target") == Unpacked(2, 2)
        assert contents(tmp_path / "target") == {"train/1.png": b"1", "train/2.png": b"2"}
        assert sorted(path.name for path in (tmp_path / "target").iterdir()) == ["train"]


def test_what_systems_leave_in_a_folder_is_left_out(tmp_path: Path) -> None:
    for name, content in {"train/1.png": b"1", **JUNK}.items():
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes(content)
    assert unpack(tmp_path / "source", tmp_path / "target") == Unpacked(1, 1)
    assert contents(tmp_path / "target") == {"train/1.png": b"1"}


def test_a_name_that_is_too_long_is_named_with_its_length(tmp_path: Path) -> None:
    refused(
        make_zip(tmp_path / "a.zip", {"ä" * 128: b"1"}), "has 256 bytes, and a file system takes 255", "shorter names"
    )
    refused(make_zip(tmp_path / "b.zip", {("a" * 99 + "/") * 50 + "x": b"1"}), "cannot store the name", "shorter path")
    refused(make_zip(tmp_path / "c.zip", {"a/" * 1000 + "x": b"1"}), "lies 1001 folders deep, and 100 is the limit")


def test_a_zip_behind_a_program_and_one_with_a_comment(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a", b"1")
        archive.comment = b"PK and more"
    (tmp_path / "a.exe").write_bytes(b"MZ" + bytes(1000) + content.getvalue())
    (tmp_path / "a.sh").write_bytes(b"#!/bin/sh\n" + content.getvalue())
    (tmp_path / "a.zip").write_bytes(content.getvalue())
    for name in ("a.exe", "a.sh", "a.zip"):
        unpack(tmp_path / name, tmp_path / "target")
        assert contents(tmp_path / "target") == {"a": b"1"}


def test_large_forms_of_a_zip_and_sizes_behind_the_data(tmp_path: Path) -> None:
    class Pipe(io.BytesIO):  # zipfile then writes the sizes behind the data
        def seekable(self) -> bool:
            return False

        def seek(self, offset: int, whence: int = 0) -> int:
            raise OSError

        def tell(self) -> int:
            raise OSError

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a", "w", force_zip64=True) as file:
        file.write(b"content")
    (tmp_path / "a.zip").write_bytes(pipe.getvalue())
    unpack(tmp_path / "a.zip", tmp_path / "target")
    assert contents(tmp_path / "target") == {"a": b"content"}
