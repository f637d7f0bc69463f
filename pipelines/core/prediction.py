"""Predict images with a trained network."""

import math
import mmap
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, tee
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from pipelines.core import checkpoint, engine
from pipelines.core.checkpoint import Checkpoint
from pipelines.core.job import to_device
from pipelines.core.phases import Sources, exact
from pipelines.core.processes import collected
from pipelines.core.tasks import Task, make_task
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.loading import Batch, BatchSource, WatchedBatches
from pipelines.models.device import Hardware, choose_hardware
from pipelines.models.features import inputs_of
from pipelines.models.transfer import FineTuned
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.files import reserve
from pipelines.system.group import ALONE, Group
from pipelines.system.watch import Watch, unwatched

Positions = npt.NDArray[np.int64]
MOST_ITEMS = 1 << 23  # predictions that wait on the device
MOST_BYTES = 1 << 28  # of an array in memory


@dataclass(frozen=True)
class Resources:
    """What predicting uses beside networks and images.

    weights: the folder of pretrained weights.  group: the processes that share the images.
    """

    weights: Path
    watch: Watch = unwatched
    group: Group = ALONE


@dataclass(frozen=True)
class Predictor:
    """A trained network, the batches to predict, its task, and the views: the arguments of `engine.infer`."""

    model: nn.Module
    source: BatchSource
    task: Task
    hardware: Hardware
    views: tuple[engine.View, ...]


def open_predictor(
    saved: Checkpoint, settings: Settings, images: ImageSet, using: Resources, source: BatchSource | None = None
) -> Predictor:
    """Return the network of the checkpoint `saved` and the batches of `images`.

    settings: those of the run, with the current [predict] and [hardware].  A head on frozen backbones gets their cached
    features, as it did in training.  source: the batches, where another network of the same settings has opened them.
    """
    sources = _sources(saved, settings, images, using)
    network, hardware, cached = sources.network, sources.hardware, on_features(saved, settings)
    source = source or sources.open(images, cached)
    task = make_task(saved.settings, saved.classes, saved.scale)
    if not cached:
        views = engine.make_views(settings.predict.mirror, settings.predict.shift)
        return Predictor(network, source, task, hardware, views)
    assert isinstance(network, FineTuned)
    return Predictor(network.top, source, task, exact(hardware), engine.feature_views(inputs_of(settings)))


def _sources(saved: Checkpoint, settings: Settings, images: ImageSet, using: Resources) -> Sources:
    """Return what opens batches for the network of the checkpoint `saved`, which is on its device."""
    hardware = choose_hardware(settings.hardware, using.group)
    network = to_device(saved.model(images.classes, using.weights), hardware)
    return Sources(settings, network, hardware, using.watch, using.group)


def on_features(saved: Checkpoint, settings: Settings) -> bool:
    """Return whether the network of the checkpoint `saved` predicts cached features."""
    return saved.head_only and settings.features.cached


def predict(
    path: Path, settings: Settings, images: ImageSet, using: Resources, what: str
) -> Iterator[tuple[Positions, Tensor]]:
    """Yield the predictions of `images` by the checkpoint at `path`, averaged over the views, some rows at a time.

    Each item is the places of some images among `images`, and their predictions on the processor, float32 (n, ·).
    what: the text of the progress bar.  Raises `UserError` where predictions are not finite.
    """
    for places, (predictions,) in predict_each([path], settings, images, using, what):
        yield places, predictions


def predict_each(
    paths: Sequence[Path], settings: Settings, images: ImageSet, using: Resources, what: str
) -> Iterator[tuple[Positions, list[Tensor]]]:
    """Yield what `predict` does, by each of the checkpoints at `paths`, which share the settings.

    Each batch is read once for all networks, or twice where some predict cached features and others images.
    """
    if using.group.world > 1:
        _prepare_features(paths, settings, images, using)
    with using.group.sharing(_take_part, paths, settings, images, using.weights):
        yield from _predictions(paths, settings, images, using, what)


def _prepare_features(paths: Sequence[Path], settings: Settings, images: ImageSet, using: Resources) -> None:
    """Compute the features that the checkpoints at `paths` predict, which several processes share too."""
    for saved in (checkpoint.load(path) for path in paths):
        if on_features(saved, settings):
            _sources(saved, settings, images, using).features(images)
            return


def _take_part(group: Group, paths: Sequence[Path], settings: Settings, images: ImageSet, weights: Path) -> None:
    """Predict along with the main process, in another one."""
    for _ in _predictions(paths, settings, images, Resources(weights, group=group), ""):
        pass


def _predictions(
    paths: Sequence[Path], settings: Settings, images: ImageSet, using: Resources, what: str
) -> Iterator[tuple[Positions, list[Tensor]]]:
    """Yield what `predict_each` does, in the main process; nothing in the others, which do their part."""
    all_saved = [checkpoint.load(path) for path in paths]
    users = Counter(on_features(saved, settings) for saved in all_saved)
    sources: dict[bool, BatchSource] = {}
    predictors = []
    for saved in all_saved:
        kind = on_features(saved, settings)
        predictor = open_predictor(saved, settings, images, using, sources.get(kind))
        if kind not in sources:
            source = predictor.source if sources else WatchedBatches(predictor.source, what, using.watch)
            sources[kind] = _Shared(source, users[kind])
        predictors.append(replace(predictor, source=sources[kind]))
    yield from blocks(predictors, paths)


def blocks(predictors: Sequence[Predictor], paths: Sequence[Path]) -> Iterator[tuple[Positions, list[Tensor]]]:
    """Yield what `predict_each` does; paths: the checkpoints, for messages."""
    source = predictors[0].source
    group, count = source.group, 0
    outputs = source.batch_size * max(1, source.loading.classes) * len(predictors)
    together = max(1, MOST_ITEMS // outputs)  # batches of a process that are kept on the device
    rounds = -(-source.steps // group.world)  # the batches of the main process, which has the most
    streams = [engine.infer(each.model, each.source, each.task, each.hardware, each.views) for each in predictors]
    batches = zip(*streams, strict=True)  # all sources are in the order of their ids
    for start in range(0, rounds, together):
        # Fetched together: fetching each batch would leave a GPU idle until the next one.
        waiting = [
            (results[0][0].positions, *(predictions for _, predictions in results))
            for results in islice(batches, min(together, rounds - start))
        ]
        if found := collected(waiting, group):
            positions, *predictions = found
            _check_finite(paths, predictions)
            count += len(positions)
            yield positions.numpy(), predictions
    assert next(batches, None) is None  # only an exhausted source has kept all that it decoded
    assert not group.is_main or count == len(source), f"{count} of {len(source)} images were predicted"


class _Shared(BatchSource):
    """The batches of `source`, which `users` networks predict in step, each from an iterator of its own."""

    def __init__(self, source: BatchSource, users: int) -> None:
        super().__init__(source.ids, source.labels, source.loading)
        self._source, self._users = source, users
        self._copies: list[Iterator[Batch]] = []

    def batches(self, epoch: int) -> Iterator[Batch]:
        if not self._copies:
            self._copies = list(tee(self._source.batches(epoch), self._users))
        return self._copies.pop()


def _check_finite(paths: Sequence[Path], predictions: Sequence[Tensor]) -> None:
    for path, each in zip(paths, predictions, strict=True):
        if not each.amax(dim=1).isfinite().all():  # the maximum of numbers with a NaN is a NaN
            raise UserError(f"{path} predicts numbers that are not finite. Train another RUN= with a lower train.lr.")


class Rows:
    """An array of `count` rows that are filled in any order.

    Large ones are in a memory-mapped file in `folder` that has no name, so that nothing is left of it, not even after a
    kill; its pages need no memory once they are written.
    """

    def __init__(self, count: int, folder: Path) -> None:
        self.array: npt.NDArray[Any] = np.empty(0)
        self._count, self._folder = count, folder
        self._mapped: mmap.mmap | None = None
        self._filled = 0

    def fill(self, positions: Positions, rows: npt.NDArray[Any]) -> None:
        """Set the rows at `positions`; the first call decides the shape of a row and the type."""
        if not self._filled:
            self._create((self._count, *rows.shape[1:]), rows.dtype)
        self.array[positions] = rows
        self._filled += len(rows)
        if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)

    def _create(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        size = math.prod(shape) * dtype.itemsize
        if size <= MOST_BYTES:
            self.array = np.empty(shape, dtype)
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._folder) as file:
            reserve(file, size)
            self._mapped = mmap.mmap(file.fileno(), size)
        self.array = np.frombuffer(self._mapped, dtype).reshape(shape)
