"""What may be shown on a terminal: names and labels come from other people's files."""


def printable(text: str) -> str:
    """`text` without what could steer the terminal or be no text at all: a space stands for each such character."""
    return "".join(character if character.isprintable() else " " for character in text)


def one_line(text: str) -> str:
    """As `printable`, with all that is white in it as single spaces."""
    return " ".join(printable(text).split())


def printable_lines(text: str) -> str:
    """As `printable`, but line ends stay."""
    return "\n".join(map(printable, text.split("\n")))
