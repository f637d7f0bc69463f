"""Which task, metric and submission fit together, and which options then have an effect."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipelines.settings.data_sections import CompetitionSettings
from pipelines.settings.metrics import BOXES, METRICS, NUMBERS, ONE_CLASS, SEVERAL_LABELS
from pipelines.settings.overrides import toml
from pipelines.settings.schema import Settings

SENT: dict[str, tuple[str, ...]] = {  # what each task can send
    ONE_CLASS: ("labels", "probabilities", "probability", "best_labels"),
    SEVERAL_LABELS: ("label_lists", "probabilities", "best_labels"),
    NUMBERS: ("numbers",),
    BOXES: ("boxes",),
}
USUAL = {  # the metric of a task and a submission, where nothing else is known
    (ONE_CLASS, "labels"): "accuracy",
    (ONE_CLASS, "probabilities"): "log_loss",
    (ONE_CLASS, "probability"): "auc",
    (ONE_CLASS, "best_labels"): "map_at_k",
    (SEVERAL_LABELS, "label_lists"): "fbeta_samples",
    (SEVERAL_LABELS, "probabilities"): "auc_columns",
    (SEVERAL_LABELS, "best_labels"): "map_at_k",
    (NUMBERS, "numbers"): "rmse",
    (BOXES, "boxes"): "box_map",
}
ID, TARGET = "{id}", "{target}"  # in competition.long_form
OF_BOXES = (
    *("competition.box_answer", "competition.no_boxes", "data.box_columns", "data.box_form", "data.box_units"),
    *("data.no_box_label", "model.anchor_sizes", "model.anchor_ratios", "augment.zoom_out"),
)
NOT_OF_BOXES = (
    *("augment.alternating_flip", "augment.translate", "augment.resize", "augment.cutout", "augment.mixup"),
    *("augment.cutmix", "augment.sizes", "model.features", "model.hidden", "model.label_map", "model.dropout"),
    *("finetune.head_epochs", "train.class_weights", "train.label_smoothing", "predict.shift", "train.search"),
    *("data.label_columns", "data.class_folders", "data.pixel_columns", "data.channel_files", "data.submitted_labels"),
    "hardware.compile_training",
)


def sends(metric: str) -> tuple[str, ...]:
    """Return the values of competition.submission that fit `metric`; probabilities also say which label is the best."""
    facts = METRICS[metric]
    return (*facts.sends, "probabilities") if facts.takes == "label" and ONE_CLASS in facts.tasks else facts.sends


def fits(metric: str, task: str, submission: str) -> bool:
    """Return whether `metric` scores `submission` for `task`."""
    return submission in SENT[task] and task in METRICS[metric].tasks and submission in sends(metric)


def metrics_of(task: str, submission: str) -> list[str]:
    """Return the metrics that fit, the usual one first."""
    usual = USUAL.get((task, submission), "")
    return sorted((name for name in METRICS if fits(name, task, submission)), key=lambda name: name != usual)


def by_ranks(competition: CompetitionSettings, classes: Sequence[str]) -> bool:
    """Return whether members are averaged by rank: for metrics of the order within a column, such as the AUC.

    Not where a row of more than two classes is sent: it is divided by its sum, which would change the order within
    each column.
    """
    rescaled = competition.task == ONE_CLASS and competition.submission == "probabilities" and len(classes) != 2
    return METRICS[competition.metric].order_only and not rescaled


def choice_problems(settings: Settings) -> Iterator[str]:
    """Yield a message for task, metric and submission that do not fit, and for each option without an effect."""
    competition = settings.competition
    task, submission, metric = competition.task, competition.submission, competition.metric
    if metric not in METRICS:  # a problem of the section
        return
    if submission not in SENT[task]:
        yield (
            f"competition.submission is {submission}, but task {task} sends {_either(SENT[task])}. Set "
            f'competition.submission = "{SENT[task][0]}"{_tasks_of(submission)}.'
        )
    elif not fits(metric, task, submission):
        yield _no_fit(competition)
    for key, (needed, applies) in effects(settings).items():
        section, _, name = key.partition(".")
        values = getattr(settings, section)
        if not applies and (value := getattr(values, name)) != getattr(type(values)(), name):
            yield f"{key} is {_text(value)}, which has no effect here: it is for {needed}. Remove it."
    yield from _form_problems(competition)


def _no_fit(competition: CompetitionSettings) -> str:
    """Return the message that the metric does not score what is sent, with what fits."""
    task, submission, metric = competition.task, competition.submission, competition.metric
    facts = METRICS[metric]
    ways = []
    if task in facts.tasks and (sent := [each for each in sends(metric) if each in SENT[task]]):
        ways.append(f'competition.submission = "{sent[0]}"')
    if submission in sends(metric):
        ways += [f'competition.task = "{each}"' for each in facts.tasks if submission in SENT[each]]
    ways.append(f"competition.metric to one that fits: {', '.join(metrics_of(task, submission))}")
    scored = f"{_either(sends(metric))} of task {_either(facts.tasks)}"
    return (
        f"competition.metric is {metric}, which scores {scored}; task is {task}, submission is {submission}. Set "
        f"{', or '.join(ways)}."
    )


def _tasks_of(submission: str) -> str:
    tasks = [task for task, sent in SENT.items() if submission in sent]
    return "".join(f', or competition.task = "{task}"' for task in tasks)


def _either(words: tuple[str, ...]) -> str:
    return " or ".join(dict.fromkeys(words))


def _text(value: Any) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)


def effects(settings: Settings) -> dict[str, tuple[str, bool]]:
    """Return {option: (what it is for, whether that is chosen)} of the options that only some choices use."""
    competition = settings.competition
    task, submission, metric = competition.task, competition.submission, competition.metric
    takes = METRICS[metric].takes
    several, boxes = task == SEVERAL_LABELS, task == BOXES
    return {
        "competition.guesses": (
            "submission best_labels and the metrics map_at_k and top_k_error",
            submission == "best_labels" or takes == "ranking",
        ),
        "competition.beta": ("the metrics fbeta_*", metric.startswith("fbeta_")),
        "competition.grades": (
            "the metric quadratic_kappa and train.loss ordinal",
            takes == "grades" or settings.train.loss == "ordinal",
        ),
        "competition.auc_ranges": ("the metric auc_weighted", metric == "auc_weighted"),
        "competition.auc_weights": ("the metric auc_weighted", metric == "auc_weighted"),
        "competition.auc_above": ("the metric auc_partial", metric == "auc_partial"),
        "competition.positive": ("submission probability", submission == "probability"),
        "competition.answer_separator": (
            "submission best_labels and label_lists",
            submission in ("best_labels", "label_lists"),
        ),
        "competition.no_label": ("submission label_lists", submission == "label_lists"),
        "competition.decimals": ("submission numbers", submission == "numbers"),
        "competition.long_form": (
            "submission probabilities and numbers: one row for each value",
            submission in ("probabilities", "numbers"),
        ),
        "data.label_separator": ('task = "several_labels"', several),
        "data.pixel_shape": ("data.pixel_columns", bool(settings.data.pixel_columns)),
        "train.focal_gamma": ('train.loss = "focal"', settings.train.loss == "focal"),
        "train.huber_delta": ('train.loss = "huber"', settings.train.loss == "huber"),
        "predict.answer_range": (
            'task = "numbers" with another metric than quadratic_kappa, which sends grades',
            task == NUMBERS and takes != "grades",
        ),
        "predict.thresholds": ('task = "several_labels" with a metric fbeta_*', several and takes == "label_sets"),
        "predict.choose": (
            'the metrics fbeta_* of task = "several_labels", quadratic_kappa of "numbers", and box_precision',
            (several and takes == "label_sets") or (task == NUMBERS and takes == "grades") or metric == "box_precision",
        ),
        "competition.box_iou": ("the metric box_map_at", metric == "box_map_at"),
        **dict.fromkeys(OF_BOXES, ('task = "boxes"', boxes)),
        **dict.fromkeys(NOT_OF_BOXES, ("the other tasks than boxes", not boxes)),
    }


def _form_problems(competition: CompetitionSettings) -> Iterator[str]:
    """Yield what is wrong with the options of the form of a cell and of the rows."""
    if competition.submission in ("best_labels", "label_lists") and not competition.answer_separator:
        yield "competition.answer_separator is empty; labels in a cell need a text between them, such as a space."
    form = competition.long_form
    if form and (form.count(ID) != 1 or form.count(TARGET) != 1):
        yield f'competition.long_form is {form!r}; it takes {ID} and {TARGET} once each, such as "{ID}_{TARGET}".'
    elif form and not form.replace(ID, "").replace(TARGET, ""):
        yield f'competition.long_form is {form!r}; it needs a text between {ID} and {TARGET}, such as "{ID}_{TARGET}".'


def advice(settings: Settings, changes: Mapping[str, Any], notes: Mapping[str, str] | None = None) -> str:
    """Return the lines of the TOML that make `changes`, {key: value}, with a metric that fits; each after a line end.

    Options that then have no effect are set to their defaults. Values that the settings have already are left out.
    notes: a comment for some of the keys.
    """
    changed, comments = settings, dict(notes or {})
    for key, value in changes.items():
        changed = _with(changed, key, value)
    competition = changed.competition
    loose = competition.submission not in METRICS[competition.metric].sends
    if loose or not fits(competition.metric, competition.task, competition.submission):
        first, *rest = metrics_of(competition.task, competition.submission)
        changed = _with(changed, "competition.metric", first)
        comments["competition.metric"] = f"or {', '.join(rest)}: what the competition is scored by"
    for key, (_, applies) in effects(changed).items():
        if not applies:
            section, _, name = key.partition(".")
            changed = _with(changed, key, getattr(type(getattr(changed, section))(), name))
    lines = []
    for section in ("competition", "data", "train", "predict"):
        ours, theirs = getattr(settings, section), getattr(changed, section)
        names = [name for name in vars(theirs) if getattr(theirs, name) != getattr(ours, name)]
        lines += [f"  [{section}]"] * bool(names)
        for name in names:
            comment = comments.get(f"{section}.{name}", "")
            value = toml(getattr(theirs, name))
            lines.append(f"  {name} = {value}" + f"  # {comment}" * bool(comment))
    return "".join(f"\n{line}" for line in lines)


def _with(settings: Settings, key: str, value: Any) -> Settings:
    section, _, name = key.partition(".")
    return replace(settings, **{section: replace(getattr(settings, section), **{name: value})})
