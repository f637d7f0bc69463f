"""Augmentation of images with boxes, one image after another, by torchvision's transforms.

The random numbers of an image depend on the seed, the epoch and its place in the source alone: so it is the same in any
number of processes, and after a training was interrupted.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipelines.settings.schema import Settings
from pipelines.settings.training_sections import AugmentSettings
from pipelines.system.seeds import derive_seed

GREY = 114  # of the canvas around an image that is zoomed out
LEFT = 0.3  # of a box's area: a crop that leaves less of it drops the box
SMALLEST = 1.0  # pixels of both sides of a box that is kept


def change(
    pixels: Tensor, targets: Tensor, settings: Settings, epoch: int, positions: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return a batch mirrored, zoomed out and cropped as the settings say, in the form of `pixels` and `targets`.

    pixels: uint8 (N, S, S, 3).  targets: of `targets_of`, (N, M, 5).  positions: of the images in the source.  Torch's
    random state stays.
    """
    transform = _transform(settings.augment, pixels.shape[1])
    if transform is None:
        return pixels, targets
    images, boxes = torch.empty_like(pixels), torch.full_like(targets, torch.nan)
    with torch.random.fork_rng(devices=[]):
        for row, position in enumerate(positions):
            torch.manual_seed(derive_seed(settings.train.seed, "augmentation", epoch, int(position)))
            image, left = _changed(pixels[row].permute(2, 0, 1), targets[row], transform)
            images[row] = image.permute(1, 2, 0)
            boxes[row, : len(left)] = left
    return images, boxes


def _transform(augment: AugmentSettings, size: int) -> Any:
    """Return the transform of an image and its boxes, or None if nothing changes."""
    from torchvision.transforms import v2

    crops = (augment.crop_scale, augment.crop_ratio) != ((1.0, 1.0), (1.0, 1.0))
    steps: list[Any] = [v2.RandomHorizontalFlip()] if augment.flip else []
    if augment.zoom_out > 1:
        steps.append(v2.RandomZoomOut(GREY, (1.0, augment.zoom_out)))
    if crops:
        steps.append(v2.RandomResizedCrop((size, size), augment.crop_scale, augment.crop_ratio))
    return v2.Compose([*steps, v2.Resize((size, size))]) if steps else None


def _changed(image: Tensor, targets: Tensor, transform: Any) -> tuple[Tensor, Tensor]:
    """Return the changed image (3, S, S), and those of its boxes, (n, 5), of which enough is left."""
    from torchvision import tv_tensors
    from torchvision.ops import box_area

    known, size = targets[~targets[:, 0].isnan()], image.shape[1]
    boxes: Any = tv_tensors.BoundingBoxes(  # not clamped: what is outside is part of the box here
        known[:, 1:] * size, format="XYXY", canvas_size=(size, size), clamping_mode=None
    )
    picture, boxes = transform(tv_tensors.Image(image), boxes)
    whole = boxes.as_subclass(Tensor)
    inside = whole.clamp(0, size)
    kept = (inside[:, 2:] - inside[:, :2]).amin(dim=1) >= SMALLEST
    kept &= box_area(inside) >= LEFT * box_area(whole)
    return picture.as_subclass(Tensor), torch.cat([known[:, :1], inside / size], dim=1)[kept]
