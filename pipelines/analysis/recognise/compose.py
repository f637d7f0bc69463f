"""Recognise a competition from its raw folder: the draft of its TOML."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.analysis.recognise.affixes import template
from pipelines.analysis.recognise.answers import Answer, read_answer, words_of
from pipelines.analysis.recognise.boxes import box_target, set_answer, set_columns
from pipelines.analysis.recognise.draft import Draft
from pipelines.analysis.recognise.facts import RawFolder, folder_setting, look
from pipelines.analysis.recognise.groups import set_groups
from pipelines.analysis.recognise.listing import Table, read_tables, shape
from pipelines.analysis.recognise.network import Look, choose_detector, choose_network, look_at
from pipelines.analysis.recognise.readings import Reading, choose, metrics_named, positive_of, readings
from pipelines.analysis.recognise.refusals import refuse_raw
from pipelines.analysis.recognise.roles import Roles, find_roles
from pipelines.analysis.recognise.targets import Target, find_target
from pipelines.dataset.tables import csv_text
from pipelines.dataset.vocabulary import counted, is_number, loose_form, number
from pipelines.settings.kaggle_names import metric_of_kaggle_name, options_of_kaggle_name
from pipelines.settings.metrics import METRICS, NUMBERS, SEVERAL_LABELS
from pipelines.system.errors import few

MOST_TABLES = 12  # in the printed table


@dataclass(frozen=True)
class Known:
    """What is known besides the data. metric: our name or Kaggle's words; source: who gave it. takes_code: whether
    Kaggle takes code instead of a file."""

    metric: str = ""
    source: str = ""
    title: str = ""
    takes_code: bool = False


@dataclass
class Seen:
    """Everything that was recognised."""

    folder: RawFolder
    tables: list[Table]
    roles: Roles
    answer: Answer
    target: Target
    look: Look | None

    @property
    def channels(self) -> int:
        """The number of channels to use: 3 for what can be shown in colours, else that of the files."""
        labels = self.roles.labels
        if labels is not None and labels.pixels:
            return (shape(labels.pixel_count) or (0, 0, 1))[2]
        if self.roles.names.endings or self.look is None:
            return len(self.roles.names.endings) or 3
        plain = (1, 3) if self.look.formats[:1] == ["npy"] else (0, 1, 2, 3, 4)
        return 3 if self.look.channels in plain else self.look.channels


def recognise(name: str, raw: Path, known: Known) -> tuple[Draft, Seen]:
    """Return the draft of the TOML for the data in `raw`. Raises `UserError` for data that are not supported."""
    folder = look(raw)
    tables, problems = read_tables(folder, boxes=True)
    refuse_raw(folder, tables)
    roles = find_roles(folder, tables)
    boxes = box_target(folder, roles)
    if boxes is None and any(table.is_list for table in tables):
        tables, problems = read_tables(folder)
        roles = find_roles(folder, tables)
    answer = read_answer(roles, boxes is not None)
    target = boxes or find_target(folder, roles, answer)
    images = roles.train.images if roles.train else target.images or folder.images
    seen = Seen(folder, tables, roles, answer, target, look_at(raw, images) if images and folder.images else None)
    draft = Draft(name)
    draft.notes += problems
    draft.found += _files(seen)
    _competition(draft, seen, known)
    _data(draft, seen)
    if roles.labels is not None:
        set_groups(draft, roles.labels, target, [roles.id_column, roles.file_column])
    _network(draft, seen)
    return draft, seen


def _files(seen: Seen) -> list[tuple[str, str]]:
    """Return what to print about images and tables."""
    folder, lines = seen.folder, []
    if seen.look:
        places = [f"{count:,} in {where or 'the raw folder'}" for where, count in folder.folders.most_common(3)]
        more = f" and {len(folder.folders) - 3} other folders" if len(folder.folders) > 3 else ""
        kinds = ", ".join(kind.upper() for kind in seen.look.formats[:3])
        lines.append(("images", f"{len(folder.images):,} {kinds}: {', '.join(places)}{more}"))
        lines.append(("sizes", f"{seen.look.sizes}; {seen.look.channels} channels in those looked at"))
    for table in seen.tables[:MOST_TABLES]:
        names = few(table.columns, 6) or "no columns besides pixels"
        pixels = f", and {table.pixel_count} numbers per image in {table.pixels}" if table.pixels else ""
        lines.append(("table", f"{table.name}: {len(table):,} rows, {names}{pixels}"))
    return lines


def _competition(draft: Draft, seen: Seen, known: Known) -> None:
    target, answer, sample = seen.target, seen.answer, seen.roles.sample
    draft.set("competition.title", known.title or draft.name)
    if known.takes_code:
        draft.set(
            "competition.takes",
            "code",
            "Kaggle's record: it takes notebooks, not files. make kernel, then make submit.",
        )
    possible = readings(target, answer)
    reading, metric, of_metric = _fit(draft, possible, known)
    others = [f'"{each.submission}" ({each.metric})' for each in possible if each.submission != reading.submission]
    also = f" The data would also allow {', '.join(dict.fromkeys(others))}." if others else ""
    draft.set(
        "competition.task", reading.task, f"{_source(seen)}: {reading.why}. {' '.join(_examples(target, reading.task))}"
    )
    draft.set("competition.metric", metric, of_metric)
    options = {**reading.more, **options_of_kaggle_name(known.metric)}
    if "guesses" in options and reading.submission == "best_labels":
        draft.set(
            "competition.guesses",
            options["guesses"],
            "Labels in a cell of the sample submission, or as the metric says.",
        )
    if options.get("beta", 1) != 1 and metric.startswith("fbeta"):
        draft.set("competition.beta", options["beta"], "As the metric's name says.")
    form = _form(seen)
    draft.set("competition.submission", reading.submission, f"{form}.{also}")
    if reading.submission == "probability":
        positive, why = positive_of(target, answer)
        draft.set("competition.positive", positive, f"The class whose probability is sent; {why}.")
        if "guess" in why:
            draft.notes.append(f"competition.positive = {positive!r} is {why}. Read Kaggle's page, and correct it.")
    if metric == "quadratic_kappa" and all(label.isdigit() for label in target.labels):
        grades = sorted(map(int, target.labels))
        draft.set(
            "competition.grades",
            list(range(grades[0], grades[-1] + 1)),
            "All grades from the lowest to the highest label.",
        )
    if reading.submission in ("best_labels", "label_lists"):
        joint = _joint(seen)
        if joint != " ":
            draft.set("competition.answer_separator", joint, "The text between two labels in a cell of the sample.")
    if target.boxes:
        set_answer(draft, target, seen.roles, known.metric)
    if seen.roles.long_form:
        draft.set(
            "competition.long_form",
            seen.roles.long_form,
            f"{sample.table.name if sample else ''} has a row per image and target.",
        )
    if reading.submission == "labels" and len(target.labels) == 2 and not known.metric:
        draft.notes.append(
            "The labels have two values, and neither decimals in the sample nor a metric ask for a probability: one "
            'label per image is sent. For AUC or log loss set metric, positive and submission = "probability".'
        )
    draft.found += [("targets", f"{_source(seen)}: {reading.why}"), _examples(target, reading.task)]
    draft.found += [("sample", form), ("metric", f"{metric}: {of_metric}")]


def _fit(draft: Draft, possible: Sequence[Reading], known: Known) -> tuple[Reading, str, str]:
    """Return the reading, the metric, and where it comes from."""
    first = possible[0]
    if not known.metric:
        text = f"A GUESS, the usual one of this form: nothing named the metric. {_instead(first, first.metric)}"
        draft.notes.append(
            f'The metric {first.metric} is a guess. Give the one of Kaggle\'s page: METRIC="…", or correct it here.'
        )
        return first, first.metric, text
    names = metrics_named(known.metric)
    if fitting := choose(possible, names):
        reading, metric = fitting
        meant = metric_of_kaggle_name(known.metric) if METRICS[metric].doubt else []
        if also := [each for each in meant if each != metric and choose([reading], [each])]:
            draft.notes.append(
                f"{known.metric!r} may also mean {', '.join(also)}; competition.metric is {metric}. "
                f"{METRICS[metric].doubt}"
            )
        return reading, metric, f"{known.metric!r}, {known.source}. {_instead(reading, metric)}"
    if not names:
        draft.doubts.append(
            f"The metric {known.metric!r} ({known.source}) is none that this pipeline computes; competition.metric is "
            f"the usual one of this form, {first.metric}. The submission may have to be of another form. Valid: "
            f"{', '.join(METRICS)}."
        )
        return (
            first,
            first.metric,
            f"A GUESS: {known.metric!r}, {known.source}, is not known. {_instead(first, first.metric)}",
        )
    draft.doubts.append(
        f"The metric {known.metric!r} ({known.source}) is {names[0]}, which does not score what the data seem to want, "
        f"{first.task} and submission {first.submission}. competition.metric is the usual one of this form, "
        f"{first.metric}."
    )
    return (
        first,
        first.metric,
        f"A GUESS: {known.metric!r}, {known.source}, does not fit the data. {_instead(first, first.metric)}",
    )


def _instead(reading: Reading, metric: str) -> str:
    others = [
        name
        for name, facts in METRICS.items()
        if name != metric and reading.task in facts.tasks and reading.submission in facts.sends
    ]
    return f"Others that score this submission: {', '.join(others)}." if others else ""


def _source(seen: Seen) -> str:
    """Return where the targets come from."""
    target, labels = seen.target, seen.roles.labels
    if target.where in ("folders", "names"):
        return f"Class {target.why}" if target.where == "folders" else f"Classes {target.why}"
    name = labels.name if labels is not None else ""
    if target.boxes:
        return f"{few(target.boxes.columns, 4)} of {name}"
    if target.where == "columns":
        return f"{len(target.columns)} columns of {name} ({few(target.columns, 4)}; {target.why})"
    return f"Column {target.columns[0]!r} of {name} ({target.why})"


def _examples(target: Target, task: str) -> tuple[str, str]:
    """Return what the targets are, classes, labels or numbers, and which there are."""
    if task == NUMBERS:
        values = [number(cell) for cell in target.cells if is_number(cell)]
        text = f"{min(values):g} to {max(values):g}" if values else f"{len(target.labels):,}: {few(target.labels, 6)}"
        return "numbers", text
    cells = [cell.split(target.separator) for cell in target.cells] if target.separator else [target.cells]
    found = [label.strip() for parts in cells for label in parts if label.strip()]
    listed = counted(found) if target.kind in ("classes", "sets", "boxes") and found else few(target.labels, 6)
    count = len(set(found)) if target.separator else len(target.labels)
    return ("labels" if task == SEVERAL_LABELS else "classes"), f"{count:,}: {listed}"


def _form(seen: Seen) -> str:
    sample, answer = seen.roles.sample, seen.answer
    if sample is None:
        return "There is no sample submission"
    name, rows = sample.table.name, len(sample.table)
    start = f"{name} has {rows:,} rows, ids in {sample.id_column!r}"
    if seen.roles.long_form:
        return f"{start}, a row for each of {len(seen.roles.long_targets)} targets ({few(seen.roles.long_targets)})"
    if len(answer.columns) > 1:
        return f"{start}, and {len(answer.columns)} columns to fill ({few(answer.columns, 4)})"
    if not answer.columns:
        return f"{start}, and nothing to fill"
    cells = "empty cells" if answer.is_empty else f"cells such as {few(answer.filled)}"
    return f"{start}, and the column {answer.columns[0]!r} with {cells}"


def _joint(seen: Seen) -> str:
    """Return the text between two labels of the sample's cells."""
    known = {loose_form(label) for label in seen.target.labels}
    for separator in (" ", ",", "|", ";"):
        cells = [value.split(separator) for value in seen.answer.filled]
        if any(len(cell) > 1 and all(loose_form(part) in known for part in cell) for cell in cells):
            return separator
    return seen.target.separator or " "


def _data(draft: Draft, seen: Seen) -> None:
    roles, target, labels = seen.roles, seen.target, seen.roles.labels
    if labels is not None:
        form = "in the long form of the sample, with the targets" if labels.is_long else "with the columns"
        names = target.columns if labels.is_long else labels.columns
        draft.set("data.labels", labels.name, f"{len(labels):,} rows, {form} {few(names, 8)}.")
        if not labels.is_long:
            _label_columns(draft, seen, labels)
    elif target.where == "names":
        draft.set("data.label_pattern", target.pattern, f"There is no table of labels. Classes are {target.why}.")
    if labels is None or not labels.pixels:
        folder = folder_setting(roles.train.folder if roles.train else target.folder)
        rivals = roles.train.rivals if roles.train else []
        also = f" The same names are in {few(rivals)}." if rivals else ""
        draft.set("data.train_images", folder, f"Here each labelled id has an image of its own.{also}")
        if target.level != 1:
            draft.set("data.class_level", target.level, "The folders on this level are the classes.")
    _tests(draft, seen)
    _templates(draft, seen)
    _note_unused(draft, seen)
    pairs = words_of(target.labels, seen.answer.columns) if target.kind in ("classes", "sets") else {}
    if any(label != text for label, text in pairs.items()):
        name = f"{draft.name}-labels.csv"
        draft.files[name] = csv_text([("label", "answer"), *pairs.items()])
        draft.set(
            "data.submitted_labels", name, "The sample's columns name the classes in other words; this CSV has both."
        )
    if roles.names.endings:
        draft.set(
            "data.channel_files",
            roles.names.endings,
            "Each id has a file with each of these endings, one per channel, in this order.",
        )
    if labels is not None and labels.pixels:
        pixel_shape = shape(labels.pixel_count)
        draft.set(
            "data.pixel_columns",
            labels.pixels,
            f"{labels.pixel_count} numbers in each row are an image of {pixel_shape} pixels.",
        )
        draft.set("data.pixel_shape", list(pixel_shape or ()), "Height, width, channels.")


def _note_unused(draft: Draft, seen: Seen) -> None:
    """Note images outside the folder of class folders, such as those of another part of a split."""
    used = {*seen.target.images, *seen.roles.test_images}
    unused = [image for image in seen.folder.images if image not in used]
    if seen.target.where == "folders" and unused:
        draft.notes.append(
            f"{len(unused):,} images are neither in {folder_setting(seen.target.folder)} nor test images, and are not "
            f"used: {few(unused)}."
        )


def _label_columns(draft: Draft, seen: Seen, labels: Table) -> None:
    roles, target = seen.roles, seen.target
    if roles.id_column and roles.id_column != labels.columns[0]:
        draft.set("data.id_column", roles.id_column, "Its values name the images.")
    if roles.file_column:
        draft.set("data.file_column", roles.file_column, "Its values name the images; the ids are those of the sample.")
    if target.boxes:
        set_columns(draft, target)
        return
    if target.where == "columns":
        draft.set("data.label_columns", target.columns, f"Chosen because {target.why}.")
    else:
        others = f" Others: {few(target.others, 8)}." if target.others else ""
        draft.set("data.label_column", target.columns[0], f"Chosen because {target.why}.{others}")
    if target.separator:
        draft.set("data.label_separator", target.separator, "The text between two labels in a cell.")


def _tests(draft: Draft, seen: Seen) -> None:
    roles, sample = seen.roles, seen.roles.sample
    if roles.test_table is not None:
        table = roles.test_table
        draft.set("data.test_table", table.name, f"{len(table):,} rows: it lists the test images.")
        if (
            roles.test_file_column
            and not table.is_list
            and roles.test_file_column not in (table.columns[0], draft.get("data.file_column"))
        ):
            draft.set("data.file_column", roles.test_file_column, "Its values name the images.")
    if roles.test:
        also = f" The same names are in {few(roles.test.rivals)}." if roles.test.rivals else ""
        draft.set("data.test_images", folder_setting(roles.test.folder), f"{roles.test.found:,} test images.{also}")
    elif not (roles.test_table is not None and roles.test_table.pixels):
        draft.set("data.test_images", "", "No test images were found, so there is nothing to predict.")
    if sample is None:
        draft.set(
            "data.sample_submission", "", "No table looks like a sample submission: all test images are answered."
        )
        return
    draft.set("data.sample_submission", sample.table.name, f"{_form(seen)}.")
    if sample.id_column != sample.table.columns[0]:
        draft.set("data.sample_id", sample.id_column, "Its values name the test images.")
    if roles.test is None and roles.test_table is None:
        draft.doubts.append(
            f"The ids of {sample.table.name}, such as {few(sample.ids)}, name no images, and no table says which they "
            "mean."
        )


def _templates(draft: Draft, seen: Seen) -> None:
    """Set how the names of files are made of ids, where ids alone do not name them."""
    for key, home in (("data.train_file", seen.roles.train), ("data.test_file", seen.roles.test)):
        if not home or not seen.roles.names.around:
            continue
        top = f"{home.folder}/" if home.folder else ""
        names = [image.removeprefix(top) for image in home.images]
        if form := template(names, seen.roles.names.around):
            draft.set(key, form, f"An id names its image so: {names[0]}.")


def _network(draft: Draft, seen: Seen) -> None:
    labels, target = seen.roles.labels, seen.target
    images = len(labels) if labels is not None else len(target.images)
    if labels is not None and labels.pixels:
        side = (shape(labels.pixel_count) or (32,))[0]
    else:
        side = seen.look.sides[1] if seen.look else 32
    if (channels := seen.channels) != 3:
        draft.set("input.channels", channels, "As the images have; 3, the default, are colours.")
        draft.set("input.mean", [0.5] * channels)
        draft.set("input.std", [0.25] * channels)
    if target.boxes:
        choose_detector(draft, side, len(set(seen.roles.train.images)) if seen.roles.train else 0)
        return
    classes = len(target.labels) if target.kind in ("classes", "one_hot") else 1
    choose_network(draft, side, images, classes)
