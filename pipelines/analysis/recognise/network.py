"""Input, network and training that run on every machine, chosen by the size and number of the images."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from pipelines.analysis.recognise.draft import Draft
from pipelines.dataset.images import settled_warnings

SAMPLED = 48  # images whose headers are read
SIDES = (224, 192, 160, 128, 96, 64, 48, 32, 28, 24, 16, 8)
BUDGET = 50_000 * 64 * 64  # pixels of all images: an epoch then takes some minutes on two cores
SMALL = 40  # pixels; larger images are photos
LARGE = 720  # pixels; objects in larger images are small


@dataclass(frozen=True)
class Look:
    """What some of the images are like. sides: of the shorter side, least, median and most. channels: the most common
    number; 0 where it is not known. formats: extensions, the most frequent first. grey: whether all are grey."""

    sides: tuple[int, int, int]
    sizes: str
    channels: int
    formats: list[str]
    grey: bool


def look_at(raw: Path, images: Sequence[str]) -> Look:
    """Return what a sample of the `images` is like, from their headers."""
    chosen = [images[place] for place in np.linspace(0, len(images) - 1, min(SAMPLED, len(images))).astype(int)]
    sizes, channels = [], []
    for path in chosen:
        if path.lower().endswith(".npy"):
            array = np.load(raw / path, mmap_mode="r", allow_pickle=False)
            shape = array.shape if array.ndim > 2 else (*array.shape, 1)
            first = len(shape) == 3 and shape[0] < min(shape[1:])
            sizes.append((shape[2], shape[1]) if first else (shape[1], shape[0]))
            channels.append(shape[0] if first else shape[-1])
            continue
        try:
            with settled_warnings(), Image.open(raw / path) as image:
                sizes.append(image.size)
                channels.append(len(image.getbands()) if image.mode != "P" else 3)
        except (OSError, Image.DecompressionBombError, Image.DecompressionBombWarning):
            continue
    formats = [kind for kind, _ in Counter(PurePosixPath(image).suffix.lower()[1:] for image in images).most_common()]
    if not sizes:
        return Look((0, 0, 0), "no image could be opened", 0, formats, False)
    sides = sorted(map(min, sizes))
    least, most = min(sizes), max(sizes)
    text = (
        f"{least[0]} x {least[1]} pixels"
        if least == most
        else (f"{least[0]} x {least[1]} to {most[0]} x {most[1]} pixels")
    )
    return Look(
        (sides[0], sides[len(sides) // 2], sides[-1]),
        text,
        Counter(channels).most_common(1)[0][0],
        formats,
        max(channels) < 3,
    )


def choose_network(draft: Draft, side: int, images: int, classes: int) -> None:
    """Set input, augmentation, network and training.  side: of the images, in pixels; images: how many are labelled."""
    size = next(
        (each for each in SIDES if each <= max(side, 8) and images * each * each <= BUDGET), min(32, max(side, 8))
    )
    flips = side > SMALL
    draft.set(
        "input.size",
        size,
        f"The images' shorter side is {side} pixels (median). With {size} pixels {images:,} images train on any "
        'machine; more show finer detail. input.source = "packed", the default, decodes each image once.',
    )
    if flips:
        draft.set(
            "augment.flip", True, "A mirrored photo shows the same. Set false if left and right differ in meaning."
        )
    draft.set(
        "augment.translate",
        max(1, size // 16),
        "Small shifts."
        + ("" if flips else " No flip: a mirrored small picture, such as a digit, may be another sign."),
    )
    pretrained = side > SMALL and draft.get("input.channels", 3) == 3
    better = " A pretrained one is better, where its weights can be had: RECIPE=pretrained, below." * pretrained
    draft.set("model.name", "convnet", f"A small network that trains from scratch, without a download.{better}")
    epochs = 40 if images <= 2_000 else 20 if images <= 20_000 else 10
    draft.set("train.epochs", epochs, f"{images:,} labelled images. More epochs help until the validation score falls.")
    draft.set("train.batch_size", 64 if images < 10_000 else 256)
    draft.set("train.optimizer", "adamw", "With this rate it trains any of the tasks; sgd needs one for each.")
    draft.set("train.lr", 0.002)
    draft.set("train.weight_decay", 0.02)
    draft.set("train.schedule", "cosine")
    draft.set("train.warmup_epochs", 1)
    if classes > 1 and draft.get("competition.task") == "one_class":
        draft.set("train.label_smoothing", 0.05, "Against overconfident answers; 0 for none.")
    if pretrained:
        draft.recipes = PRETRAINED


def choose_detector(draft: Draft, side: int, images: int) -> None:
    """Set input, augmentation, network and training of boxes.  side: of the images; images: how many are labelled."""
    size = "Each image is stretched to this square. More shows smaller objects, and takes longer."
    draft.set("input.size", 512 if side > LARGE else 320, size)
    draft.set("augment.flip", True, "A mirrored photo shows the same. Set false if left and right differ in meaning.")
    draft.set("augment.colour_jitter", 0.2)
    detector = "A detector and its backbone, pretrained: others are in docs/detection.md."
    draft.set("model.name", "fasterrcnn_fpn/mobilenet_v2", detector)
    weights = "Of the backbone; they are downloaded once. A path takes a file. pretrained = false: from scratch."
    draft.set("model.weights", "IMAGENET1K_V1", weights)
    draft.set("finetune.freeze_norms", True, "A batch has too few images for their statistics.")
    draft.set("finetune.backbone_lr", 0.3)
    epochs = 12 if images <= 10_000 else 6
    draft.set("train.epochs", epochs, f"{images:,} labelled images. More epochs help until the validation score falls.")
    for key, value in DETECTOR.items():
        draft.set(f"train.{key}", value)


DETECTOR: dict[str, Any] = {"batch_size": 4, "optimizer": "adamw", "lr": 0.0005, "weight_decay": 0.0001}
DETECTOR |= {"schedule": "cosine", "warmup_epochs": 1, "clip_norm": 10}
PRETRAINED = """
# A pretrained network, frozen, for machines that can download its weights once (torchvision): RECIPE=pretrained
# Features of several depths are computed once for each image and its mirror image.  A linear head is solved for; the
# strength of its penalty, and whether mirror images help, are chosen on the validation rows.
[recipes.pretrained]
input = { source = "photos", size = 224 }
model = { name = "resnet34", weights = "IMAGENET1K_V1", features = "stages" }
augment = { flip = false, translate = 0 }
finetune = { frozen_stages = -1 }

[recipes.pretrained.train]
search = true
optimizer = "lbfgs"
lr = 1
epochs = 1
batch_size = 256
schedule = "constant"
warmup_epochs = 0
label_smoothing = 0

# The same network, all of it trained: often better, but it takes a GPU, or hours.  RECIPE=finetuned
[recipes.finetuned]
input = { source = "photos", size = 224 }
model = { name = "resnet34", weights = "IMAGENET1K_V1" }
augment = { flip = true, translate = 0, crop_scale = [0.35, 1.0], crop_ratio = [0.75, 1.3333333] }
finetune = { head_epochs = 2, backbone_lr = 0.2 }
train = { epochs = 12, batch_size = 64, lr = 1e-3, weight_decay = 0.05 }
"""
