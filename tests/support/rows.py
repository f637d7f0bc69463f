"""Reading the rows of a small raw folder, and the settings that a message names."""

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipelines.dataset import test_set
from pipelines.dataset.labels import labelled_rows
from pipelines.dataset.raw_data import Flaw, RawData
from pipelines.settings.data_sections import CompetitionSettings, DataSettings, SplitSettings
from pipelines.system.errors import UserError


@dataclass
class Read:
    """What was read: labelled rows {path: label}, their groups, test rows {id: path}, notes and rows left out."""

    labels: dict[str, str]
    groups: dict[str, str]
    ids: list[str]
    tests: dict[str, str]
    notes: dict[str, str] = field(default_factory=dict)
    dropped: list[Flaw] = field(default_factory=list)


def read(raw: Path, task: str = "one_class", group: str = "", long_form: str = "", **data: Any) -> Read:
    """Return the rows of `raw` by the settings `data` of the section [data].  group: split.group_column."""
    notes: list[tuple[str, str]] = []
    settings = DataSettings(**data)
    assert list(settings.problems()) == []
    competition = CompetitionSettings(task=task, long_form=long_form)  # type: ignore[arg-type]
    source = RawData(raw, settings, SplitSettings(group_column=group), competition, lambda *each: notes.append(each))
    tests, _ = test_set.test_rows(source)
    rows = labelled_rows(source, tests["path"].tolist())
    assert rows["path"].is_unique
    return Read(
        dict(zip(rows["path"], rows["label"], strict=True)),
        dict(zip(rows["path"], rows["group"], strict=True)),
        rows["id"].tolist(),
        dict(zip(tests["id"], tests["path"], strict=True)),
        dict(notes),
        source.dropped,
    )


def refused(raw: Path, *words: str, task: str = "one_class", group: str = "", long_form: str = "", **data: Any) -> str:
    """Check that reading raises a `UserError` with `words`; return its message."""
    with pytest.raises(UserError) as caught:
        read(raw, task, group, long_form, **data)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return str(caught.value)


def advised(message: str) -> dict[str, Any]:
    """Return the settings of [data], and the task, that a message names, as a TOML reads them."""
    lines = [line.strip() for line in message.splitlines() if line.startswith("  ")]  # those of a TOML
    sections = tomllib.loads("\n".join(lines)) if "[data]" in lines or "[competition]" in lines else {}
    found = {key: value for key, value in sections.get("competition", {}).items() if key == "task"}
    found |= sections.get("data", {})
    for section, key, value in re.findall(r'\b(data|competition)\.(\w+) = (\[[^\]]*\]|"[^"]*"|-?\d+)', message):
        if section == "data" or key == "task":
            found.setdefault(key, tomllib.loads(f"value = {value}")["value"])
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
