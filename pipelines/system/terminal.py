"""Replace unprintable characters before printing names and labels from other people's files."""


def printable(text: str) -> str:
    """Return `text` with a space for each character that is not printable and could steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def one_line(text: str) -> str:
    """Return `printable(text)` with each run of white space as a single space."""
    return " ".join(printable(text).split())


def printable_lines(text: str) -> str:
    """Return `printable(text)` with its line ends kept."""
    return "\n".join(map(printable, text.split("\n")))
