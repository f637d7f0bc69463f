"""Augmentation of whole batches on the device, with no Python per image.

Images come in as uint8 (N, H, W, 3), the layout of decoded images, and go out as float32 (N, 3, H, W) in 0 to 1, with
channels last in memory. All random numbers are drawn on the CPU, so every device gets the same numbers.
"""

from dataclasses import dataclass
from types import EllipsisType

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.settings.training_sections import AugmentSettings

ALL = ...  # the index of all images
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and torchvision weigh red, green and blue


@dataclass(frozen=True)
class Draws:
    """Random numbers for the images of a batch.

    They are drawn for all `count` images of the batch, also where this process has only those at `mine`: so an image
    gets the same numbers in any number of processes.
    """

    generator: torch.Generator
    count: int
    mine: Tensor | EllipsisType = ALL

    def integers(self, low: int, high: int) -> Tensor:
        """Return an integer in `low` to `high`, inclusive, for each image, (N, 1)."""
        return torch.randint(low, high + 1, (self.count, 1), generator=self.generator)[self.mine]

    def uniform(self, rows: int) -> Tensor:
        """Return `rows` numbers in 0 to 1 for each image, (rows, N)."""
        return torch.rand(rows, self.count, generator=self.generator)[:, self.mine]


def to_float(images: Tensor) -> Tensor:
    """Return uint8 (N, H, W, 3) as float32 (N, 3, H, W) in 0 to 1."""
    return images.permute(0, 3, 1, 2).float().div_(255)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return (images - mean) / std, per channel of (N, 3, H, W)."""
    return (images - channel_values(mean, images)) / channel_values(std, images)


def channel_values(values: tuple[float, ...], images: Tensor) -> Tensor:
    """Return one value per channel, in the type and on the device of `images`, (1, C, 1, 1)."""
    # Small tensors are moved without waiting, here and below: otherwise a GPU would idle in each step.
    return torch.tensor(values, dtype=images.dtype).view(1, -1, 1, 1).to(images.device, non_blocking=True)


def augment(
    images: Tensor,
    settings: AugmentSettings,
    size: int,
    draws: Draws,
    crop: bool,
    mirrored: Tensor | None = None,
) -> Tensor:
    """Return an augmented batch, float32 (N, 3, size, size) in 0 to 1.

    images: uint8 (N, H, W, 3). crop: apply the random resized crop here (photos are cropped where they are decoded).
    mirrored: bool (N,), the images to mirror; None: drawn here.
    """
    images = shift_and_flip(images, settings.translate, settings.flip, draws, mirrored)
    varied = to_float(images)
    if crop and (settings.resize or settings.crop_scale != (1.0, 1.0) or settings.crop_ratio != (1.0, 1.0)):
        if settings.resize:
            varied = F.interpolate(varied, settings.resize, mode="bilinear", antialias=True)
        varied = random_resized_crop(varied, size, settings.crop_scale, settings.crop_ratio, draws)
    if settings.colour_jitter:
        varied = jitter_colours(varied, settings.colour_jitter, draws)
    if settings.cutout:
        varied = cut_out(varied, settings.cutout, draws)
    return varied


def shift_and_flip(images: Tensor, pixels: int, flip: bool, draws: Draws, mirrored: Tensor | None = None) -> Tensor:
    """Return images (N, H, W, C) shifted and mirrored, in one gather.

    pixels: largest shift in both directions; borders are reflected. flip: mirror a random half, else `mirrored` (N,).
    """
    count, height, width, _ = images.shape
    if not (pixels or flip or mirrored is not None):
        return images
    device = images.device
    rows = torch.arange(height, device=device).expand(count, -1)
    columns = torch.arange(width, device=device).expand(count, -1)
    if pixels:  # the shifts are moved, not the places of all pixels: only small copies never wait for a GPU
        down, right = (draws.integers(-pixels, pixels).to(device, non_blocking=True) for _ in range(2))
        rows, columns = _reflect(rows + down, height), _reflect(columns + right, width)
    if flip:
        mirrored = draws.integers(0, 1).bool().squeeze(1)
    if mirrored is not None:
        columns = torch.where(mirrored[:, None].to(device, non_blocking=True), columns.flip(1), columns)
    index = torch.arange(count, device=device)[:, None, None]
    return images[index, rows[:, :, None], columns[:, None, :]]


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Reflect positions outside 0 to size - 1 at the outermost pixels."""
    period = max(2 * (size - 1), 1)
    folded = positions % period
    return torch.where(folded >= size, period - folded, folded)


def random_resized_crop(
    images: Tensor, size: int, scale: tuple[float, ...], ratio: tuple[float, ...], draws: Draws
) -> Tensor:
    """Return a random box of each float image (N, 3, H, W), resampled bilinearly to `size`.

    scale: least and largest share of the area. ratio: least and largest width over height, drawn on a log scale like
    torchvision's RandomResizedCrop. A box larger than the image is cut to it.
    """
    count = len(images)
    uniform = draws.uniform(4)
    area = scale[0] + uniform[0] * (scale[1] - scale[0])
    least, most = torch.tensor(ratio).log()
    aspect = (least + uniform[1] * (most - least)).exp()
    width = (area * aspect).sqrt().clamp(max=1.0)
    height = (area / aspect).sqrt().clamp(max=1.0)
    # In affine_grid's coordinates the image spans -1 to 1, so the centre of a box of width w is within ±(1 - w).
    centre_x = (2 * uniform[2] - 1) * (1 - width)
    centre_y = (2 * uniform[3] - 1) * (1 - height)
    zero = torch.zeros(count)
    boxes = torch.stack([width, zero, centre_x, zero, height, centre_y], dim=1).view(count, 2, 3)
    boxes = boxes.to(images.device, non_blocking=True)
    grid = F.affine_grid(boxes, [count, images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def jitter_colours(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Return images with brightness, then contrast, then saturation multiplied by random factors in 1 ± strength."""
    factors = 1 + strength * (2 * draws.uniform(3)[..., None, None, None] - 1)
    brightness, contrast, saturation = factors.to(images.device, non_blocking=True)
    images = (images * brightness).clamp(0, 1)
    mean_grey = _grey(images).mean(dim=(1, 2, 3), keepdim=True)
    images = (mean_grey + contrast * (images - mean_grey)).clamp(0, 1)
    grey = _grey(images)
    return (grey + saturation * (images - grey)).clamp(0, 1)


def _grey(images: Tensor) -> Tensor:
    return (images * channel_values(LUMA, images)).sum(dim=1, keepdim=True)


def cut_out(images: Tensor, side: int, draws: Draws) -> Tensor:
    """Return images with a grey square of `side` pixels around a random centre of each (arXiv 1708.04552).

    Near a border part of the square is outside the image, as in the paper.
    """
    height, width = images.shape[2:]

    def inside(length: int) -> Tensor:
        first = draws.integers(0, length - 1) - side // 2
        positions = torch.arange(length)
        return ((positions >= first) & (positions < first + side)).to(images.device, non_blocking=True)

    mask = inside(height)[:, None, :, None] & inside(width)[:, None, None, :]
    return images.masked_fill(mask, 0.5)


def reduce(images: Tensor, size: int) -> Tensor:
    """Return float images (N, 3, H, W) resized to `size` x `size` with antialiasing."""
    reduced = F.interpolate(images, size, mode="bilinear", antialias=True)
    return reduced.contiguous(memory_format=torch.channels_last)
