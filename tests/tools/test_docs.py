"""docs/settings.md lists every setting, and docs/tasks.md every metric, as the code defines them."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from pipelines.settings.metrics import METRICS
from pipelines.settings.schema import SECTIONS
from pipelines.tools import docs

OPTIONS = [(section, field) for section, kind in SECTIONS.items() for field in dataclasses.fields(kind)]


def test_the_page_is_up_to_date() -> None:
    assert docs.PAGE.read_text(encoding="utf-8") == docs.page(), "docs/settings.md is stale: run `make docs`"


def test_main_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = docs.METRICS_PAGE.read_text(encoding="utf-8")
    stale = before.replace("| `rmse` |", "| `rmsd` |")
    (tmp_path / "tasks.md").write_text(stale, encoding="utf-8")
    monkeypatch.setattr(docs, "PAGE", tmp_path / "docs" / "settings.md")
    monkeypatch.setattr(docs, "METRICS_PAGE", tmp_path / "tasks.md")
    docs.main([])
    assert docs.PAGE.read_text(encoding="utf-8") == docs.page()
    assert stale != docs.METRICS_PAGE.read_text(encoding="utf-8") == before


def test_the_table_of_metrics_is_up_to_date() -> None:
    tables = docs.METRICS_TABLE.findall(docs.METRICS_PAGE.read_text(encoding="utf-8"))
    assert tables == [docs.metrics_table()], "docs/tasks.md is stale: run `make docs`"
    assert re.findall(r"^\| `(\w+)` \|", tables[0], re.MULTILINE) == list(METRICS)


@pytest.mark.parametrize("argument", ["--help", "digits"])
def test_main_writes_nothing_when_given_an_argument(
    argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docs, "PAGE", tmp_path / "settings.md")
    with pytest.raises(SystemExit):
        docs.main([argument])
    assert not docs.PAGE.exists()


def test_each_setting_has_one_row_in_its_section() -> None:
    sections = dict(re.findall(r"^## \[(\w+)\]\n(.*?)(?=^## |\Z)", docs.page(), re.MULTILINE | re.DOTALL))
    assert list(sections) == list(SECTIONS)
    for section, field in OPTIONS:
        (row,) = (line for line in sections[section].splitlines() if line.startswith(f"| `{field.name}` |"))
        cells = row.strip("| ").split(" | ")
        assert len(cells) == 4 and cells[1] == f"`{json.dumps(field.default)}`" and cells[3] == field.metadata["help"]


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("valid_ratio", "number, more than 0, less than 1"),
        ("fold", "whole number, at least 0"),
        ("sizes", "list of whole numbers, each at least 4"),
        ("optimizer", "`sgd`, `adam`, `adamw`, `muon`, `lbfgs`"),
        ("nesterov", "`true`, `false`"),
        ("group_file", "text"),
    ],
)
def test_the_allowed_values_of_each_type(key: str, allowed: str) -> None:
    assert re.search(rf"^\| `{key}` \| `[^`]*` \| {re.escape(allowed)} \| ", docs.page(), re.MULTILINE)
