"""Photos, decoded and cropped by worker processes; everything else happens per batch on the device."""

from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipelines.dataset.channels import Picture, Pixels
from pipelines.dataset.fingerprints import all_listed
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.images import crop, fit, place_of, random_crop_box
from pipelines.dataset.loading import Batch, BatchSource, Ids, Loading, Part, evaluation_resize, pinned
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.group import ALONE, Group
from pipelines.system.memory import check_room_for_processes
from pipelines.system.processes import decoding_processes
from pipelines.system.seeds import derive_seed

Cut = Callable[[Picture, int, int], Pixels]  # takes a decoded photo, its position and the epoch, in a worker process


class LoadedBatches(BatchSource):
    """Batches from a loader whose workers live through all epochs."""

    def __init__(self, ids: Ids, labels: Tensor, loading: Loading, photos: "Photos", workers: int) -> None:
        super().__init__(ids, labels, loading)
        self.order = _EpochOrder()
        self.loader = make_loader(photos, self.order, workers, keep=workers > 0)

    def batches(self, epoch: int) -> Iterator[Batch]:
        self.order.epoch, self.order.parts = epoch, self.loading.divide(len(self), epoch)
        finish = self.loading.finisher(len(self), epoch, crop=False)
        for (pixels, _), part in zip(decoded(self.loader, self.loading.device), self.order.parts, strict=True):
            yield finish(pixels, self, part)


class PhotoBatches(LoadedBatches):
    """Batches of photos that are files of their own."""

    def __init__(self, images: ImageSet, loading: Loading, workers: int) -> None:
        self.images, photos = images, Photos(images, cut_of(loading))
        super().__init__(images.ids, torch.from_numpy(images.labels), loading, photos, workers)

    def batches(self, epoch: int) -> Iterator[Batch]:
        with all_listed(self.images):
            yield from super().batches(epoch)


class _EpochOrder(Sampler[list[tuple[int, int]]]):
    """Yields the batches of the current epoch as lists of (position, epoch).

    A worker lives through all epochs, so the request must tell it which epoch it is.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.parts: list[Part] = []

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for part in self.parts:
            yield [(position, self.epoch) for position in part.taken.tolist()]


def cut_of(loading: Loading) -> Cut:
    """Return what cuts photos: at random in training, else the centre."""
    return partial(random_box if loading.training else centre, loading.settings)


def centre(settings: Settings, photo: Picture, position: int, epoch: int) -> Pixels:
    return fit(photo, settings.input.size, evaluation_resize(settings), settings.input.interpolation)


def random_box(settings: Settings, photo: Picture, position: int, epoch: int) -> Pixels:
    """Return a random box of `photo`, another one in each epoch."""
    random = np.random.default_rng(derive_seed(settings.train.seed, "crop", epoch, position))
    box = random_crop_box(*photo.size, settings.augment.crop_scale, settings.augment.crop_ratio, random)
    return crop(photo, box, settings.input.size, settings.input.interpolation)


class Photos(Dataset[Any]):
    """Decodes photos and cuts them, in the worker processes.  An item is a position and an epoch."""

    def __init__(self, images: ImageSet, cut: Cut) -> None:
        # Arrays of bytes, not Python lists: reference counts would copy those into every worker, page by page.
        self.paths = np.array([path.encode() for path in images.rows["path"]])
        self.places = np.array([place_of(row).encode() for row in images.rows.itertuples()])
        self.reader, self.cut = images.reader, cut

    def __getitem__(self, item: tuple[int, int]) -> tuple[Pixels, int] | UserError:
        position, epoch = item
        try:
            photo = self.photo(position)
        except UserError as error:  # returned: torch would bury a raised one in a worker's traceback
            return error
        return self.cut(photo, position, epoch), position

    def photo(self, position: int) -> Picture:
        """Return the photo at `position`.  Raises `UserError` if it cannot be read."""
        return self.reader.open(self.paths[position].decode(), self.places[position].decode())


def collate(items: list[Any]) -> tuple[Pixels, npt.NDArray[np.int64]] | UserError:
    """Return stacked pixels and positions of what `Photos` returned, or its first error.

    Workers send arrays through a pipe, as fast as tensors through /dev/shm, which is small in containers: a worker that
    finds it full is killed.
    """
    if error := next((item for item in items if isinstance(item, UserError)), None):
        return error
    pixels, positions = zip(*items, strict=True)
    return np.stack(pixels), np.array(positions)


def make_loader(
    photos: Photos, batches: Sampler[list[tuple[int, int]]], workers: int, keep: bool = False
) -> DataLoader[Any]:
    """Return the loader of `batches` of `photos`. keep: its workers live through all epochs."""
    # Its own generator: otherwise the loader draws from torch's global one (with persistent workers in the first epoch
    # only), and dropout and mixup would depend on the number of workers and on where training resumed.
    own = torch.Generator()
    return DataLoader(
        photos, batch_sampler=batches, num_workers=workers, collate_fn=collate, persistent_workers=keep, generator=own
    )


def decoded(loader: DataLoader[Any], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the pixels, uint8, and positions of each batch of `loader`, ready to move to `device`."""
    if loader.num_workers:
        check_room_for_processes(loader.num_workers)
    for item in loader:
        if isinstance(item, UserError):
            raise copy(item)  # not `item`: its traceback would keep this frame, and so the workers, alive
        pixels, positions = item
        # Pinned here: torch's own pinning thread waits forever for a batch whose worker was killed.
        yield pinned(torch.from_numpy(pixels), device), torch.from_numpy(positions)


def workers_for(settings: Settings, device: torch.device, group: Group = ALONE) -> int:
    """Return the number of processes that decode photos for a network on `device`, for one process of `group`."""
    hardware = settings.hardware
    return decoding_processes(hardware.workers, hardware.threads, device.type == "cuda", group.local)
