"""The sections of settings that a recipe may change: input, network and training."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

from pipelines.settings.section import Section, option
from pipelines.system.errors import few
from pipelines.system.files import path_problem

BALANCED = "balanced"  # a value of train.class_weights


@dataclasses.dataclass(frozen=True)
class InputSettings(Section):
    """How an image becomes a tensor of shape (channels, size, size)."""

    source: Literal["packed", "photos"] = option("packed", "packed: small images, decoded once; photos: in every epoch")
    size: int = option(0, "image side in pixels, 4 to 2048; 0: from the pretrained weights, or 32", minimum=0)
    resize: int = option(
        0, "photos: shorter side before the centre crop; 0: from the weights, or size (8/7 size with crops)", minimum=0
    )
    interpolation: Literal["", "bilinear", "bicubic"] = option(
        "", "resizing of images; empty: from the weights of timm, or bilinear"
    )
    channels: int = option(3, "number of channels; 3: colour, as grey images become too", minimum=1, maximum=64)
    mean: tuple[float, ...] = option((), "mean of each channel (0 to 1) to subtract; empty: from the weights, or 0.5")
    std: tuple[float, ...] = option((), "standard deviation of each channel; empty: from the weights, or 0.25", above=0)

    def problems(self) -> Iterator[str]:
        if self.size and not 4 <= self.size <= 2048:
            yield f"input.size is {self.size}; it must be 0 (the size of the weights) or 4 to 2048 pixels."
        for key in ("mean", "std"):
            if len(getattr(self, key)) not in (0, self.channels):
                yield f"input.{key} has {len(getattr(self, key))} numbers; it takes {self.channels}, one per channel."


@dataclasses.dataclass(frozen=True)
class AugmentSettings(Section):
    """Random changes of the training images; none by default."""

    flip: bool = option(False, "mirror each image with probability 0.5 in each epoch")
    alternating_flip: bool = option(False, "mirror half the images in odd epochs, the rest in even (arXiv 2404.00498)")
    translate: int = option(0, "largest random shift in pixels; borders are filled by reflection", minimum=0)
    resize: int = option(0, "packed images: enlarge to this side in pixels before the random crop; 0: off", minimum=0)
    crop_scale: tuple[float, ...] = option((1.0, 1.0), "random resized crop: least, most share of the area", maximum=1)
    crop_ratio: tuple[float, ...] = option((1.0, 1.0), "random resized crop: least, most width / height")
    colour_jitter: float = option(0.0, "vary brightness, contrast, saturation by ± this share", minimum=0, maximum=1)
    zoom_out: float = option(1.0, "boxes: largest side of a grey border canvas, in sides of the image", minimum=1)
    cutout: int = option(0, "side in pixels of a random grey square (arXiv 1708.04552); 0: off", minimum=0)
    mixup: float = option(0.0, "alpha of mixup (arXiv 1710.09412); 0: off", minimum=0)
    cutmix: float = option(0.0, "alpha of CutMix (arXiv 1905.04899); 0: off", minimum=0)
    sizes: tuple[int, ...] = option(
        (), "progressive resizing: image sides, for equal parts of the epochs; last: input.size; empty: off", minimum=4
    )

    def problems(self) -> Iterator[str]:
        for key in ("crop_scale", "crop_ratio"):
            values = getattr(self, key)
            if len(values) != 2:
                yield f"augment.{key} has {len(values)} numbers; it takes 2."
            elif not 0 < values[0] <= values[1]:
                numbers = ", ".join(f"{value:g}" for value in values)
                yield f"augment.{key} is [{numbers}]; the first must be above 0 and not above the second."
        for one, other in (("mixup", "cutmix"), ("flip", "alternating_flip")):
            if getattr(self, one) and getattr(self, other):
                yield f"augment.{one} and augment.{other} are both on; choose one."


@dataclasses.dataclass(frozen=True)
class ModelSettings(Section):
    """The network and its weights."""

    name: str = option(
        "convnet",
        "convnet, resnet18-small (3x3 stem), a torchvision classifier or timm/<name>; with weights several: "
        "resnet34+timm/vit_tiny_patch16_224; boxes: a detector on one of these, as fasterrcnn_fpn/resnet50",
    )
    widths: tuple[int, ...] = option((64, 128, 256), "convnet: channels of each block; a block halves the image side")
    depth: tuple[int, ...] = option((2,), "convnet: convolutions of each block; one number: of every block", minimum=1)
    whitening: int = option(
        0, "convnet: kernel side of a frozen, whitening first layer (arXiv 2404.00498); 0: none", minimum=0, maximum=5
    )
    whitening_epsilon: float = option(
        5e-4, "convnet: variance added in whitening; more leaves the noise of JPEG images weaker", above=0
    )
    whitening_epochs: int = option(
        0, "convnet: first epochs, in which the biases of that layer learn; fixed, they save time; 0: all", minimum=0
    )
    identity_start: bool = option(False, "convnet: initialise convolutions as the identity (Dirac initialisation)")
    norm_scales: bool = option(True, "convnet: batch norms have a trainable scale besides their bias")
    dropout: float = option(0.0, "convnet and head: dropout before each linear layer", minimum=0, below=1)
    weights: str = option(
        "",
        "pretrained weights: a torchvision name (IMAGENET1K_V1), DEFAULT (of timm: those of model.name) or a file; "
        "several networks: one+each; empty: none",
    )
    weights_sha256: str = option("", "expected SHA-256 of the weights file (one+each); empty: not checked")
    pretrained: bool = option(True, "false: same network, random weights, for comparison; [finetune] is then ignored")
    features: Literal["pooled", "logits", "both", "stages"] = option(
        "pooled",
        "pretrained network: the head gets the input of the last layer, its output, or both; stages: that input, and "
        "mean and deviation of the maps after several stages",
    )
    hidden: tuple[int, ...] = option((), "pretrained network: widths of the head's hidden layers; empty: a linear head")
    label_map: str = option(
        "", "start the head from the pretrained rows of the same labels: names, or a CSV of label,category; empty: off"
    )
    label_map_sha256: str = option("", "expected SHA-256 of the label map's CSV; empty: not checked")
    anchor_sizes: tuple[float, ...] = option(
        (), "boxes: sides of the anchors, as shares of the image's side; empty: from the training boxes", above=0
    )
    anchor_ratios: tuple[float, ...] = option(
        (), "boxes: height / width of the anchors; empty: from the training boxes", above=0
    )

    def problems(self) -> Iterator[str]:
        for key in ("weights", "label_map"):
            if problem := path_problem(getattr(self, key).replace("+", "/")):
                yield f"model.{key} cannot be a path: {problem}."
        if not self.widths or min(self.widths) < 1:
            yield f"model.widths is {list(self.widths)}; it takes one or more positive numbers."
        if len(self.depth) not in (1, len(self.widths)):
            yield f"model.depth is {list(self.depth)}; it takes one number, or one for each of model.widths."
        if min(self.hidden, default=1) < 1:
            yield f"model.hidden is {list(self.hidden)}; it takes positive numbers."
        if self.label_map and not self.weights:
            yield f"model.label_map is {self.label_map!r}, which needs a pretrained network: set model.weights."
        if not self.weights and ("+" in self.name or self.hidden or self.features != "pooled"):
            yield (
                "several networks in model.name, model.hidden and model.features need pretrained weights: set "
                "model.weights (and model.pretrained=false for random weights of the same shape)."
            )
        if self.label_map and (self.hidden or self.features != "pooled"):
            yield 'model.label_map needs a linear head: set model.features = "pooled" and model.hidden = [].'


@dataclasses.dataclass(frozen=True)
class FinetuneSettings(Section):
    """Which parts of a pretrained network are trained, and at which learning rate."""

    frozen_stages: int = option(0, "frozen stages, from the input; -1: all, so only the head trains", minimum=-1)
    freeze_norms: bool = option(False, "batch norms keep their pretrained statistics, also in stages that train")
    head_epochs: int = option(0, "first epochs, which train only the head; then the schedule restarts", minimum=0)
    head_lr: float = option(0.0, "peak learning rate of head_epochs; 0: train.lr", minimum=0)
    backbone_lr: float = option(1.0, "learning rate of the pretrained part, as a multiple of the head's", above=0)

    def problems(self) -> Iterator[str]:
        if self.head_epochs and self.frozen_stages == -1:
            yield "finetune.frozen_stages is -1, so only the head ever trains; set finetune.head_epochs to 0."


@dataclasses.dataclass(frozen=True)
class FeaturesSettings(Section):
    """Features of a frozen network, computed once per view: the centre crop, fixed random crops, mirror images."""

    cached: bool = option(True, "compute each view's features once, unaugmented; false: in each epoch, augmented")
    mirror: bool = option(True, "add the mirror image of each view")
    crops: int = option(0, "number of random crops besides the centre crop (augment.crop_scale, crop_ratio)", minimum=0)
    dtype: Literal["float16", "float32"] = option("float16", "number type of stored features")


@dataclasses.dataclass(frozen=True)
class TrainSettings(Section):
    """Optimiser, learning rate schedule and epochs. The loss is a mean over images.

    To take values from code that sums the loss over a batch of n images, multiply its lr by n and divide its weight
    decay by n.
    """

    epochs: int = option(10, "number of epochs", minimum=1)
    batch_size: int = option(256, "largest number of images in a batch", minimum=1)
    optimizer: Literal["sgd", "adam", "adamw", "muon", "lbfgs"] = option(
        "sgd",
        "the torch.optim class; muon: orthogonalised momentum, not for pretrained weights; lbfgs: solves for a linear "
        "head on cached features, standardised and averaged over the views, an epoch is a whole solution",
    )
    lr: float = option(0.1, "peak learning rate", above=0)
    bias_lr: float = option(0.0, "peak learning rate of biases and norms; 0: lr", minimum=0)
    output_lr: float = option(0.0, "peak learning rate of the last layer's weights; 0: lr", minimum=0)
    momentum: float = option(0.9, "momentum of sgd and muon", minimum=0, below=1)
    nesterov: bool = option(False, "Nesterov momentum for sgd; muon always uses it")
    weight_decay: float = option(
        0.0,
        "as in torch.optim; muon: share removed per step at peak lr, from non-orthogonalised weights only; lbfgs: half "
        "of it times the squared weights is added to the loss",
        minimum=0,
    )
    decay_norms_and_biases: bool = option(True, "false: no weight decay for norms and biases")
    schedule: Literal["constant", "step", "multistep", "exponential", "cosine", "linear"] = option(
        "constant", "learning rate schedule after the warm-up"
    )
    warmup_epochs: float = option(0.0, "epochs in which the learning rate rises linearly from 0 to its peak", minimum=0)
    step_epochs: int = option(1, "step: epochs between two reductions", minimum=1)
    milestones: tuple[int, ...] = option((), "multistep: epochs after which the learning rate is reduced")
    gamma: float = option(0.1, "step, multistep, exponential: factor of each reduction", above=0, maximum=1)
    clip_norm: float = option(0.0, "largest norm of the gradient; 0: no clipping", minimum=0)
    loss: Literal[
        "auto", "cross_entropy", "focal", "binary", "asymmetric", "squared", "absolute", "huber", "ordinal"
    ] = option(
        "auto",
        "auto: cross_entropy (one_class), binary (several_labels), squared (numbers); focal: arXiv 1708.02002; "
        "asymmetric: several_labels (arXiv 2009.14119); ordinal: one number of ordered grades, cumulative logits",
    )
    focal_gamma: float = option(2.0, "focal: exponent that lowers the weight of easy images", minimum=0)
    huber_delta: float = option(1.0, "huber: error where it gets linear, in standard deviations of the target", above=0)
    class_weights: tuple[str, ...] = option(
        (), "weight of each class, of a label's images that have it: class=2.5; or balanced: by their counts"
    )
    label_smoothing: float = option(0.0, "share of the target spread evenly over all classes", minimum=0, below=1)
    ema_decay: float = option(0.0, "EMA of weights, validated and saved: decay per step; 0: off", minimum=0, below=1)
    patience: int = option(0, "stop after this number of epochs without a better score; 0: never", minimum=0)
    limit: int = option(0, "use only the first n rows of the labels CSV; 0: all", minimum=0)
    fold: int = option(0, "fold used for validation, if split.folds is set", minimum=0)
    seed: int = option(0, "random seed of weights, batch order and augmentation", minimum=0)
    search: bool = option(
        False, "lbfgs: choose train.weight_decay and features.mirror on the validation rows before the first epoch"
    )
    tensorboard: bool = option(False, "write event files for TensorBoard; a run does not depend on it")

    @property
    def weights_by_class(self) -> dict[str, float]:
        """The weights that class_weights gives, without those that are written wrong."""
        return dict(pair for pair in map(_class_weight, self.class_weights) if pair)

    def problems(self) -> Iterator[str]:
        if self.class_weights != (BALANCED,) and len(self.weights_by_class) < len(self.class_weights):
            wrong = [text for text in self.class_weights if not _class_weight(text)]
            yield (
                f"train.class_weights holds {few(wrong)}; each must be class=2.5, with a weight above 0, or "
                f"{BALANCED} alone."
                if wrong
                else "train.class_weights names a class twice; give each class one weight."
            )
        if self.schedule == "multistep" and not self.milestones:
            yield "train.schedule is multistep, but train.milestones is empty."
        if self.search and self.optimizer != "lbfgs":
            yield f'train.search is true, but train.optimizer is {self.optimizer}; it needs "lbfgs".'
        if self.optimizer == "sgd" and self.nesterov and not self.momentum:
            yield "train.nesterov needs a train.momentum above 0; it is 0."


def _class_weight(text: str) -> tuple[str, float] | None:
    """Return class and weight of `class=2.5`; None if `text` is written in another way."""
    name, _, value = text.rpartition("=")
    try:
        weight = float(value)
    except ValueError:
        return None
    return (name, weight) if name and 0 < weight < math.inf else None
