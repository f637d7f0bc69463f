"""The scores of boxes in settings/metrics.py: pure functions of the same name, and what their intervals draw from.

predicted, targets: as in dataset/boxes.py, (N, MOST * 6) and (N, M, 5).  The average precision is that of pycocotools.
An interval, a choice and a table need more than its number: `match` finds the true box of each predicted one once, by
the same rules, and `average_precisions` then scores any weights of the images.
"""

import io
import itertools
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipelines.dataset.boxes import FOUND, MOST

Array = npt.NDArray[Any]
COCO_IOUS = np.linspace(0.5, 0.95, 10)
WHEAT_IOUS = np.linspace(0.5, 0.75, 6)
RECALLS = np.linspace(0, 1, 101)  # where COCO reads the precision
DIGITS = 12  # that do not depend on the order of a sum
AT_ONCE = 1 << 22  # overlaps, or weighted boxes, in memory


def box_map(predicted: Array, targets: Array, classes: int) -> float:
    """Return COCO's mean average precision.  Classes without a true box are left out; NaN if there is none."""
    return _coco(predicted, targets, classes, ious_of(0))


def box_map_at(predicted: Array, targets: Array, classes: int, box_iou: float) -> float:
    """Return the mean average precision at one intersection over union, as COCO defines it."""
    return _coco(predicted, targets, classes, ious_of(box_iou))


def box_precision(predicted: Array, targets: Array) -> float:
    """Return the mean of `precisions` over the images."""
    return float(precisions(match(predicted, targets, WHEAT_IOUS).hits, targets).mean())


def precisions(hits: Array, targets: Array) -> Array:
    """Return the mean over the last axis of TP / (TP + FP + FN) of each image, (N,).

    hits: of `match`.  An image without true boxes has 1 if nothing is predicted, else 0.
    """
    found, true = (hits >= 0).sum(axis=1), _true(targets).sum(axis=1)[:, None]
    right = (hits > 0).sum(axis=1)
    all_of_them = found + true - right
    return np.asarray(np.where(all_of_them, right / np.maximum(all_of_them, 1), 1.0).mean(axis=1))


def _coco(predicted: Array, targets: Array, classes: int, ious: Array) -> float:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not _true(targets).any():
        return np.nan
    boxes = predicted.reshape(len(targets), -1, FOUND)
    both = {"images": [{"id": row} for row in range(len(targets))], "categories": [{"id": k} for k in range(classes)]}
    truth, found = COCO(), COCO()
    with redirect_stdout(io.StringIO()):
        for one, each, known in ((truth, targets, _true(targets)), (found, boxes, boxes[..., 1] > 0)):
            rows = (known.nonzero()[0], each[known], _as_coco(each[known][:, -4:]))
            one.dataset = both | {
                "annotations": list(map(_annotation, itertools.count(1), *(row.tolist() for row in rows)))
            }
            one.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.iouThrs, evaluation.params.maxDets = ious, [MOST]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 2]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]
    return round(float(precision[precision > -1].mean()), DIGITS)  # -1: of classes without a true box


def _annotation(number: int, image: int, box: list[float], sides: list[float]) -> dict[str, Any]:
    of_box = {"category_id": int(box[0]), "score": box[1], "bbox": sides, "area": 1, "iscrowd": 0}
    return {"id": number, "image_id": image, **of_box}


def _true(targets: Array) -> Array:
    return np.asarray(~np.isnan(targets[..., 0]))


def _as_coco(sides: Array) -> Array:
    """Return corners (..., 4) as xmin, ymin, width, height, float64."""
    sides = sides.astype(np.float64)
    return np.concatenate([sides[..., :2], sides[..., 2:] - sides[..., :2]], axis=-1)


class Matches(NamedTuple):
    """Predicted boxes in the order of confidence, with what they hit.

    classes, confidences: (N, P).  hits: at each of T overlaps, int8 (N, P, T): 1: a true box; 0: none; -1: there is no
    predicted box.  true: the number of true boxes of each class, (N, K).
    """

    classes: Array
    confidences: Array
    hits: Array
    true: Array


def match(predicted: Array, targets: Array, ious: Array, classes: int = 1) -> Matches:
    """Return which predicted boxes hit a true box of their class at each of `ious`.

    In the order of confidence each takes the true box it overlaps most, of those that are left and overlap enough; of
    equal ones the last, as pycocotools does.
    """
    boxes = predicted.reshape(len(targets), -1, FOUND)
    boxes = np.take_along_axis(boxes, np.argsort(-boxes[..., 1], axis=1, kind="stable")[..., None], axis=1)
    number = max(1, int((boxes[..., 1] > 0).sum(axis=1).max(initial=0)))
    boxes = boxes[:, :number]
    size = max(1, AT_ONCE // (number * targets.shape[1]))
    parts = [slice(start, start + size) for start in range(0, len(boxes), size)]
    hits = [_hits(boxes[part], targets[part], ious) for part in parts] or [np.zeros((0, number, len(ious)), np.int8)]
    true = (targets[..., :1] == np.arange(classes)).sum(axis=1)
    return Matches(boxes[..., 0], boxes[..., 1], np.concatenate(hits), true)


def _hits(boxes: Array, targets: Array, ious: Array) -> Array:
    overlaps = np.where(boxes[..., None, 0] == targets[:, None, :, 0], _overlaps(boxes, targets), -1)
    left = np.ones((len(boxes), len(ious), targets.shape[1]), bool)
    hits = np.where(boxes[..., 1:2] > 0, 0, -1).astype(np.int8).repeat(len(ious), axis=2)
    for place in range(boxes.shape[1]):
        mine = overlaps[:, place, None]
        fits = np.where(left & (mine >= ious[:, None]), mine, -1)[..., ::-1]
        best = fits.argmax(axis=2)[..., None]
        hit = (np.take_along_axis(fits, best, axis=2) > 0)[..., 0] & (hits[:, place] == 0)
        hits[:, place] += hit
        np.put_along_axis(left[..., ::-1], best, np.take_along_axis(left[..., ::-1], best, 2) & ~hit[..., None], axis=2)
    return hits


def _overlaps(boxes: Array, targets: Array) -> Array:
    """Return the intersection over union of all pairs, (N, P, M), in the arithmetic of pycocotools."""
    one, other = _as_coco(boxes[:, :, None, -4:]), _as_coco(np.nan_to_num(targets[:, None, :, -4:]))
    ends = [each[..., :2] + each[..., 2:] for each in (one, other)]
    common = np.maximum(np.minimum(*ends) - np.maximum(one[..., :2], other[..., :2]), 0).prod(axis=-1)
    union = one[..., 2:].prod(axis=-1) + other[..., 2:].prod(axis=-1) - common
    return np.asarray(common / np.where(union > 0, union, 1))


def average_precisions(found: Matches, weights: Array | None = None) -> Array:
    """Return the average precision of each class at each overlap, (B, K, T); NaN for a class without a true box.

    weights: of the images, float64 (B, N), as of resamples; default: 1 of each, B = 1.  Precision is read at `RECALLS`
    from its envelope, which changes only where a true box is hit.
    """
    images, overlaps = len(found.true), found.hits.shape[2]
    weights = np.ones((1, images)) if weights is None else weights
    scores = np.full((len(weights), found.true.shape[1], overlaps), np.nan)
    for number in np.flatnonzero(found.true.any(axis=0)).tolist():
        image, hits, _ = _of_class(found, number)
        size = max(1, AT_ONCE // (len(image) + 1))
        for first in range(0, len(weights), size):
            some = weights[first : first + size]
            drawn = some[:, image].cumsum(axis=1)
            true = (some @ found.true[:, number].astype(float))[:, None]
            for place in range(overlaps):
                right = np.flatnonzero(hits[:, place] > 0)
                scores[first : first + size, number, place] = _area(some[:, image[right]], drawn[:, right], true)
    return scores


def _area(hit: Array, drawn: Array, true: Array) -> Array:
    """Return the average precision, (B,); hit: weights of the boxes that hit; drawn: of all boxes up to each of them;
    true: of the true boxes, (B, 1)."""
    right = hit.cumsum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = right / true
    precision = right / (drawn + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    read = np.searchsorted(RECALLS, recall, side="right")  # how many of them are reached
    area = (envelope * np.diff(read, axis=1, prepend=0)).sum(axis=1) / len(RECALLS)
    return np.where(true[:, 0] > 0, area, np.nan)


def _of_class(found: Matches, number: int) -> tuple[Array, Array, Array]:
    """Return image, hits and confidence of each predicted box of a class, the most confident ones first."""
    image, place = np.nonzero((found.classes == number) & (found.confidences > 0))
    order = np.argsort(-found.confidences[image, place], kind="stable")
    image, place = image[order], place[order]
    return image, found.hits[image, place], found.confidences[image, place]


def curve(found: Matches, number: int, overlap: int = 0) -> tuple[Array, Array, Array]:
    """Return recall, precision and confidence of a class after each predicted box, at the `overlap` of that place."""
    _, hits, confidences = _of_class(found, number)
    right = (hits[:, overlap] > 0).cumsum()
    return right / max(1, found.true[:, number].sum()), right / np.arange(1, len(right) + 1), confidences


def by_rows(
    pair: Sequence[Array], targets: Array, classes: int = 0, box_iou: float = 0.0
) -> tuple[Callable[[Array, Array], float], list[Array], Array]:
    """Return a score, predictions and targets of which any rows have the score of these images, without matching again.

    pair: predictions.  classes: 0 for `box_precision`.
    """
    if not classes:
        values = [precisions(match(each, targets, WHEAT_IOUS).hits, targets) for each in pair]
        return lambda some, _: float(some.mean()), values, targets
    found = [match(each, targets, ious_of(box_iou), classes) for each in pair]
    rows = [np.concatenate([each.classes[..., None], each.confidences[..., None], each.hits], axis=2) for each in found]
    return _of_rows, rows, found[0].true


def _of_rows(rows: Array, true: Array) -> float:
    return float(mean_precision(Matches(rows[..., 0], rows[..., 1], rows[..., 2:], true))[0])


def ious_of(box_iou: float) -> Array:
    """Return the overlaps of a mean average precision; 0: those of COCO."""
    return np.array([box_iou]) if box_iou else COCO_IOUS


def mean_precision(found: Matches, weights: Array | None = None) -> Array:
    """Return the mean of `average_precisions` over classes and overlaps, (B,); NaN where no class has a true box."""
    each = average_precisions(found, weights).mean(axis=2)
    known = ~np.isnan(each)
    with np.errstate(invalid="ignore"):
        return np.round(np.where(known, each, 0).sum(axis=1) / known.sum(axis=1), DIGITS)
