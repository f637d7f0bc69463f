"""Small archives, what is in a folder, and the check that an archive is refused."""

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import py7zr
import pytest

from pipelines.dataset.archives import unpack
from pipelines.settings.data_sections import DataSettings
from pipelines.system.errors import UserError


def make_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, files: dict[str, bytes], mode: Any = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def make_7z(path: Path, files: dict[str, bytes], attributes: int | None = None, **options: Any) -> Path:
    """Write a 7z; `attributes` replaces those of the last file."""
    with py7zr.SevenZipFile(path, "w", **options) as archive:
        for name, content in files.items():
            archive._writestr(content, name)  # the public method refuses the unsafe names under test
        if attributes is not None:
            archive.header.files_info.files[-1]["attributes"] = attributes
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(source: Path, *words: str, with_libarchive: bool = True, data: DataSettings | None = None) -> str:
    """Check that unpacking `source` raises a `UserError` with its name and `words`, and leaves nothing behind."""
    home = source.parent / "home"
    home.mkdir(exist_ok=True)
    before = sorted(source.parent.rglob("*"))
    with pytest.raises(UserError) as caught:
        unpack(source, home / "target", with_libarchive=with_libarchive, data=data)
    for word in (str(source), *words):
        assert word in str(caught.value)
    assert sorted(source.parent.rglob("*")) == before
    return str(caught.value)


def make_raw_zip(path: Path, files: dict[bytes, bytes], **fields: Any) -> Path:
    """Write a zip whose names are these bytes, without a mark of their encoding; `fields` are set in each entry."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number, (name, data) in enumerate(files.items()):
            info = zipfile.ZipInfo(f"{number:0{len(name)}}")  # a placeholder of the same length
            for key, value in fields.items():
                setattr(info, key, value)
            archive.writestr(info, data)
    whole = content.getvalue()
    for number, name in enumerate(files):
        placeholder = f"{number:0{len(name)}}".encode()
        for header in (b"PK\3\4", b"PK\1\2"):
            start = -1
            while (start := whole.find(header, start + 1)) >= 0:
                place = start + (30 if header == b"PK\3\4" else 46)
                if whole[place : place + len(name)] == placeholder:
                    whole = whole[:place] + name + whole[place + len(name) :]
    path.write_bytes(whole)
    return path


def inside(path: Path, files: dict[str, bytes]) -> bytes:
    """Return the bytes of a zip of `files`, to put it into another."""
    return make_zip(path, files).read_bytes()


def below(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    """Return `files` in a folder."""
    return {f"{folder}/{name}": content for name, content in files.items()}
