"""Reading CSVs: every rule, and every mistake with its message."""

import gzip
from pathlib import Path

import pandas as pd
import pytest

from pipelines.dataset import tables
from pipelines.dataset.tables import (
    csv_text,
    find_column,
    index_columns,
    read_csv,
    read_listing,
    table_text,
    write_csv,
)
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


@pytest.mark.parametrize(
    ("content", "plain"),
    [
        ("id,label\n1,a\n2, b \n", True),
        ('id,label\n"1","a,b"\n2,"say ""hi"""', True),
        ("id,label\r\n1,a\r\n2,b\r\n", True),
        ("id,label\n1,a\n\n2,b\n", False),
        ('id,label\n1,"two\nlines"\n2,b\n', False),
        ("\nid,label\n1,a\n", False),
        ("id,label\r1,a\r2,b\r", False),
        ("id\n1\n\n", False),
        ("id,label\n1,a\n2\n", False),
        ("id,id\n1,a\n", False),
        ("id,label\n", False),
        ('id,label\n1,"a"b\n', False),
        ("", False),
        ("\n\n", False),
    ],
)
@pytest.mark.parametrize("strip", [True, False])
def test_a_plain_table_read_in_one_pass_is_what_the_careful_reader_returns(
    tmp_path: Path, content: str, plain: bool, strip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.csv", content)
    assert (tables._in_one_pass(content, None if strip else "") is not None) == plain
    quick = outcome(path, strip)
    monkeypatch.setattr(tables, "_in_one_pass", lambda text, characters: None)
    careful = outcome(path, strip)
    if isinstance(quick, pd.DataFrame) and isinstance(careful, pd.DataFrame):
        pd.testing.assert_frame_equal(quick, careful, check_index_type=False)
    else:
        assert quick == careful


def outcome(path: Path, strip: bool) -> pd.DataFrame | str:
    """Return the table, or the message of the error."""
    try:
        return read_csv(path, strip)
    except UserError as error:
        return str(error)


def test_equal_values_of_a_column_are_kept_once_if_few_differ(tmp_path: Path) -> None:
    count = 4 * tables.BLOCK_ROWS
    lines = "".join(f"image {number},class {number % 1000}\n" for number in range(count))
    table = read_csv(write(tmp_path / "a.csv", f"id,label\n{lines}"))
    assert len({id(label) for label in table["label"].array}) == 1000
    assert table["id"].tolist() == [f"image {number}" for number in range(count)]
    assert table["label"].tolist() == [f"class {number % 1000}" for number in range(count)]
    assert table.index.tolist() == list(range(2, count + 2)) and table.index.name == "line"


@pytest.mark.parametrize("value", ["a", "carriage\rreturn", 'two\nlines, and "quotes"', "ä", ""])
def test_a_table_is_written_and_read_back(tmp_path: Path, value: str) -> None:
    table = pd.DataFrame({"id": ["1", "2"], "label": [value, "b"], "number": [3, 4]})
    write_csv(tmp_path / "a.csv", table)
    text = (tmp_path / "a.csv").read_bytes().decode()
    assert text == table_text(table) == csv_text([("id", "label", "number"), ("1", value, 3), ("2", "b", 4)])
    back = read_csv(tmp_path / "a.csv", strip=False)
    assert back.to_numpy().tolist() == [["1", value, "3"], ["2", "b", "4"]]
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


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


# Listings, which other programs wrote


@pytest.mark.parametrize(
    ("content", "rows", "note"),
    [
        (b"id;label\n1;a,b\n2;0,5\n", [["1", "a,b"], ["2", "0,5"]], "semicolons"),
        (b'"id";"label"\r\n"1";"x;y"\r\n', [["1", "x;y"]], "semicolons"),
        (b"id\tlabel\n1\ta;b\n", [["1", "a;b"]], "tabs"),
        (b"id|label\n1|a\n", [["1", "a"]], "vertical bars"),
        (b"sep=;\r\nid;label\r\n1;0,5\r\n", [["1", "0,5"]], "semicolons"),
        (b"id,label\n1,a;b\n2,c\n", [["1", "a;b"], ["2", "c"]], ""),
        (b"id,x;y\n1,a;b\n", [["1", "a;b"]], ""),
        ("\ufeffid\tlabel\n1\tä\n".encode("utf-16-le"), [["1", "ä"]], "tabs"),
        ("\ufeffid,label\n1,ä\n".encode("utf-16-be"), [["1", "ä"]], ""),
        (gzip.compress(b"id,label\n1,a\n", mtime=0), [["1", "a"]], ""),
        (b"id,label,,\n1,a,,\n,,,\n", [["1", "a"]], ""),
        (b'id;label\n="007";"a"\n', [["007", "a"]], "semicolons"),
        (b'id,label\n"=""007""",a\n', [["007", "a"]], ""),
        (b"id,label\n1,a\n\x1a", [["1", "a"]], ""),
        (b"id,label\n1,a\n\0\0\0", [["1", "a"]], ""),
        (b"id,label\n1,a,\n2,b,\n", [["1", "a"], ["2", "b"]], ""),
        (b'id, "label"\n1, "a, b"\n', [["1", "a, b"]], ""),
        ("\u200bid\u00a0,label\u200b\n\u200b1\u00a0,\u2060a b\ufeff\n".encode(), [["1", "a b"]], ""),
    ],
)
def test_a_listing_is_read_as_other_programs_write_it(
    tmp_path: Path, content: bytes, rows: list[list[str]], note: str
) -> None:
    notes: list[str] = []
    table = read_listing(write(tmp_path / "a.csv", content), lambda _, text: notes.append(text))
    assert table.columns[0] == "id"
    assert table.to_numpy().tolist() == rows
    assert notes == ([f"a.csv: {note} separate its values."] if note else [])


def test_rows_of_a_listing_keep_their_lines(tmp_path: Path) -> None:
    assert list(read_listing(write(tmp_path / "a.csv", "sep=;\nid;label\n\n1;a\n;\n2;b\n")).index) == [4, 6]


def test_csvs_of_this_pipeline_are_read_strictly(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id;label\n1;a\n")
    assert list(read_csv(path)) == ["id;label"]
    with pytest.raises(UserError, match="no UTF-8 text"):
        read_csv(write(tmp_path / "a.csv", "id,label\n1,a\n".encode("utf-16")))


def test_all_rows_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id;label\n1;a\n2;b;c\n3\n" + "4;d;e\n" * 20)
    with pytest.raises(UserError, match="22 in all: line 3: 3 values for 2 columns; line 4: 1 values for") as caught:
        read_listing(path)
    assert str(caught.value).count("line ") == 10
    assert "semicolons inside a value need quotes" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "least", "number"),
    [
        ("id,label\n0,a\n1,b\n", 2, 0),
        (",id,label\n0,a,x\n1,b,y\n", 2, 1),
        ("Unnamed: 0,id,label\n7,a,x\n3,b,y\n", 2, 1),
        ("Unnamed: 0.1,Unnamed: 0,id\n0,4,x\n1,5,y\n", 1, 2),
        (",label\n0,a\n1,b\n", 2, 0),
        (",label\n0,a\n1,b\n", 1, 1),
        (",id,label\na,1,x\nb,2,y\n", 2, 0),
        (",id,label\n1,1,x\n1,2,y\n", 2, 0),
        ('"id","label"\n"1","a","x"\n"2","b","y"\n', 2, 1),  # from R
    ],
)
def test_indexes_that_pandas_and_r_wrote(tmp_path: Path, content: str, least: int, number: int) -> None:
    assert index_columns(read_listing(write(tmp_path / "a.csv", content)), least) == number


def test_a_column_is_found_by_its_visible_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,Label\n1,a\n")
    table = read_listing(path)
    assert find_column(table, path, " Label\u200b", 1).name == "Label"
    with pytest.raises(UserError, match=r"no column 'LABEL'\. Did you mean 'Label'\?"):
        find_column(table, path, "LABEL", 1)
    with pytest.raises(UserError, match=r"no column number 2.*Commas, semicolons, tabs"):
        find_column(read_listing(write(path, "id label\n1 a\n")), path, "", 1)


def test_comments_in_front_of_a_listing_are_dropped_and_said(tmp_path: Path) -> None:
    notes: list[str] = []

    def note(subject: str, text: str) -> None:
        notes.append(text)

    path = write(tmp_path / "a.csv", "# made by hand\n# in 2026\nid,label\n1,a\n")
    table = read_listing(path, note)
    assert (list(table.columns), table.index.tolist()) == (["id", "label"], [4])
    assert notes == ["a.csv begins with comments, which are not used: # made by hand"]
    assert list(read_listing(write(tmp_path / "b.csv", "#id,label\n1,a\n"), note).columns) == ["#id", "label"]


def test_a_title_above_the_header_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "My labels\nid,label\n1,a\n")
    with pytest.raises(UserError, match="If line 1 is not the header, remove what is above the header"):
        read_listing(path)
