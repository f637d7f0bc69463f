"""The networks of a finished run or fold set: what predicts the test images, and what the labelled ones."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from pipelines.core.checkpoint import weights_sha256
from pipelines.core.ensembles import combine
from pipelines.core.out_of_fold import pool, predict_members
from pipelines.core.prediction import Positions, Resources, Rows, predict, predict_each
from pipelines.core.stored import Stored, fits, read_oof, save_test, write_oof
from pipelines.dataset.image_set import ImageSet
from pipelines.settings.choices import by_ranks
from pipelines.settings.fold_sets import Member, checkpoints
from pipelines.settings.layout import RunLayout
from pipelines.settings.metrics import BOXES, NUMBERS
from pipelines.settings.schema import Settings
from pipelines.system.files import file_sha256, read_note

MOST_ITEMS = 1 << 23  # predictions that are handed on together
Blocks = Iterable[tuple[Positions, Tensor]]


@dataclass(frozen=True)
class RunNetworks:
    """The networks of `run`.

    settings: of the run, with the current [predict] and [hardware].  members: of a fold set; none of a plain run.
    """

    run: RunLayout
    settings: Settings
    members: Sequence[Member]
    using: Resources

    @property
    def paths(self) -> list[Path]:
        """The checkpoints that predict the test images."""
        return list(self._checkpoints.values())

    @property
    def _checkpoints(self) -> dict[str, Path]:
        return checkpoints(self.run, self.members, self.settings.predict)

    def describe(self, images: ImageSet) -> str:
        """Return the checkpoints, and how their predictions are averaged."""
        names = list(self._checkpoints)
        if len(names) == 1:
            return names[0]
        if images.task == BOXES:
            return f"the fused boxes of {', '.join(names)}"
        what = "numbers" if images.task == NUMBERS else "probabilities"
        return f"the mean {'ranks' if self.averages_ranks(images) else what} of {', '.join(names)}"

    @property
    def by(self) -> tuple[str, str]:
        """What predicts labelled rows, as the start of a sentence, and what these predictions are."""
        if not self.members:
            return "best.pt", "valid"
        names = ", ".join(member.name for member in self.members)
        if not self.settings.split.folds:
            return f"The mean of {names}", "valid"
        return f"{names}, each on its own fold", "out-of-fold"

    @property
    def notes(self) -> list[str]:
        """What a reader of the score must know of the networks."""
        if not self.members or self.run.final not in self.paths:
            return []
        return ["Note: this score is that of the members. final.pt was trained on these rows too and has none."]

    def averages_ranks(self, images: ImageSet) -> bool:
        """Whether the predictions of the folds for test images are averaged by rank; seeds of a fold never are."""
        return by_ranks(self.settings.competition, images.classes) and len(self._alike) > 1

    @property
    def _alike(self) -> list[list[int]]:
        """The places in `paths` of the networks of each fold, which out of fold are one, and of final.pt."""
        found: dict[int, list[int]] = {}
        for place, path in enumerate(self.paths):
            fold = -1 if path == self.run.final or not self.members else self.members[place].fold
            found.setdefault(fold, []).append(place)
        return list(found.values())

    def predict(self, images: ImageSet, folder: Path) -> Iterator[tuple[Positions, Tensor]]:
        """Yield the predictions of test images, averaged over the networks, some rows at a time, as `predict` does.

        folder: for large temporary files.
        """
        settings, what = self.settings, "predicting"
        if len(self.paths) == 1:
            yield from predict(self.paths[0], settings, images, self.using, what)
            return
        blocks = predict_each(self.paths, settings, images, self.using, what)
        if not self.averages_ranks(images):
            for places, found in blocks:
                yield places, combine(found, [1.0] * len(found), images.task)
            return
        alike, task = self._alike, images.task
        each = [Rows(len(images), folder) for _ in alike]
        for places, found in blocks:
            for rows, some in zip(each, alike, strict=True):
                rows.fill(places, combine([found[place] for place in some], [1.0] * len(some), task).numpy())
        members = [torch.from_numpy(rows.array) for rows in each]
        yield from in_blocks(combine(members, [len(some) for some in alike], task, by_rank=True))

    def held_out(self, images: ImageSet) -> "HeldOut":
        """Return what predicts labelled `images`: best.pt the validation rows, or each fold's network its own rows."""
        train, valid = images.divide(self.settings)
        if not self.members:
            folds = valid.rows["fold"].to_numpy() if self.settings.split.folds else np.zeros(len(valid), np.int64)
            found = predict(self.run.best, self.settings, valid, self.using, "validating")
            return HeldOut(valid, folds, train.labels, found)
        stored = self._out_of_fold(images)
        some = images.select(images.rows.iloc[pd.Index(images.ids).get_indexer(stored.ids)])
        seen = images if self.settings.split.folds else train
        groups = stored.folds if by_ranks(self.settings.competition, images.classes) else None
        return HeldOut(some, stored.folds, seen.labels, in_blocks(stored.predictions), groups)

    @property
    def knows_oof(self) -> bool:
        """Whether oof.csv of a fold set is by these networks with these views, as a record of the set says."""
        path, run = self.run.oof, self.run
        if not path.exists():
            return False
        notes = [read_note(run.folds)] if run.folds.exists() else []
        notes += list(read_note(run.predicted).values()) if run.predicted.exists() else []
        wanted = {"oof": file_sha256(path), "oof_made_from": self.oof_made_from()}
        return any(note == note | wanted for note in notes)

    def oof_made_from(self) -> dict[str, Any]:
        """Return what oof.csv of a fold set depends on, for its record."""
        chosen = self.settings.predict
        best = {member.name: weights_sha256(self.run.member(member.name).best) for member in self.members}
        return {"weights": best, "mirror": chosen.mirror, "shift": chosen.shift}

    def _out_of_fold(self, images: ImageSet) -> Stored:
        """Return the predictions of oof.csv; write it first if it is missing, or not of these networks and views."""
        path = self.run.oof
        if not fits(len(images), images.columns):
            return self._predicted_out_of_fold(images)
        if not self.knows_oof:
            write_oof(path, self._predicted_out_of_fold(images), images.classes, images.task)
        return read_oof(path, images.table, images.classes, images.task)

    def _predicted_out_of_fold(self, images: ImageSet) -> Stored:
        each = predict_members(self.run, self.members, self.settings, images, self.using)
        found = pool([predicted for *_, predicted in each])
        return Stored(found.images.ids, found.folds, found.predictions)


@dataclass(frozen=True)
class HeldOut:
    """Labelled `images` that the predicting networks were not trained on.

    folds: the fold that each image validates, (N,).  seen: the targets of the images that they were trained on.
    blocks: places of some images and their predictions.  groups: see `validate`.
    """

    images: ImageSet
    folds: npt.NDArray[np.int64]
    seen: npt.NDArray[Any]
    blocks: Blocks
    groups: npt.NDArray[np.int64] | None = None


class Kept:
    """Predictions of `images` that pass by, kept if they are few enough to be stored.  folder: for a large file."""

    def __init__(self, images: ImageSet, folder: Path) -> None:
        self._rows = Rows(len(images), folder) if fits(len(images), images.columns) else None

    @property
    def array(self) -> npt.NDArray[np.float32] | None:
        """The predictions, (N, ·); None if they are too many."""
        return None if self._rows is None else self._rows.array

    def passing(self, blocks: Blocks) -> Iterator[tuple[Positions, Tensor]]:
        """Yield `blocks` as they are."""
        for places, block in blocks:
            if self._rows is not None:
                self._rows.fill(places, block.numpy())
            yield places, block


def store(networks: RunNetworks, held: HeldOut, labelled: Kept, test: Kept) -> dict[str, Any]:
    """Write oof.csv and test_predictions.npy; return their SHA-256, for the note.  Too many are not stored."""
    run, images = networks.run, held.images
    facts: dict[str, Any] = {}
    if labelled.array is None or test.array is None or (networks.members and not run.oof.exists()):
        run.oof.unlink(missing_ok=True)
        run.test_predictions.unlink(missing_ok=True)
        return facts
    if networks.members:
        facts["oof_made_from"] = networks.oof_made_from()
    else:
        stored = Stored(images.ids, held.folds, torch.from_numpy(labelled.array))
        write_oof(run.oof, stored, images.classes, images.task)
    save_test(run.test_predictions, test.array)
    return facts | {"oof": file_sha256(run.oof), "test_predictions": file_sha256(run.test_predictions)}


def in_blocks(predictions: Tensor) -> Iterator[tuple[Positions, Tensor]]:
    """Yield predictions with their places, some rows at a time."""
    size = max(1, MOST_ITEMS // max(1, predictions.shape[1]))
    for start in range(0, len(predictions), size):
        block = predictions[start : start + size]
        yield np.arange(start, start + len(block)), block
