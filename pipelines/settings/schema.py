"""The settings of a competition: frozen dataclasses, one for each section of its TOML."""

import dataclasses
from typing import Any, Literal

DEFAULT_RECIPE = "default"


def _option(default: Any, help: str, **bounds: float) -> Any:
    """A dataclass field with its line of help and, for numbers, `minimum`, `maximum`, `above` or `below`."""
    return dataclasses.field(default=default, metadata={"help": help, **bounds})


@dataclasses.dataclass(frozen=True)
class CompetitionSettings:
    """What is being competed in."""

    title: str = _option("", "the competition's name, for people")
    slug: str = _option("", "its name in Kaggle's addresses; empty: the TOML's own name")
    source: Literal["kaggle", "address", "digits"] = _option(
        "kaggle", "where its data are; address: elsewhere, so `download` takes an archive; digits: bundled with us"
    )
    address: str = _option("", "source = address: where its archive is found, for people")
    metric: Literal["accuracy", "log_loss", "f1_macro", "f1_micro"] = _option("accuracy", "what Kaggle scores by")
    submission: Literal["labels", "probabilities"] = _option(
        "labels", "a label, or a probability per class, for each id"
    )


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Where things lie inside the raw folder."""

    labels: str = _option("", "CSV of the labelled images; empty: one folder per class inside train_images")
    id_column: str = _option("", "its column of image ids; empty: the first")
    label_column: str = _option("", "its column of labels; empty: the second")
    train_images: str = _option("train", "folder of the labelled images")
    test_images: str = _option("test", "folder of the test images")
    test_table: str = _option(
        "", "CSV that lists the test ids; empty: those of sample_submission, or all of test_images"
    )
    sample_submission: str = _option("", "Kaggle's example of a submission; empty: there is none")


@dataclasses.dataclass(frozen=True)
class SplitSettings:
    """How labelled rows are divided into train and valid; the same for all recipes, so that their scores compare."""

    method: Literal["stratified", "equal-per-class"] = _option(
        "stratified", "each class in proportion, or (the textbook's) the same number of valid images from each class"
    )
    valid_ratio: float = _option(0.1, "share of the labelled rows that goes to valid", above=0, below=1)
    folds: int = _option(0, "number of folds; valid is then fold 0, and valid_ratio is not used; 0: none", minimum=0)
    group_column: str = _option("", "column of the labels CSV whose rows of one value never straddle train and valid")
    group_file: str = _option(
        "", "CSV of id,group below the working folder, such as `audit` writes, whose groups never straddle them either"
    )
    seed: int = _option(0, "another seed, another split", minimum=0)


@dataclasses.dataclass(frozen=True)
class InputSettings:
    """How an image becomes a tensor of 3 x size x size."""

    source: Literal["packed", "photos"] = _option(
        "packed", "packed: small images, decoded once into one array; photos: decoded anew for each epoch"
    )
    size: int = _option(
        0, "height and width in pixels that the network sees, 4 to 2048; 0: as its weights ask, or 32", minimum=0
    )
    resize: int = _option(
        0,
        "photos: shorter side before evaluation's centre crop; 0: as the weights ask, or 8/7 of size with crop_scale",
        minimum=0,
    )
    mean: tuple[float, ...] = _option(
        (), "subtracted from red, green and blue on a scale of 0 to 1; empty: as the weights ask, or 0.5"
    )
    std: tuple[float, ...] = _option((), "and divided by this; empty: as the weights ask, or 0.25")


@dataclasses.dataclass(frozen=True)
class AugmentSettings:
    """How training images are varied; nothing by default."""

    flip: bool = _option(False, "mirror half of the images, drawn anew in each epoch")
    alternating_flip: bool = _option(
        False, "mirror half of the images in the first epoch and the other half in the next, in turn (arXiv 2404.00498)"
    )
    translate: int = _option(0, "shift by up to this many pixels, borders reflected", minimum=0)
    resize: int = _option(0, "enlarge to this many pixels before the random crop; 0: not", minimum=0)
    crop_scale: tuple[float, ...] = _option((1.0, 1.0), "random resized crop: share of the area, least and most")
    crop_ratio: tuple[float, ...] = _option((1.0, 1.0), "random resized crop: width over height, least and most")
    colour_jitter: float = _option(
        0.0, "brightness, contrast and saturation times 1 - x to 1 + x", minimum=0, maximum=1
    )
    cutout: int = _option(0, "side in pixels of a square that is greyed out", minimum=0)
    mixup: float = _option(0.0, "alpha of mixup (arXiv 1710.09412); 0: off", minimum=0)
    cutmix: float = _option(0.0, "alpha of CutMix (arXiv 1905.04899); 0: off", minimum=0)
    sizes: tuple[int, ...] = _option(
        (),
        "progressive resizing: pixels to which images are reduced in each of as many equal parts of the epochs; the "
        "last is input.size; empty: always that",
        minimum=4,
    )


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Which network."""

    name: str = _option(
        "convnet",
        "convnet, resnet18-small (3x3 stem for small images), or a torchvision classifier; with weights also several "
        "side by side: resnet34+vgg16",
    )
    widths: tuple[int, ...] = _option((64, 128, 256), "convnet: channels of its blocks; each block halves the image")
    depth: tuple[int, ...] = _option(
        (2,), "convnet: convolutions in each block; a single number: in all of them", minimum=1
    )
    whitening: int = _option(
        0,
        "convnet: side of the patches that its first convolution whitens, by filters that are computed from the "
        "training images and do not learn (arXiv 2404.00498); 0: an ordinary one that learns",
        minimum=0,
        maximum=5,
    )
    identity_start: bool = _option(
        False, "convnet: convolutions hand through what they get, at first (Dirac initialisation)"
    )
    norm_scales: bool = _option(True, "convnet: norms learn a scale besides their bias")
    dropout: float = _option(0.0, "convnet and head: dropout before each linear layer", minimum=0, below=1)
    weights: str = _option(
        "",
        "pretrained weights: a torchvision name (IMAGENET1K_V1) or a file; one for all networks, or one+each; empty: "
        "fresh random weights",
    )
    weights_sha256: str = _option("", "what the weights file's SHA-256 must be; one+each; empty: anything")
    pretrained: bool = _option(
        True, "false: the same network and head from fresh random weights, for comparison; [finetune] is then void"
    )
    features: Literal["pooled", "logits", "both"] = _option(
        "pooled", "what the head sees of a pretrained network: what enters its last layer, what leaves it, or both"
    )
    hidden: tuple[int, ...] = _option((), "head: widths of its hidden layers; none: linear")
    label_map: str = _option(
        "",
        "start the head from the pretrained classifier's rows of the same labels: names, or a CSV of label,category "
        "where they differ; empty: from random weights",
    )


@dataclasses.dataclass(frozen=True)
class FinetuneSettings:
    """Which parts of a pretrained network learn, and how fast."""

    frozen_stages: int = _option(
        0, "stages, from the bottom, that stay as they are; -1: the whole network, only the head learns", minimum=-1
    )
    freeze_norms: bool = _option(False, "BatchNorm keeps its pretrained statistics, even where weights learn")
    head_epochs: int = _option(
        0,
        "first epochs, in which only the head learns; then frozen_stages holds, and the schedule begins anew",
        minimum=0,
    )
    head_lr: float = _option(0.0, "peak learning rate in those epochs; 0: train.lr", minimum=0)
    backbone_lr: float = _option(1.0, "learning rate of the pretrained part as a share of the head's", above=0)


@dataclasses.dataclass(frozen=True)
class FeaturesSettings:
    """How the features of a frozen network are kept.  A view is a fixed picture of an image."""

    cached: bool = _option(
        True, "compute each view's features once and keep them, unaugmented; false: anew in each epoch, augmented"
    )
    mirror: bool = _option(True, "views: each other view's mirror image too")
    crops: int = _option(0, "views: besides the centre, so many random crops (augment.crop_scale and ratio)", minimum=0)
    dtype: Literal["float16", "float32"] = _option("float16", "how features are stored")


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """How it learns.  Losses are means over images, so lr does not depend on the batch size's unit."""

    epochs: int = _option(10, "passes over the training images", minimum=1)
    batch_size: int = _option(256, "images in a step, at most", minimum=1)
    optimizer: Literal["sgd", "adam", "adamw", "muon"] = _option(
        "sgd", "torch's optimiser of that name; muon: of orthogonalised momentum, for networks that start fresh"
    )
    lr: float = _option(0.1, "peak learning rate for the mean loss", above=0)
    bias_lr: float = _option(0.0, "that of biases and norms; 0: lr", minimum=0)
    output_lr: float = _option(0.0, "that of the last layer's weights; 0: lr", minimum=0)
    momentum: float = _option(0.9, "of sgd and muon", minimum=0, below=1)
    nesterov: bool = _option(False, "Nesterov momentum for sgd; muon always has it")
    weight_decay: float = _option(
        0.0,
        "as torch's optimiser of that name applies it; muon: what a step at the peak rate takes off, as a share of "
        "the weights that it does not orthogonalise",
        minimum=0,
    )
    decay_norms_and_biases: bool = _option(True, "false: weight decay spares norms and biases")
    schedule: Literal["constant", "step", "multistep", "exponential", "cosine", "linear"] = _option(
        "constant", "how lr falls after the warm-up"
    )
    warmup_epochs: float = _option(0.0, "epochs in which lr rises from 0 to its peak", minimum=0)
    step_epochs: int = _option(1, "step: epochs between two falls", minimum=1)
    milestones: tuple[int, ...] = _option((), "multistep: the epochs after which lr falls")
    gamma: float = _option(
        0.1, "step, multistep, exponential: lr is multiplied by this at each fall", above=0, maximum=1
    )
    clip_norm: float = _option(0.0, "largest norm of the gradient; 0: no clipping", minimum=0)
    label_smoothing: float = _option(0.0, "share of the target spread over all classes", minimum=0, below=1)
    ema_decay: float = _option(
        0.0, "decay per step of the averaged weights that are validated and kept; 0: off", minimum=0, below=1
    )
    patience: int = _option(0, "stop after this many epochs without a better score; 0: never", minimum=0)
    limit: int = _option(0, "use only the first n rows of the labels CSV; 0: all", minimum=0)
    fold: int = _option(0, "the fold that validates, where the split has folds", minimum=0)
    seed: int = _option(0, "of weights, shuffling and augmentation", minimum=0)


@dataclasses.dataclass(frozen=True)
class PredictSettings:
    """How test images are predicted.  Not part of a run's identity: a run can be predicted in several ways."""

    checkpoint: Literal["final", "best"] = _option(
        "final", "final: retrained on all labelled rows; best: by validation"
    )
    mirror: bool = _option(
        False, "test-time augmentation: average over each image and its mirror (cached features: over their views)"
    )
    shift: int = _option(0, "test-time augmentation: average over shifts by this many pixels; 0: none", minimum=0)
    batch_size: int = _option(128, "images in a step", minimum=1)
    calibrate: bool = _option(True, "log_loss: fit a temperature (arXiv 1706.04599) on the valid rows")


@dataclasses.dataclass(frozen=True)
class HardwareSettings:
    """What it runs on.  Not part of a run's identity."""

    device: str = _option("auto", "auto: cuda, else cpu; or any torch device name, such as cuda:1 or mps")
    precision: Literal["auto", "float32", "bfloat16"] = _option(
        "auto", "auto: bfloat16 where the hardware multiplies it fast, on processors tried before a longer training"
    )
    workers: int = _option(2, "processes that decode photos; 0: in the main process", minimum=0)
    cache_by: Literal["time", "bytes"] = _option(
        "time",
        "what tells that packed images must be decoded again; time: size and modification time of a file; bytes: its "
        "content, read again only where size or time changed, so that a copied data set is not decoded again",
    )
    threads: int = _option(0, "threads that compute on a processor; 0: one for each core, as torch chooses", minimum=0)
    compile: bool = _option(True, "compile frozen networks for large image sets, where torch.compile works")
    compile_training: bool = _option(
        False,
        "compile the network for training too: for GPUs that wait for small kernels; processors gain nothing. "
        "A run that is resumed may round otherwise than one that was not",
    )


@dataclasses.dataclass(frozen=True)
class KaggleSettings:
    """How Kaggle is talked to, and what a kernel there is given.  Not part of a run's identity."""

    stall_seconds: float = _option(
        120.0, "give up a call, a download or an upload in which nothing has moved for so long", above=0
    )
    score_minutes: float = _option(15.0, "how long `submit` waits for the score", minimum=0)
    accelerator: str = _option("NvidiaTeslaT4", "kernel: the machine shape that Kaggle lends; empty: a processor only")
    internet: bool = _option(False, "kernel: may use the internet; without it, attach pretrained weights")
    dataset_sources: tuple[str, ...] = _option((), "kernel: datasets to attach, each as owner/name")
    model_sources: tuple[str, ...] = _option(
        (), "kernel: models to attach, each as owner/model/framework/variation/version"
    )
    kernel_hours: float = _option(12.0, "kernel: how long it may run and is waited for", above=0, maximum=12)


@dataclasses.dataclass(frozen=True)
class AuditSettings:
    """What `audit` takes for duplicates.  Not part of a run's identity."""

    distance: int = _option(
        56, "most signs, of 255, in which the hashes of near duplicates differ", minimum=0, maximum=100
    )
    correlation: float = _option(0.85, "least correlation of their luminance, at 32 x 32 pixels", minimum=0, maximum=1)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that is set for one competition and recipe."""

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
        """[finetune] as it applies: there is nothing to spare in fresh weights."""
        return self.finetune if self.model.pretrained else FinetuneSettings()

    @property
    def trains_on_cache(self) -> bool:
        """Whether only the head is trained, on cached features."""
        return self.tuning.frozen_stages == -1 and self.features.cached


SECTIONS: dict[str, type] = {
    field.name: type(field.default) for field in dataclasses.fields(Settings) if dataclasses.is_dataclass(field.default)
}


SHARED_BY_RECIPES = ("competition", "data", "split")


OUTSIDE_A_RUN = ("predict", "hardware", "kaggle", "audit")


PLAIN_INPUT: dict[str, Any] = {
    "size": 32,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
}  # where no pretrained weights ask
