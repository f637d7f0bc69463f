"""What a run has predicted of images that it was not trained on, and of the test images, read from its files."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.analysis.box_results import Compared, compare
from pipelines.analysis.results import Predictions, read_predictions
from pipelines.core.stored import load_test, read_oof_arrays
from pipelines.dataset.boxes import FOUND
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.targets import encode, labels_in
from pipelines.report.ledger import PLAIN, Entry
from pipelines.report.temperatures import apply_column_temperatures, apply_temperature
from pipelines.settings.choices import by_ranks
from pipelines.settings.metrics import BOXES, NUMBERS, ONE_CLASS, SEVERAL_LABELS
from pipelines.settings.schema import Settings
from pipelines.system.files import file_sha256

LARGEST_READ = 1 << 26  # bytes of predictions as text; reading more takes longer than a page should
SAMPLED = 20_000  # test images whose confidence is looked at

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """The predictions of `entry`.

    images: those of the whole split table.  found: the predictions of the validated ones.  ranks: whether the stored
    predictions are mean ranks, which say nothing of an image by itself.
    """

    entry: Entry
    images: ImageSet
    found: Predictions
    ranks: bool = False

    @property
    def task(self) -> str:
        return self.images.task

    @property
    def classes(self) -> list[str]:
        return self.images.classes

    @property
    def note(self) -> Mapping[str, Any]:
        """The entry of predict.json."""
        return self.entry.note

    @cached_property
    def places(self) -> npt.NDArray[np.int64]:
        """The row of each predicted image in the split table, (N,)."""
        return np.array(self.found.places, np.int64)

    @cached_property
    def actual(self) -> Array:
        """The targets of the predicted images, as `ImageSet.labels` returns them."""
        if self.task == BOXES:
            return self.images.select(self.images.table.iloc[self.places]).labels
        return encode(self.images.table["label"].iloc[self.places].tolist(), self.task, self.classes)

    @cached_property
    def decided(self) -> Array:
        """The predicted class of each image, (N,); or the given labels, bool (N, K); or the numbers, (N, T)."""
        if self.task == ONE_CLASS:
            return encode(self.found.names, self.task, self.classes)
        return self.found.values >= self.thresholds if self.task == SEVERAL_LABELS else self.found.values

    @cached_property
    def compared(self) -> Compared:
        """Of boxes: the predicted ones that were sent beside the true ones."""
        sure = np.sort(self.found.values[:, 1::FOUND], axis=1)[:, ::-1]
        counted = np.array([len(labels_in(text, BOXES)) for text in self.found.names])[:, None]
        kept = sure[np.arange(sure.shape[1]) < counted]
        cut = 0.0 if len(kept) == (sure > 0).sum() else float(kept.min(initial=1.0))
        return compare(self.actual, self.found.values, len(self.classes), cut)

    def sent_boxes(self, predictions: Array, all_of_them: bool = False) -> Array:
        """Return those boxes of stored predictions (n, MOST * 6) that are sent and count, (n, MOST, 6).

        all_of_them: those that do not count too.
        """
        if values := self.note.get("confidence"):
            import torch

            from pipelines.core.choices import Confidence

            kind = Confidence(len(self.classes))
            predictions = kind.apply(torch.from_numpy(predictions), tuple(values)).numpy()
        boxes = predictions.reshape(len(predictions), -1, FOUND)
        return boxes if all_of_them else np.where(boxes[:, :, 1:2] >= self.compared.cut, boxes, 0)

    @cached_property
    def thresholds(self) -> Floats:
        """The threshold of each label, (K,)."""
        found = self.note.get("thresholds", {})
        return np.array([float(found.get(name, 0.5)) for name in self.classes])

    def held_out(self) -> tuple[Array, Array] | None:
        """Return the stored predictions before a temperature, and the targets; None where they are not kept."""
        path = self.entry.run.oof
        if self.ranks or self.task in (NUMBERS, BOXES) or not path.exists() or path.stat().st_size > LARGEST_READ:
            return None
        ids, _, predictions = read_oof_arrays(path, self.images.table, self.classes, self.task)
        labelled = self.images.part(test=False).rows
        label_of = dict(zip(labelled["id"].tolist(), labelled["label"].tolist(), strict=True))
        return predictions, encode([label_of[name] for name in ids], self.task, self.classes)

    @cached_property
    def test(self) -> tuple[npt.NDArray[np.int64], Array] | None:
        """Some rows of the split table, and the stored predictions of these test images; None if not kept."""
        images, path = self.images.part(test=True), self.entry.run.test_predictions
        if self.ranks or not len(images) or not path.exists() or self.note.get("test_predictions") != file_sha256(path):
            return None
        stored = load_test(path, len(images), images.columns)
        some = np.linspace(0, len(images) - 1, min(len(images), SAMPLED)).astype(int)
        return images.rows.index.to_numpy()[some], np.array(stored[some])

    def probabilities(self, predictions: Array, tempered: bool = True) -> Floats:
        """Return probabilities (N, K) of stored predictions.  tempered: with the temperatures of the submission."""
        if self.task == ONE_CLASS:
            temperature = float(self.note.get("temperature", 1.0)) if tempered else 1.0
            changed = predictions if temperature == 1.0 else apply_temperature(predictions, temperature)
            return np.exp(changed.astype(np.float64))
        if tempered and (found := self.note.get("temperatures")):
            predictions = apply_column_temperatures(predictions, [float(found[name]) for name in self.classes])
        return predictions.astype(np.float64)

    @property
    def has_temperature(self) -> bool:
        return bool(self.note.get("temperatures")) or float(self.note.get("temperature", 1.0)) != 1.0


def read_evidence(entry: Entry, images: ImageSet, settings: Settings) -> Evidence:
    """Return the predictions of `entry`.  Raises `UserError` if they are missing, damaged or of another split."""
    found = read_predictions(entry.run.valid_predictions, images.table, images.task)
    ranks = entry.kind != PLAIN and by_ranks(settings.competition, images.classes)
    return Evidence(entry, images, found, ranks)
