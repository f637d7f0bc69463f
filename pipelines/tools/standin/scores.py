"""Score what is sent to the stand-in, by the scorer of `make score`, after checks as Kaggle makes them."""

import hashlib
import math
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pandas as pd

from pipelines.analysis.scoring import COPY, answer_rows, label_list, score_submission
from pipelines.analysis.solutions import read_solution
from pipelines.dataset.answer_forms import sample_form
from pipelines.dataset.encodings import listing_file
from pipelines.dataset.submission_check import check_submission
from pipelines.dataset.tables import read_csv, read_listing
from pipelines.dataset.targets import JOINT, join_labels
from pipelines.dataset.vocabulary import submitted_labels
from pipelines.settings.metrics import ONE_CLASS
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError

PUBLIC_SHARE = 0.3  # of the scored rows


def score(content: bytes, archive: Path, settings: Settings, solution: Path | None) -> list[str]:
    """Return the public and the private score of the submission `content`, by the scorer of `make score`.

    It is checked against the sample submission in `archive`, the competition's zip.  solution: as for `Competition`.
    Raises `UserError` for a bad submission.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, raw = Path(folder) / "submission.csv", Path(folder) / "raw"
        path.write_bytes(content)
        try:
            settings, answers = _with_files(archive, settings, raw)
            if settings.data.sample_submission:
                _check(path, settings, raw)
            if solution:
                truth, _ = read_solution(solution, path, answers, settings)
            else:
                truth = _truth_of_sample(settings, raw)
            scores = [
                score_submission(path, solution or archive, settings, part, list(answers.values())).score
                for part in (*_parts(truth), truth)
            ]
        except UserError as error:
            raise UserError(str(error).replace(str(path), "Submission")) from None
    *parts, whole = scores
    if math.isnan(whole):
        raise UserError(f"The metric {settings.competition.metric} is not defined for this submission and solution")
    return [f"{whole if math.isnan(part) else part:.5f}" for part in parts]  # few rows may have a single class


def _with_files(archive: Path, settings: Settings, raw: Path) -> tuple[Settings, dict[str, str]]:
    """Copy the sample and the texts of the classes from `archive` to `raw`; return the settings and {class: text}.

    The settings returned name only what is there, and take the labels as they are submitted.
    """
    data, found = settings.data, {}
    raw.mkdir()
    with zipfile.ZipFile(archive) if zipfile.is_zipfile(archive) else nullcontext() as opened:
        for name in filter(None, (data.sample_submission, data.submitted_labels)):
            ends = (f"/{name}", f"/{name}.zip")
            places = [each for each in (opened.namelist() if opened else ()) if f"/{each}".endswith(ends)]
            if places and opened:
                found[name] = raw / PurePosixPath(place := min(places, key=len)).name
                found[name].write_bytes(opened.read(place))
    answers = submitted_labels(replace(data, submitted_labels=_found_name(found, data.submitted_labels)), raw)
    sample = found[data.sample_submission].name if data.sample_submission in found else ""
    return replace(settings, data=replace(data, sample_submission=sample, submitted_labels="")), answers


def _found_name(found: Mapping[str, Path], name: str) -> str:
    return found[name].name if name in found else name


def _check(path: Path, settings: Settings, raw: Path) -> None:
    """Raise `UserError` unless header, ids and values of the submission are possible ones; any label is."""
    submitted, form = read_csv(path), sample_form(settings, raw)
    if list(submitted.columns) != form.header:
        raise UserError(f"Submission must have the columns {', '.join(form.header)}")
    if len(submitted) != len(form.given):
        raise UserError(f"Submission must have {len(form.given)} rows")
    keys = [set(zip(*(table[name] for name in form.keys), strict=True)) for table in (submitted, form.given)]
    if unknown := sorted(keys[0] - keys[1]):
        raise UserError(f"Submission contains the unexpected id {', '.join(unknown[0])}")
    competition, texts = settings.competition, form.columns
    if competition.submission == "labels":
        return
    if competition.submission in ("best_labels", "label_lists"):
        cells = submitted[form.values[0]]
        texts = sorted({label for cell in cells for label in label_list(cell, competition)})
    if competition.submission == "boxes":
        texts = sorted({word for cell in submitted[form.values[0]] for word in cell.split()})
    check_submission(path, texts, settings, raw)


def _truth_of_sample(settings: Settings, raw: Path) -> pd.DataFrame:
    """Return the sample's own answers as a solution; those that a sample cannot show are drawn by hashes of the ids."""
    competition, name = settings.competition, settings.data.sample_submission
    if not name:
        raise UserError("The competition has no solution")
    path = listing_file(raw / name)
    rows = answer_rows(read_listing(path), path, settings)
    ids, values = rows.iloc[:, 0], rows.iloc[:, 1:]
    first = values.iloc[:, 0].tolist()
    lists = [label_list(cell, competition) for cell in first]
    drawn = [[column for column in map(str, values) if _hash(f"{each} {column}")[0] % 2] for each in ids]
    match competition.submission, competition.task:
        case (("labels" | "boxes"), _):
            labels = first
        case "numbers", _:
            labels = values.agg(JOINT.join, axis=1).tolist()
        case "probability", _:
            labels = [str(len(each)) for each in drawn]
        case "probabilities", task if task == ONE_CLASS:
            labels = _surest(ids, values)
        case "probabilities", _:
            labels = list(map(join_labels, drawn))
        case "best_labels", task if task == ONE_CLASS:
            labels = [each[0] if each else "" for each in lists]
        case _:
            labels = list(map(join_labels, lists))
    return pd.DataFrame({"id": ids, "label": labels, "usage": "", COPY: ids.groupby(ids).cumcount()})


def _surest(ids: "pd.Series[str]", values: pd.DataFrame) -> list[str]:
    """Return the class of the largest value of each row; one drawn by the hash of the id where all are equal."""
    names = list(map(str, values))
    equal = (values.nunique(axis=1) == 1).tolist()
    surest = list(map(str, values.astype(float).idxmax(axis=1)))
    drawn = [names[_hash(each)[0] % len(names)] for each in ids]
    return [one if same else other for same, one, other in zip(equal, drawn, surest, strict=True)]


def _parts(truth: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the public and the private rows of `truth`: as its `usage` says, else drawn by the hashes of the ids."""
    uses = truth["usage"].str.casefold()
    if {"public", "private"} <= set(uses):
        return truth[uses == "public"], truth[uses == "private"]
    hashes = list(map(_hash, truth.iloc[:, 0]))
    order = sorted(range(len(hashes)), key=hashes.__getitem__)
    count = max(1, round(PUBLIC_SHARE * len(truth)))
    return truth.iloc[order[:count]], truth.iloc[order[count:] or order]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
