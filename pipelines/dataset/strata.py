"""Strata of images with several labels or with numbers, and their division in proportion.

Each image has a set of strata: its labels, or a range of each of its numbers. They are divided by iterative
stratification (K. Sechidis, G. Tsoumakas and I. Vlahavas, On the stratification of multi-label data, 2011), without
random numbers: what is left open there is decided by the order of the rows. All sums are integers, so that no rounding
decides.
"""

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.dataset.targets import JOINT, labels_in
from pipelines.settings.metrics import BOXES, NUMBERS

RANGES, LEAST = 10, 4  # ranges of each number, with about equally many images; images that a range should have
NONE = ""  # the stratum of images without a label
EVERY = JOINT  # a stratum of all images, which keeps sizes in proportion; no label contains it
Strata = Sequence[Sequence[str]]  # those of each row


def strata_of(texts: Sequence[str], task: str) -> list[list[str]]:
    """Return the strata of each row: its labels, or the range of each of its numbers. texts: as in split.csv.

    No label is a stratum too, and so is a missing number. A number's range is one of `RANGES` quantiles of the known
    numbers, fewer for few images; equal numbers are in one range. With no more different numbers than ranges, each is
    one, as with grades.  An image with boxes has the stratum of each of their classes, and the range of their number.
    """
    if task == BOXES:
        of_each = [labels_in(text, task) for text in texts]
        numbers = _ranges([str(len(labels)) for labels in of_each])
        return [[*sorted(set(labels)), JOINT + name] for labels, name in zip(of_each, numbers, strict=True)]
    if task != NUMBERS:
        return [labels_in(text, task) or [NONE] for text in texts]
    columns = zip(*(text.split(JOINT) for text in texts), strict=True)
    ranges = [_ranges(cells) for cells in columns]
    return [[f"{column}:{name}" for column, name in enumerate(names)] for names in zip(*ranges, strict=True)]


def _ranges(cells: Sequence[str]) -> list[str]:
    """Return the name of each number's range; of a missing one, an empty text."""
    known = np.array([float(cell) for cell in cells if cell])
    different, counts = np.unique(known, return_counts=True)
    number = min(RANGES, max(len(known) // LEAST, 1))
    places = np.arange(len(different))
    if len(different) > number:
        middles = 2 * np.cumsum(counts) - counts  # twice the rank of the middle one of equal numbers
        places = middles * number // (2 * len(known))
    name_of = dict(zip(different.tolist(), map(str, places.tolist()), strict=True))
    return [name_of[float(cell)] if cell else "" for cell in cells]


class Division:
    """Rows placed in homes, by shares. `home_of` has None for a row that is not placed yet.

    strata: of each row. shares: the integer weight of each home. rest: the home of rows that fit nowhere else; it alone
    may hold all rows of a stratum, so that every stratum has rows elsewhere than in any other home.
    """

    def __init__(self, strata: Strata, shares: Mapping[int, int], rest: int) -> None:
        self.strata, self.shares, self.rest = strata, shares, rest
        self.whole = sum(shares.values())
        self.totals = Counter(name for names in strata for name in names)
        self.home_of: list[int | None] = [None] * len(strata)
        self.counts: dict[int, Counter[str]] = {home: Counter() for home in (*shares, rest)}
        self.sizes = Counter[int]()

    def place(self, row: int, home: int) -> None:
        """Place a row, or move it."""
        former = self.home_of[row]
        if former is not None:
            self.counts[former].subtract(self.strata[row])
            self.sizes[former] -= 1
        self.home_of[row] = home
        self.counts[home].update(self.strata[row])
        self.sizes[home] += 1

    def fits(self, row: int, home: int) -> bool:
        """Whether each stratum of the row has other rows that are not in `home`."""
        return home == self.rest or all(self.counts[home][name] + 1 < self.totals[name] for name in self.strata[row])

    def lacks(self, home: int, name: str) -> int:
        """Return how many rows of a stratum the home lacks, in units of 1 / `whole` rows; negative: it has too many."""
        return self.shares[home] * self.totals[name] - self.whole * self.counts[home][name]

    def space(self, home: int) -> int:
        """Return how many rows the home lacks, in the same units."""
        return self.shares[home] * len(self.strata) - self.whole * self.sizes[home]

    def cost(self, row: int, home: int, other: int) -> int:
        """Return how much worse the strata are divided when the row moves from `home` to `other`: a sum of squares."""
        return sum(
            (self.lacks(home, name) - self.lacks(other, name) + self.whole) * len(self.strata) // self.totals[name]
            for name in self.strata[row]
        )


def divide(strata: Strata, order: Sequence[int], shares: Mapping[int, int], rest: int) -> list[int]:
    """Return the home of each row, in proportion to the `shares` of homes: of each stratum, and of all rows.

    order: the rows, in the order in which they are placed. shares, rest: as in `Division`. The rarest stratum is placed
    first, each of its rows where most of that stratum are lacking; then sizes are corrected by the rows that fit best.
    """
    division = Division(strata, shares, rest)
    ranks = {name: rank for rank, name in enumerate(dict.fromkeys(name for row in order for name in strata[row]))}
    members: dict[str, list[int]] = {name: [] for name in ranks}
    for row in order:
        for name in strata[row]:
            members[name].append(row)
    left = Counter(division.totals)
    waiting = [(count, ranks[name], name) for name, count in left.items()]
    heapq.heapify(waiting)
    while waiting:
        count, _, name = heapq.heappop(waiting)
        if count != left[name] or not count:
            continue  # an outdated entry: rows of this stratum were placed with another one
        touched: dict[str, None] = {}
        for row in members[name]:
            if division.home_of[row] is None:
                fitting = [home for home in shares if division.fits(row, home)]
                best = max(fitting, key=lambda home: (division.lacks(home, name), division.space(home)), default=rest)
                division.place(row, best)
                left.subtract(strata[row])
                touched |= dict.fromkeys(strata[row])
        for each in touched:
            heapq.heappush(waiting, (left[each], ranks[each], each))
    _correct_sizes(division, order)
    return [rest if home is None else home for home in division.home_of]


def _correct_sizes(division: Division, order: Sequence[int]) -> None:
    """Move rows between homes until each has its share of all rows, as far as rows fit."""
    while True:
        fullest, emptiest = (pick(division.shares, key=division.space) for pick in (min, max))
        spread = division.space(emptiest) - division.space(fullest)
        number = (spread + division.whole - 1) // (2 * division.whole)  # half of it in rows, rounded; a half: down
        if not number or not _move(division, order, fullest, emptiest, number):
            return


def _move(division: Division, order: Sequence[int], home: int, other: int, number: int) -> int:
    """Move up to `number` rows, those first whose move divides the strata best; return how many were moved."""
    homes, moved = division.home_of, 0
    queue = [(division.cost(row, home, other), place) for place, row in enumerate(order) if homes[row] == home]
    heapq.heapify(queue)
    while queue and moved < number:
        cost, place = heapq.heappop(queue)
        row = order[place]
        now = division.cost(row, home, other)
        if now > cost:  # costs only rise, as rows of the same strata have moved
            heapq.heappush(queue, (now, place))
        elif division.fits(row, other):
            division.place(row, other)
            moved += 1
    return moved
