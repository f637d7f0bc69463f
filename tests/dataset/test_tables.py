"""Reading CSVs: every rule, and every mistake with its message."""

from pathlib import Path

import pytest

from pipelines.dataset.tables import find_column, read_csv
from pipelines.system.errors import UserError
from tests.support.raw_files import write


def test_csv_values_stay_text(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path / "a.csv", "id,label\n007,NA\n1e5,nan\n3,\n"))
    assert table.to_dict("list") == {"id": ["007", "1e5", "3"], "label": ["NA", "nan", ""]}


def test_csv_with_byte_order_mark_crlf_quotes_and_spaces(tmp_path: Path) -> None:
    content = '\ufeff id , label\r\n 1 ,"great dane"\r\n\r\n"2","a, ""b"""\r\n'
    table = read_csv(write(tmp_path / "a.csv", content))
    assert table.to_dict("list") == {"id": ["1", "2"], "label": ["great dane", 'a, "b"']}
    assert list(table.index) == [2, 4]


def test_csv_line_is_where_a_row_starts(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path / "a.csv", 'id,label\n1,"two\nlines"\n2,b\n'))
    assert list(table.index) == [2, 4]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"id,label\n", "has a header but no rows"),
        (b"id,label\n1,a\n2,caf\xe9\n", "line 3: byte 0xe9 is not UTF-8"),
        (b"id,label\n1,a\n2\n", "line 3: 1 values for 2 columns"),
        (b"id,label\n1,a,b\n", "line 2: 3 values for 2 columns"),
        (b'id,label\n1,"a\n2,b\n', "line 2: not valid CSV"),
        (b"id,id\n1,a\n", "line 1: columns of one name, 1 in all: 'id'"),
    ],
)
def test_csv_mistakes_name_file_and_line(tmp_path: Path, content: bytes, expected: str) -> None:
    path = write(tmp_path / "a.csv", content)
    with pytest.raises(UserError) as caught:
        read_csv(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


def test_missing_csv(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no file .*a\.csv"):
        read_csv(tmp_path / "a.csv")


def test_find_column(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,breed\n1,a\n")
    table = read_csv(path)
    assert find_column(table, path, "", 1).name == "breed"
    assert find_column(table, path, "id", 1).name == "id"
    with pytest.raises(UserError, match=r"no column 'bred'\. Did you mean 'breed'\? It has: id, breed"):
        find_column(table, path, "bred", 1)
    with pytest.raises(UserError, match="no column number 3"):
        find_column(table, path, "", 2)


def test_a_csv_that_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, write(tmp_path / "a.csv", "id,label\n1,cat\n") / "b.csv", tmp_path / ("a" * 300)):
        with pytest.raises(UserError, match="is not a file that can be read"):
            read_csv(path)
