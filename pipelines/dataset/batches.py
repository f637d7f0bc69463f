"""The sources of batches behind one small interface: packed images, and photos decoded by worker processes.

The engine cannot tell which it got.  Every batch says which images it holds, so that nothing depends on order.
Randomness comes from (seed, epoch) alone: an epoch can be repeated, whatever came before it and however many workers
there are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipelines.dataset import images
from pipelines.dataset.augment import augment, normalise, reduce, to_float
from pipelines.dataset.decodable import check_decodable
from pipelines.dataset.packed import PackedImages
from pipelines.settings.layout import Layout
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.memory import check_room_for_locks
from pipelines.system.processes import cores
from pipelines.system.seeds import derive_seed
from pipelines.system.watch import Watch, unwatched

Ids = npt.NDArray[Any]
TEST, LABELLED = "test", "labelled"  # the two sets of images that are cached
CENTRE_MARGIN = 8 / 7  # resize to 256 for a centre crop of 224: the usual margin in evaluation


def evaluation_resize(settings: Settings) -> int:
    """The shorter side to which an image is resized before the centre crop of evaluation.

    Where training crops at random, evaluation leaves out a margin; where it sees whole images, so does evaluation.
    """
    if settings.input.source == "packed":
        return settings.input.size
    crops = settings.augment.crop_scale[0] < 1
    return settings.input.resize or round(settings.input.size * (CENTRE_MARGIN if crops else 1))


@dataclass(frozen=True)
class Batch:
    """What the network takes of some images, and which ones they are.

    inputs: float32 on the device: images (N, 3, H, W), normalised; or their features, (N, D) when training and
    (N, views, D) otherwise.  positions: int64 (N,), their places in the source.
    labels: int64 (N,), or float (N, K) where images were mixed, on the device; empty where labels are unknown.
    """

    inputs: Tensor
    labels: Tensor
    positions: Tensor


class BatchSource(Protocol):
    """What the engine asks of a source of batches."""

    @property
    def ids(self) -> Ids:
        """The id of each image, (N,)."""

    def __len__(self) -> int:
        """The number of images."""

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""

    @property
    def batch_size(self) -> int:
        """The number of images in the largest batch."""

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield every image once; in the order of `epoch` when training, in the order of `ids` otherwise."""


@dataclass(frozen=True)
class Loading:
    """How a source turns pixels into batches: what the two kinds of source have in common."""

    settings: Settings
    batch_size: int
    classes: int
    device: torch.device
    training: bool

    def divide(self, count: int, epoch: int) -> list[Tensor]:
        """Return the positions of each batch of `epoch`.

        Training shuffles and makes batches whose sizes differ by one at most: none is dropped, and none holds a single
        image, of which batch statistics cannot be taken.
        """
        if not self.training:
            return list(torch.arange(count).split(self.batch_size))
        order = torch.randperm(count, generator=self.generator("order", epoch))
        return list(order.tensor_split(self.steps(count)))

    def steps(self, count: int) -> int:
        steps = -(-count // self.batch_size)
        return max(min(steps, count // 2), 1) if self.training else steps

    def largest(self, count: int) -> int:
        """Return the number of images in the largest batch."""
        return -(-count // self.steps(count)) if self.training else min(self.batch_size, count)

    def generator(self, purpose: str, epoch: int) -> torch.Generator:
        """A random generator for one epoch, on the CPU whatever the device, so that all devices draw the same."""
        return torch.Generator().manual_seed(derive_seed(self.settings.train.seed, purpose, epoch))

    def size(self, epoch: int) -> int:
        """The height and width of the images of `epoch`."""
        return training_size(self.settings, epoch) if self.training else self.settings.input.size

    def finisher(self, count: int, epoch: int, crop: bool) -> "Finisher":
        """Return what finishes the batches of `epoch`, of a source of `count` images."""
        mirrored = None
        if self.training and self.settings.augment.alternating_flip:
            first = torch.rand(count, generator=self.generator("flip", 0)) < 0.5
            mirrored = first ^ bool(epoch % 2)
        return Finisher(self, self.generator("augmentation", epoch), self.size(epoch), crop, mirrored)


@dataclass(frozen=True)
class Finisher:
    """What makes pixels of one epoch into batches, one after the other.

    size: of the images that come out.  mirrored: bool (N,) over the whole source; None where it is drawn anew.
    """

    loading: Loading
    generator: torch.Generator
    size: int
    crop: bool
    mirrored: Tensor | None

    def __call__(self, pixels: Tensor, labels: Tensor, positions: Tensor) -> Batch:
        """Move uint8 (N, H, W, 3) to the device, vary it when training, and normalise it."""
        settings, device = self.loading.settings, self.loading.device
        pixels, labels = pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        if self.loading.training:
            mirrored = self.mirrored[positions] if self.mirrored is not None else None
            varied = augment(pixels, settings.augment, settings.input.size, self.generator, self.crop, mirrored)
            if self.size != settings.input.size:
                varied = reduce(varied, self.size)
        else:
            varied = to_float(pixels)
        varied = normalise(varied, settings.input.mean, settings.input.std)
        if self.loading.training and (settings.augment.mixup or settings.augment.cutmix):
            varied, labels = self._mix(varied, labels)
        return Batch(varied, labels, positions)

    def _mix(self, varied: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix pairs of images; labels become (N, K).  torchvision draws from torch's global generator, which the
        engine seeds at the start of each epoch."""
        from torchvision.transforms import v2

        augment, classes = self.loading.settings.augment, self.loading.classes
        if augment.mixup:
            mixing: Any = v2.MixUp(alpha=augment.mixup, num_classes=classes)
        else:
            mixing = v2.CutMix(alpha=augment.cutmix, num_classes=classes)
        mixed_images, mixed_labels = mixing(varied, labels)
        return mixed_images, mixed_labels


class HeldBatches:
    """What sources have in common whose inputs lie ready, to be taken by position."""

    def __init__(self, ids: Ids, labels: Tensor, loading: Loading) -> None:
        """labels: int64 (N,), or (0,) where they are unknown."""
        self.ids = ids
        self.labels = labels
        self.loading = loading

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def steps(self) -> int:
        return self.loading.steps(len(self))

    @property
    def batch_size(self) -> int:
        return self.loading.largest(len(self))


class PackedBatches(HeldBatches):
    """Batches to learn from, of one array of equal-sized images, augmented a whole batch at a time on the device."""

    def __init__(self, ids: Ids, pixels: Tensor, places: Tensor, labels: Tensor, loading: Loading) -> None:
        """pixels: uint8 (M, H, W, 3), on the device or on the CPU.  places: int64 (N,), where each image of this source
        lies in `pixels`.  labels: int64 (N,), or (0,) where they are unknown."""
        super().__init__(ids, labels, loading)
        self.pixels = pixels
        self.places = places.to(pixels.device)

    def batches(self, epoch: int) -> Iterator[Batch]:
        finish = self.loading.finisher(len(self), epoch, crop=True)
        for positions in self.loading.divide(len(self), epoch):
            pixels = self.pixels[self.places[positions.to(self.pixels.device, non_blocking=True)]]
            yield finish(pinned(pixels, self.loading.device), labels_at(self.labels, positions), positions)


class StreamedBatches(HeldBatches):
    """Batches to predict, of packed images in their order, each as soon as its images are decoded; they are taken from
    the file, and memory holds one batch at a time."""

    def __init__(self, ids: Ids, packed: PackedImages, places: Tensor, labels: Tensor, loading: Loading) -> None:
        """places, labels: as for `PackedBatches`."""
        super().__init__(ids, labels, loading)
        self.packed = packed
        self.places = places

    def batches(self, epoch: int) -> Iterator[Batch]:
        finish = self.loading.finisher(len(self), epoch, crop=True)
        with self.packed.reading() as take:
            for positions in self.loading.divide(len(self), epoch):
                pixels = torch.from_numpy(take(self.places[positions].numpy()))
                yield finish(pinned(pixels, self.loading.device), labels_at(self.labels, positions), positions)


def pinned(pixels: Tensor, device: torch.device) -> Tensor:
    """Return `pixels` so that moving them to `device` does not wait for all that a GPU has still to do."""
    return pixels.pin_memory() if device.type == "cuda" and pixels.device.type == "cpu" else pixels


def fits_on_device(size: int, free: int) -> bool:
    """Whether data of `size` bytes may stay on a device that has `free` bytes: half is left to the network."""
    return size <= free // 2


def moved_once(pixels: Tensor, device: torch.device) -> Tensor:
    """Return `pixels` on a GPU, if that is the device and they fit there; else where they are."""
    if device.type == "cuda" and fits_on_device(pixels.nbytes, torch.cuda.mem_get_info(device)[0]):
        return pixels.to(device)
    return pixels


class PhotoBatches:
    """Batches of photos, decoded and cropped by worker processes; the rest is done per batch on the device."""

    def __init__(self, rows: pd.DataFrame, raw: Path, labels: Tensor, loading: Loading, workers: int) -> None:
        """rows: a split table's `id` and `path` below `raw`.  labels: as for `PackedBatches`."""
        self.ids = rows["id"].to_numpy()
        self.labels = labels
        self.loading = loading
        self.order = _EpochOrder(loading, len(rows))
        cut = TrainingCut(loading.settings) if loading.training else EvaluationCut(loading.settings)
        self.loader = make_loader(Photos(rows, raw, cut), self.order, workers, persistent=workers > 0)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def steps(self) -> int:
        return len(self.order)

    @property
    def batch_size(self) -> int:
        return self.loading.largest(len(self))

    def batches(self, epoch: int) -> Iterator[Batch]:
        self.order.epoch = epoch
        finish = self.loading.finisher(len(self), epoch, crop=False)
        for pixels, positions in decoded(self.loader, self.loading.device):
            yield finish(pixels, labels_at(self.labels, positions), positions)


class _EpochOrder(Sampler[list[tuple[int, int]]]):
    """Yields the batches of the current epoch as lists of (position, epoch): a worker lives through all epochs, and
    only what it is asked for can tell it which one it is."""

    def __init__(self, loading: Loading, count: int) -> None:
        self.loading = loading
        self.count = count
        self.epoch = 0

    def __len__(self) -> int:
        return self.loading.steps(self.count)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for positions in self.loading.divide(self.count, self.epoch):
            yield [(position, self.epoch) for position in positions.tolist()]


class Cut(Protocol):
    """How pixels are taken from a decoded photo; it travels to the worker processes."""

    def __call__(self, photo: Image, position: int, epoch: int) -> images.Pixels: ...


@dataclass(frozen=True)
class EvaluationCut:
    """The centre of a photo."""

    settings: Settings

    def __call__(self, photo: Image, position: int, epoch: int) -> images.Pixels:
        return images.fit(photo, self.settings.input.size, evaluation_resize(self.settings))


@dataclass(frozen=True)
class TrainingCut:
    """A random box of a photo, another one in each epoch."""

    settings: Settings

    def __call__(self, photo: Image, position: int, epoch: int) -> images.Pixels:
        augment = self.settings.augment
        random = np.random.default_rng(derive_seed(self.settings.train.seed, "crop", epoch, position))
        box = images.random_crop_box(*photo.size, augment.crop_scale, augment.crop_ratio, random)
        return images.crop(photo, box, self.settings.input.size)


class Photos(Dataset[Any]):
    """Decodes photos and cuts them; runs in the worker processes.  An item is a position and an epoch."""

    def __init__(self, rows: pd.DataFrame, raw: Path, cut: Cut) -> None:
        # Arrays of bytes, not Python lists, whose reference counts would copy them into every worker page by page.
        self.paths = np.array([path.encode() for path in rows["path"]])
        self.places = np.array([images.place_of(row).encode() for row in rows.itertuples()])
        self.raw = raw
        self.cut = cut

    def __getitem__(self, item: tuple[int, int]) -> tuple[images.Pixels, int] | UserError:
        position, epoch = item
        try:
            photo = images.open_image(self.raw / self.paths[position].decode(), self.places[position].decode())
        except UserError as error:  # as a value: torch would bury a raised one in a worker's traceback
            return error
        return self.cut(photo, position, epoch), position


Decoded = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


def collate(items: list[Any]) -> Decoded | UserError:
    """Join what `Photos` returned: pixels, stacked, and positions; or the first error.

    Arrays travel from a worker through a pipe, as fast as tensors do through /dev/shm: which is small in containers,
    and kills the worker that finds it full.
    """
    for item in items:
        if isinstance(item, UserError):
            return item
    pixels, positions = zip(*items, strict=True)
    return np.stack(pixels), np.array(positions)


def make_loader(
    photos: Photos, batches: Sampler[list[tuple[int, int]]], workers: int, persistent: bool = False
) -> DataLoader[Any]:
    """Return the loader of `batches` of `photos`; persistent: its workers live through all epochs."""
    return DataLoader(
        photos,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=persistent,
        # Its own: else the loader draws from torch's global generator, in the first epoch only if workers persist,
        # and dropout and mixup would depend on the number of workers and on where training was resumed.
        generator=torch.Generator(),
    )


def decoded(loader: DataLoader[Any], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the pixels, uint8, and positions of each batch of `loader`, ready to be moved to `device`."""
    if loader.num_workers:
        check_room_for_locks()
    for item in loader:
        if isinstance(item, UserError):
            raise UserError(*item.args)  # not `item`, whose traceback would hold this frame, and so the workers
        pixels, positions = item
        # Pinned here: torch's thread for it waits for ever for the rest of a batch whose worker was killed.
        yield pinned(torch.from_numpy(pixels), device), torch.from_numpy(positions)


@dataclass(frozen=True)
class WatchedBatches:
    """A source whose progress through each epoch is shown; to the engine it is the source itself."""

    source: BatchSource
    what: str
    watch: Watch

    @property
    def ids(self) -> Ids:
        return self.source.ids

    def __len__(self) -> int:
        return len(self.source)

    @property
    def steps(self) -> int:
        return self.source.steps

    @property
    def batch_size(self) -> int:
        return self.source.batch_size

    def batches(self, epoch: int) -> Iterator[Batch]:
        what = f"{self.what} {epoch}" if epoch else self.what
        yield from self.watch(self.source.batches(epoch), what, self.steps, "batches")


def decoding_processes(settings: Settings) -> int:
    """Return how many processes decode photos: as set, but no more than cores, of which torch warns with reason."""
    return min(settings.hardware.workers, cores())


def kept_together(rows: pd.DataFrame, table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the rows of the split table `table` that are cached along with `rows`, and what they are called: all test
    rows, or all labelled ones."""
    is_test = bool((rows["split"] == "test").all())
    return table[(table["split"] == "test") == is_test], TEST if is_test else LABELLED


def labels_of(rows: pd.DataFrame, classes: Sequence[str]) -> Tensor:
    """Return the number of each row's class, int64 (N,); empty for test rows."""
    if (rows["split"] == "test").all():
        return torch.zeros(0, dtype=torch.int64)
    index = {label: number for number, label in enumerate(classes)}
    return torch.tensor([index[label] for label in rows["label"]], dtype=torch.int64)


def labels_at(labels: Tensor, positions: Tensor) -> Tensor:
    """Return those of `labels` (see `labels_of`) at `positions`; none where there are none."""
    return labels[positions] if len(labels) else labels


def training_size(settings: Settings, epoch: int) -> int:
    """Return the height and width of the images that `epoch` learns from, which progressive resizing lets grow."""
    sizes = settings.augment.sizes
    if not sizes:
        return settings.input.size
    part = -(-epoch * len(sizes) // settings.train.epochs)  # rounded up: whatever the epochs, the last sees all
    return sizes[part - 1]


def make_loading(settings: Settings, classes: int, device: torch.device, training: bool) -> Loading:
    batch_size = settings.train.batch_size if training else settings.predict.batch_size
    return Loading(settings, batch_size, classes, device, training)


def open_source(
    settings: Settings,
    rows: pd.DataFrame,
    table: pd.DataFrame,
    layout: Layout,
    classes: Sequence[str],
    device: torch.device,
    training: bool = False,
    watch: Watch = unwatched,
) -> BatchSource:
    """Return the source of batches over `rows` that the settings name.

    rows: the part of the split table `table` that is wanted: labelled rows, or test rows.  Packed images of all
    labelled rows, and of all test rows, are cached together, so that every stage and fold shares them; those of test
    rows are decoded while the first batches are used.  Raises `UserError` for a labelled image that cannot be decoded,
    rather than in the middle of an epoch.
    """
    labels = labels_of(rows, classes)
    loading = make_loading(settings, len(classes), device, training)
    together, name = kept_together(rows, table)
    if settings.input.source == "photos":
        if name == LABELLED:
            check_decodable(rows, together, layout.raw, layout.cache, name, watch)
        return PhotoBatches(rows, layout.raw, labels, loading, decoding_processes(settings))
    by, ids = settings.hardware.cache_by, rows["id"].to_numpy()
    packed = PackedImages(together, layout.raw, settings.input.size, layout.cache, name, by, watch)
    places = torch.from_numpy(together.index.get_indexer(rows.index))
    if training:
        return PackedBatches(ids, moved_once(torch.from_numpy(packed.whole()), device), places, labels, loading)
    if name == LABELLED:
        packed.decode()
    return StreamedBatches(ids, packed, places, labels, loading)
