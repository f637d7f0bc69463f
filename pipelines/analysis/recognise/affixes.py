"""Texts around ids in the names of images, such as `img_` and zeros in `img_0007.png` for the id 7."""

import re
from collections import Counter
from collections.abc import Collection, Sequence

PROBED = 20  # ids
SHORTEST = 3  # characters of an id of letters, which shorter ones would be found everywhere
ENOUGH = 0.9  # share of ids whose image has these texts
NUMBERED = re.compile(r"(\D*)(\d+)(\D*)")
Affix = tuple[str, str]


def affixes(values: Sequence[str], stems: Sequence[str]) -> list[Affix]:
    """Return the texts before and after the ids `values` in the names `stems`, the most frequent first."""
    different = list(dict.fromkeys(value for value in values if value))
    probes = different[:: max(1, len(different) // PROBED)]
    counts: Counter[Affix] = Counter()
    if probes and all(map(str.isdecimal, probes)):
        known: dict[Affix, set[int]] = {}
        for found in filter(None, map(NUMBERED.fullmatch, stems)):
            known.setdefault((found[1], found[3]), set()).add(int(found[2]))
        counts.update({affix: sum(int(value) in numbers for value in probes) for affix, numbers in known.items()})
    else:
        for value in probes:
            cuts = {stem.partition(value)[::2] for stem in stems if len(value) >= SHORTEST and value in stem}
            counts.update((before, after) for before, after in cuts)
    return [affix for affix, count in counts.most_common(4) if affix != ("", "") and count >= ENOUGH * len(probes)]


def without(stem: str, known: Collection[Affix]) -> str:
    """Return a name without one of the `known` texts around it."""
    for before, after in known:
        if stem.startswith(before) and stem.endswith(after) and len(stem) > len(before) + len(after):
            return stem[len(before) : len(stem) - len(after)]
    return stem


def template(files: Sequence[str], known: Collection[Affix]) -> str:
    """Return the template of the names `files`, as data.train_file has it; empty if they need none or have several."""
    forms, ids = set(), []
    for file in files:
        stem, dot, extension = file.rpartition(".")
        ids.append(without(stem, known))
        before, _, after = stem.partition(ids[-1])
        forms.add((before, after, dot + extension))
    if len(forms) != 1:
        return ""
    before, after, extension = forms.pop()
    width = len(ids[0])
    even = width > 1 and all(each.isdecimal() and len(each) == width for each in ids)
    field = f"{{id:0{width}}}" if even and any(each[0] == "0" for each in ids) else "{id}"
    return f"{before}{field}{after}{extension}" if before or after else ""
