"""Combine the stored predictions of finished runs: choose the weights, and score the blend without flattering it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.core.decide import MOST_ITEMS, Judge, make_judge
from pipelines.core.ensembles import combine, ranks
from pipelines.core.prediction import Positions
from pipelines.core.run_networks import in_blocks
from pipelines.core.selection import Candidates, Estimate, Gain, Weights, estimate, gain_of, parts_of, select
from pipelines.core.stored import Stored
from pipelines.core.validation import Validation, validate
from pipelines.dataset.image_set import ImageSet
from pipelines.settings.choices import by_ranks
from pipelines.settings.schema import Settings
from pipelines.system.watch import Watch

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pool:
    """What the members have predicted of the labelled `images` that none of them was trained on.

    stored: of each member, the rows of `images`.  judge: knows the other labelled rows, if these are the more.  final:
    knows all of them, as those that predict other images.  by_rank: whether ranks are averaged.
    """

    images: ImageSet
    stored: Sequence[Stored]
    judge: Judge
    final: Judge
    by_rank: bool

    @property
    def plain(self) -> Candidates:
        """The predictions as they are."""
        return Candidates(self.judge, [each.predictions for each in self.stored], self.images.labels)

    @property
    def candidates(self) -> Candidates:
        """What is averaged: predictions, or ranks within each fold, as folds have different networks."""
        plain = self.plain
        if not self.by_rank:
            return plain
        ranked = [ranks(each.predictions, self.judge.task, each.folds) for each in self.stored]
        return replace(plain, members=ranked)

    @property
    def parts(self) -> npt.NDArray[np.int64]:
        """The part of each row that its weights are chosen without: its fold, where all members have the same folds."""
        folds = [each.folds for each in self.stored]
        same = all(np.array_equal(each, folds[0]) for each in folds)
        return parts_of(self.images.ids.tolist(), folds[0] if same else None)


@dataclass(frozen=True)
class Blended:
    """A blend of the members of a pool.

    weights: with the sum 1.  weighted: whether they are the selected ones, else equal.  selected: the selected ones.
    estimate: what these gain over equal ones.  over_best: what the blend gains over the best member.  own, without: the
    score of each member, and that of the blend without it (NaN: nothing would be left).  equal: the score of the
    blend with equal weights.  predictions: of the labelled rows, each with weights that were chosen without it.
    found: their score, and the choice for other images.
    """

    weights: Weights
    weighted: bool
    selected: Weights
    estimate: Estimate
    over_best: Gain
    own: tuple[float, ...]
    without: tuple[float, ...]
    equal: float
    predictions: Tensor
    found: Validation


def make_pool(settings: Settings, images: ImageSet, stored: Sequence[Stored]) -> Pool:
    """Return the pool of the rows that all members have predicted, in the order of the table.

    images: all labelled ones.  There must be such rows.
    """
    common = set.intersection(*(set(each.ids.tolist()) for each in stored))
    some = images.select(images.rows[images.rows["id"].isin(common)])
    ids = some.ids
    aligned = []
    for each in stored:
        place = {name: row for row, name in enumerate(each.ids.tolist())}
        rows = np.array([place[name] for name in ids.tolist()], np.int64)
        aligned.append(Stored(ids, each.folds[rows], each.predictions[rows]))
    others = images.select(images.rows[~images.rows["id"].isin(common)])
    seen = others if len(others) >= len(some) else images
    judge, final = (make_judge(settings, images.classes, each.labels, calibrated=True) for each in (seen, images))
    return Pool(some, aligned, judge, final, by_ranks(settings.competition, images.classes))


def blend(pool: Pool, folder: Path, watch: Watch) -> Blended:
    """Return the blend of the members of `pool`.  folder: for a large temporary file."""
    candidates = pool.candidates
    found = select(candidates, watch=watch)
    known = estimate(candidates, pool.parts, watch=watch)
    weighted = known.gain.is_clear
    weights = found.weights if weighted else candidates.equal
    combined = candidates.mix(weights)
    scored = known.predictions if weighted else combined
    over_best = gain_of(candidates, scored, known.by_best, watch)
    without = tuple(_without(candidates, weights, member) for member in range(len(candidates)))
    own = tuple(candidates.score(member) for member in candidates.members)
    equal = candidates.score(candidates.mix(candidates.equal))
    result = _validated(pool, scored, weights, folder)
    result = replace(result, choice=pool.final.fit(combined, candidates.targets))
    return Blended(weights, weighted, found.weights, known, over_best, own, without, equal, scored, result)


def _validated(pool: Pool, predictions: Tensor, weights: Weights, folder: Path) -> Validation:
    """Return the score of `predictions`.

    Ranks are no probabilities: what is decided of an image, and drawn, then comes from the mean probabilities.
    """
    targets = pool.images.labels
    found = validate(pool.judge, pool.final, targets, in_blocks(predictions), folder)
    if not pool.by_rank:
        return found
    means = validate(pool.judge, pool.final, targets, in_blocks(pool.plain.mix(weights)), folder)
    return replace(means, score=found.score, bounds=found.bounds, notes=found.notes)


def _without(candidates: Candidates, weights: Weights, member: int) -> float:
    """Return the score of the blend without a member: the others keep their weights, or get equal ones for zeros."""
    others = [0.0 if place == member else weight for place, weight in enumerate(weights)]
    if not any(others):
        others = [float(place != member) for place in range(len(weights))]
    return candidates.score(candidates.mix(others))


def mix_test(members: Sequence[Floats], weights: Weights, pool: Pool) -> Iterator[tuple[Positions, Tensor]]:
    """Yield the blended predictions of the test images, some rows at a time, with their places.

    members: float32 (N, ·) each, perhaps memory-mapped; ranks are taken among all test images.
    """
    task = pool.judge.task
    if pool.by_rank:
        whole = [torch.from_numpy(np.array(each)) for each in members]
        yield from in_blocks(combine(whole, weights, task, by_rank=True))
        return
    rows, columns = members[0].shape
    for start in range(0, rows, size := max(1, MOST_ITEMS // max(1, columns * len(members)))):
        some = [torch.from_numpy(np.array(each[start : start + size])) for each in members]
        yield np.arange(start, start + len(some[0])), combine(some, weights, task)
