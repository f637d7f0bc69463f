"""Sources of batches as the engine sees them, and how pixels become a batch.

Every batch names its images, so nothing depends on order. Randomness depends on seed and epoch alone, so an epoch can
be repeated whatever came before it and however many workers there are. Several processes share the images: each takes
its part of every training batch, and whole batches in turn of everything else.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.dataset import augment_boxes
from pipelines.dataset.augment import ALL, Draws, augment, normalise, reduce, to_float
from pipelines.settings.metrics import BOXES
from pipelines.settings.schema import Settings
from pipelines.settings.training_sections import AugmentSettings
from pipelines.system.errors import UserError
from pipelines.system.group import ALONE, Group
from pipelines.system.seeds import derive_seed
from pipelines.system.watch import Noted, Watch

Ids = npt.NDArray[Any]
PREDICTED = 128  # images in a batch by default
DETECTED = 8  # the same for boxes
GPU_PIXELS, MOST_PREDICTED = 1 << 21, 2048  # of a batch on a GPU, which would wait for the processor between small ones
CENTRE_MARGIN = 8 / 7  # resize to 256 for a centre crop of 224: the usual margin in evaluation


@dataclass(frozen=True)
class Batch:
    """Inputs of the network for some images.

    inputs: float32 on the device: normalised images (N, 3, H, W), or features: (N, D) in training, else (N, views, D).
    labels: the targets on the device, those of `encode`: int64 (N,), or float (N, K) for mixed images, several labels
    and numbers; those of `targets_of` for boxes; empty for test images.
    positions: int64 (N,), the places of the images in the source.
    whole: the number of images of the batch in all processes together.  weight: of this part's mean loss, such that the
    mean over processes is the mean loss of the whole batch.
    """

    inputs: Tensor
    labels: Tensor
    positions: Tensor
    whole: int = 0
    weight: float = 1.0


@dataclass(frozen=True)
class Part:
    """The part of a training batch that this process takes, or a whole batch.

    positions: of all its images in the source, int64 (N,).  mine: the places of the part among them.
    """

    positions: Tensor
    mine: Tensor | EllipsisType = ALL

    @property
    def taken(self) -> Tensor:
        """The positions of the images of the part."""
        return self.positions[self.mine]


@dataclass(frozen=True)
class Loading:
    """What all kinds of sources share: how pixels become batches.

    group: the processes that share each epoch.  pixels: whether the inputs are images, which can be mixed.
    """

    settings: Settings
    classes: int
    device: torch.device
    training: bool
    group: Group = ALONE
    pixels: bool = True

    @property
    def limit(self) -> int:
        """The largest number of images in a batch."""
        return self.settings.train.batch_size if self.training else prediction_batch(self.settings, self.device)

    @property
    def mixes(self) -> bool:
        """Whether each training image is mixed with the one before it in its batch."""
        return self.training and self.pixels and bool(self.settings.augment.mixup or self.settings.augment.cutmix)

    def divide(self, count: int, epoch: int) -> list[Part]:
        """Return the batches of `epoch` of this process; no image is dropped.

        Training shuffles. Its batch sizes differ by at most one, and none is 1, too few for batch statistics. The first
        image of a part is only mixed with, where images are mixed. Raises `UserError` where a process would have fewer
        than two images of a batch.
        """
        rank, world = self.group.rank, self.group.world
        if not self.training:
            return [Part(positions) for positions in torch.arange(count).split(self.limit)[rank::world]]
        order = torch.randperm(count, generator=self.generator("order", epoch))
        batches = order.tensor_split(self.steps(count))
        if world == 1:
            return [Part(positions) for positions in batches]
        if (least := len(batches[-1])) < 2 * world:
            raise UserError(
                f"{world} processes cannot share batches of {least} images: each needs two. Use {max(1, least // 2)} "
                "processes at most (NPROC), or a larger train.batch_size."
            )
        mine = [torch.arange(len(positions)).tensor_split(world)[rank] for positions in batches]
        if self.mixes:
            mine = [torch.cat([(part[:1] - 1) % len(each), part]) for part, each in zip(mine, batches, strict=True)]
        return [Part(positions, part) for positions, part in zip(batches, mine, strict=True)]

    def steps(self, count: int) -> int:
        """Return the number of batches of an epoch, in all processes together."""
        steps = -(-count // self.limit)
        return max(min(steps, count // 2), 1) if self.training else steps

    def own_steps(self, count: int) -> int:
        """Return the number of batches of an epoch in this process."""
        return self.steps(count) if self.training else len(range(self.group.rank, self.steps(count), self.group.world))

    def largest(self, count: int) -> int:
        """Return the number of images in the largest batch of a process."""
        if not self.training:
            return min(self.limit, count)
        return -(-count // (self.steps(count) * self.group.world))

    def generator(self, purpose: str, epoch: int) -> torch.Generator:
        """Return a random generator for one epoch, on the CPU, so that all devices draw the same numbers."""
        return torch.Generator().manual_seed(derive_seed(self.settings.train.seed, purpose, epoch))

    def finisher(self, count: int, epoch: int, crop: bool) -> "Finisher":
        """Return the function that finishes the batches of `epoch`, for a source of `count` images."""
        mirrored = None
        if self.training and self.settings.augment.alternating_flip:
            first = torch.rand(count, generator=self.generator("flip", 0)) < 0.5
            mirrored = first ^ bool(epoch % 2)
        size = training_size(self.settings, epoch) if self.training else self.settings.input.size
        mixing = self.generator("network", epoch) if self.group.world > 1 else None
        return Finisher(self, self.generator("augmentation", epoch), size, crop, mirrored, mixing, epoch)


@dataclass(frozen=True)
class Finisher:
    """Turns the pixels of one epoch into batches.

    size: height and width of the images. crop: apply the random resized crop here. mirrored: bool (N,) over the whole
    source; None if each batch draws it. mixing: draws how images are mixed, the same in each of several processes.
    None: torch's global generator does, which the engine seeds in the same way at the start of each epoch.
    """

    loading: Loading
    generator: torch.Generator
    size: int
    crop: bool
    mirrored: Tensor | None
    mixing: torch.Generator | None = None
    epoch: int = 0

    def __call__(self, pixels: Tensor, source: "BatchSource", part: Part) -> Batch:
        """Return the batch of `part` of `source`: uint8 `pixels` (N, H, W, 3), on the device, augmented, normalised."""
        settings, device = self.loading.settings, self.loading.device
        positions = part.taken
        pixels, labels = (each.to(device, non_blocking=True) for each in (pixels, source.labels_at(positions)))
        if self.loading.training:
            mirrored = None if self.mirrored is None else self.mirrored[positions]
            draws = Draws(self.generator, len(part.positions), part.mine)
            changes = settings.augment
            if settings.competition.task == BOXES:
                pixels, labels = augment_boxes.change(pixels, labels, settings, self.epoch, positions.tolist())
                changes = AugmentSettings(colour_jitter=changes.colour_jitter)
            varied = augment(pixels, changes, settings.input.size, draws, self.crop, mirrored)
            if self.size != settings.input.size:
                varied = reduce(varied, self.size)
        else:
            varied = to_float(pixels)
        varied = normalise(varied, settings.input.mean, settings.input.std)
        if self.loading.mixes:
            from torchvision.transforms import v2

            mix = v2.MixUp if settings.augment.mixup else v2.CutMix
            alpha = settings.augment.mixup or settings.augment.cutmix
            with _drawing_from(self.mixing):
                varied, labels = mix(alpha=alpha, num_classes=self.loading.classes)(varied, labels)
            if self.loading.group.world > 1:  # the first image is another process's, and was mixed with no one's
                varied, labels, positions = varied[1:], labels[1:], positions[1:]
        return source.batch(varied, labels, positions, part)


@contextmanager
def _drawing_from(generator: torch.Generator | None) -> Iterator[None]:
    """Let what draws from torch's global generator in the block draw from this one, if there is one."""
    if generator is None:
        yield
        return
    kept = torch.get_rng_state()
    torch.set_rng_state(generator.get_state())
    yield
    generator.set_state(torch.get_rng_state())
    torch.set_rng_state(kept)


class BatchSource:
    """A source of batches, as the engine sees it; `batches` is left to each kind."""

    def __init__(self, ids: Ids, labels: Tensor, loading: Loading) -> None:
        """ids: the id of each image, (N,). labels: the targets, see `Batch`; (0,) for test images."""
        self.ids, self.labels, self.loading = ids, labels, loading

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def steps(self) -> int:
        """The number of batches in an epoch, in all processes together."""
        return self.loading.steps(len(self))

    @property
    def own_steps(self) -> int:
        """The number of batches in an epoch in this process."""
        return self.loading.own_steps(len(self))

    @property
    def group(self) -> Group:
        """The processes that share each epoch."""
        return self.loading.group

    @property
    def batch_size(self) -> int:
        """The number of images in the largest batch of a process."""
        return self.loading.largest(len(self))

    def labels_at(self, positions: Tensor) -> Tensor:
        """Return the targets of a batch; those of several labels are kept as bytes, and become numbers here."""
        labels = self.labels[positions] if len(self.labels) else self.labels
        return labels.float() if labels.dtype == torch.uint8 else labels

    def batch(self, inputs: Tensor, labels: Tensor, positions: Tensor, part: Part) -> Batch:
        """Return a batch of the images at `positions`, those of `part`, with its weight."""
        whole, world = len(part.positions), self.group.world
        if world == 1 or not self.loading.training:
            return Batch(inputs, labels, positions, whole)
        known, of = (known_targets(self.labels_at(each)) for each in (positions, part.positions))
        return Batch(inputs, labels, positions, whole, known * world / max(1, of))

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield every image once: in training in the order of `epoch`, else in the order of `ids`.

        Several processes share the images.
        """
        raise NotImplementedError

    def report(self, summed: float) -> None:
        """Take note of the summed loss of all images that the current epoch has yielded so far."""


class WatchedBatches(BatchSource):
    """A source that shows its progress through each epoch: images per second, and the mean loss last reported."""

    def __init__(self, source: BatchSource, what: str, watch: Watch) -> None:
        super().__init__(source.ids, source.labels, source.loading)
        self.source, self.what, self.watch = source, what, watch
        self._epoch = self._images = 0
        self._started = 0.0
        self._loss = ""

    def batches(self, epoch: int) -> Iterator[Batch]:
        what = f"{self.what} {epoch}" if epoch else self.what
        if self._loss and " in epoch " not in self._loss:
            self._loss += f" in epoch {self._epoch}"
        self._epoch, self._images, self._started = epoch, 0, time.perf_counter()
        for batch in self.watch(Noted(self.source.batches(epoch), self._note), what, self.own_steps, "batches"):
            self._images += batch.whole
            yield batch

    def report(self, summed: float) -> None:
        self._loss = f"loss {summed / max(self._images, 1):.4f}"

    def _note(self) -> str:
        """Return the note on the epoch so far; the loss is that of an earlier epoch until one of this is reported."""
        speed = self._images / max(time.perf_counter() - self._started, 1e-9)
        return ", ".join(filter(None, [self._loss, f"{speed:,.0f} images/s"]))


def known_targets(labels: Tensor) -> int:
    """Return the number of targets that are not missing, which a mean loss is over: images, or numbers."""
    return int((~labels.isnan()).sum()) if labels.is_floating_point() and labels.ndim == 2 else len(labels)


def prediction_batch(settings: Settings, device: torch.device) -> int:
    """Return the number of images that are predicted together; by default more on a GPU, if they are small."""
    if settings.predict.batch_size:
        return settings.predict.batch_size
    if settings.competition.task == BOXES:  # hundreds of proposals of each image are looked at together
        return DETECTED
    if device.type != "cuda":
        return PREDICTED
    return max(PREDICTED, min(MOST_PREDICTED, GPU_PIXELS // settings.input.size**2))


def pinned(pixels: Tensor, device: torch.device) -> Tensor:
    """Return `pixels` in pinned memory if `device` is a GPU: moving them then does not wait for its queue."""
    return pixels.pin_memory() if device.type == "cuda" and pixels.device.type == "cpu" else pixels


def evaluation_resize(settings: Settings) -> int:
    """Return the length of an image's shorter side before the centre crop of evaluation.

    If training crops at random, evaluation leaves a margin; if training uses whole images, so does evaluation.
    """
    if settings.input.source == "packed":
        return settings.input.size
    crops = settings.augment.crop_scale[0] < 1
    return settings.input.resize or round(settings.input.size * (CENTRE_MARGIN if crops else 1))


def training_size(settings: Settings, epoch: int) -> int:
    """Return the height and width of the training images of `epoch`, which grow with progressive resizing."""
    sizes = settings.augment.sizes
    part = -(-epoch * len(sizes) // settings.train.epochs)  # rounded up, so the last epoch always has the full size
    return sizes[part - 1] if sizes else settings.input.size
