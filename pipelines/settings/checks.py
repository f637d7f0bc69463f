"""Checks of settings across sections; the checks of a single section are its `problems`."""

from collections.abc import Iterator, Sequence
from itertools import chain

from pipelines.settings.choices import choice_problems
from pipelines.settings.detectors import parts_of
from pipelines.settings.metrics import BOXES, NUMBERS, ONE_CLASS, SEVERAL_LABELS
from pipelines.settings.schema import PLAIN_INPUT, SECTIONS, Settings
from pipelines.system.errors import UserError

MOST_PROBLEMS = 8  # in one message
LOSSES = {  # the values of train.loss besides auto, for each value of competition.task
    ONE_CLASS: ("cross_entropy", "focal"),
    SEVERAL_LABELS: ("binary", "focal", "asymmetric"),
    NUMBERS: ("squared", "absolute", "huber", "ordinal"),
    BOXES: (),  # the detector's own
}


def check_together(settings: Settings, where: str) -> None:
    """Raise `UserError`, naming `where`, if values contradict each other, within a section or across sections."""
    within = (getattr(settings, section).problems() for section in SECTIONS)
    across = (
        choice_problems(settings),
        _image_problems(settings),
        _box_problems(settings),
        _finetuning_problems(settings),
        _fold_problems(settings),
        _group_problems(settings),
        _loss_problems(settings),
    )
    if problems := list(chain(*within, *across)):
        raise mistakes(where, problems)


def mistakes(where: str, problems: Sequence[str]) -> UserError:
    """Return the error that lists `problems` of the settings that come from `where`, up to a bound."""
    if len(problems) == 1:
        return UserError(f"{where}: {problems[0]}")
    more = [f"and {len(problems) - MOST_PROBLEMS} more."] if len(problems) > MOST_PROBLEMS else []
    return UserError("\n  ".join([f"{where} has {len(problems)} mistakes:", *problems[:MOST_PROBLEMS], *more]))


def no_effect(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the key of each setting of [train] that the number of epochs leaves without its effect, and a message."""
    train, head = settings.train, settings.tuning.head_epochs
    lengths = [(train.epochs - head, "train.epochs" + " less finetune.head_epochs" * bool(head))]
    lengths += [(head, "finetune.head_epochs")] if head else []
    for epochs, name in lengths:  # each phase has a warm-up
        if train.warmup_epochs > epochs:
            yield (
                "train.warmup_epochs",
                f"train.warmup_epochs is {train.warmup_epochs:g}, longer than {name}, {epochs}: the learning rate "
                "never reaches train.lr. Set a lower train.warmup_epochs (0: none), or more epochs.",
            )
            break
    last = lengths[0][0]
    if train.schedule == "multistep" and (late := [each for each in train.milestones if not 0 < each < last]):
        yield (
            "train.milestones",
            f"train.milestones has {', '.join(map(str, late))}; a milestone must be at least 1 and less than "
            f"{lengths[0][1]}, {last}, to reduce the learning rate.",
        )
    if train.schedule == "step" and train.step_epochs >= last:
        yield (
            "train.step_epochs",
            f"train.step_epochs is {train.step_epochs}; it must be less than {lengths[0][1]}, {last}, to reduce the "
            'learning rate. Or set train.schedule = "constant".',
        )


def _image_problems(settings: Settings) -> Iterator[str]:
    channels, files = settings.input.channels, settings.data.channel_files
    if files and len(files) != channels:
        yield (
            f"data.channel_files has {len(files)} endings, one per channel, but input.channels is {channels}; set "
            f"input.channels = {len(files)}."
        )
    if settings.augment.colour_jitter and channels != 3:
        yield f"augment.colour_jitter changes colours, but input.channels is {channels}; set it to 0."
    size = settings.input.size or PLAIN_INPUT["size"]
    if not settings.input.size and settings.model.weights:  # the size is known once the weights are
        return
    for key, pixels in (("augment.cutout", settings.augment.cutout), ("predict.shift", settings.predict.shift)):
        if pixels >= size:
            yield f"{key} is {pixels}; it must be less than input.size, {size}."
    sizes = settings.augment.sizes
    if sizes and not sizes[-1] == size == max(sizes):
        yield f"augment.sizes is {list(sizes)}; the last size must be input.size, {size}, and no size may exceed it."
    if 0 < settings.input.resize < size:
        yield f"input.resize is {settings.input.resize}; it must be 0 or at least input.size, {size}."


def _box_problems(settings: Settings) -> Iterator[str]:
    data, (detector, backbone) = settings.data, parts_of(settings.model.name)
    if settings.competition.task != BOXES:
        if detector:
            yield (
                f"model.name is {settings.model.name!r}, a detector, and competition.task is "
                f"{settings.competition.task!r}: name a classifier, such as {backbone}."
            )
        return
    if settings.input.source != "packed":
        yield f'input.source is {settings.input.source!r}, but boxes need all of an image: input.source = "packed".'
    if data.label_column and "label" in data.box_form.split():
        yield "data.label_column is set, and data.box_form has the word label; keep one of the two."
    if settings.finetune.frozen_stages == -1 and settings.features.cached:
        yield (
            "finetune.frozen_stages is -1, but competition.task is boxes, which has no features to cache: set "
            "features.cached = false, or a number of stages."
        )


def _finetuning_problems(settings: Settings) -> Iterator[str]:
    model, finetune, augment, epochs = settings.model, settings.finetune, settings.augment, settings.train.epochs
    if settings.train.optimizer == "muon" and model.weights and model.pretrained:
        yield "train.optimizer is muon, which rescales weights and would spoil pretrained ones: choose sgd or adamw."
    if settings.train.optimizer == "lbfgs" and (needed := _missing_for_lbfgs(settings)):
        yield (
            "train.optimizer is lbfgs, which solves for a linear head on the cached features of a frozen network: set "
            f"{', '.join(needed)}; or choose adamw."
        )
    for key in ("frozen_stages", "head_epochs", "freeze_norms"):
        if (value := getattr(finetune, key)) and not model.weights:
            yield f"finetune.{key} is {value!r}, which needs a pretrained network: set model.weights."
    head_is_cached = model.pretrained and finetune.frozen_stages == -1 and settings.features.cached
    if head_is_cached and (augment.mixup or augment.cutmix):
        yield "augment.mixup and augment.cutmix cannot mix cached features: set both to 0, or features.cached = false."
    if finetune.head_epochs and finetune.head_epochs >= epochs:
        yield f"finetune.head_epochs is {finetune.head_epochs}; it must be less than train.epochs, {epochs}."


def _missing_for_lbfgs(settings: Settings) -> list[str]:
    """Return the settings that lbfgs needs, of those that have other values."""
    model, train = settings.model, settings.train
    needed = {
        "model.weights (a file or IMAGENET1K_V1)": bool(model.weights),
        "model.pretrained = true": model.pretrained,
        "model.hidden = []": not model.hidden,
        "model.dropout = 0": not model.dropout,
        'model.features = "stages" or "pooled"': model.features in ("stages", "pooled"),
        'model.label_map = ""': not model.label_map,
        "finetune.frozen_stages = -1": settings.finetune.frozen_stages == -1,
        "features.cached = true": settings.features.cached,
        "train.ema_decay = 0": not train.ema_decay,
        "train.lr = 1 (where each line search starts)": train.lr == 1,
    }
    return [text for text, given in needed.items() if not given]


def _group_problems(settings: Settings) -> Iterator[str]:
    if settings.split.group_file and "(?P<group>" in settings.data.label_pattern:
        yield "split.group_file is set, and data.label_pattern has a group named group; choose one of the two."


def _fold_problems(settings: Settings) -> Iterator[str]:
    folds, fold = settings.split.folds, settings.train.fold
    if fold >= max(1, folds):
        known = f"folds 0 to {folds - 1}" if folds else "no folds (split.folds is 0)"
        yield f"train.fold is {fold}, but the split has {known}."


def _loss_problems(settings: Settings) -> Iterator[str]:
    task, train, grades = settings.competition.task, settings.train, settings.competition.grades
    known = ("auto", *LOSSES[task])
    if train.loss not in known:
        yield (
            f"train.loss is {train.loss}, but competition.task is {task}, which takes {', '.join(known)}. "
            'Set train.loss = "auto", or correct competition.task.'
        )
    if train.loss == "ordinal" and not grades:
        yield "train.loss is ordinal, but competition.grades is empty; list all grades, as [0, 1, 2, 3, 4]."
    if task != NUMBERS:
        return
    if train.class_weights:
        yield "train.class_weights are for classes and labels, but competition.task is numbers: set it to []."
    if train.label_smoothing and train.loss != "ordinal":
        yield (
            f"train.label_smoothing is {train.label_smoothing:g}, but competition.task is numbers, which only "
            'train.loss = "ordinal" smooths: set train.label_smoothing = 0.'
        )
    if settings.model.label_map:
        yield (
            f"model.label_map is {settings.model.label_map!r}, but competition.task is numbers, which have no category "
            'of the same name: set model.label_map = "".'
        )
