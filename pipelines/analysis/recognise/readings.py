"""What targets and sample submission can mean together, and which of these readings the metric fits."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.analysis.recognise.answers import Answer
from pipelines.analysis.recognise.targets import Target
from pipelines.dataset.image_paths import file_name
from pipelines.dataset.tables import NUMBER
from pipelines.settings.kaggle_names import metric_of_kaggle_name
from pipelines.settings.metrics import BOXES, METRICS, NUMBERS, ONE_CLASS, SEVERAL_LABELS
from pipelines.system.errors import UserError, few

MOST_GRADES = (
    20  # different whole numbers that may be classes or grades; more are quantities, if there are few rows each
)
QUANTITY = re.compile(
    r"(^|[^a-z])(age|counts?|score|price|weight|height|width|length|area|size|volume|depth|rating|angle|"
    r"temperature|popularity|probability|density|biomass|yield|percent\w*|ratio|mean|total|distance)([^a-z]|$)|"
    r"ularity$",
    re.IGNORECASE,
)
IDENTITY = re.compile(r"id$|class|categor|label|species|breed|type|kind|group", re.IGNORECASE)
POSITIVE = ("1", "1.0", "true", "yes", "y", "t", "positive", "pos", "malignant", "abnormal", "present", "sick")
PLAIN = re.compile(r"label|target|class|predict|prob|score|pred|answer|value|expected|categor|id$", re.IGNORECASE)
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True)
class Reading:
    """A task and a submission that fit the data; metric: the usual one of this form; more: further settings."""

    task: str
    submission: str
    metric: str
    why: str
    more: dict[str, Any] = field(default_factory=dict)


def readings(target: Target, answer: Answer) -> list[Reading]:
    """Return the readings that the data allow, the safest first. Raises `UserError` if there is none."""
    if target.kind == "boxes":
        return [Reading(BOXES, "boxes", "box_map_at", f"boxes of {len(target.labels):,} classes")]
    if target.kind == "numbers":
        several = len(target.columns) > 1
        metric = "mean_column_rmse" if several else "rmse"
        return [Reading(NUMBERS, "numbers", metric, f"{len(target.columns)} columns of numbers")]
    if target.kind == "one_hot":
        why = f"{len(target.labels)} columns, and exactly one of them is 1 in each row"
        free = Reading(SEVERAL_LABELS, "probabilities", "auc_columns", why)
        return [*_of_classes(target, answer, why), *([free] if len(answer.columns) > 1 else [])]
    if target.kind in ("sets", "flags"):
        return _of_sets(target, answer)
    return _of_classes(target, answer, f"{len(target.labels):,} different values")


def _of_sets(target: Target, answer: Answer) -> list[Reading]:
    what = f"cells hold several labels, separated by {target.separator!r}"
    if not target.separator:
        what = "images have several rows with a label each"
    if target.kind == "flags":
        what = f"{len(target.labels)} columns of 0 and 1, with several ones or none in some rows"
    columns = Reading(SEVERAL_LABELS, "probabilities", "auc_columns", what)
    lists = Reading(SEVERAL_LABELS, "label_lists", "fbeta_samples", what)
    best = Reading(SEVERAL_LABELS, "best_labels", "map_at_k", what, _guesses(target, answer))
    if len(answer.columns) > 1 or (target.kind == "flags" and not answer.columns):
        return [columns]
    return [lists, best, *([] if answer.columns else [columns])]


def _guesses(target: Target, answer: Answer) -> dict[str, Any]:
    number = answer.guesses(target.labels)
    return {"guesses": number} if number > 1 else {}


def _of_classes(target: Target, answer: Answer, why: str) -> list[Reading]:
    labels = target.labels
    numeric = all(NUMBER.fullmatch(label) for label in labels)
    numbers = Reading(NUMBERS, "numbers", "rmse", f"{why}, all numbers")
    sent = Reading(ONE_CLASS, "labels", "accuracy", f"one label per image, {why}")
    each = Reading(ONE_CLASS, "probabilities", "log_loss", f"one label per image, {why}")
    best = Reading(ONE_CLASS, "best_labels", "map_at_k", f"one label per image, {why}", _guesses(target, answer))
    one = Reading(ONE_CLASS, "probability", "auc", f"one of two labels per image: {few(labels)}")
    if len(answer.columns) > 1:
        return [each]
    if answer.guesses(labels) > 1:
        return [best]
    if len(labels) == 2:
        certain = answer.has_fractions or (answer.is_decimal and not set(answer.filled) <= set(labels))
        rest = [numbers] if numeric else []
        if not answer.columns:
            return [sent, one, each, *rest]
        return [one, *rest] if certain else [sent, one, *rest]
    if numeric and is_quantity(target, answer):
        return [numbers, *([] if answer.is_decimal else [sent])]
    if answer.is_decimal and not set(answer.filled) <= set(labels):
        raise UserError(_one_number(target, answer))
    if not answer.columns:
        return [sent, each, best, *([numbers] if numeric else [])]
    return [sent, best, *([numbers] if numeric else [])]


def _one_number(target: Target, answer: Answer) -> str:
    """Return the message about one number per image for more than two classes, with the settings that may be meant."""
    labels = target.labels
    message = (
        f"The sample submission has numbers with decimals in {few(answer.columns)}, such as {few(answer.filled)}, "
        f"but the labels are {len(labels)} classes: {few(labels, 5)}. What the number says of them is not known."
    )
    if target.where != "folders" or target.level != 1:
        return f"{message} If it is the probability of some of them, write a CSV whose label is 1 for these, else 0."
    folders = ", ".join(f'"{label}={int(label != labels[0])}"' for label in labels[:MOST_GRADES])
    return (
        f"{message} If it is the probability of some of them, write the TOML yourself (docs/competitions.md). If "
        f'{labels[0]!r} is the other class:\n  [competition]\n  metric = "auc"\n  submission = "probability"\n  '
        f'positive = "1"\n  [data]\n  train_images = "{target.folder or "."}"\n  class_folders = [{folders}]'
        + '\n  label_pattern = "(?P<group>[^/]+)$"  # variants of an image stay together'
        * _repeats(target)
    )


def _repeats(target: Target) -> bool:
    """Return whether the names of images are the same in several class folders."""
    return 2 * len({file_name(image) for image in target.images}) <= len(target.images)


def is_quantity(target: Target, answer: Answer) -> bool:
    """Return whether numeric labels are quantities to estimate and not names of classes."""
    values = [float(label) for label in target.labels]
    names = [*target.columns, *answer.columns]
    if any(value % 1 for value in values) or answer.has_fractions:
        return True
    if answer.is_decimal and not set(answer.filled) <= set(target.labels):
        return True
    if len(values) > 2 and any(QUANTITY.search(CAMEL.sub(" ", name)) for name in names):
        return True
    return len(values) > MOST_GRADES and not (_are_ids(values) or any(IDENTITY.search(name) for name in names))


def _are_ids(values: Sequence[float]) -> bool:
    """Return whether numbers are those of a list of classes: from 0 or 1, without a gap; or long numbers."""
    return (max(values) - min(values) + 1 == len(values) and min(values) in (0, 1)) or min(values) >= 10_000


def positive_of(target: Target, answer: Answer) -> tuple[str, str]:
    """Return the class whose probability is sent, and why; `a guess` in it if the data do not say."""
    labels = target.labels
    names = {label.casefold(): label for label in labels}
    words = [word.casefold() for column in answer.columns for word in re.split(r"[\W_]+", CAMEL.sub(" ", column))]
    if len(named := [names[word] for word in names if word in words and re.search(r"[^\W\d]", word)]) == 1:
        return named[0], "the sample's column is named after it"
    if yes := next((names[word] for word in POSITIVE if word in names), None):
        if NUMBER.fullmatch(yes) and (doubt := _doubt_of_numbers(target, answer)):
            return doubt
        return yes, "such a value means yes"
    wanted = " ".join(answer.columns).casefold()
    if len(found := [label for label in labels if label.casefold() in wanted]) == 1:
        return found[0], "the sample's column is named after it"
    first, last = (labels[1], labels[0]) if labels[0].casefold() == "fake" else labels  # the forgeries count
    return last, f"a guess: the data do not say whether {last!r} or {first!r} is meant"


def _doubt_of_numbers(target: Target, answer: Answer) -> tuple[str, str] | None:
    """Return the class of two numbers that is probably sent, and why that is a guess; None if 1 beside 0 is sure."""
    least, most = sorted(target.labels, key=float)
    if float(least) > 0:
        return most, f"a guess: the data do not say whether {most!r} or {least!r} is meant"
    for wanted, own in zip(answer.columns, target.columns, strict=False):
        if wanted.casefold() != own.casefold() and not PLAIN.search(wanted):
            return most, f"a guess: the sample's column is {wanted!r}, that of the labels {own!r}"
    return None


# Words in the names of metrics, and the metrics they may mean; the first that fits the data is taken.
FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"kappa", ("quadratic_kappa",)),
    (r"balanced", ("balanced_accuracy",)),
    (r"weighted.*(auc|roc)", ("auc_weighted",)),
    (r"partial|pauc|auc above", ("auc_partial",)),
    (r"\biou\b|intersection|pascal|coco", ("box_map_at", "box_map", "box_precision")),
    (r"map ?@|@|mean average precision", ("map_at_k", "box_map_at", "average_precision_columns", "average_precision")),
    (r"average precision|precision.recall", ("average_precision", "average_precision_columns")),
    (r"auc|roc|receiver|area under", ("auc", "auc_columns")),
    (r"log.?loss|logarithmic loss|cross.?entropy", ("log_loss_binary", "log_loss", "log_loss_columns")),
    (r"\bf.?(\d|beta|score|measure).*micro|micro.*\bf", ("f1_micro", "fbeta_micro")),
    (r"\bf.?(\d|beta|score|measure).*macro|macro.*\bf", ("f1_macro", "fbeta_macro")),
    (r"\bf.?(\d|beta|score|measure)", ("fbeta_samples", "f1_macro", "fbeta_macro")),
    (r"top.?\d|top.?k", ("top_k_error",)),
    (r"rmsle|squared? log", ("rmsle",)),
    (r"mcrmse|column.*(rmse|squared)", ("mean_column_rmse",)),
    (r"rmse|root mean", ("rmse",)),
    (r"\bmae\b|mean absolute", ("mae",)),
    (r"\br.?2\b|r.squared|determination", ("r2",)),
    (r"pearson", ("pearson",)),
    (r"spearman", ("spearman",)),
    (r"accuracy|categori[sz]ation", ("accuracy",)),
)


def metrics_named(text: str) -> list[str]:
    """Return the metrics that `text`, our name or Kaggle's words, may mean; the likeliest first."""
    name = text.strip().casefold()
    if name in METRICS:
        return [name]
    plain = " ".join(re.sub(r"[_{}()-]+", " ", name).split())
    exact = metric_of_kaggle_name(text)
    if not re.search("micro|macro", plain):  # most competitions of label lists take the mean over the images
        exact.sort(key=lambda metric: metric != "fbeta_samples")
    if "weighted" in plain and not re.search("kappa|auc|roc", plain):  # by weights that are not known
        return exact
    wide = next((metrics for pattern, metrics in FAMILIES if re.search(pattern, plain)), ())
    return list(dict.fromkeys([*exact, *wide]))


def choose(possible: Sequence[Reading], metrics: Sequence[str]) -> tuple[Reading, str] | None:
    """Return the first of the `possible` readings that one of the `metrics` scores, with this metric."""
    for metric in metrics:
        facts = METRICS[metric]
        fitting = [each for each in possible if each.task in facts.tasks and each.submission in facts.sends]
        # grades are ordered, and cut points between numbers use that
        fitting.sort(key=lambda each: metric == "quadratic_kappa" and each.task != NUMBERS)
        if fitting:
            return fitting[0], metric
    return None
