"""Tables with one row per image and target, for samples and for labels."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.dataset.named_tables import number_names
from pipelines.dataset.raw_data import RawData
from pipelines.settings.data_sections import CompetitionSettings, DataSettings
from tests.support.raw_files import touch, write
from tests.support.rows import read, refused

FILES: dict[str, Any] = {"labels": "labels.csv", "sample_submission": "sample.csv"}
A, B = "train/ID_a.png", "train/ID_b.png"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    touch(tmp_path, A, B, "test/ID_c.png", "test/ID_d.png")
    return tmp_path


def test_labels_and_sample_have_a_row_per_image_and_target(raw: Path) -> None:
    """As rsna-intracranial-hemorrhage-detection has them; here a target has the separator in its name."""
    rows = "ID_a_any,1\nID_a_sub_dural,1\nID_b_any,0\nID_b_sub_dural,0\nID_a_any,1\n"
    write(raw / "labels.csv", f"ID,Label\n{rows}")
    write(raw / "sample.csv", "ID,Label\nID_c_any,0.5\nID_c_sub_dural,0.5\nID_d_any,0.5\nID_d_sub_dural,0.5\n")
    form = "{id}_{target}"
    found = read(raw, "several_labels", long_form=form, **FILES)
    assert found.labels == {A: "any|sub_dural", B: ""}
    assert found.tests == {"ID_c": "test/ID_c.png", "ID_d": "test/ID_d.png"}
    assert "note" not in found.notes
    assert read(raw, "numbers", long_form=form, **FILES).labels == {A: "1|1", B: "0|0"}
    write(raw / "labels.csv", f"ID,Label\n{rows}ID_b_any,1\n")
    words = "two values of one target, 1 in all: line 7: 'ID_b', 'any' is '1', before '0'"
    refused(raw, words, task="several_labels", long_form=form, **FILES)
    write(raw / "labels.csv", "ID,any,sub_dural\nID_a,0,1\nID_b,1,1\n")
    wide = read(raw, "several_labels", long_form=form, **FILES, label_columns=("any", "sub_dural"))
    assert (wide.labels, list(wide.tests)) == ({A: "sub_dural", B: "any|sub_dural"}, ["ID_c", "ID_d"])


def test_the_target_has_a_column_of_its_own(raw: Path) -> None:
    write(raw / "labels.csv", "image,name,value\nID_a,x,1.5\nID_a,y,2\nID_b,y,3\n")
    write(raw / "sample.csv", "image,name,value\nID_d,x,0\nID_d,y,0\nID_c,x,0\nID_c,y,0\n")
    found = read(raw, "numbers", long_form="{id},{target}", **FILES)
    assert (found.labels, list(found.tests)) == ({A: "1.5|2", B: "|3"}, ["ID_d", "ID_c"])
    competition = CompetitionSettings(task="numbers", long_form="{id},{target}")
    assert number_names(RawData(raw, DataSettings(**FILES), competition=competition)) == ["x", "y"]
    write(raw / "labels.csv", "name,image,value\nx,ID_a,1.5\ny,ID_a,2\ny,ID_b,3\n")
    write(raw / "sample.csv", "name,image,value\nx,ID_c,0\ny,ID_c,0\n")
    sample = {**FILES, "sample_id": "image", "id_column": "image"}
    assert read(raw, "numbers", long_form="{target},{id}", **sample).labels == {A: "1.5|2", B: "|3"}


@pytest.mark.parametrize(
    ("table", "settings", "names"),
    [
        ("id,x,y\n1,2,3\n", {}, ["x"]),
        (",id,x,y\n0,1,2,3\n", {"label_columns": ("y", "x")}, ["y", "x"]),
        ("id,x1,x2,z\n1,2,3,4\n", {"label_columns": ("x*",)}, ["x1", "x2"]),
        ("id,x,y\n1,2,3\n", {"label_column": "y"}, ["y"]),
        ("file,id,y\na,2,3\n", {"file_column": "file", "id_column": "id"}, ["y"]),
        ("id,x,y\n1,2,3\n", {"sample_submission": "sample.csv"}, ["y"]),
    ],
)
def test_the_names_of_numbers(tmp_path: Path, table: str, settings: dict[str, Any], names: list[str]) -> None:
    write(tmp_path / "labels.csv", table)
    write(tmp_path / "sample.csv", "id,w,y\n1,0,0\n")
    data = DataSettings(labels="labels.csv", **settings)
    assert number_names(RawData(tmp_path, data)) == names
