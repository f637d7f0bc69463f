"""Out-of-fold predictions of a fold set: of each labelled row, by the members that were not trained on it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from pipelines.core.ensembles import combine
from pipelines.core.prediction import Resources, Rows, predict
from pipelines.dataset.image_set import ImageSet
from pipelines.settings.fold_sets import Member
from pipelines.settings.layout import RunLayout
from pipelines.settings.schema import Settings


@dataclass(frozen=True)
class Predicted:
    """The predictions of some labelled `images` by models that were not trained on them, and the fold of each image.

    predictions: float32 (N, ·), as `Task.predictions` returns them.
    """

    images: ImageSet
    folds: npt.NDArray[np.int64]
    predictions: Tensor


def predict_members(
    run: RunLayout, members: Sequence[Member], settings: Settings, images: ImageSet, using: Resources
) -> Iterator[tuple[ImageSet, Predicted]]:
    """Yield, for each member of the set `run`, its training rows and its predictions of its validation rows.

    settings: of the set, with the current [predict] and [hardware].  images: all labelled ones.
    """
    for member in members:
        own = member.settings(settings)
        train, valid = images.divide(own)
        rows = Rows(len(valid), run.folder)
        path = run.member(member.name).best
        for places, block in predict(path, own, valid, using, f"validating {member.name}"):
            rows.fill(places, block.numpy())
        found = Predicted(valid, np.full(len(valid), member.fold), torch.from_numpy(rows.array))
        yield train, found


def pool(found: Sequence[Predicted]) -> Predicted:
    """Return the predictions of all rows that some member validated, in the order of the table.

    The members that validated the same fold, with different seeds, are averaged.
    """
    images = found[0].images
    parts = []
    for fold in sorted({int(each.folds[0]) for each in found}):
        alike = [each for each in found if each.folds[0] == fold]
        means = [each.predictions for each in alike]
        mean = combine(means, [1.0] * len(alike), images.task) if len(alike) > 1 else means[0]
        parts.append(Predicted(alike[0].images, alike[0].folds, mean))
    rows = pd.concat([part.images.rows for part in parts])
    order = np.argsort(rows.index.to_numpy(), kind="stable")
    folds = np.concatenate([part.folds for part in parts])[order]
    return Predicted(images.select(rows.iloc[order]), folds, torch.cat([part.predictions for part in parts])[order])
