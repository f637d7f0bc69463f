"""Anchors: the sizes and ratios of the boxes that a detector starts from, by default from the training boxes."""

import numpy as np

from pipelines.dataset.image_set import ImageSet
from pipelines.settings.detectors import facts_of
from pipelines.settings.loading import merge
from pipelines.settings.metrics import BOXES
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError

SIZES = (0.02, 0.98)  # quantiles of the boxes' sizes, between which the anchors' sizes are spread
RATIOS = (0.1, 0.5, 0.9)  # quantiles of height / width


def with_anchors(settings: Settings, train: ImageSet) -> Settings:
    """Return `settings` with the anchors that they leave open, from the boxes of `train`.

    A size is the side of a square of the box's area.  Sizes grow by the same factor; the smallest are for the map with
    the smallest stride.  Raises `UserError` if no image has a box.
    """
    model = settings.model
    if settings.competition.task != BOXES or (model.anchor_sizes and model.anchor_ratios):
        return settings
    facts = facts_of(model.name)
    boxes = train.labels.reshape(-1, 5)
    boxes = boxes[~np.isnan(boxes[:, 0]), 1:].astype(np.float64)
    if not len(boxes):
        raise UserError("No training image has a box. Correct the labels, or split again with another split.seed.")
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    found = {}
    if not facts.sizes:
        return settings
    if not model.anchor_sizes:
        least, most = np.quantile(np.sqrt(width * height), SIZES).tolist()
        sizes = np.geomspace(least, most, facts.levels * facts.sizes)
        found["anchor_sizes"] = sizes.clip(1e-4).round(4).tolist()
    if not model.anchor_ratios:
        found["anchor_ratios"] = list(dict.fromkeys(np.quantile(height / width, RATIOS).round(3).clip(0.01).tolist()))
    return merge(settings, {"model": found}, "model")


def anchor_levels(settings: Settings) -> list[tuple[float, ...]]:
    """Return the sizes of the anchors of each map of the detector, in pixels.

    Raises `UserError` for sizes that cannot be divided evenly among the maps.
    """
    facts, sizes = facts_of(settings.model.name), settings.model.anchor_sizes
    if not facts.sizes:
        return []
    if not sizes or len(sizes) % facts.levels or (facts.pairs and len(sizes) > facts.levels):
        needed = f"{facts.levels} sizes" if facts.pairs else f"a multiple of {facts.levels} sizes"
        raise UserError(
            f"model.anchor_sizes has {len(sizes)} numbers, but {settings.model.name} takes {needed}, the smallest "
            "first; or leave it empty."
        )
    return [tuple(level) for level in (np.array(sizes) * settings.input.size).reshape(facts.levels, -1).tolist()]
