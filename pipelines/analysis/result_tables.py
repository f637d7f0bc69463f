"""Tables of the predictions of a run by class, label or number, without matplotlib, which takes long to import."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.analysis.results import Array
from pipelines.system.screen import short

PAIRS_LISTED = 10_000  # of confused classes
LABELS_SHOWN = 3  # of each kind in the text above a mistake

Floats = npt.NDArray[np.float64]


def confused_pairs(labels: Array, decided: Array, classes: Sequence[str]) -> pd.DataFrame:
    """Return `label`, `predicted`, `images` and `of`, the images of the label; the most frequent mistakes first.

    labels, decided: class numbers (N,). At most `PAIRS_LISTED` pairs are returned.
    """
    wrong = decided != labels
    pairs, counts = np.unique(labels[wrong] * len(classes) + decided[wrong], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:PAIRS_LISTED]
    true, predicted = np.divmod(pairs[order], len(classes))
    names, of = np.array(classes, object), np.bincount(labels, minlength=len(classes))
    return pd.DataFrame({"label": names[true], "predicted": names[predicted], "images": counts[order], "of": of[true]})


def label_table(actual: Array, decided: Array, classes: Sequence[str], thresholds: Sequence[float]) -> pd.DataFrame:
    """Return `label`, `threshold`, `precision`, `recall`, `images` that have it, `missed` and `wrongly_given` ones.

    actual, decided: bool (N, K). A precision or recall without any image is NaN.
    """
    right, given, images = (each.sum(axis=0) for each in (actual & decided, decided, actual))
    with np.errstate(invalid="ignore"):
        precision, recall = right / given, right / images
    cuts = np.broadcast_to(np.array(thresholds or [np.nan], np.float64), len(classes))
    columns = {"label": classes, "threshold": cuts, "precision": precision, "recall": recall, "images": images}
    return pd.DataFrame(columns | {"missed": images - right, "wrongly_given": given - right})


def wrong_labels(classes: Sequence[str], missed: Array, added: Array, probabilities: Array) -> str:
    """Return the text above an image: the labels it lacks and those it has too many, the surest mistakes first."""
    lines = []
    for sign, flags, order in (("−", missed, probabilities), ("+", added, -probabilities)):
        places = sorted(np.flatnonzero(flags).tolist(), key=lambda place: float(order[place]))
        lines += [f"{sign} {short(classes[place])} {probabilities[place]:.0%}" for place in places[:LABELS_SHOWN]]
        lines += [f"{sign} {len(places) - LABELS_SHOWN} more"] if len(places) > LABELS_SHOWN else []
    return "\n".join(lines)


def number_table(actual: Floats, predicted: Floats, names: Sequence[str]) -> pd.DataFrame:
    """Return `number`, `images` that have it, `rmse`, `mae`, `bias` (the mean error) and `r2`. actual: NaN if missing.

    Values without an image, and r2 of equal numbers, are NaN.
    """
    errors = predicted - actual
    columns: dict[str, list[float]] = {name: [] for name in ("images", "rmse", "mae", "bias", "r2")}
    for number in range(len(names)):
        error = errors[:, number][np.isfinite(errors[:, number])]
        true = actual[:, number][np.isfinite(errors[:, number])]
        spread = np.square(true - true.mean()).sum() if len(true) else 0.0
        columns["images"].append(len(error))
        columns["rmse"].append(float(np.sqrt(np.square(error).mean())) if len(error) else np.nan)
        columns["mae"].append(float(np.abs(error).mean()) if len(error) else np.nan)
        columns["bias"].append(float(error.mean()) if len(error) else np.nan)
        columns["r2"].append(float(1 - np.square(error).sum() / spread) if spread else np.nan)
    return pd.DataFrame({"number": list(names), **columns})


def deviations(actual: Floats) -> Floats:
    """Return the standard deviation of the known numbers of each column of `actual`, (T,); 1 for equal ones or none."""
    found = []
    for column in actual.T:
        known = column[np.isfinite(column)]
        found.append(known.std() if len(known) and np.ptp(known) else 1.0)
    return np.array(found)
