"""Files that are no UTF-8 text: each is named for what it is, and the advice works."""

import gzip
import io
import json
import subprocess
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from pipelines.dataset.encodings import read_text
from pipelines.system.errors import UserError
from tests.support.raw_files import write


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_text(path, foreign=True)
    return str(caught.value)


def workbook() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "kind", "remedy"),
    [
        (workbook(), "an Excel workbook or another zip file", "pandas.read_excel"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook", "pandas.read_excel"),
        (b"PAR1\x15\x04", "a Parquet file", "pandas.read_parquet"),
        (json.dumps([{"id": 1}]).encode(), "JSON", "pandas.read_json"),
        (b'{"images": []}', "JSON", "pandas.read_json"),
        (b"<!DOCTYPE html><html></html>\n", "a web page", "Name the CSV instead"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer", "git lfs pull"),
        (b"7z\xbc\xaf\x27\x1c\x00", "a 7z archive", "Name the CSV instead"),
        (gzip.compress(b"PAR1", mtime=0), "a Parquet file", "pandas.read_parquet"),
        (gzip.compress(b"id,label\n", mtime=0)[:-3], "a damaged gzip file", "complete copy"),
    ],
)
def test_a_file_that_is_no_csv_is_called_by_its_name(tmp_path: Path, content: bytes, kind: str, remedy: str) -> None:
    message = refusal(write(tmp_path / "labels.csv", content))
    assert f"labels.csv is {kind}" in message
    assert remedy in message


@pytest.mark.parametrize("encoding", ["cp1252", "gb18030", "utf-16-le"])
def test_the_command_that_converts_a_file_works(tmp_path: Path, encoding: str) -> None:
    text = (
        "id,label\n1,chien\n2,caf\u00e9 b\u00eate\n" if encoding == "cp1252" else "id,label\n1,\u72d7\u72d7\n2,\u732b\n"
    )
    path = write(tmp_path / "my labels.csv", text.encode(encoding))
    message = refusal(path)
    if encoding != "utf-16-le":
        assert f"line {3 if encoding == 'cp1252' else 2}: byte 0x" in message
        assert f"{encoding} {text.splitlines()[2 if encoding == 'cp1252' else 1]!r}" in message
    command = "iconv" + message.rpartition("iconv")[2]
    subprocess.run(command.replace("-f cp1252", f"-f {encoding}"), shell=True, check=True)
    assert read_text(path) == text


def test_a_gzip_file_that_is_named_as_our_own_csv_is_unpacked_by_the_stated_command(tmp_path: Path) -> None:
    path = write(tmp_path / "split.csv.gz", gzip.compress(b"id\n1\n", mtime=0))
    with pytest.raises(UserError, match="is a gzip file") as caught:
        read_text(path)
    subprocess.run(str(caught.value).partition("Unpack it: ")[2], shell=True, check=True)
    assert read_text(tmp_path / "split.csv") == "id\n1\n"


def test_what_excel_saves_as_unicode_text_is_read(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": ["1"], "label": ["\u732b"]})
    table.to_csv(tmp_path / "labels.csv", sep="\t", index=False, encoding="utf-16", lineterminator="\r\n")
    assert read_text(tmp_path / "labels.csv", foreign=True) == "id\tlabel\r\n1\t\u732b\r\n"


def test_a_zip_of_a_single_csv_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "labels.csv", "w") as archive:
        archive.writestr("labels.csv", "id,label\n1,a\n")
    assert read_text(tmp_path / "labels.csv", foreign=True) == "id,label\n1,a\n"
    content = (tmp_path / "labels.csv").read_bytes()
    assert "is a zip that cannot be read" in refusal(write(tmp_path / "damaged.csv", content[:-9]))
