"""Sources of batches as the engine sees them, and how pixels become a batch.

Every batch names its images, so nothing depends on order. Randomness depends on seed and epoch alone, so an epoch can
be repeated whatever came before it and however many workers there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.dataset.augment import augment, normalise, reduce, to_float
from pipelines.settings.schema import Settings
from pipelines.system.seeds import derive_seed
from pipelines.system.watch import Watch

Ids = npt.NDArray[Any]
PREDICTED = 128  # images in a batch by default
GPU_PIXELS, MOST_PREDICTED = 1 << 21, 2048  # of a batch on a GPU, which would wait for the processor between small ones
CENTRE_MARGIN = 8 / 7  # resize to 256 for a centre crop of 224: the usual margin in evaluation


@dataclass(frozen=True)
class Batch:
    """Inputs of the network for some images.

    inputs: float32 on the device: normalised images (N, 3, H, W), or features: (N, D) in training, else (N, views, D).
    labels: the targets on the device, those of `encode`: int64 (N,), or float (N, K) for mixed images, several labels
    and numbers; empty for test images.
    positions: int64 (N,), the places of the images in the source.
    """

    inputs: Tensor
    labels: Tensor
    positions: Tensor


@dataclass(frozen=True)
class Loading:
    """What all kinds of sources share: how pixels become batches."""

    settings: Settings
    classes: int
    device: torch.device
    training: bool

    @property
    def limit(self) -> int:
        """The largest number of images in a batch."""
        return self.settings.train.batch_size if self.training else prediction_batch(self.settings, self.device)

    def divide(self, count: int, epoch: int) -> list[Tensor]:
        """Return the positions of each batch of `epoch`; no image is dropped.

        Training shuffles. Its batch sizes differ by at most one, and none is 1, too few for batch statistics.
        """
        if not self.training:
            return list(torch.arange(count).split(self.limit))
        order = torch.randperm(count, generator=self.generator("order", epoch))
        return list(order.tensor_split(self.steps(count)))

    def steps(self, count: int) -> int:
        steps = -(-count // self.limit)
        return max(min(steps, count // 2), 1) if self.training else steps

    def largest(self, count: int) -> int:
        """Return the number of images in the largest batch."""
        return -(-count // self.steps(count)) if self.training else min(self.limit, count)

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
        return Finisher(self, self.generator("augmentation", epoch), size, crop, mirrored)


@dataclass(frozen=True)
class Finisher:
    """Turns the pixels of one epoch into batches.

    size: height and width of the images. crop: apply the random resized crop here. mirrored: bool (N,) over the whole
    source; None if each batch draws it.
    """

    loading: Loading
    generator: torch.Generator
    size: int
    crop: bool
    mirrored: Tensor | None

    def __call__(self, pixels: Tensor, labels: Tensor, positions: Tensor) -> Batch:
        """Move uint8 (N, H, W, 3) to the device, augment it in training, and normalise it."""
        settings, device = self.loading.settings, self.loading.device
        pixels, labels = pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        if self.loading.training:
            mirrored = None if self.mirrored is None else self.mirrored[positions]
            varied = augment(pixels, settings.augment, settings.input.size, self.generator, self.crop, mirrored)
            if self.size != settings.input.size:
                varied = reduce(varied, self.size)
        else:
            varied = to_float(pixels)
        varied = normalise(varied, settings.input.mean, settings.input.std)
        if self.loading.training and (settings.augment.mixup or settings.augment.cutmix):
            from torchvision.transforms import v2

            mix = v2.MixUp if settings.augment.mixup else v2.CutMix
            alpha = settings.augment.mixup or settings.augment.cutmix
            # Drawn from torch's global generator, which the engine seeds at the start of each epoch.
            varied, labels = mix(alpha=alpha, num_classes=self.loading.classes)(varied, labels)
        return Batch(varied, labels, positions)


class BatchSource:
    """A source of batches, as the engine sees it; `batches` is left to each kind."""

    def __init__(self, ids: Ids, labels: Tensor, loading: Loading) -> None:
        """ids: the id of each image, (N,). labels: the targets, see `Batch`; (0,) for test images."""
        self.ids, self.labels, self.loading = ids, labels, loading

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""
        return self.loading.steps(len(self))

    @property
    def batch_size(self) -> int:
        """The number of images in the largest batch."""
        return self.loading.largest(len(self))

    def labels_at(self, positions: Tensor) -> Tensor:
        """Return the targets of a batch; those of several labels are kept as bytes, and become numbers here."""
        labels = self.labels[positions] if len(self.labels) else self.labels
        return labels.float() if labels.dtype == torch.uint8 else labels

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield every image once: in training in the order of `epoch`, else in the order of `ids`."""
        raise NotImplementedError


class WatchedBatches(BatchSource):
    """A source that shows its progress through each epoch."""

    def __init__(self, source: BatchSource, what: str, watch: Watch) -> None:
        super().__init__(source.ids, source.labels, source.loading)
        self.source, self.what, self.watch = source, what, watch

    def batches(self, epoch: int) -> Iterator[Batch]:
        what = f"{self.what} {epoch}" if epoch else self.what
        yield from self.watch(self.source.batches(epoch), what, self.steps, "batches")


def prediction_batch(settings: Settings, device: torch.device) -> int:
    """Return the number of images that are predicted together; by default more on a GPU, if they are small."""
    if settings.predict.batch_size:
        return settings.predict.batch_size
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
