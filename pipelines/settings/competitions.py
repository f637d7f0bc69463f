"""Find and read a competition's TOML; a file or a name that cannot be used gets a message that says what to give."""

import re
import tomllib
from pathlib import Path
from typing import Any

from pipelines.settings.addresses import SITE, competition_name
from pipelines.system.errors import UserError, did_you_mean, few, quoted, shown
from pipelines.system.files import path_problem
from pipelines.system.shell import path_word, user_path

COMPETITIONS = Path(__file__).parent.parent / "competitions"
ENDING = ".toml"
MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}  # at the beginning of a file
# What tomllib says, and what to do about it.
HINTS = {
    "Cannot overwrite a value": "A key is given twice: remove one.",
    "Cannot declare": "A section is given twice: put all its keys below one of them.",
    "Cannot mutate immutable namespace": "A section is given twice: put all its keys below one of them.",
    "Unescaped '\\'": "Write a path with / instead of \\, or in single quotes.",
    "Invalid hex value": "Write a path with / instead of \\, or in single quotes.",
    "Invalid value": 'Text needs quotes ("…"), true and false are lower case, and a number begins with a digit.',
    "Expected '=' after a key": "A key is followed by = and its value; a comment begins with #.",
    "Expected newline or end of document": "One line holds one key and its value; a comment begins with #.",
    "Unclosed array": "A list ends with ].",
    "Illegal character '\\n'": "A text ends on its line, with the quote that it began with.",
}
FANCY = re.compile("[“”„‘’–—−\u00a0\u200b\ufeff]")  # as word processors and web pages have them
DECIMAL_COMMA = re.compile(r"=\s*[+-]?\d+,\d+\s*(#.*)?$")


def find_competition(competition: str, folder: Path = COMPETITIONS) -> Path:
    """Return the TOML of a competition given by name or path. Raises `UserError` if there is none.

    A name is that of a TOML in the working folder, where `new` writes it, else of one in `folder`.
    """
    if not competition.strip():
        raise UserError("No competition is given. Give its name or the path of its TOML: COMP=digits")
    if path_problem(competition):
        raise _unknown(competition, folder)
    path = user_path(competition)
    named = folder / f"{competition}{ENDING}"
    if path.suffix.lower() == ENDING and path.is_file():
        return path
    if not competition.endswith("/") and (added := Path(f"{path}{ENDING}")).is_file():
        return added
    if "/" not in competition and named.is_file():
        return named
    raise _unknown(competition, folder)


def _unknown(competition: str, folder: Path) -> UserError:
    """Return the error for a competition that there is not."""
    known = sorted(file.stem for file in folder.glob(f"*{ENDING}"))
    path = user_path(competition)
    problem = f"There is no competition {quoted(competition)}."
    if SITE.match(competition) and (slug := competition_name(competition)):
        how = "" if slug in known else f" after writing {folder / slug}{ENDING} (docs/competitions.md)"
        return UserError(f"{shown(competition)} is an address. Give its last part, the slug{how}: COMP={slug}")
    if path_problem(competition):
        return UserError(f"{quoted(competition)} cannot be a competition or a file: {path_problem(competition)}.")
    if path.is_dir():
        inside = sorted(str(file) for file in path.glob(f"*{ENDING}"))
        found = f"Give the path of a TOML in it: {few(inside)}." if inside else "It holds no TOML."
        return UserError(f"{quoted(competition)} is a folder. {found}")
    for named in (path, Path(f"{path}.txt")):
        if named.name.lower().endswith(f"{ENDING}.txt") and named.is_file():
            rename = f"mv {path_word(named)} {path_word(named.with_suffix(''))}"
            return UserError(f"{quoted(str(named))} does not end in {ENDING}: editors add .txt. Rename it: {rename}")
    if path.is_file():
        return UserError(f"{quoted(competition)} is no TOML. Give the name of a competition or the path of a TOML.")
    name = re.sub(r"[\s_]+", "-", path.name.removesuffix("/").lower()).removesuffix(ENDING)
    hint = did_you_mean(name, known) if "/" not in competition.rstrip("/") else ""
    if path.suffix.lower() == ENDING:
        return UserError(
            f"There is no file {shown(competition)}.{hint} Give the name of a competition or the path of a TOML."
        )
    return UserError(f"{problem}{hint} Valid: {', '.join(known)}. To add one: make new COMP={path_word(path)}")


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of the TOML `path`. Raises `UserError`, with the line, if it is not TOML in UTF-8."""
    data = path.read_bytes()
    encoding = MARKS.get(data[:2], "UTF-16" if data[1:2] == b"\0" else "")
    if encoding:
        raise UserError(
            f"{path} is saved as {encoding}. Save it as UTF-8: in the editor, or with iconv -f {encoding} -t UTF-8."
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not valid TOML: line {line} holds the byte 0x{data[error.start]:02x}, which is not UTF-8. Save "
            "the file as UTF-8."
        ) from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid TOML: {toml_problem(error, text)}.") from None


def toml_problem(error: Exception, text: str = "") -> str:
    """Return why tomllib could not read `text`, with the line; it also raises exceptions that are not its own."""
    if isinstance(error, RecursionError):
        return "its lists or tables are nested too deeply"
    said = str(error)
    if not isinstance(error, tomllib.TOMLDecodeError):
        return "it holds a number of thousands of digits" if "digits" in said else said
    place = re.search(r"at line (\d+)", said)
    lines = text.replace("\r\n", "\n").split("\n")
    if place and (line := lines[int(place[1]) - 1].strip()):
        said += f": {shown(line)}"
        if found := FANCY.search(line):
            return f"{said}. {found[0]!a} (U+{ord(found[0]):04X}) is not the plain character: type it again here"
        if DECIMAL_COMMA.search(line):
            return f"{said}. Write a number with a decimal point, as 0.05"
    return said + next((f". {hint.rstrip('.')}" for words, hint in HINTS.items() if words in str(error)), "")
