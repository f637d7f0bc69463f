"""Features of images by frozen backbones: computed once per view, kept on disk, and served in batches.

A view is a fixed picture of an image: its centre, a numbered random crop, or the mirror image of either.  The key of a
feature is the hash of the image's bytes, the view, and the backbone with its weights and precision.  When one of these
changes, only what depends on it is computed again.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Sampler

from pipelines.dataset.channels import Picture, Pixels
from pipelines.dataset.fingerprints import all_listed, fingerprints
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.images import BICUBIC, crop, fit, random_crop_box
from pipelines.dataset.loading import Batch, BatchSource, Ids, Loading, evaluation_resize, pinned
from pipelines.dataset.photos import Photos, collate, decoded, make_loader, workers_for
from pipelines.models.backbones import Backbone
from pipelines.models.device import Hardware
from pipelines.models.extractor import IMAGES_AT_ONCE, Extractor, Recipe, choose_extractor
from pipelines.models.feature_store import FeatureStore, view_keys
from pipelines.models.transfer import FineTuned
from pipelines.models.weights import Origin
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.group import ALONE, Group
from pipelines.system.memory import explained
from pipelines.system.seeds import derive_seed
from pipelines.system.watch import Watch, unwatched

FORMAT = "features-2"  # part of the key: features computed in another way are not found
APPEND_ROWS = 4096  # features held in memory before they are written: what a killed process loses
COMPILE_FROM = 10_000  # views: fewer are done before a compiled network has paid for its compilation
PROBE_IMAGES = 16  # images on which precisions are compared
Places = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class View:
    """A fixed picture of an image: the centre (`crop` -1) or a numbered random crop, perhaps mirrored."""

    crop: int
    mirrored: bool

    def describe(self, settings: Settings) -> str:
        """Return everything that determines this view of an image, as text."""
        size, augment = settings.input.size, settings.augment
        if self.crop < 0:
            cut = f"centre {size} of {evaluation_resize(settings)}"
        else:
            cut = f"crop {self.crop} to {size}, scale {augment.crop_scale}, ratio {augment.crop_ratio}"
        cut += ", bicubic" if settings.input.interpolation == BICUBIC else ""
        return f"{cut}{', mirrored' if self.mirrored else ''}"


def views_of(settings: Settings) -> list[View]:
    """Return the views that the settings name, the centre first."""
    sides = (False, True) if settings.features.mirror else (False,)
    return [View(crop, mirrored) for crop in range(-1, settings.features.crops) for mirrored in sides]


def inputs_of(settings: Settings) -> int:
    """Return the number of inputs of the head for an image: its views, or their mean."""
    return 1 if settings.averages_views else len(views_of(settings))


@dataclass(frozen=True)
class Features:
    """The features of some images: each backbone's rows on disk, and which rows belong to which image.

    values: per backbone (rows, D), memory-mapped.  places: per backbone int64 (N, views).  computed: rows that were
    computed now; lost: how many of them because a file had been cut short.  how: how each backbone computed them.
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
        """Return one line about the features and what was computed now."""
        count = len(self) * self.views * len(self.values)
        again = f", {self.lost:,} of them again: their file had been cut short" if self.lost else ""
        networks = f" by each of {len(self.values)} networks" if len(self.values) > 1 else ""
        images = f"{len(self):,} images in {self.views} views{networks}"
        how = f" ({'; '.join(self.how)})" if self.how else ""
        return f"{images}; {self.computed:,} of {count:,} computed now{how}{again}."

    def take(self, positions: Places, views: Places | slice) -> Tensor:
        """Return float32 features of the images at `positions`: (n, D) of one view each, or (n, views, D)."""
        chosen = [values[places[positions, views]] for values, places in zip(self.values, self.places, strict=True)]
        return torch.from_numpy(np.concatenate([np.asarray(rows, np.float32) for rows in chosen], axis=-1))


class FeatureBatches(BatchSource):
    """Batches of features: in training one random view of each image, otherwise all views; or always their mean."""

    def __init__(self, ids: Ids, features: Features, labels: Tensor, loading: Loading) -> None:
        """features: of the images `ids`.  labels: the targets, see `Batch`; (0,) for test images."""
        super().__init__(ids, labels, loading)
        self.features = features

    def batches(self, epoch: int) -> Iterator[Batch]:
        generator = self.loading.generator("view", epoch)
        for part in self.loading.divide(len(self), epoch):
            positions = part.taken
            averaged, training = self.loading.settings.averages_views, self.loading.training
            if training and not averaged:
                drawn = torch.randint(self.features.views, (len(part.positions),), generator=generator)
                inputs = self.features.take(positions.numpy(), drawn[part.mine].numpy())
            else:
                inputs = self.features.take(positions.numpy(), slice(None))
            if averaged:
                inputs = inputs.mean(dim=1, keepdim=not training)
            device = self.loading.device
            inputs, labels = pinned(inputs, device), self.labels_at(positions)
            inputs, labels = (each.to(device, non_blocking=True) for each in (inputs, labels))
            yield self.batch(inputs, labels, positions, part)


def compute_features(
    settings: Settings,
    images: ImageSet,
    network: FineTuned,
    hardware: Hardware,
    watch: Watch = unwatched,
    group: Group = ALONE,
) -> Features:
    """Return the features of `images`, after computing those that are not in the cache yet.

    Worker processes decode images while the network runs; at most `APPEND_ROWS` rows of features wait in memory.  The
    processes of `group` share what is missing, unless they share other work already; the main one writes.  Raises
    `UserError` for all images that cannot be decoded; none of their features are kept.
    """
    marks = fingerprints(images, watch)
    views, rule = views_of(settings), images.value_rule
    # Decided by the whole set, not by the missing part: an interrupted run must continue with the same rounding.
    enough = hardware.device.type == "cpu" and len(images.cached_together) * len(views) >= COMPILE_FROM
    values, places, how, computed, lost = [], [], [], 0, 0
    for backbone, origin in zip(network.bodies, network.origins, strict=True):
        store = _open_store(settings, backbone, origin, hardware, images)
        keys = np.stack([view_keys(marks, f"{view.describe(settings)} {rule}".rstrip()) for view in views], axis=1)
        gaps = _missing(store, keys, views)
        made = sum(len(gap.positions) * len(gap.views) for gap in gaps)
        if gaps:
            compiled = settings.hardware.compile and enough
            with all_listed(images, watch):
                extractor = choose_extractor(backbone, settings, hardware, compiled, _probe(settings, images))
            sharing = ALONE if group.busy else group
            assert group.is_main, "the main process computes features before the others read them"
            filling = _Filling(store, keys, extractor, f"features by {origin.name}", sharing)
            with store.writing(), all_listed(images, watch):
                for gap in gaps:
                    filling.fill(gap, Photos(images, ViewCuts(settings, gap.crops, marks)), watch)
            how.append(extractor.describe())
        places.append(store.find(keys))
        values.append(store.values())
        computed += made
        lost += min(store.lost, made)
    return Features(values, places, computed, lost, how)


def _open_store(
    settings: Settings, backbone: Backbone, origin: Origin, hardware: Hardware, images: ImageSet
) -> FeatureStore:
    """Return the store of the features by `backbone`; all views share it."""
    about: dict[str, Any] = {
        "what": FORMAT,
        "network": origin.name,
        "weights_sha256": origin.sha256,
        "published_size": origin.facts.size if origin.facts else None,  # some networks are then built differently
        "normalised_by": [list(settings.input.mean), list(settings.input.std)],
        "rescaled_by": backbone.rescale,
        "norms_folded_before": settings.tuning.freeze_norms,
        "precision": str(hardware.dtype).removeprefix("torch."),
        "device": hardware.device.type,
        "stored_as": settings.features.dtype,
    }
    if backbone.taps:
        about["stages"] = backbone.taps
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]
    path = images.cache / "features" / f"{images.cache_name}-{origin.name.replace('/', '-')}-{key}"
    return FeatureStore(path, about, backbone.dimensions, settings.features.dtype)


@dataclass(frozen=True)
class Gap:
    """Images, by position, that lack the same features: those of `views`, in the `columns` of their keys."""

    positions: Places
    columns: list[int]
    views: list[View]

    @property
    def crops(self) -> list[int]:
        """Return the numbers of the crops for these views; a mirrored view shares its crop with the plain one."""
        return sorted({view.crop for view in self.views})


def _missing(store: FeatureStore, keys: Keys, views: list[View]) -> list[Gap]:
    """Return what has to be computed.  keys: (N, views).  Of images with the same bytes only the first is listed."""
    absent = store.find(keys) < 0
    _, first = np.unique(keys[:, 0], return_index=True)
    absent[np.setdiff1d(np.arange(len(keys)), first)] = False
    gaps = []
    for pattern in np.unique(absent[absent.any(axis=1)], axis=0):
        columns = np.flatnonzero(pattern).tolist()
        positions = np.flatnonzero((absent == pattern).all(axis=1))
        gaps.append(Gap(positions, columns, [views[column] for column in columns]))
    return gaps


@dataclass(frozen=True)
class ViewCuts:
    """Cuts the pictures `crops` from a photo, without mirror images; stacked, uint8 (crops, H, W, 3)."""

    settings: Settings
    crops: list[int]
    marks: Keys

    def __call__(self, photo: Picture, position: int, epoch: int) -> Pixels:
        return np.stack([self._cut(photo, number, int(self.marks[position])) for number in self.crops])

    def _cut(self, photo: Picture, number: int, mark: int) -> Pixels:
        size, augment, how = self.settings.input.size, self.settings.augment, self.settings.input.interpolation
        if number < 0:
            return fit(photo, size, evaluation_resize(self.settings), how)
        # Seeded by the bytes of the image: the same crop at any place of the table and in every run.
        random = np.random.default_rng(derive_seed(mark, "view", number))
        return crop(photo, random_crop_box(*photo.size, augment.crop_scale, augment.crop_ratio, random), size, how)


def _probe(settings: Settings, images: ImageSet) -> Tensor:
    """Return the centres of the first cached images, uint8 (n, H, W, 3): the same images each time."""
    some = images.select(images.cached_together.rows.head(PROBE_IMAGES))
    photos = Photos(some, ViewCuts(settings, [-1], np.zeros(PROBE_IMAGES, dtype=np.uint64)))
    items = collate([photos[position, 0] for position in range(len(some))])
    if isinstance(items, UserError):
        raise items
    return torch.from_numpy(items[0][:, 0])


class _Filling:
    """Computes missing features and appends them to `store` under their `keys`, (N, views)."""

    def __init__(self, store: FeatureStore, keys: Keys, extractor: Extractor, what: str, group: Group) -> None:
        self.store, self.keys, self.extractor, self.what, self.group = store, keys, extractor, what, group
        self.waiting: list[tuple[Keys, npt.NDArray[np.float32]]] = []

    def fill(self, gap: Gap, photos: Photos, watch: Watch) -> None:
        """Compute the features of `gap`; those computed before an error are kept."""
        chunks = Chunks(gap.positions, self.group)
        unit = f"x {chunks.step} images"
        try:
            with (
                explained(f"the {self.what}, {IMAGES_AT_ONCE} images at a time"),
                self.group.sharing(_take_part, self.extractor.recipe(self.group), gap, photos),
            ):
                for found in watch(_computed(self.extractor, gap, photos, self.group), self.what, chunks.rounds, unit):
                    for places, each in found:
                        for column, features in zip(gap.columns, each, strict=True):
                            self.waiting.append((self.keys[places, column], features))
                    if sum(len(features) for _, features in self.waiting) >= APPEND_ROWS:
                        self._append()
        except UserError:
            self._append()
            raise
        self._append()

    def _append(self) -> None:
        if not self.waiting:
            return
        keys, features = zip(*self.waiting, strict=True)
        try:
            self.store.append(np.concatenate(keys), np.concatenate(features))
        except ValueError as error:
            raise UserError(
                f"The {self.what} cannot be stored: {error}. Set features.dtype=float32. If it is already, check that "
                "these weights belong to input.mean and input.std."
            ) from None
        self.waiting.clear()


Found = tuple[Places, list[npt.NDArray[np.float32]]]  # positions of some images, and their features in each view


def _take_part(group: Group, recipe: Recipe, gap: Gap, photos: Photos) -> None:
    """Compute features along with the main process, in another one."""
    for _ in _computed(recipe.make(group), gap, photos, group):
        pass


def _computed(extractor: Extractor, gap: Gap, photos: Photos, group: Group) -> Iterator[list[Found]]:
    """Yield the features of `gap`, a chunk of each process at a time; in the main process, empty lists in the others.

    Chunks are the same for any number of processes, so that rounding is.
    """
    device = extractor.hardware.device
    chunks = Chunks(gap.positions, group)
    loader = make_loader(photos, chunks, workers_for(extractor.settings, device, group))
    batches = decoded(loader, device)
    for _ in range(chunks.rounds):
        own: Found | None = None
        if batch := next(batches, None):
            pixels, places = batch
            views = [extractor(pixels[:, gap.crops.index(view.crop)], view.mirrored) for view in gap.views]
            own = places.numpy(), views
        yield [each for each in group.gather(own) if each is not None]


class Chunks(Sampler[list[tuple[int, int]]]):
    """Yields positions in batches of (position, epoch 0); a list would take 100 bytes an image.

    Of several processes, each takes a batch in turn.
    """

    def __init__(self, positions: Places, group: Group = ALONE) -> None:
        self.positions, self.step = positions, IMAGES_AT_ONCE * group.world
        self.starts = range(IMAGES_AT_ONCE * group.rank, len(positions), self.step)

    @property
    def rounds(self) -> int:
        """The number of batches of the main process, which has the most."""
        return -(-len(self.positions) // self.step)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for start in self.starts:
            yield [(position, 0) for position in self.positions[start : start + IMAGES_AT_ONCE].tolist()]
