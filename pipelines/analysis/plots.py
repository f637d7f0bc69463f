"""The pictures of a run.  Each is drawn on a figure of its own; no window, no global state of matplotlib."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from pipelines.dataset.images import Pixels
from pipelines.system.files import atomic_file

NUMBERED_CLASSES = 20  # more classes than this, and the numbers in a confusion matrix would be too small to read
COLUMNS = 6
TWIN_COLUMNS = 5
CONFIDENCE = 0.95  # of intervals

Values = npt.NDArray[np.float64]
Runs = Sequence[Sequence[Mapping[Any, Any]]]  # the epochs' rows of each of several runs


@dataclass(frozen=True)
class Mistake:
    """A validation image that the network got wrong; `confidence` is the probability of the label it predicted."""

    id: str
    picture: Pixels
    label: str
    predicted: str
    confidence: float


@dataclass(frozen=True)
class Twins:
    """Two images side by side, and a few words below each other on what they are."""

    first: Pixels
    second: Pixels
    words: Sequence[str]


def draw_curves(path: Path, rows: Sequence[dict[str, Any]], metric: str, best_epoch: int, title: str) -> None:
    """Draw losses and the metric over the epochs to the PNG `path`, the best epoch marked."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    losses.plot(epochs, [row["train_loss"] for row in rows], marker=".", label="train (augmented, as it learned)")
    losses.plot(epochs, [row["valid_loss"] for row in rows], marker=".", label="valid")
    losses.set(xlabel="epoch", ylabel="cross-entropy (nats)")
    losses.legend()
    scores.plot(epochs, [row[metric] for row in rows], marker=".", color="C1", label="valid")
    best = rows[best_epoch - 1][metric]
    scores.axvline(best_epoch, color="grey", linestyle=":", label=f"best: {best:.4f} in epoch {best_epoch}")
    scores.set(xlabel="epoch", ylabel=metric)
    scores.legend()
    for axes in (losses, scores):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title, parse_math=False)
    _save(figure, path)


def draw_comparison(path: Path, histories: Mapping[str, Runs], metric: str, title: str) -> None:
    """Draw validation losses and the metric of several recipes over the epochs to the PNG `path`.

    histories: for each recipe its runs, which differ by their seeds.  A thin line is a run; a thick one is the mean
    over a recipe's runs, as far as all of them go, with the band of its t-interval where there is more than one.  The
    lines set the scale: the band of two runs, 13 standard errors wide, would leave them flat.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for axes, key, name in ((losses, "valid_loss", "valid cross-entropy (nats)"), (scores, metric, f"valid {metric}")):
        bands = []
        for number, (recipe, runs) in enumerate(histories.items()):
            colour = f"C{number}"
            for rows in runs:
                axes.plot([row["epoch"] for row in rows], [row[key] for row in rows], color=colour, lw=0.7, alpha=0.4)
            shared = min(len(rows) for rows in runs)
            epochs = [row["epoch"] for row in runs[0][:shared]]
            mean, margin = mean_interval(np.array([[row[key] for row in rows[:shared]] for rows in runs]))
            count = f"{len(runs)} seeds" if len(runs) > 1 else "1 seed"
            axes.plot(epochs, mean, marker=".", color=colour, label=f"{count} of {_short(recipe)}")
            if len(runs) > 1:
                bands.append((epochs, mean - margin, mean + margin, colour))
        low, high = axes.get_ylim()
        for epochs, least, most, colour in bands:
            axes.fill_between(epochs, least, most, color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel="epoch", ylabel=name, ylim=(low - (high - low) / 4, high + (high - low) / 4))
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        legend = axes.legend(fontsize="small")
        legend.set_in_layout(False)  # many recipes would leave no room for the axes
        for text in legend.get_texts():
            text.set_parse_math(False)
    has_bands = any(len(runs) > 1 for runs in histories.values())
    meaning = f"\nbands: {CONFIDENCE:.0%} intervals of the mean over seeds" if has_bands else ""
    figure.suptitle(title + meaning, parse_math=False)
    _save(figure, path)


def mean_interval(values: Values) -> tuple[Values, Values]:
    """Return the mean over the first axis of `values`, and how far Student's t-interval goes to either side of it.

    Of a single value no interval can be taken: it is NaN.
    """
    from scipy.stats import t

    count = len(values)
    mean = values.mean(axis=0)
    if count < 2:
        return mean, np.full_like(mean, np.nan)
    quantile = t.ppf((1 + CONFIDENCE) / 2, count - 1)
    return mean, np.asarray(quantile * values.std(axis=0, ddof=1) / np.sqrt(count))


def draw_mistakes(path: Path, mistakes: Sequence[Mistake], title: str) -> None:
    """Draw a grid of `mistakes`, in the order given, each with both labels, to the PNG `path`."""
    words = [f"is {_short(each.label)}\nseen as {_short(each.predicted)} {each.confidence:.0%}" for each in mistakes]
    _draw_grid(path, [each.picture for each in mistakes], words, title, COLUMNS, (2, 2.5))


def draw_twins(path: Path, twins: Sequence[Twins], title: str) -> None:
    """Draw a grid of `twins`, in the order given, to the PNG `path`."""
    pictures = []
    for each in twins:
        gap = np.full((each.first.shape[0], max(1, each.first.shape[1] // 16), 3), 255, np.uint8)
        pictures.append(np.concatenate([each.first, gap, each.second], axis=1))
    words = ["\n".join(_short(line, 36) for line in each.words) for each in twins]
    _draw_grid(path, pictures, words, title, TWIN_COLUMNS, (2.6, 2))


def _draw_grid(
    path: Path,
    pictures: Sequence[Pixels],
    words: Sequence[str],
    title: str,
    columns: int,
    cell: tuple[float, float],
) -> None:
    """Draw a grid of `pictures`, each below its `words`; cell: width and height of one, in inches."""
    lines = max(1, -(-len(pictures) // columns))
    figure = Figure(figsize=(columns * cell[0], lines * cell[1] + 0.6), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture, text in zip(grid.flat, pictures, words, strict=False):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(text, fontsize=8, parse_math=False)
    figure.suptitle(title, parse_math=False)
    _save(figure, path)


def draw_confusion(path: Path, counts: npt.NDArray[np.int64], classes: Sequence[str], title: str) -> None:
    """Draw how often each true class (row) was predicted as each class (column) to the PNG `path`.

    counts: (K, K).  Colours are shares of the true class; few enough classes are numbered.
    """
    number = len(classes)
    side = min(max(5.0, number * 0.6), 14.0)
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, label="share of the true class", shrink=0.8)
    font = 9 if number <= NUMBERED_CLASSES else max(3, 400 // number)
    labels = [_short(name) for name in classes]
    axes.set_xticks(range(number), labels, rotation=90, fontsize=font, parse_math=False)
    axes.set_yticks(range(number), labels, fontsize=font, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    if number <= NUMBERED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    axes.set_title(title, parse_math=False)
    _save(figure, path)


def _short(name: str, length: int = 24) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _save(figure: Figure, path: Path) -> None:
    with atomic_file(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a label in such a script is drawn as boxes
        # No software version or date in the file: the same run draws the same bytes.
        figure.savefig(partial, format="png", dpi=100, metadata={"Software": None})
