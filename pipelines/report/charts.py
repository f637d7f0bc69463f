"""Charts as inline SVG. Their colours are classes of the page's style, so they follow its light and dark colours.

Each chart has a title for people who do not see it. Names are escaped and shortened; a point tells its whole text when
the pointer rests on it. matplotlib would fix the colours, and need ten times the bytes and seconds of a short stage.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup, escape

from pipelines.system.errors import one_line
from pipelines.system.screen import short

WIDTH, HEIGHT = 420, 250  # of a chart in units of its text, which has a size of 12
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 10, 40  # margins; numbers of six digits stand beside the name of the axis
LETTER = 6.6  # the mean width of a letter
MOST_POINTS = 1500  # in a scatter plot
TICKS = 5
BAR = 19  # height of a bar with its gap
COLOURS = 6


@dataclass(frozen=True)
class Line:
    """A line of a chart through points (x, y); y may be NaN.  faint: one of many.  right: has an axis of its own."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    faint: bool = False
    right: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """A scale from `low` to `high` that is drawn from `start` to `end`.  whole: its ticks are whole numbers."""

    low: float
    high: float
    start: float
    end: float
    whole: bool = False

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round numbers within the scale."""
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / TICKS))
        step *= next(factor for factor in (1, 2, 5, 10) if (self.high - self.low) / (step * factor) <= TICKS)
        step = max(step, 1.0) if self.whole else step
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def short_name(name: str, length: int = 32) -> str:
    """Return a name on one line, without what is not printed, such as marks of direction, and without its middle."""
    return short(one_line(str(name)), length)


def number(value: float) -> str:
    """Return a number for an axis."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def lines(title: str, series: Sequence[Line], x_label: str, y_label: str, mark: float = math.nan) -> Markup:
    """Return a line chart.  mark: an x with a vertical line."""
    places = [value for line in series for value in line.x]
    x = replace(
        _axis(places, LEFT, WIDTH - RIGHT, margin=0),
        whole=all(value == round(value) for value in places) and max(places, default=0) > 1,
    )
    main = _axis([value for line in series for value in line.y if not line.right], HEIGHT - BOTTOM, TOP)
    rates = [value for line in series for value in line.y if line.right]
    right = _axis([0.0, *rates], HEIGHT - BOTTOM, TOP, margin=0)
    parts = [_frame(x, main, x_label, y_label)]
    if not math.isnan(mark):
        parts.append(
            Markup('<line class="mark" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(
                x(mark), TOP, HEIGHT - BOTTOM
            )
        )
    for line in series:
        axis = right if line.right else main
        points = [f"{x(a):.1f},{axis(b):.1f}" for a, b in zip(line.x, line.y, strict=True) if math.isfinite(b)]
        points *= 2 if len(points) == 1 else 1  # with round ends, a dot
        kind = f"line c{line.colour % COLOURS}" + " faint" * line.faint + " rate" * line.right + " dashed" * line.dashed
        parts.append(Markup('<polyline class="{}" points="{}"/>').format(kind, " ".join(points)))
    named = {line.name: f"c{line.colour % COLOURS}" + " rate" * line.right for line in series if line.name}
    return _svg(title, HEIGHT, parts, named)


def scatter(
    title: str, points: Iterable[tuple[float, float, str]], labels: tuple[str, str], diagonal: bool = False
) -> Markup:
    """Return a scatter plot of (x, y, text) with axes named `labels`.  diagonal: with the line of equal values, and
    equal scales."""
    known = [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]
    known = known[:: max(1, -(-len(known) // MOST_POINTS))]
    xs, ys = [point[0] for point in known], [point[1] for point in known]
    x = _axis(xs + ys if diagonal else xs, LEFT, WIDTH - RIGHT)
    y = _axis(xs + ys if diagonal else ys, HEIGHT - BOTTOM, TOP)
    parts = [_frame(x, y, *labels)]
    if diagonal:
        ends = [f"{x(value):.1f},{y(value):.1f}" for value in (x.low, x.high)]
        parts.append(Markup('<polyline class="mark" points="{}"/>').format(" ".join(ends)))
    else:
        parts.append(_level(y))
    shape = "dot" if len(known) < 100 else "dot small"
    for a, b, text in known:
        tip = Markup("<title>{}</title>").format(text) if text else ""
        parts.append(
            Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}">{}</circle>').format(
                shape, x(a), y(b), 4 if shape == "dot" else 2, tip
            )
        )
    return _svg(title, HEIGHT, parts)


def histogram(
    title: str, edges: Sequence[float], shares: Mapping[str, Sequence[float]], x_label: str, y_label: str = "share"
) -> Markup:
    """Return step lines of the `shares` of several sets in bins with these `edges`."""
    x = _axis(edges, LEFT, WIDTH - RIGHT, margin=0)
    y = _axis([0.0, *(value for some in shares.values() for value in some)], HEIGHT - BOTTOM, TOP, margin=0)
    parts = [_frame(x, y, x_label, y_label)]
    for colour, some in enumerate(shares.values()):
        steps = [(edge, value) for ends, value in zip(itertools.pairwise(edges), some, strict=True) for edge in ends]
        points = [(edges[0], 0.0), *steps, (edges[-1], 0.0)]
        text = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        parts.append(
            Markup('<polygon class="area c{0}" points="{1}"/><polyline class="line c{0}" points="{1}"/>').format(
                colour, text
            )
        )
    return _svg(title, HEIGHT, parts, {name: f"c{colour}" for colour, name in enumerate(shares)})


def bars(
    title: str, names: Sequence[str], values: Mapping[str, Sequence[float]], shown: Callable[[float], str] = number
) -> Markup:
    """Return horizontal bars: for each of `names` one bar per set of `values`; NaN has no bar.  shown: their texts."""
    labels = [short_name(name, 26) for name in names]
    left = min(200.0, 14 + LETTER * max(map(len, labels), default=1))
    longest = max((value for some in values.values() for value in some if math.isfinite(value)), default=0.0)
    texts = [
        " · ".join(shown(some[row]) for some in values.values() if math.isfinite(some[row]))
        for row in range(len(names))
    ]
    x = Axis(0.0, longest or 1.0, left, WIDTH - 8 - LETTER * max(map(len, texts), default=0))
    height, thick = TOP + BAR * len(names) + 6, (BAR - 5) / len(values)
    parts = []
    for row, (name, label) in enumerate(zip(names, labels, strict=True)):
        top = TOP + BAR * row
        parts.append(
            Markup('<text class="end" x="{:.1f}" y="{:.1f}">{}<title>{}</title></text>').format(
                left - 6, top + BAR / 2 + 1, label, name
            )
        )
        for colour, (which, some) in enumerate(values.items()):
            if not math.isfinite(some[row]):
                continue
            box = (left, top + colour * thick, max(x(some[row]) - left, 0.5), thick - 1)
            parts.append(_box(f"fill c{colour}", box, f"{name}: {shown(some[row])} {which}"))
        end = max((x(some[row]) for some in values.values() if math.isfinite(some[row])), default=left)
        parts.append(
            Markup('<text class="quiet" x="{:.1f}" y="{:.1f}">{}</text>').format(end + 5, top + BAR / 2 + 1, texts[row])
        )
    named = {name: f"c{colour}" for colour, name in enumerate(values)} if len(values) > 1 else {}
    return _svg(title, height, parts, named)


def matrix(title: str, names: Sequence[str], shares: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> Markup:
    """Return the confusion matrix of `shares` (K, K) of each true class, row, that is seen as each class, column."""
    labels = [short_name(name, 16) for name in names]
    left = 14 + LETTER * max(map(len, labels))
    side = float(np.clip((WIDTH - left - RIGHT) / len(names), 14, 30))
    top, parts = left, []
    for row, label in enumerate(labels):
        middle = top + (row + 0.5) * side + 4
        parts.append(Markup('<text class="end" x="{:.1f}" y="{:.1f}">{}</text>').format(left - 6, middle, label))
        parts.append(
            Markup('<text x="0" y="0" transform="translate({:.1f} {:.1f}) rotate(-90)">{}</text>').format(
                left + (row + 0.5) * side + 4, top - 6, label
            )
        )
    for (row, column), share in np.ndenumerate(shares):
        if share > 0:
            kind = "right" if row == column else "wrong"
            box = (left + column * side, top + row * side, side - 1, side - 1)
            parts.append(_box(kind, box, f"{names[row]} seen as {names[column]}: {share:.0%}", 0.12 + 0.88 * share))
    size = left + side * len(names) + RIGHT
    return _svg(title, size, parts, width=max(size, WIDTH))


def _box(kind: str, box: tuple[float, float, float, float], text: str, opacity: float = 1.0) -> Markup:
    """Return a rectangle at (left, top) with (width, height), which tells `text`."""
    place = Markup('x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"').format(*box)
    return Markup('<rect class="{}" {} opacity="{:.2f}"><title>{}</title></rect>').format(kind, place, opacity, text)


def _axis(values: Sequence[float], start: float, end: float, margin: float = 0.05) -> Axis:
    known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    if low == high:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    room = margin * (high - low)
    return Axis(low - room, high + room, start, end)


def _frame(x: Axis, y: Axis, x_label: str, y_label: str) -> Markup:
    parts = []
    for value in y.ticks:
        parts.append(
            Markup('<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>').format(
                LEFT, WIDTH - RIGHT, y(value)
            )
        )
        parts.append(
            Markup('<text class="end quiet" x="{}" y="{:.1f}">{}</text>').format(LEFT - 6, y(value) + 4, number(value))
        )
    for value in x.ticks:
        parts.append(
            Markup('<text class="middle quiet" x="{:.1f}" y="{}">{}</text>').format(
                x(value), HEIGHT - BOTTOM + 15, number(value)
            )
        )
    parts.append(
        Markup('<text class="middle" x="{}" y="{}">{}</text>').format(
            (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, short_name(x_label, 48)
        )
    )
    parts.append(
        Markup('<text class="middle" transform="translate(11 {}) rotate(-90)">{}</text>').format(
            (TOP + HEIGHT - BOTTOM) / 2, short_name(y_label, 30)
        )
    )
    return Markup("").join(parts)


def _level(y: Axis) -> Markup:
    if not y.low < 0 < y.high:
        return Markup("")
    return Markup('<line class="mark" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>').format(
        LEFT, WIDTH - RIGHT, y(0.0)
    )


def _svg(
    title: str,
    height: float,
    parts: Iterable[Markup],
    named: Mapping[str, str] | None = None,
    width: float = WIDTH,
) -> Markup:
    """Return the picture, with a legend below it where there are several sets.  named: the class of each one."""
    keys = Markup("").join(
        Markup('<span class="key {}">{}</span>').format(kind, short_name(name, 40))
        for name, kind in (named or {}).items()
    )
    legend = Markup('<div class="legend">{}</div>').format(keys) if len(named or {}) > 1 else Markup("")
    picture = Markup('<svg role="img" viewBox="0 0 {:.0f} {:.0f}" aria-label="{}">{}</svg>').format(
        width, height, title, Markup("").join(parts)
    )
    return Markup('<figure class="chart"><figcaption>{}</figcaption>{}{}</figure>').format(
        escape(title), picture, legend
    )
