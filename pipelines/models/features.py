"""The features of images by frozen backbones: computed once per view, kept on disk, and handed out in batches.

A view is a fixed picture of an image: its centre, a random crop that is the same each time, or the mirror image of
either.  What a backbone makes of a view never changes, so it is found by what determines it: the image's bytes, the
view, and the backbone with its weights and precision.  Change one, and only what it concerns is computed again.
"""

import contextlib
import copy
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL.Image import Image
from torch import Tensor, nn
from torch.utils.data import Sampler

from pipelines.dataset import images
from pipelines.dataset.augment import normalise, to_float
from pipelines.dataset.batches import (
    Batch,
    HeldBatches,
    Ids,
    Loading,
    Photos,
    collate,
    decoded,
    decoding_processes,
    evaluation_resize,
    kept_together,
    labels_at,
    make_loader,
)
from pipelines.dataset.fingerprints import fingerprints
from pipelines.models.backbones import Backbone, fold_norms
from pipelines.models.device import Hardware
from pipelines.models.feature_store import FeatureStore, view_keys
from pipelines.models.transfer import FineTuned, Origin
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.memory import explained
from pipelines.system.seeds import derive_seed
from pipelines.system.watch import Watch, unwatched

FORMAT = "features-2"  # part of the key: another way to decode, cut or compute must not find older features
IMAGES_AT_ONCE = 64
APPEND_ROWS = 4096  # features held in memory before they are written: what a killed run loses
COMPILE_FROM = 10_000  # views: fewer are done before a compiled network has paid for its compilation
FOLDED_COSINE = 0.999  # least between features in bfloat16 and in float32 for norms to be folded away
LEAST_COSINE = 0.99  # and for bfloat16 to be used at all
PROBE_IMAGES = 16  # on which that is measured
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class View:
    """A fixed picture of an image: the centre (`crop` -1) or a numbered random crop, perhaps mirrored."""

    crop: int
    mirrored: bool

    def describe(self, settings: Settings) -> str:
        """Return what determines this view of an image, as text."""
        size, augment = settings.input.size, settings.augment
        if self.crop < 0:
            cut = f"centre {size} of {evaluation_resize(settings)}"
        else:
            cut = f"crop {self.crop} to {size}, scale {augment.crop_scale}, ratio {augment.crop_ratio}"
        return f"{cut}{', mirrored' if self.mirrored else ''}"


def views_of(settings: Settings) -> list[View]:
    """Return the views that the settings ask for, the centre first."""
    sides = (False, True) if settings.features.mirror else (False,)
    return [View(crop, mirrored) for crop in range(-1, settings.features.crops) for mirrored in sides]


@dataclass(frozen=True)
class Features:
    """The features of some images: for each backbone its rows on disk, and which of them belong to which image.

    values: per backbone (rows, D), memory-mapped.  places: per backbone int64 (N, views).  computed, lost: how many
    were not there before, and how many of these because a file had been cut short.  how: in which way each backbone did
    it, for people.
    """

    values: list[npt.NDArray[np.floating]]
    places: list[Places]
    computed: int
    lost: int
    how: list[str]

    def __len__(self) -> int:
        return len(self.places[0])

    @property
    def views(self) -> int:
        return self.places[0].shape[1]

    def describe(self) -> str:
        """Return what there is, and what was computed for it, as a line for people."""
        count = len(self) * self.views * len(self.values)
        again = f", {self.lost:,} of them again: their file had been cut short" if self.lost else ""
        networks = f" by each of {len(self.values)} networks" if len(self.values) > 1 else ""
        how = f" ({'; '.join(self.how)})" if self.how else ""
        made = f"{self.computed:,} of {count:,} computed now{how}{again}"
        return f"{len(self):,} images in {self.views} views{networks}; {made}."

    def take(self, positions: npt.NDArray[np.int64], views: npt.NDArray[np.int64] | slice) -> Tensor:
        """Return float32 features of the images at `positions`: (n, D) of one view each, or (n, views, D)."""
        parts = [
            np.asarray(values[places[positions, views]], dtype=np.float32)
            for values, places in zip(self.values, self.places, strict=True)
        ]
        return torch.from_numpy(np.concatenate(parts, axis=-1))


class FeatureBatches(HeldBatches):
    """Batches of features: when training, of one random view of each image; otherwise of all views."""

    def __init__(self, ids: Ids, features: Features, labels: Tensor, loading: Loading) -> None:
        """features: of the images `ids`.  labels: int64 (N,), or (0,) where they are unknown."""
        super().__init__(ids, labels, loading)
        self.features = features

    def batches(self, epoch: int) -> Iterator[Batch]:
        generator = self.loading.generator("view", epoch)
        for positions in self.loading.divide(len(self), epoch):
            views: npt.NDArray[np.int64] | slice = slice(None)
            if self.loading.training:
                views = torch.randint(self.features.views, (len(positions),), generator=generator).numpy()
            inputs = self.features.take(positions.numpy(), views).to(self.loading.device)
            labels = labels_at(self.labels, positions).to(self.loading.device)
            yield Batch(inputs, labels, positions)


def compute_features(
    settings: Settings,
    rows: pd.DataFrame,
    table: pd.DataFrame,
    raw: Path,
    cache: Path,
    network: FineTuned,
    hardware: Hardware,
    watch: Watch = unwatched,
) -> Features:
    """Return the features of the images of `rows`, having computed those that are not in `cache` yet.

    rows: the part of the split table `table` that is wanted: labelled rows, or test rows.  Images are decoded by worker
    processes while the network runs; no more than `APPEND_ROWS` rows of features wait in memory.  Raises `UserError`
    for an image that cannot be decoded, before any of its features are kept.
    """
    together, name = kept_together(rows, table)
    marks = fingerprints(together, raw, cache, name, watch)[together.index.get_indexer(rows.index)]
    views = views_of(settings)
    values, places, how, computed, lost = [], [], [], 0, 0
    for backbone, origin in zip(network.backbones, network.origins, strict=True):
        assert isinstance(backbone, Backbone)
        store = _open_store(settings, backbone, origin, hardware, cache / "features", name)
        keys = np.stack([view_keys(marks, view.describe(settings)) for view in views], axis=1)
        gaps = _missing(store, keys, views)
        made = sum(len(gap.positions) * len(gap.views) for gap in gaps)
        if gaps:
            # By the whole set, not by what is missing of it: an interrupted run goes on with the same roundings.
            enough = hardware.device.type == "cpu" and len(together) * len(views) >= COMPILE_FROM
            compiled = settings.hardware.compile and enough
            extractor = choose_extractor(backbone, settings, hardware, compiled, _probe(together, raw, settings))
            with store.writing():
                for gap in gaps:
                    photos = Photos(rows, raw, ViewCuts(settings, gap.crops, marks))
                    _fill(store, keys, gap, photos, extractor, watch, f"features by {origin.name}")
            how.append(extractor.describe())
        places.append(store.find(keys))
        values.append(store.values())
        computed += made
        lost += min(store.lost, made)
    return Features(values, places, computed, lost, how)


def _open_store(
    settings: Settings, backbone: Backbone, origin: Origin, hardware: Hardware, folder: Path, name: str
) -> FeatureStore:
    """Return the store of what `backbone` makes of images, which all views share."""
    about = {
        "what": FORMAT,
        "network": origin.name,
        "weights_sha256": origin.sha256,
        "published_size": origin.size if origin.mean else None,  # some networks are then built differently
        "normalised_by": [list(settings.input.mean), list(settings.input.std)],
        "rescaled_by": backbone.rescale,
        "norms_folded_before": settings.tuning.freeze_norms,
        "precision": str(hardware.dtype).removeprefix("torch."),
        "device": hardware.device.type,
        "stored_as": settings.features.dtype,
    }
    about = json.loads(json.dumps(about))
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]
    path = folder / f"{name}-{origin.name}-{key}"
    return FeatureStore(path, about, backbone.dimensions, settings.features.dtype)


@dataclass(frozen=True)
class Gap:
    """Images, by their positions, that lack the same features: of these `views`, in those `columns` of their keys."""

    positions: Places
    columns: list[int]
    views: list[View]

    @property
    def crops(self) -> list[int]:
        """The pictures to cut for these views; a mirrored one needs none of its own."""
        return sorted({view.crop for view in self.views})


def _missing(store: FeatureStore, keys: npt.NDArray[np.uint64], views: list[View]) -> list[Gap]:
    """Return what is to be computed.

    keys: (N, views).  Of images with the same bytes only the first is listed.
    """
    absent = store.find(keys) < 0
    _, first = np.unique(keys[:, 0], return_index=True)
    unique = np.zeros(len(keys), dtype=bool)
    unique[first] = True
    absent[~unique] = False
    gaps = []
    for pattern in np.unique(absent[absent.any(axis=1)], axis=0):
        columns = np.flatnonzero(pattern).tolist()
        positions = np.flatnonzero((absent == pattern).all(axis=1))
        gaps.append(Gap(positions, columns, [views[column] for column in columns]))
    return gaps


@dataclass(frozen=True)
class ViewCuts:
    """The pictures, without mirrors, that `crops` name of a photo; stacked, uint8 (crops, H, W, 3)."""

    settings: Settings
    crops: list[int]
    marks: npt.NDArray[np.uint64]

    def __call__(self, photo: Image, position: int, epoch: int) -> images.Pixels:
        return np.stack([self._cut(photo, crop, int(self.marks[position])) for crop in self.crops])

    def _cut(self, photo: Image, crop: int, mark: int) -> images.Pixels:
        size, augment = self.settings.input.size, self.settings.augment
        if crop < 0:
            return images.fit(photo, size, evaluation_resize(self.settings))
        # Seeded by the bytes of the image: the same crop wherever it stands in the table, and in every run.
        random = np.random.default_rng(derive_seed(mark, "view", crop))
        box = images.random_crop_box(*photo.size, augment.crop_scale, augment.crop_ratio, random)
        return images.crop(photo, box, size)


class Extractor:
    """A backbone made fast: in the chosen precision, channels last, norms folded away, and compiled if that pays."""

    def __init__(
        self,
        backbone: Backbone,
        settings: Settings,
        hardware: Hardware,
        folded: bool,
        compiled: bool,
        likeness: float | None = None,
    ) -> None:
        """folded: with bfloat16, biases are then rounded too; else norms stay, in float32, and take longer.
        likeness: the least cosine to features in float32 that was seen; None where these are in float32."""
        self.settings = settings
        self.hardware = hardware
        self.folded = folded
        self.likeness = likeness
        network = fold_norms(backbone).to(dtype=hardware.dtype) if folded else copy.deepcopy(backbone).eval()
        self.plain: nn.Module = network.to(hardware.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.compiled: Callable[[Tensor], Tensor] | None = None
        self.problem = ""
        if compiled:
            try:
                self.compiled = torch.compile(self.plain)
            except Exception as error:  # not on this Python, or not on this system
                self.problem = _first_line(error)

    def __call__(self, pixels: Tensor, mirrored: bool) -> npt.NDArray[np.float32]:
        """Return the features, float32 (N, D), of at most `IMAGES_AT_ONCE` uint8 pictures (N, H, W, 3)."""
        count = len(pixels)
        if count < IMAGES_AT_ONCE:  # always the same shape: another one would be compiled anew, and rounded otherwise
            pixels = torch.cat([pixels, pixels[:1].expand(IMAGES_AT_ONCE - count, -1, -1, -1)])
        found = self.features(pixels, mirrored)[:count]
        if not np.isfinite(found).all():
            raise UserError(
                f"The features are not finite numbers in {self.describe()}. Are these the right weights for input.mean "
                "and input.std?"
            )
        return found

    def describe(self) -> str:
        """Return how the features are computed, for people."""
        how = str(self.hardware.dtype).removeprefix("torch.") + ("" if self.folded else ", norms in float32")
        how += f", cosine to float32 at least {self.likeness:.4f}" if self.likeness is not None else ""
        if self.compiled is not None:
            return f"{how}, compiled"
        return f"{how}, not compiled ({self.problem})" if self.problem else how

    @torch.inference_mode()
    def features(self, pixels: Tensor, mirrored: bool = False) -> npt.NDArray[np.float32]:
        """The same of any number of pictures."""
        pictures = to_float(pixels.to(self.hardware.device, non_blocking=True))
        pictures = normalise(pictures, self.settings.input.mean, self.settings.input.std)
        if mirrored:
            pictures = pictures.flip(3)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        if self.folded:
            features = self._forward(pictures.to(self.hardware.dtype))
        else:
            with self.hardware.autocast():
                features = self._forward(pictures)
        result: npt.NDArray[np.float32] = features.float().cpu().numpy()
        return result

    def _forward(self, pictures: Tensor) -> Tensor:
        if self.compiled is not None:
            try:
                with _no_word_of_cuda():
                    return self.compiled(pictures)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # compilers fail in many ways: none is there, or not for this network
                self.compiled, self.problem = None, _first_line(error)
        features: Tensor = self.plain(pictures)
        return features


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _no_word_of_cuda() -> Iterator[None]:
    """While it compiles for a processor, torch warns that there is no GPU."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def choose_extractor(
    backbone: Backbone, settings: Settings, hardware: Hardware, compiled: bool, probe: Tensor
) -> Extractor:
    """Return the fastest extractor whose features of `probe`, uint8 pictures (n, H, W, 3), are near those of float32.

    Folding norms is fastest, but in a network with large biases bfloat16 rounds them too much: the least cosine is then
    under `FOLDED_COSINE`, and norms stay in float32.  Where that leaves it under `LEAST_COSINE`, everything does.
    """
    exactly = replace(hardware, dtype=torch.float32)
    if hardware.dtype != torch.float32:
        expected = Extractor(backbone, settings, exactly, folded=False, compiled=False).features(probe)
        for folded, least in ((True, FOLDED_COSINE), (False, LEAST_COSINE)):
            found = Extractor(backbone, settings, hardware, folded, compiled=False).features(probe)
            likeness = _least_cosine(expected, found) if np.isfinite(found).all() else 0.0
            if likeness >= least:
                return Extractor(backbone, settings, hardware, folded, compiled, likeness)
    return Extractor(backbone, settings, exactly, folded=True, compiled=compiled)


def _least_cosine(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> float:
    """Return the least cosine between rows; equal ones count as 1, also if they are zeros, which have no direction."""
    cosines = torch.cosine_similarity(torch.from_numpy(ours), torch.from_numpy(theirs), dim=1)
    cosines[torch.from_numpy((ours == theirs).all(axis=1))] = 1
    return cosines.min().item()


def _probe(rows: pd.DataFrame, raw: Path, settings: Settings) -> Tensor:
    """Return the first few images' centres, uint8 (n, H, W, 3): always the same, so that the choice is, too."""
    photos = Photos(rows.head(PROBE_IMAGES), raw, ViewCuts(settings, [-1], np.zeros(PROBE_IMAGES, dtype=np.uint64)))
    items = collate([photos[position, 0] for position in range(len(photos.paths))])
    if isinstance(items, UserError):
        raise items
    return torch.from_numpy(items[0][:, 0])


def _fill(
    store: FeatureStore,
    keys: npt.NDArray[np.uint64],
    gap: Gap,
    photos: Photos,
    extractor: Extractor,
    watch: Watch,
    what: str,
) -> None:
    """Compute the features that are missing in `gap`, and append them to `store` under their `keys`, (N, views)."""
    loader = make_loader(photos, Chunks(gap.positions), decoding_processes(extractor.settings))
    waiting: list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]] = []

    def append() -> None:
        if waiting:
            waiting_keys, features = zip(*waiting, strict=True)
            try:
                store.append(np.concatenate(waiting_keys), np.concatenate(features))
            except ValueError as error:
                raise UserError(
                    f"The {what} cannot be kept: {error}. Set features.dtype=float32; if that is what it is, are these "
                    "the right weights for input.mean and input.std?"
                ) from None
            waiting.clear()

    try:
        with explained(f"the {what}, {IMAGES_AT_ONCE} images at a time"):
            for pixels, places in watch(
                decoded(loader, extractor.hardware.device), what, len(loader), f"x {IMAGES_AT_ONCE} images"
            ):
                for column, view in zip(gap.columns, gap.views, strict=True):
                    features = extractor(pixels[:, gap.crops.index(view.crop)], view.mirrored)
                    waiting.append((keys[places.numpy(), column], features))
                if sum(len(features) for _, features in waiting) >= APPEND_ROWS:
                    append()
    except UserError:
        append()  # what was computed until then
        raise
    append()


class Chunks(Sampler[list[tuple[int, int]]]):
    """Yields positions in batches of (position, epoch 0); not a list, which would take 100 bytes an image."""

    def __init__(self, positions: Places) -> None:
        self.positions = positions

    def __len__(self) -> int:
        return -(-len(self.positions) // IMAGES_AT_ONCE)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for start in range(0, len(self.positions), IMAGES_AT_ONCE):
            yield [(position, 0) for position in self.positions[start : start + IMAGES_AT_ONCE].tolist()]
