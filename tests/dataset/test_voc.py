"""Pascal VOC annotations: the cells that are read, and files that are refused."""

from pathlib import Path

import pytest

from pipelines.dataset.voc import voc_table
from pipelines.system.errors import UserError
from tests.support.raw_files import write

SIZE = "<size><width>640</width><height>480</height><depth>3</depth></size>"
OBJECT = (
    "<object><name> cat </name><part><bndbox><xmin>9</xmin></bndbox></part>"
    "<bndbox><xmax>30</xmax><xmin>1.5</xmin><ymin>2</ymin><ymax>40</ymax></bndbox></object>"
)


def test_a_row_per_object_and_one_for_a_file_without(tmp_path: Path) -> None:
    write(tmp_path / "b/1.XML", f"<annotation><filename>1.jpg</filename>{SIZE}{OBJECT * 2}</annotation>")
    write(tmp_path / "a.xml", '<?xml version="1.0" encoding="latin-1"?><annotation></annotation>')
    table = voc_table(tmp_path)
    assert table.index.tolist() == ["object 1 of a.xml", "object 1 of b/1.XML", "object 2 of b/1.XML"]
    assert table.values.tolist() == [
        ["a", "a", "", "", "", "", "", "", ""],
        *[["1.jpg", "1", "cat", "1.5", "2", "30", "40", "640", "480"]] * 2,
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>', "DOCTYPE"),
        ('<!DOCTYPE a SYSTEM "file:///etc/hostname"><annotation/>', "DOCTYPE"),
        ("<annotation><object>", "no element found"),
        ("", "no element found"),
        ("<html/>", "its root is <html>"),
        (b"\x00\xff\x01", "syntax error"),
        ('<?xml version="1.0" encoding="none-such"?><annotation/>', "encoding"),
    ],
)
def test_a_file_that_is_no_annotation_is_refused(tmp_path: Path, content: str | bytes, words: str) -> None:
    write(tmp_path / "1.xml", "<annotation/>")
    write(tmp_path / "2.xml", content)
    with pytest.raises(UserError, match=f"1 in all: 2.xml: .*{words}"):
        voc_table(tmp_path)


def test_entities_do_not_expand(tmp_path: Path) -> None:
    more = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    write(tmp_path / "1.xml", f'<!DOCTYPE a [<!ENTITY a0 "x">{more}]><annotation>&a11;</annotation>')
    with pytest.raises(UserError, match="DOCTYPE"):
        voc_table(tmp_path)


def test_a_folder_without_annotations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no \.xml files"):
        voc_table(tmp_path)
