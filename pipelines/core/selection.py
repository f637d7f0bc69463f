"""Choose the weights of a blend on predictions that no member was trained on, and estimate honestly what they gain.

The weights come from greedy selection with replacement (R. Caruana, A. Niculescu-Mizil, G. Crew, A. Ksikes, Ensemble
selection from libraries of models, ICML 2004): start from the empty bag, and add in each round the member whose
addition gives the best score.  A member's weight is its share of the shortest bag with the best score.

A score of weights on the rows that chose them flatters.  So the rows are divided into parts, and the rows of each part
are scored with weights that were chosen on the others.  Predictions are those of `pipelines/core/decide.py`; where only
their order counts, the caller passes those of `ranks` in `pipelines/core/ensembles.py`.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.core import bootstrap, box_scores
from pipelines.core.choices import PARTS, Choice, Confidence
from pipelines.core.decide import Judge
from pipelines.core.ensembles import combine
from pipelines.settings.metrics import BOXES, NUMBERS, ONE_CLASS
from pipelines.system.watch import Watch, unwatched

Array = npt.NDArray[Any]
Weights = tuple[float, ...]

ROUNDS = 20
DIGITS = 6  # of the scores that are compared; smaller differences are ties
MOST_VALUES, LEAST_ROWS = 1 << 18, 2048  # of each member that selection looks at; these rows are drawn once
FITTED_VALUES, LEAST_FITTED = 1 << 15, 512  # of these, to fit each candidate's temperature, thresholds or cut points
LEAST = float(np.finfo(np.float32).tiny)  # probability; its logarithm is finite
DRAWING_SEED = 0


@dataclass(frozen=True)
class Candidates:
    """Predictions of the same labelled rows by several members, and what judges them.

    members: float32 (N, ·) each, as `Task.predictions` returns them.  targets: as `encode` returns them.
    """

    judge: Judge
    members: Sequence[Tensor]
    targets: Array

    def __len__(self) -> int:
        return len(self.members)

    @property
    def equal(self) -> Weights:
        return (1 / len(self),) * len(self)

    def select(self, rows: Array) -> "Candidates":
        return Candidates(self.judge, [member[rows] for member in self.members], self.targets[rows])

    def drawn(self) -> "Candidates":
        """Return all rows, or so many that selection takes seconds."""
        return self.select(self.drawn_rows(MOST_VALUES, LEAST_ROWS))

    def drawn_rows(self, values: int, least: int) -> Array:
        """Return the places of rows with at most `values` predictions of a member, but of at least `least` rows."""
        rows, most = len(self.targets), max(least, values // max(1, self.members[0].shape[1]))
        if rows <= most:
            return np.arange(rows)
        return np.sort(np.random.default_rng(DRAWING_SEED).permutation(rows)[:most])

    def shares(self) -> list[Tensor]:
        """Return what is averaged: probabilities, ranks or numbers."""
        return [member.exp() if self.judge.task == ONE_CLASS else member for member in self.members]

    def mix(self, weights: Sequence[float]) -> Tensor:
        """Return the predictions of the members' weighted mean, float32 (N, ·)."""
        return combine(self.members, weights, self.judge.task)

    def compared(self, predictions: Tensor) -> tuple[Array, Array]:
        """Return predictions and targets as the metric takes them, with choices made for each row from others."""
        kept = self.judge.keep(predictions)
        return self.judge.compared(_crossed(self.judge, kept, self.targets), kept, self.targets)

    def score(self, predictions: Tensor) -> float:
        """Return the official score, with choices that are made for each row from others; NaN if it is undefined."""
        return self.judge.metric.score(*self.compared(predictions))


@dataclass(frozen=True)
class Selection:
    """weights: of the members, with the sum 1.  added: the members of the bag in their order.  scores: after each."""

    weights: Weights
    added: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class Gain:
    """How much better one blend scores than another on the same rows; positive is better, whatever the metric's
    direction.  error: its standard error.  NaN where the score is not defined."""

    value: float
    error: float

    @property
    def is_clear(self) -> bool:
        return self.value > self.error


@dataclass(frozen=True)
class Estimate:
    """What the selected weights gain over equal ones, with weights that were chosen without the rows they score.

    by_part: these weights, one for each part.  predictions: by them.  best: the best member that was chosen without
    the rows of each part; by_best: the predictions by it.
    """

    gain: Gain
    by_part: tuple[Weights, ...]
    predictions: Tensor
    best: tuple[int, ...]
    by_best: Tensor


def select(
    candidates: Candidates, rounds: int = ROUNDS, watch: Watch = unwatched, what: str = "selecting"
) -> Selection:
    """Return the weights that greedy selection chooses on all rows; equal ones where no score is defined.

    Of more than `MOST_VALUES` predictions of a member, it looks at rows that are drawn once.  Boxes get equal weights:
    fused boxes are no mean, so that each round would fuse each bag again.
    """
    if candidates.judge.task == BOXES:
        return Selection(candidates.equal)
    some = candidates.drawn()
    shares = some.shares()
    total, added, scores = torch.zeros_like(shares[0]), list[int](), list[float]()
    for count in watch(range(1, rounds + 1), what, rounds, "rounds"):
        means = [(total + share) / count for share in shares]
        found = [_quick_score(some, mean) for mean in means]
        if (best := _best(some, found, means, added)) is None:
            break
        total += shares[best]
        added.append(best)
        scores.append(found[best])
    if not added:
        return Selection(candidates.equal)
    ranked = [_key(some.judge, score) for score in scores]
    length = ranked.index(max(ranked)) + 1
    bag = added[:length]
    weights = tuple(bag.count(member) / length for member in range(len(candidates)))
    return Selection(weights, tuple(bag), tuple(scores[:length]))


def best_member(candidates: Candidates) -> int:
    """Return the member with the best score by itself; the first one where no score is defined."""
    some = candidates.drawn()
    shares = some.shares()
    best = _best(some, [_quick_score(some, share) for share in shares], shares, [])
    return 0 if best is None else best


def estimate(candidates: Candidates, parts: Array, rounds: int = ROUNDS, watch: Watch = unwatched) -> Estimate:
    """Return what selection gains, estimated with weights that were chosen without the rows of each part.

    parts: the part of each row, from 0; see `parts_of`.
    """
    number = int(parts.max()) + 1
    predictions, by_best = (torch.empty_like(candidates.members[0]) for _ in range(2))
    by_part, best = list[Weights](), list[int]()
    for part in range(number):
        others, mine = np.flatnonzero(parts != part), np.flatnonzero(parts == part)
        known = candidates.select(others)
        chosen = select(known, rounds, watch, f"selecting without part {part + 1} of {number}")
        by_part.append(chosen.weights)
        best.append(best_member(known))
        rows = candidates.select(mine)
        predictions[mine] = rows.mix(chosen.weights)
        by_best[mine] = rows.members[best[-1]]
    gain = gain_of(candidates, predictions, candidates.mix(candidates.equal), watch)
    return Estimate(gain, tuple(by_part), predictions, tuple(best), by_best)


def gain_of(candidates: Candidates, better: Tensor, than: Tensor, watch: Watch = unwatched) -> Gain:
    """Return how much better the predictions `better` score than the predictions `than` of the same rows.

    Its standard error is that of the paired bootstrap over the images: both score the same resamples, by the
    temperatures, thresholds or cut points that were chosen for each row from all others.
    """
    judge = candidates.judge
    (first, known), (second, _) = map(candidates.compared, (better, than))
    difference = judge.metric.score(first, known) - judge.metric.score(second, known)
    score, (first, second), drawn = judge.metric.by_rows((first, second), known)
    error = bootstrap.error_of_difference(score, (first, second), drawn, watch)
    return Gain(difference if judge.higher_is_better else -difference, error)


def parts_of(ids: Sequence[str], folds: Array | None) -> Array:
    """Return the part of each row, int64 (N,): its fold, where there are some; else by a hash of its id."""
    if folds is not None and len(np.unique(folds)) > 1:
        return np.unique(folds, return_inverse=True)[1].astype(np.int64)
    hashes = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") for name in ids]
    return np.unique(np.array([number % PARTS for number in hashes]), return_inverse=True)[1].astype(np.int64)


def correlations(candidates: Candidates) -> Array:
    """Return the correlation of the members' errors, float64 (M, M); NaN where an error is constant.

    One class: of 1 - the probability of the true class.  Several labels: of the probability - 0 or 1; numbers: of the
    residuals; both the mean over the columns.  Boxes: of 1 - the image's `box_precision` at a confidence of 0.5.
    """
    some = candidates.drawn()
    errors = torch.stack([_errors(member, some) for member in some.members])  # (M, N, C)
    found = np.full((errors.shape[2], len(some), len(some)), np.nan)
    for column in range(errors.shape[2]):
        values = errors[:, :, column].numpy()
        values = values[:, ~np.isnan(values[0])]
        if values.shape[1] > 1:
            with np.errstate(invalid="ignore", divide="ignore"):
                found[column] = np.corrcoef(values)
    known = ~np.isnan(found)
    sums = np.where(known, found, 0).sum(axis=0)
    return np.where(known.any(axis=0), sums / np.maximum(known.sum(axis=0), 1), np.nan)


def _errors(member: Tensor, candidates: Candidates) -> Tensor:
    targets = torch.from_numpy(candidates.targets)
    if candidates.judge.task == ONE_CLASS:
        return 1 - member.gather(1, targets[:, None]).double().exp()
    if candidates.judge.task == BOXES:
        decided = Confidence(1).apply(member, Confidence.plain).numpy()
        hits = box_scores.match(decided, candidates.targets, box_scores.WHEAT_IOUS).hits
        return torch.from_numpy(1 - box_scores.precisions(hits, candidates.targets))[:, None]
    return member.double() - targets


def _predictions(mean: Tensor, task: str) -> Tensor:
    """Return mean probabilities, ranks or numbers in the form of `Task.predictions`."""
    return mean.clamp_min(LEAST).log() if task == ONE_CLASS else mean


def _quick_score(candidates: Candidates, mean: Tensor) -> float:
    """Return the official score of mean shares.  What the metric leaves open is fitted on at most `FITTED_VALUES`."""
    judge, targets = candidates.judge, candidates.targets
    predictions = _predictions(mean, judge.task)
    choice = judge.plain
    if judge.open is not None:
        rows = candidates.drawn_rows(FITTED_VALUES, LEAST_FITTED)
        choice = judge.fit(predictions[rows], targets[rows])
    return judge.metric.score(*judge.compared(choice, judge.keep(predictions), targets))


def _crossed(judge: Judge, kept: Tensor, targets: Array) -> Choice:
    """Return what is chosen for each row from the others; nothing where no temperature fits all rows, as in `validate`.

    All rows right, for example: any lower temperature scores better.
    """
    if judge.open is not None and judge.open.key == "temperature" and not judge.fit(kept, targets).fitted:
        return judge.plain
    return judge.cross_fit(kept, targets)


def _key(judge: Judge, score: float) -> float:
    """Return a score as it is compared: higher is better; minus infinity if it is not finite."""
    rounded = round(score, DIGITS)
    return (rounded if judge.higher_is_better else -rounded) if math.isfinite(score) else -math.inf


def _best(candidates: Candidates, scores: Sequence[float], means: Sequence[Tensor], added: Sequence[int]) -> int | None:
    """Return the member with the best score; of equal ones one of those `added`, then that with the lowest loss, then
    the first.  None if no score is finite."""
    keys = [_key(candidates.judge, score) for score in scores]
    if (best := max(keys)) == -math.inf:
        return None
    tied = [member for member, key in enumerate(keys) if key == best]
    tied = [member for member in tied if member in added] or tied
    if len(tied) == 1:
        return tied[0]
    losses = [round(_loss(candidates, means[member]), DIGITS) for member in tied]
    return tied[losses.index(min(losses))]


def _loss(candidates: Candidates, mean: Tensor) -> float:
    """Return the mean loss of mean shares: -ln of the true class, binary cross-entropy, or the squared error.

    That of boxes is 0: equally good members stay in their order.
    """
    targets = torch.from_numpy(candidates.targets)
    if candidates.judge.task == BOXES:
        return 0.0
    if candidates.judge.task == ONE_CLASS:
        return float(-mean.gather(1, targets[:, None]).clamp_min(LEAST).log().mean())
    if candidates.judge.task == NUMBERS:
        return float((mean - targets).square().nanmean())
    right = torch.where(targets == 1, mean, 1 - mean)
    return float(-right.clamp_min(LEAST).log().mean())
