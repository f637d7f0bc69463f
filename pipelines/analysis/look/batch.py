"""Images as the network sees them: from the sources of batches that training uses, with normalisation undone."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import isnan
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from pipelines.analysis.drawn_boxes import with_boxes
from pipelines.analysis.look.glance import tile
from pipelines.analysis.look.page import WIDE_SIDE
from pipelines.dataset.augment import channel_values
from pipelines.dataset.batches import open_source
from pipelines.dataset.channels import Pixels
from pipelines.dataset.fingerprints import fingerprints
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.loading import evaluation_resize
from pipelines.dataset.photos import Photos
from pipelines.settings.metrics import BOXES, NUMBERS
from pipelines.settings.schema import Settings
from pipelines.settings.training_sections import AugmentSettings
from pipelines.system.errors import UserError, shown
from pipelines.system.screen import short
from pipelines.system.seeds import derive_seed

EPOCH = 1  # the one whose training images are shown
NAME = 10  # characters of a number's name


@dataclass(frozen=True)
class Seen:
    """Images as the network sees them.

    title: the part of the split, and how the images were made. cells: pixels and target.
    """

    title: str
    cells: list[tuple[Pixels, str]]


def completed(settings: Settings, weights: Path) -> Settings:
    """Return the settings with what pretrained weights say about images. Nothing is downloaded.

    weights: the folder of weights. Raises `UserError` if a file of weights is missing, or does not give the size.
    """
    if not settings.model.weights:
        return settings
    from pipelines.models.published import is_published_name
    from pipelines.models.weights import find_origins, resolve

    is_published = all(map(is_published_name, settings.model.weights.split("+")))
    return resolve(settings, find_origins(settings.model, weights, with_files=not is_published))


def seen_by_network(settings: Settings, images: ImageSet, rows: Sequence[int], training: bool) -> Seen:
    """Return the images of `rows`, indices of the table, as one batch of the first epoch, in the order of the rows.

    The sources of training make them, of these images alone and with caches in a temporary folder. Raises `UserError`
    for an image that cannot be read.
    """
    part = "Train" if training else "Valid"
    with _alone(images, rows) as few:
        if settings.trains_on_cache:
            return Seen(f"{part} images as the frozen network sees them: {_view_text(settings)}", _views(settings, few))
        device = torch.device("cpu")
        plain = replace(settings, hardware=replace(settings.hardware, device="cpu", workers=0))
        cells: dict[int, tuple[Pixels, str]] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(settings.train.seed, "network", EPOCH))  # as the engine does
            for batch in open_source(plain, few, device, training).batches(EPOCH):
                pixels = _undone(batch.inputs, settings)
                for place, picture, target in zip(batch.positions.tolist(), pixels, batch.labels, strict=True):
                    if images.task == BOXES:
                        picture = with_boxes(tile(picture, WIDE_SIDE), target.numpy())
                    cells[place] = picture, target_text(target, images.task, images.classes)
    height, width = pixels.shape[1:3]
    how = _augmentation(settings.augment) if training else _evaluation(settings)
    when = f" in epoch {EPOCH}" if training else ""
    title = f"{part} images as the network sees them{when}: {width} x {height} pixels{how}"
    return Seen(title, [cells[place] for place in sorted(cells)])


@contextmanager
def _alone(images: ImageSet, rows: Sequence[int]) -> Iterator[ImageSet]:
    """Yield a set of the images of `rows` alone, whose caches vanish with the block."""
    table = images.table.loc[[*rows]].reset_index(drop=True)
    with TemporaryDirectory() as folder:
        layout = images.layout if images.task == BOXES else None  # where their boxes are
        yield replace(images, table=table, rows=table, cache=Path(folder) / "cache", layout=layout)


def _undone(inputs: Tensor, settings: Settings) -> Pixels:
    """Return the inputs of the network, float (N, C, H, W), as pixels, uint8 (N, H, W, C)."""
    values = inputs * channel_values(settings.input.std, inputs) + channel_values(settings.input.mean, inputs)
    return (values * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _views(settings: Settings, images: ImageSet) -> list[tuple[Pixels, str]]:
    """Return the views of the first images, whose features are what the head trains on; as many as are shown."""
    from pipelines.models.features import ViewCuts, views_of  # it imports the networks

    views = views_of(settings)
    crops = sorted({view.crop for view in views})
    photos = Photos(images, ViewCuts(settings, crops, fingerprints(images)))
    cells = []
    for place, target in zip(range(max(1, len(images) // len(views))), torch.from_numpy(images.labels), strict=False):
        item = photos[place, 0]
        if isinstance(item, UserError):
            raise item
        name = target_text(target, images.task, images.classes)
        for view in views[: len(images)]:
            pixels = item[0][crops.index(view.crop)]
            what = "centre" if view.crop < 0 else f"crop {view.crop + 1}"
            pixels = np.ascontiguousarray(pixels[:, ::-1]) if view.mirrored else pixels
            cells.append((pixels, f"{name}\n{what}{', mirrored' if view.mirrored else ''}"))
    return cells


def _view_text(settings: Settings) -> str:
    crops = f", and {settings.features.crops} random crops" if settings.features.crops else ""
    mirror = ", each mirrored too" if settings.features.mirror else ""
    size = settings.input.size
    return f"the centre of {size} x {size} pixels{crops}{mirror}; features are computed once"


def target_text(target: Tensor, task: str, classes: Sequence[str]) -> str:
    """Return a target of a batch as text: a class, labels or numbers; of mixed images, classes with their weights."""
    if target.ndim == 0:
        return shown(classes[int(target)])
    if task == NUMBERS:
        return numbers_text(classes, ["" if isnan(value) else f"{value:.4g}" for value in target.tolist()])
    if task == BOXES:
        return labels_text([classes[int(number)] for number in target[:, 0].tolist() if not isnan(number)])
    order = target.argsort(descending=True, stable=True)[: int((target > 0).sum())]
    named = [(float(target[place]), shown(classes[int(place)])) for place in order]
    return ", ".join(name if weight == 1 else f"{weight:.0%} {name}" for weight, name in named) or "(none)"


def labels_text(labels: Sequence[str]) -> str:
    """Return the labels of boxes with their numbers."""
    return ", ".join(f"{count} {shown(name)}" for name, count in Counter(labels).items()) or "(none)"


def numbers_text(names: Sequence[str], cells: Sequence[str]) -> str:
    """Return numbers as lines of a name and the number; an empty cell is a missing one."""
    return "\n".join(f"{short(shown(name), NAME)} {cell or '-'}" for name, cell in zip(names, cells, strict=True))


def _augmentation(augment: AugmentSettings) -> str:
    """Return the settings of augmentation that are on, as the end of a title."""
    usual = asdict(AugmentSettings())
    on = [
        key if value is True else f"{key} {list(value) if isinstance(value, tuple) else value}"
        for key, value in asdict(augment).items()
        if value != usual[key]
    ]
    return f"; augmented: {', '.join(on)}" if on else "; not augmented"


def _evaluation(settings: Settings) -> str:
    resize = evaluation_resize(settings)
    return f", the centre of {resize}" if resize != settings.input.size else ""
