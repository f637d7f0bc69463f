"""A competition's settings: TOML in, frozen dataclasses out, every mistake named.

The defaults live here, in the dataclasses; a TOML states only what differs, and so does each of its recipes
(`[recipes.<name>]`).  An override (`train.epochs=5`) has the last word.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pipelines.core.errors import UserError, did_you_mean, shown

COMPETITIONS = Path(__file__).parent.parent / "competitions"
DEFAULT_RECIPE = "default"
LARGEST_WHOLE_NUMBER = 2**63 - 1  # of TOML; torch takes no larger seed
LONGEST_NAME = 255  # bytes, of all common file systems
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")


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


def _fields(section: type) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(section)}


def load_settings(
    competition: str, recipe: str = DEFAULT_RECIPE, overrides: Sequence[str] = (), folder: Path = COMPETITIONS
) -> Settings:
    """Return the settings of `competition`: a name in `folder`, or the path of a TOML anywhere.

    Raises `UserError` for an unknown competition, recipe, section or key (with the near ones) and for a value of the
    wrong type or out of range.
    """
    path = find_competition(competition, folder)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid TOML: {_reason(error)}.") from None
    recipes = content.pop("recipes", {})
    if not isinstance(recipes, dict) or not all(isinstance(value, dict) for value in recipes.values()):
        raise UserError(f"{path}: recipes are tables, written [recipes.<name>].")
    settings = merge(Settings(name=path.stem, recipe=recipe), content, str(path))
    for name, changes in recipes.items():  # all of them, so that a mistake shows before its recipe is wanted
        where = f"{path}, recipe {name!r}"
        if not _is_plain_name(name):
            raise UserError(
                f"{where}: a recipe names a folder of runs, so it is not empty nor overlong, and has no slashes, no "
                "control characters and no leading dot."
            )
        if name == DEFAULT_RECIPE:
            raise UserError(f"{where}: the recipe of that name is what stands outside all recipes; rename this one.")
        if fixed := [section for section in SHARED_BY_RECIPES if section in changes]:
            raise UserError(f"{where}: [{fixed[0]}] is the same for all recipes; move it out of the recipe.")
        changed = merge(settings, changes, where)
        if name == recipe:
            chosen = changed
    if recipe == DEFAULT_RECIPE:
        chosen = settings
    elif recipe not in recipes:
        known = [DEFAULT_RECIPE, *recipes]
        raise UserError(
            f"{path.stem} has no recipe {recipe!r}.{did_you_mean(recipe, known)} It has: {', '.join(known)}."
        )
    chosen = merge(chosen, parse_overrides(overrides), "--set")
    if not chosen.competition.slug:
        chosen = merge(chosen, {"competition": {"slug": path.stem}}, str(path))
    return chosen if chosen.model.weights else with_input(chosen, **PLAIN_INPUT)


def with_input(settings: Settings, **values: Any) -> Settings:
    """Return `settings` with those `values` of [input] that are still to be chosen (0 or empty)."""
    chosen = {key: value for key, value in values.items() if not getattr(settings.input, key)}
    return merge(settings, {"input": chosen}, "input")


def find_competition(competition: str, folder: Path = COMPETITIONS) -> Path:
    """Return the TOML of a competition given by name or by path.  Raises `UserError` when there is none."""
    path = Path(competition) if competition.endswith(".toml") else folder / f"{competition}.toml"
    if not _hinders_a_path(competition) and path.is_file():
        return path
    if competition.endswith(".toml"):
        raise UserError(
            f"There is no file {shown(competition)}. A competition is the name of one, or the path of its TOML."
        )
    known = sorted(file.stem for file in folder.glob("*.toml"))
    raise UserError(
        f"There is no competition {competition!r}.{did_you_mean(competition, known)} There are: {', '.join(known)}. "
        f"To add one, write {folder / shown(competition)}.toml (README: Adding a competition)."
    )


def parse_overrides(overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Turn `["train.epochs=5", …]` into `{"train": {"epochs": 5}, …}`; a value that is not TOML is taken as text."""
    parsed: dict[str, dict[str, Any]] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        section, dot, name = key.strip().partition(".")
        if not (equals and dot):
            raise UserError(
                f"--set {override!r} is not of the form section.key=value, such as train.epochs=5; a list has no "
                "spaces: augment.crop_scale=[0.5,1.0]."
            )
        try:
            content = tomllib.loads(f"value = {text}")
        except tomllib.TOMLDecodeError:
            content = {}
        except (ValueError, RecursionError) as error:
            raise UserError(f"--set {key.strip()}: {_reason(error)}.") from None
        value = content["value"] if len(content) == 1 else text  # text of several lines may be several keys
        parsed.setdefault(section, {})[name] = value
    return parsed


def merge(settings: Settings, changes: Mapping[str, Any], where: str) -> Settings:
    """Return `settings` with `changes` (`{section: {key: value}}`) applied; `where` names their origin in errors."""
    sections: dict[str, Any] = {}
    for name, values in changes.items():
        if name not in SECTIONS:
            raise UserError(
                f"{where}: unknown section [{shown(name)}].{did_you_mean(name, SECTIONS)} Valid: {', '.join(SECTIONS)}."
            )
        if not isinstance(values, Mapping):
            raise UserError(
                f"{where}: [{name}] is a section of keys, not a value; write [{name}] and its keys below it."
            )
        types_of = get_type_hints(SECTIONS[name])
        checked: dict[str, Any] = {}
        for key, value in values.items():
            if key not in types_of:
                raise UserError(
                    f"{where}: unknown key {name}.{shown(key)}.{did_you_mean(key, types_of)} "
                    f"Valid: {', '.join(types_of)}."
                )
            field = _fields(SECTIONS[name])[key]
            checked[key] = _checked(value, types_of[key], field.metadata, f"{where}: {name}.{key}")
        sections[name] = dataclasses.replace(getattr(settings, name), **checked)
    merged = dataclasses.replace(settings, **sections)
    _check_together(merged, where)
    return merged


def _checked(value: Any, expected: Any, bounds: Mapping[str, Any], key: str) -> Any:
    """Return `value` as the type `expected`, or raise a `UserError` that names `key` and what was expected."""
    if get_origin(expected) is Literal:
        if value not in get_args(expected):
            choices = [str(choice) for choice in get_args(expected)]
            raise UserError(f"{key} is {value!r}.{did_you_mean(str(value), choices)} Valid: {', '.join(choices)}.")
        return value
    if get_origin(expected) is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise UserError(f"{key} is {value!r}; expected a list of {get_args(expected)[0].__name__}, such as [1, 2].")
        return tuple(_checked(item, get_args(expected)[0], bounds, key) for item in value)
    if type(value) is int and abs(value) > LARGEST_WHOLE_NUMBER:
        raise UserError(f"{key} is a number of {len(f'{abs(value):x}')} hexadecimal digits; at most 16 digits fit.")
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:  # not isinstance: True must not pass for the number 1
        raise UserError(f"{key} is {value!r}, a {type(value).__name__}; expected {_TYPE_NAMES[expected]}.")
    if expected in (int, float):
        if not math.isfinite(value):
            raise UserError(f"{key} is {value}; it must be a finite number.")
        rules = {
            "minimum": (lambda bound: value >= bound, "at least"),
            "maximum": (lambda bound: value <= bound, "at most"),
            "above": (lambda bound: value > bound, "more than"),
            "below": (lambda bound: value < bound, "less than"),
        }
        for rule, (holds, words) in rules.items():
            if rule in bounds and not holds(bounds[rule]):
                raise UserError(f"{key} is {value}; it must be {words} {bounds[rule]:g}.")
    if expected is str and CONTROL_CHARACTERS.search(value):
        raise UserError(f"{key} is {value!r}; it must be one line of text without control characters.")
    return value


def _reason(error: Exception) -> str:
    """Why tomllib could not read a text, which it also says by exceptions that are not its own."""
    if isinstance(error, RecursionError):
        return "its lists or tables are nested too deeply"
    if isinstance(error, (tomllib.TOMLDecodeError, UnicodeDecodeError)):
        return str(error)
    return "it holds a number of thousands of digits" if "digits" in str(error) else str(error)


def _hinders_a_path(text: str) -> str:
    """Return what prevents `text` from being the path of any file; empty when nothing does."""
    if CONTROL_CHARACTERS.search(text):
        return "it has control characters"
    if len(os.fsencode(text)) > 4000 or any(len(os.fsencode(part)) > LONGEST_NAME for part in text.split("/")):
        return f"a name in it is longer than {LONGEST_NAME} bytes"
    return ""


def _is_plain_name(text: str) -> bool:
    """Whether `text` can be the name of a file or folder, with room for what is put around it."""
    return Path(text).name == text != "" and not text.startswith(".") and not _hinders_a_path(text + "-" * 40)


_TYPE_NAMES: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes"}


def _check_together(settings: Settings, where: str) -> None:
    """Raise a `UserError` for values that are each valid but contradict one another, or name no place."""
    for key in ("labels", "train_images", "test_images", "test_table", "sample_submission"):
        place = getattr(settings.data, key)
        parts = Path(place).parts
        if hindrance := _hinders_a_path(place):
            raise UserError(f"{where}: data.{key} cannot be a path: {hindrance}.")
        if Path(place).is_absolute() or ".." in parts:
            raise UserError(f"{where}: data.{key} is {place!r}; it must be a path inside the raw folder.")
    for key in ("weights", "label_map"):
        if hindrance := _hinders_a_path(getattr(settings.model, key).replace("+", "/")):
            raise UserError(f"{where}: model.{key} cannot be a path: {hindrance}.")
    slug = settings.competition.slug
    if slug and not _is_plain_name(slug):
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


def run_name(recipe: str, overrides: Sequence[str]) -> str:
    """Return the name of the run that `recipe` and `overrides` lead to, the same each time.

    It is the recipe's own name, with a short hash behind it when overrides change what is trained.
    """
    changes = {k: v for k, v in parse_overrides(overrides).items() if k not in OUTSIDE_A_RUN}
    return recipe + _short_hash(changes)


def submission_name(run: str, overrides: Sequence[str]) -> str:
    """Return the name, without extension, of the submission of `run` under overrides of how to predict."""
    return run + _short_hash({k: v for k, v in parse_overrides(overrides).items() if k == "predict"})


def _short_hash(changes: Mapping[str, Any]) -> str:
    if not changes:
        return ""
    text = json.dumps(changes, sort_keys=True, default=str)  # str: a date is refused only when settings are loaded
    return "-" + hashlib.sha256(text.encode()).hexdigest()[:6]


def to_dict(settings: Settings) -> dict[str, Any]:
    """Return `settings` as plain values that JSON and checkpoints can hold."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def from_dict(values: Mapping[str, Any], where: str) -> Settings:
    """Return the settings that `to_dict` took apart; `where` names their origin in errors."""
    sections = {key: value for key, value in values.items() if key not in ("name", "recipe")}
    return merge(Settings(name=values["name"], recipe=values["recipe"]), sections, where)


def differences(ours: Settings, theirs: Settings, sections: Sequence[str]) -> list[str]:
    """Return a line `section.key: ours, theirs` for each key of `sections` in which the two differ."""
    lines = []
    for section in sections:
        for key in _fields(SECTIONS[section]):
            mine, other = getattr(getattr(ours, section), key), getattr(getattr(theirs, section), key)
            if mine != other:
                lines.append(f"{section}.{key}: {mine!r} now, {other!r} then")
    return lines


def describe() -> str:
    """Return all settings with their defaults and meaning, a line each, for `--help`."""
    lines = []
    for section, kind in SECTIONS.items():
        lines.append(f"[{section}]  {kind.__doc__.splitlines()[0]}")  # type: ignore[union-attr]
        for field in dataclasses.fields(kind):
            default = json.dumps(field.default)
            choices = get_type_hints(kind)[field.name]
            names = f" ({' | '.join(get_args(choices))})" if get_origin(choices) is Literal else ""
            lines.append(f"  {field.name} = {default}{names}: {field.metadata['help']}")
    return "\n".join(lines)
