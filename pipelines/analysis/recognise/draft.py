"""A TOML in the making: each value with the comment that says what was seen, why it is so and what else it could be."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WIDTH = 118
LONGEST_KEY = 24


@dataclass
class Draft:
    """The settings of a competition by section and key, each with a comment.

    found: what to print, a subject and a text each. doubts: what a person must look at; they stand on top of the TOML.
    recipes: the text after all sections. files: other files that the settings name, with their text.
    """

    name: str
    sections: dict[str, dict[str, tuple[Any, str]]] = field(default_factory=dict)
    found: list[tuple[str, str]] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    recipes: str = ""
    files: dict[str, str] = field(default_factory=dict)

    def set(self, key: str, value: Any, comment: str = "") -> None:
        """Set `section.key`."""
        section, _, name = key.partition(".")
        self.sections.setdefault(section, {})[name] = (value, comment)

    def get(self, key: str, default: Any = None) -> Any:
        section, _, name = key.partition(".")
        return self.sections.get(section, {}).get(name, (default, ""))[0]

    def values(self) -> dict[str, dict[str, Any]]:
        return {section: {key: value for key, (value, _) in keys.items()} for section, keys in self.sections.items()}

    def text(self, command: str) -> str:
        """Return the TOML. command: how to run all stages with it."""
        title = self.get("competition.title") or self.name
        lines = [*comment(f"{title}: settings that `make new` wrote from the data."), "#", f"#   {command}", "#"]
        for doubt in self.doubts:
            lines += comment(f"DOUBT: {doubt}")
        for note in self.notes:
            lines += comment(f"Note: {note}")
        if not (self.doubts or self.notes):
            lines += comment("Each value has its reason. Read them once before you submit.")
        for section, keys in self.sections.items():
            lines += ["", f"[{section}]"]
            for key, (value, text) in keys.items():
                lines += comment(text) if text else []
                lines.append(f"{key} = {toml_value(value)}")
        return "\n".join(lines) + "\n" + self.recipes


def comment(text: str) -> list[str]:
    """Return `text` as comment lines."""
    plain = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return [f"# {line}" for line in textwrap.wrap(plain, WIDTH - 2, break_long_words=False, break_on_hyphens=False)]


def toml_value(value: Any) -> str:
    """Return `value` as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return toml_text(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml_value(each)}" for key, each in value.items()) + " }"
    if isinstance(value, Sequence):
        return _list([toml_value(each) for each in value])
    return f"{value:g}" if isinstance(value, float) and value != int(value) else str(value)


def toml_text(text: str) -> str:
    """Return a text in quotes: single ones where a backslash would need a second one."""
    if "\\" in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _list(cells: Sequence[str]) -> str:
    """Return a list, on several lines if it is long."""
    line = f"[{', '.join(cells)}]"
    if len(line) < WIDTH - LONGEST_KEY:
        return line
    lines = [""]
    for cell in cells:
        if len(lines[-1]) + len(cell) > WIDTH - 8:
            lines.append("")
        lines[-1] += f" {cell},"
    return "[\n" + "".join(f"   {each}\n" for each in lines) + "]"
