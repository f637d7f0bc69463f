"""Settings as text: split that of SET= or --set into single settings, and write values as SET= and TOML take them."""

import json
import re
import tomllib
from dataclasses import fields
from typing import get_type_hints

from pipelines.settings.schema import SECTIONS
from pipelines.system.errors import UserError, few, quoted

KEY = r"[\w-]+\.[\w-]+"
START = re.compile(rf"(?:^|(?<=\s)){KEY}\s*=")
IN_QUOTES = re.compile(rf"(?:^|(?<=\s))(['\"])({KEY}\s*=.*?)\1(?=\s|$)", re.DOTALL)
FORM = "Write section.key=value, and a space before the next: "
EXAMPLES = {
    "SET": "SET='train.epochs=5 input.mean=[0.5, 0.5, 0.5]'",
    "TRY": "TRY='train.lr=1e-3,3e-4 model.dropout=0,0.5'",
}


def split_settings(text: str, name: str = "SET") -> list[str]:
    """Return the settings in `text` as `section.key=value` each.

    A value ends before the next `section.key=`, except inside the quotes, brackets or braces that it begins with.
    Quotes around whole settings are removed. Raises `UserError`, with `name`, for words that belong to no setting.
    """
    rest, found = text.strip(), list[str]()
    while rest:
        if whole := IN_QUOTES.match(rest):
            found += split_settings(whole[2], name)
            end = whole.end()
        elif start := START.match(rest):
            end = _end_of_value(rest, start.end())
            key, value = start[0].rstrip("= \t\n"), rest[start.end() : end].strip()
            _check_text(key, value, end == len(rest), name)
            found.append(f"{key}={value}")
        else:
            raise _stray(rest.split(), name)
        rest = rest[end:].lstrip()
    return found


def setting(key: str, value: object) -> str:
    """Return `key=value` as SET= takes it, a text in quotes where it needs them."""
    if isinstance(value, bool):
        return f"{key}={str(value).lower()}"
    if isinstance(value, str) and not re.fullmatch(r"[\w./:+-]*", value):
        return f"{key}={toml(value)}"
    return f"{key}={value}"


def toml(value: object) -> str:
    """Return a text, a number or a list of these as TOML writes it."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON, which leaves this one as it is


def is_toml(text: str) -> bool:
    """Return whether `text` is one value in TOML."""
    try:
        return len(tomllib.loads(f"value = {text}")) == 1
    except (ValueError, RecursionError):
        return False


def _end_of_value(text: str, begin: int) -> int:
    """Return where the value that begins at `begin` ends: before the next setting that is not inside of it."""
    starts = sorted(match.start() for pattern in (START, IN_QUOTES) for match in pattern.finditer(text, begin))
    ends = [*(start for start in starts if start > begin), len(text)]
    if text[begin:].lstrip().startswith(("'", '"', "[", "{")):
        return next((end for end in ends if is_toml(text[begin:end].strip())), ends[0])
    return ends[0]


def _check_text(key: str, value: str, is_last: bool, name: str) -> None:
    """Raise `UserError` if a value without quotes and brackets holds words that look like another setting."""
    if value.startswith(("'", '"', "[", "{")) or is_toml(value):
        return
    if not is_last and value.endswith((",", ";")):
        raise UserError(
            f"{name}: remove the {value[-1]!r} after {quoted(f'{key}={value[:-1]}')}. {FORM}{EXAMPLES[name]}"
        )
    words = re.split(r"(?<!,)\s+", value)  # a sweep's list of values may have spaces after its commas
    for place, word in enumerate(words[1:], 1):
        if not _takes_text(key) or "=" in word or words[place + 1 : place + 2] == ["="] or word in _keys():
            raise _stray(words[place:], name, key if _takes_text(key) else "")


def _stray(words: list[str], name: str, text_key: str = "") -> UserError:
    """Return the error for `words`, whose first word begins no setting. text_key: the text that it may belong to."""
    key, value = re.match(r"([^=:]*)[=:]?(.*)", words[0], re.DOTALL).groups()  # type: ignore[union-attr]
    value = value or next((word for word in words[1:] if word not in ("=", ":")), "…")
    meant = [known for known in _keys() if key in (known, known.partition(".")[2])]
    hint = f" Did you mean {' or '.join(few([f'{known}={value}']) for known in meant)}?" if meant else ""
    quotes = f' If it belongs to the text of {text_key}, put that in quotes: {text_key}="…".' if text_key else ""
    return UserError(
        f"{name}: {quoted(words[0])} is not of the form section.key=value.{hint} {FORM}{EXAMPLES[name]}.{quotes}"
    )


def _keys() -> list[str]:
    return [f"{section}.{field.name}" for section, kind in SECTIONS.items() for field in fields(kind)]


def _takes_text(key: str) -> bool:
    section, _, name = key.partition(".")
    return get_type_hints(SECTIONS[section]).get(name, str) is str if section in SECTIONS else True
