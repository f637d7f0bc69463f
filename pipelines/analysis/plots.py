"""The plots of a run, each on its own figure, without a window or matplotlib's global state."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.dataset.channels import Pixels
from pipelines.system.files import atomic_file
from pipelines.system.screen import short

NUMBERED_CLASSES = 20  # with more classes, the numbers in a confusion matrix would be too small to read
CONFIDENCE = 0.95  # of intervals
DENSE = 1000  # points; more are drawn fainter
DOT, MOST_AREA = 12, 600  # area of the point of one image, and of the largest one, in square points

Values = npt.NDArray[np.float64]
Runs = Sequence[Sequence[Mapping[Any, Any]]]  # the history rows of each of several runs
Mistake = tuple[Pixels, str, str, float]  # a misclassified image, its label, the predicted one and its probability
Twins = tuple[Pixels, Pixels, Sequence[str]]  # two images side by side, and the lines of text above them


def draw_curves(
    path: Path, rows: Sequence[dict[str, Any]], metric: str, best_epoch: int, title: str, loss: str
) -> None:
    """Draw the losses, the learning rate and the metric per epoch to the PNG `path`, and mark the best epoch.

    loss: its name and unit.
    """
    figure, losses, scores = _two_axes()
    epochs = [row["epoch"] for row in rows]
    losses.plot(epochs, [row["train_loss"] for row in rows], marker=".", label="train (augmented, during the epoch)")
    losses.plot(epochs, [row["valid_loss"] for row in rows], marker=".", label="valid")
    losses.set(xlabel="epoch", ylabel=loss)
    rates = losses.twinx()
    rates.plot(epochs, [row["lr"] for row in rows], color="grey", linewidth=0.7)
    rates.set_ylim(bottom=0)
    losses.set_zorder(rates.get_zorder() + 1)  # the losses and their legend lie over the rate
    losses.patch.set_visible(False)
    rates.set_ylabel("learning rate, at the end of the epoch", color="grey", fontsize="small")
    rates.tick_params(colors="grey", labelsize="small")
    scores.plot(epochs, [row[metric] for row in rows], marker=".", color="C1", label="valid")
    label = f"best: {rows[best_epoch - 1][metric]:.4f} in epoch {best_epoch}"
    scores.axvline(best_epoch, color="grey", linestyle=":", label=label)
    scores.set(xlabel="epoch", ylabel=metric)
    for axes in (losses, scores):
        axes.legend()
    save(figure, path, title)


def draw_comparison(path: Path, histories: Mapping[str, Runs], metric: str, title: str, loss: str) -> None:
    """Draw the validation losses and the metric of several recipes per epoch to the PNG `path`.

    histories: the runs of each recipe, which differ by their seeds.  A thin line is a run.  A thick line is the mean
    over a recipe's runs, up to the last epoch of the shortest, with the band of its t-interval if there is more than
    one.  The lines set the scale: the wide band of two runs would flatten them.  loss: its name and unit.
    """
    figure, losses, scores = _two_axes()
    for axes, key, name in ((losses, "valid_loss", f"valid {loss}"), (scores, metric, f"valid {metric}")):
        bands = []
        for number, (recipe, runs) in enumerate(histories.items()):
            colour = f"C{number}"
            for rows in runs:
                axes.plot([row["epoch"] for row in rows], [row[key] for row in rows], color=colour, lw=0.7, alpha=0.4)
            shared = min(len(rows) for rows in runs)
            epochs = [row["epoch"] for row in runs[0][:shared]]
            mean, margin = mean_interval(np.array([[row[key] for row in rows[:shared]] for rows in runs]))
            count = f"{len(runs)} seeds" if len(runs) > 1 else "1 seed"
            axes.plot(epochs, mean, marker=".", color=colour, label=f"{count} of {short(recipe)}")
            if len(runs) > 1:
                bands.append((epochs, mean - margin, mean + margin, colour))
        low, high = axes.get_ylim()
        for epochs, least, most, colour in bands:
            axes.fill_between(epochs, least, most, color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel="epoch", ylabel=name, ylim=(low - (high - low) / 4, high + (high - low) / 4))
        legend = axes.legend(fontsize="small")
        legend.set_in_layout(False)  # many recipes would leave no room for the axes
        for text in legend.get_texts():
            text.set_parse_math(False)
    has_bands = any(len(runs) > 1 for runs in histories.values())
    save(figure, path, title + f"\nbands: {CONFIDENCE:.0%} intervals of the mean over seeds" * has_bands)


def mean_interval(values: Values) -> tuple[Values, Values]:
    """Return the mean over the first axis of `values`, and half the width of its t-interval; NaN for a single value."""
    from scipy.stats import t

    count, mean = len(values), values.mean(axis=0)
    if count < 2:
        return mean, np.full_like(mean, np.nan)
    quantile = t.ppf((1 + CONFIDENCE) / 2, count - 1)
    return mean, np.asarray(quantile * values.std(axis=0, ddof=1) / np.sqrt(count))


def draw_mistakes(path: Path, mistakes: Sequence[Mistake], title: str) -> None:
    """Draw `mistakes` in a grid, in the given order, each with both labels, to the PNG `path`."""
    cells = [
        (picture, f"is {short(label)}\nseen as {short(predicted, 20)} {confidence:.0%}")
        for picture, label, predicted, confidence in mistakes
    ]
    draw_pictures(path, cells, title)


def draw_pictures(path: Path, cells: Sequence[tuple[Pixels, str]], title: str) -> None:
    """Draw pictures in a grid, in the given order, each below its text, to the PNG `path`."""
    lines = max((text.count("\n") + 1 for _, text in cells), default=1)
    _draw_grid(path, cells, title, 6, (2, 2.5 + 0.15 * max(lines - 2, 0)))


def draw_examples(path: Path, examples: Sequence[tuple[Pixels, str]], title: str) -> None:
    """Draw images, each with its target, in a grid to the PNG `path`."""
    cells = [(picture, "\n".join(map(short, text.split("\n")))) for picture, text in examples]
    _draw_grid(path, cells, title, 4, (2.2, 2.5))


def draw_twins(path: Path, twins: Sequence[Twins], title: str) -> None:
    """Draw `twins` in a grid, in the given order, to the PNG `path`."""
    cells = []
    for first, second, words in twins:
        gap = np.full((first.shape[0], max(1, first.shape[1] // 16), 3), 255, np.uint8)
        text = "\n".join(short(line, 36) for line in words)
        cells.append((np.concatenate([first, gap, second], axis=1), text))
    _draw_grid(path, cells, title, 5, (2.6, 2))


def draw_confusion(path: Path, counts: npt.NDArray[np.int64], classes: Sequence[str], title: str) -> None:
    """Draw the confusion matrix `counts` (K, K), row: true class, column: predicted class, to the PNG `path`."""
    number = len(classes)
    side = min(max(5.0, number * 0.6), 14.0)
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, label="share of the true class", shrink=0.8)
    font = 9 if number <= NUMBERED_CLASSES else max(3, 400 // number)
    labels = [short(name) for name in classes]
    axes.set_xticks(range(number), labels, rotation=90, fontsize=font, parse_math=False)
    axes.set_yticks(range(number), labels, fontsize=font, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    if number <= NUMBERED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    axes.set_title(title, parse_math=False)
    save(figure, path)


def draw_correlations(path: Path, values: Values, names: Sequence[str], title: str) -> None:
    """Draw the correlations `values` (M, M), NaN where there is none, of the members `names` to the PNG `path`."""
    number = len(names)
    side = min(max(3.5, number * 0.7), 14.0)
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
    figure.colorbar(picture, ax=axes, label="correlation of errors", shrink=0.8)
    font = 9 if number <= NUMBERED_CLASSES else max(3, 400 // number)
    labels = [short(name) for name in names]
    axes.set_xticks(range(number), labels, rotation=90, fontsize=font, parse_math=False)
    axes.set_yticks(range(number), labels, fontsize=font, parse_math=False)
    if number <= NUMBERED_CLASSES:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "white" if abs(value) > 0.6 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_title(title, fontsize=10, parse_math=False)
    save(figure, path)


def draw_labels(path: Path, table: pd.DataFrame, title: str) -> None:
    """Draw precision, recall and threshold of each label, most frequent first, to the PNG `path`.

    table: `label`, `precision`, `recall`, `threshold` and `images`, as `label_table` in `result_tables.py` returns it.
    """
    table = table.iloc[np.argsort(-table["images"], kind="stable")]
    figure = Figure(figsize=(9, min(max(3.0, len(table) * 0.25 + 1.5), 18.0)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(table))
    axes.barh(places - 0.2, table["precision"].fillna(0), 0.4, label="precision")
    axes.barh(places + 0.2, table["recall"].fillna(0), 0.4, label="recall")
    axes.scatter(table["threshold"], places, color="black", marker="|", s=60, label="threshold")
    names = [f"{short(label)} ({images:,})" for label, images in zip(table["label"], table["images"], strict=True)]
    axes.set_yticks(places, names, fontsize=8, parse_math=False)
    axes.set(xlim=(0, 1), ylim=(len(table) - 0.4, -0.6), xlabel="share; in brackets: images that have the label")
    axes.grid(alpha=0.3, axis="x")
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    save(figure, path, title)


def draw_numbers(path: Path, numbers: Sequence[tuple[str, Values, Values]], title: str) -> None:
    """Draw predicted against true numbers with the line of equal ones, and the residuals, to the PNG `path`.

    numbers: a name, the true numbers (N,), NaN where one is missing, and the predicted ones; a row of the picture each.
    The area of a point grows with the number of its images.
    """
    figure = Figure(figsize=(10, 4 * len(numbers) + 0.4), layout="constrained")
    for (left, right), (name, actual, predicted) in zip(
        figure.subplots(len(numbers), 2, squeeze=False), numbers, strict=True
    ):
        known = np.isfinite(actual)
        actual, predicted = actual[known], predicted[known]
        (true, seen), counts = np.unique(np.stack([actual, predicted]), axis=1, return_counts=True)
        style: dict[str, Any] = {"s": DOT * counts * min(1, MOST_AREA / DOT / counts.max(initial=1))}
        style |= {"alpha": 0.5 if len(actual) < DENSE else 0.15, "linewidths": 0}
        left.scatter(true, seen, **style)
        right.scatter(seen, seen - true, **style)
        if len(actual):
            ends = [min(actual.min(), predicted.min()), max(actual.max(), predicted.max())]
            left.plot(ends, ends, color="grey", linestyle=":", label="equal")
            bias = float((predicted - actual).mean())
            right.axhline(bias, color="C1", linestyle="--", label=f"mean residual {bias:.4g}")
            left.legend(fontsize="small")
        right.axhline(0, color="grey", linestyle=":")
        right.legend(fontsize="small") if len(actual) else None
        left.set_xlabel(f"true {short(name)}", parse_math=False)
        left.set_ylabel(f"predicted {short(name)}", parse_math=False)
        right.set_xlabel(f"predicted {short(name)}", parse_math=False)
        right.set_ylabel("predicted − true")
        for axes in (left, right):
            axes.grid(alpha=0.3)
    save(figure, path, title)


def _two_axes() -> tuple[Figure, Axes, Axes]:
    """Return a figure with axes for losses and for scores, over whole epochs."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for axes in (losses, scores):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure, losses, scores


def _draw_grid(
    path: Path, cells: Sequence[tuple[Pixels, str]], title: str, columns: int, size: tuple[float, float]
) -> None:
    """Draw a grid of pictures, each below its text, to the PNG `path`; size: width and height of a cell in inches."""
    lines = max(1, -(-len(cells) // columns))
    figure = Figure(figsize=(columns * size[0], lines * size[1] + 0.6), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, (picture, text) in zip(grid.flat, cells, strict=False):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(text, fontsize=8, parse_math=False)
    save(figure, path, title)


def save(figure: Figure, path: Path, title: str = "") -> None:
    """Write a figure to the PNG `path`; the same figure gives the same bytes."""
    if title:
        figure.suptitle(title, parse_math=False)
    with atomic_file(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # labels in such scripts are drawn as boxes
        # No software version or date in the file, so that the same run draws the same bytes.
        figure.savefig(partial, format="png", dpi=100, metadata={"Software": None})
