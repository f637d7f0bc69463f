"""The settings of a competition: one frozen dataclass per section of its TOML, with the checks of that section."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pipelines.settings.addresses import competition_name, dataset_name, model_name
from pipelines.settings.section import Section, option
from pipelines.system.errors import did_you_mean, few, quoted
from pipelines.system.files import is_plain_name, path_problem

DEFAULT_RECIPE = "default"
# The checks of meaning, which data.accept overrules.
CHECKS = tuple(
    "one_class class_folders split_names similar_labels missing_labels combined_labels numeric_labels unique_labels "
    "garbled_labels sample_labels".split()
)


@dataclasses.dataclass(frozen=True)
class CompetitionSettings(Section):
    """Where the competition comes from, its metric and its submission format."""

    title: str = option("", "full name of the competition, for display")
    slug: str = option("", "name in the competition's Kaggle address; empty: the TOML's file name")
    source: Literal["kaggle", "address", "digits"] = option(
        "kaggle", "source of the data; address: an archive that you give to `download`; digits: bundled with this code"
    )
    address: str = option("", "source = address: where a person finds the archive")
    metric: Literal["accuracy", "log_loss", "f1_macro", "f1_micro"] = option("accuracy", "metric that Kaggle scores by")
    submission: Literal["labels", "probabilities"] = option(
        "labels", "per test image: its label or class probabilities"
    )

    def problems(self) -> Iterator[str]:
        if self.slug and not is_plain_name(self.slug):
            name = competition_name(self.slug)
            write = f'Write slug = "{name}".' if name else "Correct it."
            rule = "it must be the name in its Kaggle address, https://www.kaggle.com/competitions/<name>"
            yield f"competition.slug is {quoted(self.slug)}; {rule}. {write}"
        if (self.source == "address") != bool(self.address):
            yield 'competition.source = "address" and competition.address (where the archive is) must be set together.'
        if self.metric == "log_loss" and self.submission == "labels":
            yield (
                "competition.metric is log_loss, which scores probabilities, but competition.submission is labels. Set "
                'competition.submission = "probabilities", or another competition.metric.'
            )


@dataclasses.dataclass(frozen=True)
class DataSettings(Section):
    """Paths inside the raw folder, `data/<competition>/raw`, and columns of the labels CSV."""

    zip_encoding: str = option("", "encoding of names in a zip that does not say it, as gbk or cp1252; empty: UTF-8")
    labels: str = option("", "CSV of the labelled images; empty: train_images has one folder per class")
    id_column: str = option("", "column of image ids in the labels CSV; empty: the first column")
    label_column: str = option("", "column of labels in the labels CSV; empty: the second column")
    train_images: str = option("train", "folder of the labelled images")
    class_level: int = option(
        1, "class folders: level of the class below train_images, from 1; -1: the folder that holds the image"
    )
    test_images: str = option("test", "folder of the test images")
    test_table: str = option("", "CSV of the test ids; empty: the ids of sample_submission, else all of test_images")
    sample_submission: str = option("", "sample submission from Kaggle; empty: there is none")
    submitted_labels: str = option(
        "",
        "CSV of label,answer for each class, in the raw or the working folder; empty: labels are submitted as they are",
    )
    accept: tuple[str, ...] = option((), f"checks of meaning to overrule, if the data is right: {', '.join(CHECKS)}")
    white: int = option(
        0, "greys of more than 8 bits: the value of white; 0: each image's own, 255 to 65535", minimum=0
    )

    def problems(self) -> Iterator[str]:
        if self.zip_encoding and not _is_encoding(self.zip_encoding):
            yield f"data.zip_encoding is {self.zip_encoding!r}; it must be an encoding, as gbk, cp932 or cp1252."
        if problem := path_problem(self.submitted_labels):
            yield f"data.submitted_labels cannot be a path: {problem}."
        if not self.class_level:
            yield "data.class_level is 0; levels count from 1, or from -1 at the folder that holds the image."
        if self.labels and self.class_level != 1:
            yield f"data.class_level is {self.class_level}, for class folders, but data.labels names a CSV. Unset one."
        if unknown := [word for word in self.accept if word not in CHECKS]:
            hint = did_you_mean(unknown[0], CHECKS)
            yield f"data.accept has {', '.join(map(repr, unknown))}.{hint} Valid: {', '.join(CHECKS)}."
        if self.white and not 255 <= self.white <= 65535:
            yield f"data.white is {self.white}; it must be 0 (each image's own) or 255 to 65535."
        for key in ("labels", "train_images", "test_images", "test_table", "sample_submission"):
            place = getattr(self, key)
            if problem := path_problem(place):
                yield f"data.{key} cannot be a path: {problem}."
            elif Path(place).is_absolute() or ".." in Path(place).parts:
                yield f"data.{key} is {place!r}; it must be a path inside the raw folder."


def _is_encoding(name: str) -> bool:
    """Return whether `name` is an encoding that Python knows, of text and not, like base64, of bytes."""
    try:
        b"a".decode(name)
    except (LookupError, ValueError):  # ValueError: a NUL in the name, or an encoding with two bytes per character
        return False
    return True


@dataclasses.dataclass(frozen=True)
class SplitSettings(Section):
    """How labelled rows are divided into training and validation rows; the same for all recipes, to compare scores."""

    method: Literal["stratified", "equal-per-class"] = option(
        "stratified", "validation rows: in proportion to each class, or the same number from each class (d2l.ai)"
    )
    valid_ratio: float = option(0.1, "share of the labelled rows used for validation", above=0, below=1)
    folds: int = option(0, "number of folds; fold 0 then validates, and valid_ratio is unused; 0: no folds", minimum=0)
    group_column: str = option("", "column of the labels CSV; rows with one value stay together in the split")
    group_file: str = option("", "CSV of id,group (`audit` writes one), from the working folder; groups stay together")
    seed: int = option(0, "random seed of the split", minimum=0)

    def problems(self) -> Iterator[str]:
        if self.group_column and self.group_file:
            yield "split.group_column and split.group_file are both set; choose one."
        if self.folds == 1:
            yield "split.folds is 1; it must be 0 (no folds) or at least 2."


@dataclasses.dataclass(frozen=True)
class InputSettings(Section):
    """How an image becomes a tensor of shape (3, size, size)."""

    source: Literal["packed", "photos"] = option("packed", "packed: small images, decoded once; photos: in every epoch")
    size: int = option(0, "image side in pixels, 4 to 2048; 0: from the pretrained weights, or 32", minimum=0)
    resize: int = option(
        0, "photos: shorter side before the centre crop; 0: from the weights, or size (8/7 size with crops)", minimum=0
    )
    mean: tuple[float, ...] = option((), "mean of R, G, B (0 to 1) to subtract; empty: from the weights, or 0.5")
    std: tuple[float, ...] = option((), "standard deviation of R, G, B; empty: from the weights, or 0.25", above=0)

    def problems(self) -> Iterator[str]:
        if self.size and not 4 <= self.size <= 2048:
            yield f"input.size is {self.size}; it must be 0 (the size of the weights) or 4 to 2048 pixels."
        for key in ("mean", "std"):
            if len(getattr(self, key)) not in (0, 3):
                yield f"input.{key} has {len(getattr(self, key))} numbers; it takes 3."


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
        "convnet, resnet18-small (3x3 stem) or a torchvision classifier; with weights several: resnet34+vgg16",
    )
    widths: tuple[int, ...] = option((64, 128, 256), "convnet: channels of each block; a block halves the image side")
    depth: tuple[int, ...] = option((2,), "convnet: convolutions of each block; one number: of every block", minimum=1)
    whitening: int = option(
        0, "convnet: kernel side of a frozen, whitening first layer (arXiv 2404.00498); 0: none", minimum=0, maximum=5
    )
    identity_start: bool = option(False, "convnet: initialise convolutions as the identity (Dirac initialisation)")
    norm_scales: bool = option(True, "convnet: batch norms have a trainable scale besides their bias")
    dropout: float = option(0.0, "convnet and head: dropout before each linear layer", minimum=0, below=1)
    weights: str = option(
        "", "pretrained weights: a torchvision name (IMAGENET1K_V1) or file; several networks: one+each; empty: none"
    )
    weights_sha256: str = option("", "expected SHA-256 of the weights file (one+each); empty: not checked")
    pretrained: bool = option(True, "false: same network, random weights, for comparison; [finetune] is then ignored")
    features: Literal["pooled", "logits", "both"] = option(
        "pooled", "pretrained network: the head gets the input of the last layer, its output, or both"
    )
    hidden: tuple[int, ...] = option((), "pretrained network: widths of the head's hidden layers; empty: a linear head")
    label_map: str = option(
        "", "start the head from the pretrained rows of the same labels: names, or a CSV of label,category; empty: off"
    )
    label_map_sha256: str = option("", "expected SHA-256 of the label map's CSV; empty: not checked")

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
    optimizer: Literal["sgd", "adam", "adamw", "muon"] = option(
        "sgd", "the torch.optim class; muon: orthogonalised momentum, not for pretrained weights"
    )
    lr: float = option(0.1, "peak learning rate", above=0)
    bias_lr: float = option(0.0, "peak learning rate of biases and norms; 0: lr", minimum=0)
    output_lr: float = option(0.0, "peak learning rate of the last layer's weights; 0: lr", minimum=0)
    momentum: float = option(0.9, "momentum of sgd and muon", minimum=0, below=1)
    nesterov: bool = option(False, "Nesterov momentum for sgd; muon always uses it")
    weight_decay: float = option(
        0.0,
        "as in torch.optim; muon: share removed per step at peak lr, from non-orthogonalised weights only",
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
    label_smoothing: float = option(0.0, "share of the target spread evenly over all classes", minimum=0, below=1)
    ema_decay: float = option(0.0, "EMA of weights, validated and saved: decay per step; 0: off", minimum=0, below=1)
    patience: int = option(0, "stop after this number of epochs without a better score; 0: never", minimum=0)
    limit: int = option(0, "use only the first n rows of the labels CSV; 0: all", minimum=0)
    fold: int = option(0, "fold used for validation, if split.folds is set", minimum=0)
    seed: int = option(0, "random seed of weights, batch order and augmentation", minimum=0)

    def problems(self) -> Iterator[str]:
        if self.schedule == "multistep" and not self.milestones:
            yield "train.schedule is multistep, but train.milestones is empty."
        if self.optimizer == "sgd" and self.nesterov and not self.momentum:
            yield "train.nesterov needs a train.momentum above 0; it is 0."


@dataclasses.dataclass(frozen=True)
class PredictSettings(Section):
    """How test images are predicted. A run does not depend on it: one run can be predicted in several ways."""

    checkpoint: Literal["final", "best"] = option("final", "final: retrained on all labelled rows; best: by validation")
    mirror: bool = option(False, "average predictions over an image and its mirror (cached features: over all views)")
    shift: int = option(0, "average predictions over shifts by this number of pixels; 0: off", minimum=0)
    batch_size: int = option(128, "number of images in a batch", minimum=1)
    calibrate: bool = option(True, "metric log_loss: fit a temperature on the validation rows (arXiv 1706.04599)")


@dataclasses.dataclass(frozen=True)
class HardwareSettings(Section):
    """Device, precision, processes and threads. A run does not depend on it."""

    device: str = option("auto", "auto: cuda if available, else cpu; or a torch device name: cuda:1, mps")
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "auto: bfloat16 where the hardware is fast at it; a CPU measures both before a long training"
    )
    workers: int = option(2, "number of processes that decode photos; 0: decode in the main process", minimum=0)
    cache_by: Literal["time", "bytes"] = option(
        "time", "decode packed images again if a file's size or time changed (time), or its content (bytes)"
    )
    threads: int = option(0, "number of compute threads on a CPU; 0: torch's default, one per core", minimum=0)
    compile: bool = option(True, "use torch.compile to compute the features of many images, if it works here")
    compile_training: bool = option(
        False, "use torch.compile for training, for GPUs waiting on small kernels; a resumed run may round differently"
    )


@dataclasses.dataclass(frozen=True)
class KaggleSettings(Section):
    """Time limits of calls to Kaggle, and the options of a Kaggle kernel. A run does not depend on it."""

    stall_seconds: float = option(120.0, "stop a call, download or upload without progress for this long", above=0)
    score_minutes: float = option(15.0, "how long `submit` waits for the score", minimum=0)
    accelerator: str = option("NvidiaTeslaT4", "kernel: Kaggle's name of the accelerator; empty: CPU only")
    internet: bool = option(False, "kernel: allow internet access; without it, attach pretrained weights")
    dataset_sources: tuple[str, ...] = option((), "kernel: datasets to attach: owner/name, or their addresses")
    model_sources: tuple[str, ...] = option((), "kernel: models to attach: owner/model/framework/variation/version")
    kernel_hours: float = option(12.0, "kernel: longest running time; its command waits as long", above=0, maximum=12)

    def problems(self) -> Iterator[str]:
        if wrong := [source for source in self.dataset_sources if not dataset_name(source)]:
            form = "owner/name, as in the dataset's address: https://www.kaggle.com/datasets/owner/name"
            data = " The data of competition.slug itself are always attached." if "/c" in "".join(wrong) else ""
            yield f"kaggle.dataset_sources holds {few(wrong)}; each must be {form}.{data}"
        if wrong := [source for source in self.model_sources if not model_name(source)]:
            form = "owner/model/framework/variation/version, such as google/efficientnet/pyTorch/b0/1"
            yield f"kaggle.model_sources holds {few(wrong)}; each must be {form}."


@dataclasses.dataclass(frozen=True)
class AuditSettings(Section):
    """Which images `audit` counts as near duplicates. A run does not depend on it."""

    distance: int = option(56, "largest number of different bits of two hashes, of 255", minimum=0, maximum=100)
    correlation: float = option(0.85, "least correlation of luminance at 32 x 32 pixels", minimum=0, maximum=1)


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of one competition and recipe."""

    name: str
    recipe: str = DEFAULT_RECIPE
    competition: CompetitionSettings = CompetitionSettings()
    data: DataSettings = DataSettings()
    split: SplitSettings = SplitSettings()
    input: InputSettings = InputSettings()
    augment: AugmentSettings = AugmentSettings()
    model: ModelSettings = ModelSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    features: FeaturesSettings = FeaturesSettings()
    train: TrainSettings = TrainSettings()
    predict: PredictSettings = PredictSettings()
    hardware: HardwareSettings = HardwareSettings()
    kaggle: KaggleSettings = KaggleSettings()
    audit: AuditSettings = AuditSettings()

    @property
    def tuning(self) -> FinetuneSettings:
        """The [finetune] that applies: its defaults if the weights are random."""
        return self.finetune if self.model.pretrained else FinetuneSettings()

    @property
    def trains_on_cache(self) -> bool:
        """Whether only the head is trained, on cached features."""
        return self.tuning.frozen_stages == -1 and self.features.cached


SECTIONS: dict[str, type] = {
    field.name: type(field.default) for field in dataclasses.fields(Settings) if isinstance(field.default, Section)
}
SHARED_BY_RECIPES = ("competition", "data", "split")
OUTSIDE_A_RUN = ("predict", "hardware", "kaggle", "audit")
# [input] where no pretrained weights give values
PLAIN_INPUT: dict[str, Any] = {"size": 32, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
