"""What a section of the page is made of; page.html says how each kind looks, and escapes all texts."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup


@dataclass(frozen=True)
class Text:
    """A paragraph; `strong` for what matters most, `code` for a command to copy."""

    text: str
    style: str = ""
    kind: str = "text"


@dataclass(frozen=True)
class Card:
    """A fact of the first screen: what it is, its value, and a line about it."""

    label: str
    value: str
    about: str = ""


@dataclass(frozen=True)
class Table:
    """words: the number of first columns that hold words; the others hold numbers.  marked: rows that stand out.
    folded: whether it is closed until it is opened."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[object]]
    words: int = 1
    marked: Sequence[int] = ()
    folded: bool = False
    kind: str = "table"


@dataclass(frozen=True)
class Charts:
    charts: Sequence[Markup]
    kind: str = "charts"


@dataclass(frozen=True)
class Picture:
    """address: a data URI, empty where the image cannot be read.  lines: below it, the first one names the image."""

    address: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Gallery:
    """wide: of larger pictures."""

    title: str
    pictures: Sequence[Picture]
    wide: bool = False
    kind: str = "gallery"


@dataclass(frozen=True)
class Plate:
    """One large picture.  about: for people who do not see it."""

    address: str
    about: str
    kind: str = "plate"


Block = Text | Table | Charts | Gallery | Plate


@dataclass(frozen=True)
class Section:
    """A section with its heading.  anchor: its address within the page."""

    anchor: str
    title: str
    blocks: list[Block] = field(default_factory=list)
