"""Take labels and groups from the names of files, by the named groups of data.label_pattern; without pandas."""

import re
from collections.abc import Sequence

from pipelines.system.errors import quoted

LABEL, GROUP = "label", "group"  # names of groups with a meaning


def named_groups(pattern: str) -> list[str]:
    """Return the names of the groups of a valid regular expression."""
    return list(re.compile(pattern).groupindex) if pattern else []


def match_names(names: Sequence[str], pattern: str) -> dict[str, list[str]]:
    """Return for each named group what it matches in each of `names`; an empty text where nothing does.

    names: paths below the folder of the images. The pattern may match any part of a name.
    """
    expression = re.compile(pattern)
    found = [expression.search(name) for name in names]
    return {group: [(match[group] or "") if match else "" for match in found] for group in expression.groupindex}


def described(pattern: str) -> str:
    return f"data.label_pattern, {quoted(pattern)}"
