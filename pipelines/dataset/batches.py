"""Batches of packed images, and the choice of the source that the settings name."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod

import torch
from torch import Tensor

from pipelines.dataset.damaged import DamagedImages, Found, report
from pipelines.dataset.fingerprints import check_decodable, undecodable
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.loading import Batch, BatchSource, Ids, Loading, pinned
from pipelines.dataset.packed import PackedImages
from pipelines.dataset.photos import PhotoBatches, workers_for
from pipelines.settings.schema import Settings
from pipelines.system.group import ALONE, Group
from pipelines.system.watch import Watch, unwatched

# uint8 (M, H, W, 3), on the device or the CPU; or a file, from which each batch is read as soon as it is decoded.
Stored = Tensor | PackedImages
READ_TOGETHER = 4096  # images on their way to a device


def open_source(
    settings: Settings,
    images: ImageSet,
    device: torch.device,
    training: bool = False,
    watch: Watch = unwatched,
    group: Group = ALONE,
) -> BatchSource:
    """Return the source of batches of `images` that the settings name, for one process of `group`.

    Packed images are cached for all labelled rows, or all test rows, so every stage and fold shares them. Test images
    are decoded while the first batches are used, or before that where several processes share them. Raises `UserError`
    for labelled images that cannot be decoded.
    """
    loading = Loading(settings, images.columns, device, training, group)
    if settings.input.source == "photos":
        if not images.is_test:
            check_decodable(images, watch)
        return PhotoBatches(images, loading, workers_for(settings, device, group))
    packed = _packed(settings, images, watch)
    if group.world > 1 or not (training or images.is_test):
        packed.decode()
    places, labels = torch.from_numpy(packed.places), torch.from_numpy(images.labels)
    pixels: Stored = packed
    if training:
        pixels = moved_once(torch.from_numpy(packed.whole()), device)
    elif not images.is_test and has_room(device, len(images) * prod(packed.shape)):  # scored after every epoch
        pixels, places = all_on_device(packed, device), torch.arange(len(images))
    return PackedBatches(images.ids, pixels, places, labels, loading)


def check_images(settings: Settings, images: ImageSet, watch: Watch = unwatched) -> None:
    """Decode all images of the split table that training or prediction will need, labelled and test.

    Packed images are kept; photos are remembered as good. Labelled images whose features are computed are decoded then,
    unless a test image is damaged. Raises `UserError` for all damaged images, and lists them in a CSV.
    """
    found = _damaged(settings, images.part(test=True), watch)
    if found or not settings.trains_on_cache:
        found = [*_damaged(settings, images.part(test=False), watch), *found]
    if found:
        raise report(images, found)
    if images.layout:
        images.layout.damaged.unlink(missing_ok=True)


def _damaged(settings: Settings, images: ImageSet, watch: Watch) -> Sequence[Found]:
    if not len(images):
        return []
    if settings.input.source == "photos" or settings.trains_on_cache:
        return undecodable(images, watch)
    try:
        _packed(settings, images, watch).decode()
    except DamagedImages as error:
        return error.found
    return []


def _packed(settings: Settings, images: ImageSet, watch: Watch) -> PackedImages:
    image = settings.input
    return PackedImages(images, image.size, settings.hardware.cache_by, watch, image.interpolation)


class PackedBatches(BatchSource):
    """Batches of equal-sized images, augmented a batch at a time on the device."""

    def __init__(self, ids: Ids, pixels: Stored, places: Tensor, labels: Tensor, loading: Loading) -> None:
        """places: int64 (N,), of each image in `pixels`."""
        super().__init__(ids, labels, loading)
        self.pixels, self.places = pixels, places

    def batches(self, epoch: int) -> Iterator[Batch]:
        finish = self.loading.finisher(len(self), epoch, crop=True)
        with self._taking() as take:
            for part in self.loading.divide(len(self), epoch):
                yield finish(pinned(take(self.places[part.taken]), self.loading.device), self, part)

    @contextmanager
    def _taking(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Yield a function that returns the pixels at places."""
        if isinstance(pixels := self.pixels, Tensor):
            yield lambda places: pixels[places.to(pixels.device, non_blocking=True)]
        else:
            with pixels.reading() as take:
                yield lambda places: torch.from_numpy(take(places.numpy()))


def fits_on_device(size: int, free: int) -> bool:
    """Return whether data of `size` bytes may stay on a device with `free` bytes; half is left for the network."""
    return size <= free // 2


def all_on_device(packed: PackedImages, device: torch.device) -> Tensor:
    """Return the images that `packed` was opened for, on `device`; read some at a time, to save memory."""
    pixels = torch.empty((len(packed.places), *packed.shape), dtype=torch.uint8, device=device)
    with packed.reading() as take:
        for part in torch.arange(len(pixels)).split(READ_TOGETHER):
            pixels[part[0] : part[-1] + 1] = torch.from_numpy(take(packed.places[part.numpy()]))
    return pixels


def has_room(device: torch.device, size: int) -> bool:
    """Return whether `device` is a GPU on which data of `size` bytes may stay."""
    return device.type == "cuda" and fits_on_device(size, torch.cuda.mem_get_info(device)[0])


def moved_once(pixels: Tensor, device: torch.device) -> Tensor:
    """Return `pixels` on `device` if it is a GPU and they fit there, else unchanged."""
    return pixels.to(device) if has_room(device, pixels.nbytes) else pixels
