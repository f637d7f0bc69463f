"""How sure a run is: are its probabilities right, and is it as sure of the test images?"""

import numpy as np

from pipelines.report import charts
from pipelines.report.blocks import Block, Charts, Section, Text
from pipelines.report.evidence import Array, Evidence, Floats
from pipelines.settings.metrics import BOXES, NUMBERS, ONE_CLASS

BINS = 10
FEWEST = 5  # predictions in a bin that is drawn
FAINT = 0.05  # confidence; detectors find many boxes below it, which would hide the others in a histogram
NUMBER_BINS = 24


def section(evidence: Evidence) -> Section | None:
    """Return the section; None where no predictions are kept that it could be drawn from."""
    build = {NUMBERS: _numbers, BOXES: _boxes}.get(evidence.task, _probabilities)
    blocks = build(evidence)
    return Section("sure", "How sure it is", blocks) if blocks else None


def _probabilities(evidence: Evidence) -> list[Block]:
    held, drawn, said = evidence.held_out(), [], []
    if held is not None:
        predictions, actual = held
        names = {"as trained": False, "with temperature": True} if evidence.has_temperature else {"as trained": False}
        lines = [charts.Line("right as often as said", [0, 1], [0, 1], 5, dashed=True)]
        for colour, (name, tempered) in enumerate(names.items()):
            sure, right = _sure_and_right(evidence, evidence.probabilities(predictions, tempered), actual)
            means, shares, error = reliability(sure, right)
            lines.append(charts.Line(name, means, shares, colour))
            said.append(f"{name}: {error:.3f}")
        what = "right" if evidence.task == ONE_CLASS else "present"
        drawn.append(
            charts.lines("Reliability on the validated images", lines, "stated probability", f"share that is {what}")
        )
    confidence = _confidence(evidence)
    if confidence:
        edges = np.linspace(0, 1, 2 * BINS + 1).tolist()
        title = "How sure it is of its answers"
        drawn.append(charts.histogram(title, edges, confidence, "probability of the surest class", "share of images"))
    blocks: list[Block] = [Charts(drawn)] if drawn else []
    if said:
        blocks.append(
            Text(f"Mean distance between stated and true shares (expected calibration error), {'; '.join(said)}.")
        )
    if len(confidence) == 2:
        blocks.append(Text(_compare(*(mean_of(some) for some in confidence.values()))))
    return blocks


def _compare(valid: float, test: float) -> str:
    about = f"It is {valid:.0%} sure of validated images on average, and {test:.0%} of test images."
    if valid - test > 0.05:
        return f"{about} The test images look different to it: compare their pictures."
    return f"{about} It sees no clear difference between them."


def mean_of(shares: list[float]) -> float:
    """Return the mean confidence of a histogram of `_confidence`."""
    return float(np.dot(shares, (np.arange(len(shares)) + 0.5) / len(shares)))


def _confidence(evidence: Evidence) -> dict[str, list[float]]:
    """Return the shares of validated and of test images by the probability of their surest class."""
    sets: dict[str, Floats] = {}
    values = evidence.found.values
    sets["validated images"] = values[:, 0] if evidence.task == ONE_CLASS else values.max(axis=1)
    test = evidence.test
    if test is not None:
        sets["test images"] = evidence.probabilities(test[1]).max(axis=1)
    counts = {name: np.histogram(some, 2 * BINS, (0, 1))[0] for name, some in sets.items()}
    return {name: (each / max(each.sum(), 1)).tolist() for name, each in counts.items()}


def _sure_and_right(evidence: Evidence, probabilities: Floats, actual: Array) -> tuple[Floats, Array]:
    if evidence.task == ONE_CLASS:
        return probabilities.max(axis=1), probabilities.argmax(axis=1) == actual
    return probabilities.ravel(), actual.ravel().astype(bool)


def reliability(sure: Floats, right: Array) -> tuple[list[float], list[float], float]:
    """Return the mean probability and the share of right answers in `BINS` equal bins, and the expected calibration
    error.

    sure: probabilities (N,).  right: bool (N,).  Bins of fewer than `FEWEST` predictions are left out of the lists.
    The error is the mean distance between the two, weighted by the bins' sizes (C. Guo et al., arXiv 1706.04599).
    """
    places = np.clip((sure * BINS).astype(int), 0, BINS - 1)
    counts = np.bincount(places, minlength=BINS)
    with np.errstate(invalid="ignore"):
        means = np.bincount(places, sure, BINS) / counts
        shares = np.bincount(places, right.astype(float), BINS) / counts
    error = float(np.nansum(np.abs(means - shares) * counts) / max(len(sure), 1))
    kept = counts >= FEWEST
    return means[kept].tolist(), shares[kept].tolist(), error


def _boxes(evidence: Evidence) -> list[Block]:
    """Return the confidence of the boxes, and how many are right of those of a confidence."""
    found, hits, test = evidence.compared.found[:, :, 1], evidence.compared.hits, evidence.test
    means, shares, _ = reliability(found[found > 0], hits[found > 0])
    lines = [charts.Line("right as often as said", [0, 1], [0, 1], 5, dashed=True)]
    lines.append(charts.Line("validated images", means, shares, 0))
    title = "Share of boxes that are right, by confidence"
    drawn = [charts.lines(title, lines, "confidence", "share of right boxes")]
    sets = {"validated images": found}
    if test is not None:
        sets["test images"] = evidence.sent_boxes(test[1], all_of_them=True)[:, :, 1]
    counts = {name: np.histogram(some[some > FAINT], 2 * BINS, (0, 1))[0] for name, some in sets.items()}
    kinds = {name: (each / max(each.sum(), 1)).tolist() for name, each in counts.items()}
    edges = np.linspace(0, 1, 2 * BINS + 1).tolist()
    drawn.append(
        charts.histogram(
            f"Confidence of the predicted boxes above {FAINT}", edges, kinds, "confidence", "share of boxes"
        )
    )
    return [Charts(drawn)]


def _numbers(evidence: Evidence) -> list[Block]:
    """Return the distributions of true, predicted and test numbers."""
    test, drawn = evidence.test, []
    for column, name in enumerate(evidence.classes[:6]):
        actual, predicted = evidence.actual[:, column].astype(np.float64), evidence.found.values[:, column]
        sets = {"true": actual[np.isfinite(actual)], "predicted": predicted}
        if test is not None:
            sets["test images"] = test[1][:, column].astype(np.float64)
        everything = np.concatenate(list(sets.values()))
        edges = np.linspace(everything.min(), everything.max() or 1.0, NUMBER_BINS + 1)
        if edges[0] == edges[-1]:
            continue
        shares = {which: (np.histogram(some, edges)[0] / max(len(some), 1)).tolist() for which, some in sets.items()}
        title = f"{charts.short_name(name)}: validated and test images"
        drawn.append(charts.histogram(title, edges.tolist(), shares, charts.short_name(name), "share of images"))
    return [Charts(drawn)] if drawn else []
