"""Check settings that depend on each other."""

import os
import re
from pathlib import Path

from pipelines.settings.schema import PLAIN_INPUT, Settings
from pipelines.system.errors import UserError

LONGEST_NAME = 255  # bytes, of all common file systems


CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")


def path_problem(text: str) -> str:
    """Return what prevents `text` from being the path of any file; empty when nothing does."""
    if CONTROL_CHARACTERS.search(text):
        return "it has control characters"
    if len(os.fsencode(text)) > 4000 or any(len(os.fsencode(part)) > LONGEST_NAME for part in text.split("/")):
        return f"a name in it is longer than {LONGEST_NAME} bytes"
    return ""


def is_plain_name(text: str) -> bool:
    """Whether `text` can be the name of a file or folder, with room for what is put around it."""
    return Path(text).name == text != "" and not text.startswith(".") and not path_problem(text + "-" * 40)


def check_together(settings: Settings, where: str) -> None:
    """Raise a `UserError` for values that are each valid but contradict one another, or name no place."""
    for key in ("labels", "train_images", "test_images", "test_table", "sample_submission"):
        place = getattr(settings.data, key)
        parts = Path(place).parts
        if hindrance := path_problem(place):
            raise UserError(f"{where}: data.{key} cannot be a path: {hindrance}.")
        if Path(place).is_absolute() or ".." in parts:
            raise UserError(f"{where}: data.{key} is {place!r}; it must be a path inside the raw folder.")
    for key in ("weights", "label_map"):
        if hindrance := path_problem(getattr(settings.model, key).replace("+", "/")):
            raise UserError(f"{where}: model.{key} cannot be a path: {hindrance}.")
    slug = settings.competition.slug
    if slug and not is_plain_name(slug):
        raise UserError(
            f"{where}: competition.slug is {slug!r}; it must be the last part of the competition's address, without "
            "slashes."
        )
    size = settings.input.size or (0 if settings.model.weights else PLAIN_INPUT["size"])
    if size and not 4 <= size <= 2048:
        raise UserError(f"{where}: input.size is {size}; it takes 0 (as the weights ask) or 4 to 2048 pixels.")
    for key, values, count in (
        ("input.mean", settings.input.mean or (0, 0, 0), 3),
        ("input.std", settings.input.std or (1, 1, 1), 3),
        ("augment.crop_scale", settings.augment.crop_scale, 2),
        ("augment.crop_ratio", settings.augment.crop_ratio, 2),
    ):
        if len(values) != count:
            raise UserError(f"{where}: {key} has {len(values)} numbers; it takes {count}.")
    if min(settings.input.std, default=1) <= 0:
        raise UserError(f"{where}: input.std is {list(settings.input.std)}; each number must be more than 0.")
    for key, (least, most) in (
        ("augment.crop_scale", settings.augment.crop_scale),
        ("augment.crop_ratio", settings.augment.crop_ratio),
    ):
        if not 0 < least <= most:
            raise UserError(
                f"{where}: {key} is [{least:g}, {most:g}]; the first must be above 0 and not above the second."
            )
    if settings.augment.crop_scale[1] > 1:
        raise UserError(f"{where}: augment.crop_scale is a share of the area; at most 1.")
    if settings.train.schedule == "multistep" and not settings.train.milestones:
        raise UserError(f"{where}: train.schedule is multistep, but train.milestones names no epochs.")
    if size and settings.augment.cutout >= size:
        raise UserError(f"{where}: augment.cutout is {settings.augment.cutout}; it must be less than input.size.")
    if settings.augment.mixup and settings.augment.cutmix:
        raise UserError(f"{where}: augment.mixup and augment.cutmix are both on; choose one.")
    if settings.augment.flip and settings.augment.alternating_flip:
        raise UserError(f"{where}: augment.flip and augment.alternating_flip are both on; choose one.")
    sizes = settings.augment.sizes
    if sizes and size and (sizes[-1] != size or max(sizes) > size):
        raise UserError(
            f"{where}: augment.sizes is {list(sizes)}; no size may exceed input.size, {size}, and the last must be it."
        )
    if 0 < settings.input.resize < size:
        raise UserError(
            f"{where}: input.resize is {settings.input.resize}; it takes 0 (8/7 of size) or at least "
            f"input.size, {size}."
        )
    if size and settings.predict.shift >= size:
        raise UserError(f"{where}: predict.shift is {settings.predict.shift}; it must be less than input.size, {size}.")
    if settings.train.optimizer == "sgd" and settings.train.nesterov and not settings.train.momentum:
        raise UserError(f"{where}: train.nesterov takes a train.momentum above 0, which is 0.")
    if not settings.model.widths or min(settings.model.widths) < 1:
        raise UserError(
            f"{where}: model.widths is {list(settings.model.widths)}; it takes one or more positive numbers."
        )
    if len(settings.model.depth) not in (1, len(settings.model.widths)):
        raise UserError(
            f"{where}: model.depth is {list(settings.model.depth)}; it takes one number, or one for each of "
            f"model.widths, {list(settings.model.widths)}."
        )
    _check_finetuning(settings, where)
    if (settings.competition.source == "address") != bool(settings.competition.address):
        raise UserError(
            f'{where}: competition.source = "address" and competition.address belong together: the address is where '
            "people find the archive."
        )
    if settings.split.group_column and settings.split.group_file:
        raise UserError(f"{where}: split.group_column and split.group_file are both set; choose one.")
    if settings.split.folds == 1:
        raise UserError(f"{where}: split.folds is 1; it takes 0 (none) or at least 2.")
    if settings.train.fold >= max(1, settings.split.folds):
        raise UserError(
            f"{where}: train.fold is {settings.train.fold}, but the split has "
            f"{f'folds 0 to {settings.split.folds - 1}' if settings.split.folds else 'no folds (split.folds is 0)'}."
        )


def _check_finetuning(settings: Settings, where: str) -> None:
    model, finetune = settings.model, settings.finetune
    if model.hidden and min(model.hidden) < 1:
        raise UserError(f"{where}: model.hidden is {list(model.hidden)}; it takes positive numbers.")
    if settings.train.optimizer == "muon" and model.weights and model.pretrained:
        raise UserError(
            f"{where}: train.optimizer is muon, which gives weights another length and would spoil pretrained ones: "
            "take sgd or adamw."
        )
    for key, value in {
        "finetune.frozen_stages": finetune.frozen_stages,
        "finetune.head_epochs": finetune.head_epochs,
        "finetune.freeze_norms": finetune.freeze_norms,
        "model.label_map": model.label_map,
    }.items():
        if value and not model.weights:
            raise UserError(
                f"{where}: {key} is {value!r}, which only makes sense of a pretrained network: name its model.weights."
            )
    mixes = settings.augment.mixup or settings.augment.cutmix
    if mixes and model.pretrained and finetune.frozen_stages == -1 and settings.features.cached:
        raise UserError(
            f"{where}: augment.mixup and augment.cutmix mix images, but the head learns from cached features, which "
            "are not mixed: set both to 0, or features.cached = false."
        )
    if not model.weights and ("+" in model.name or model.hidden or model.features != "pooled"):
        raise UserError(
            f"{where}: several networks in model.name, model.hidden and model.features take pretrained weights: name "
            "them in model.weights (and set model.pretrained=false for fresh ones of the same shape)."
        )
    if finetune.head_epochs and finetune.frozen_stages == -1:
        raise UserError(
            f"{where}: finetune.frozen_stages is -1, so only the head ever learns; finetune.head_epochs takes another."
        )
    if finetune.head_epochs and finetune.head_epochs >= settings.train.epochs:
        raise UserError(
            f"{where}: finetune.head_epochs is {finetune.head_epochs}; it must be less than train.epochs, "
            f"{settings.train.epochs}."
        )
    if model.label_map and (model.hidden or model.features != "pooled"):
        raise UserError(
            f"{where}: model.label_map starts a linear head from the pretrained classifier's rows: it takes "
            'model.features = "pooled" and no model.hidden.'
        )
