"""The runs that a blend combines: found by name, checked, and their stored predictions read."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines import command
from pipelines.core.blending import Pool, make_pool
from pipelines.core.stored import MOST_STORED, Stored, fits, load_test, read_oof
from pipelines.dataset.image_set import ImageSet
from pipelines.report.pairs import commands_of, find_run
from pipelines.settings.layout import Layout, RunLayout, split_sha256
from pipelines.settings.loading import load_settings, submission_name, to_dict
from pipelines.settings.overrides import setting
from pipelines.settings.records import blended, finished_run, in_todays_words, read_record
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, few
from pipelines.system.files import file_sha256, is_plain_name, read_note
from pipelines.system.shell import path_word, removal

LEAST_COMMON = 50  # rows, where the members have not all predicted the same


@dataclass(frozen=True)
class Member:
    """A run with predictions.  note: the entry of predict.json that they belong to."""

    run: RunLayout
    note: dict[str, Any]

    @property
    def name(self) -> str:
        return self.run.folder.name

    @property
    def digests(self) -> dict[str, str]:
        """The SHA-256 of both files of predictions."""
        return {key: self.note[key] for key in ("oof", "test_predictions")}


def names_of(words: command.Words, layout: Layout) -> list[str]:
    """Return the names in RUNS=.  Raises `UserError` for fewer than two, and for one that is there twice."""
    names = layout.names_in(words.runs)
    if len(names) < 2:
        given = f"RUNS= names one run, {names[0]!r}, but a" if names else "RUNS= names no run. A"
        raise UserError(f"{given} blend combines two or more. {_candidates(words, layout)}")
    if wrong := [name for name in names if not is_plain_name(name)]:
        raise UserError(f"RUNS= has {few(wrong)}, which names no run of runs/{layout.competition}/.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        distinct = list(dict.fromkeys(names))
        once = f": {words.repeat('blend', RUNS=shlex.join(distinct))}" if len(distinct) > 1 else ""
        other = "" if once else f", and another one. {_candidates(words, layout)}"
        raise UserError(f"RUNS= has {few(twice)} twice. Name each run once, its weight is chosen{once}{other}")
    return names


def _candidates(words: command.Words, layout: Layout) -> str:
    """Return which runs could be blended, for a message."""
    ready = [run.folder.name for run in layout.runs() if run.predicted.exists() and not blended(run)]
    if len(ready) < 2:
        return f"runs/{layout.competition}/ has {len(ready)} predicted runs: train and predict another one, with RUN=."
    return f"Predicted runs are: {few(ready, 20)}. For example: {words.repeat('blend', RUNS=shlex.join(ready[:2]))}"


def find_members(names: Sequence[str], words: command.Words, layout: Layout, settings: Settings) -> list[Member]:
    """Return the runs `names`.  Raises `UserError`, with all that cannot be blended and what to do about each."""
    members, problems = [], list[str]()
    split = split_sha256(layout.split_csv)
    for name in names:
        try:
            members.append(_member(name, words, layout, settings, split))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return members


def _member(name: str, words: command.Words, layout: Layout, settings: Settings, split: str) -> Member:
    run, shown = find_run(layout, name), f"runs/{layout.competition}/{name}"
    if inner := blended(run):
        raise UserError(f"{shown} is a blend. Name its members in its place: RUNS={shlex.quote(shlex.join(inner))}")
    record = read_record(run)
    if record.split_sha256 != split:
        split_csv = path_word(layout.split_csv)
        raise UserError(
            f"{shown} was trained on another split than {split_csv} now holds, so its validation rows may be training "
            "rows of the others. Leave it out, or train and predict it again on this split, with another RUN=."
        )
    in_todays_words(run, record.settings, settings)  # raises where task, metric or pixels have changed
    recipe = record.settings.recipe
    again = commands_of(name, recipe, words.repeat)
    finished_run(layout, name, replace(settings, recipe=recipe), again)
    notes = read_note(run.predicted) if run.predicted.exists() else {}
    if not notes:
        stages = "predict" if record.members or run.retrained.exists() else "retrain predict"
        raise UserError(f"{shown} has not been predicted. First: {again(stages)}")
    files = {"oof": run.oof, "test_predictions": run.test_predictions}
    digests = {key: file_sha256(path) for key, path in files.items() if path.exists()}
    for note in notes.values():
        if len(digests) == 2 and note == note | digests:
            return Member(run, note)
    submissions = [layout.submission(Path(file).stem) for file in notes]
    first = f"{removal(*submissions)} && {again('predict')}"
    if digests:
        raise UserError(
            f"{shown}: {run.oof.name} and {run.test_predictions.name} are not as predict left them. Predict the run "
            f"again: {first}"
        )
    raise UserError(
        f"{shown} has no stored predictions: it was predicted before predictions were stored, or has more than "
        f"{MOST_STORED:,}, which are not stored. Predict it again: {first}"
    )


def notes_on(members: Sequence[Member], words: command.Words, layout: Layout) -> list[str]:
    """Return a note for each run that was predicted last with other networks or views than the present words say."""
    notes = []
    for member in members:
        record = read_record(member.run)
        recipe = record.settings.recipe
        try:
            now = to_dict(load_settings(words.competition, recipe, words.set))["predict"]
        except UserError:  # the TOML has lost the recipe
            continue
        then = to_dict(Settings(""))["predict"] | member.note.get("predict", {})
        keys = ("mirror", "shift", "members" if record.members else "checkpoint")
        if changed := [setting(f"predict.{key}", then[key]) for key in keys if then[key] != now[key]]:
            old = layout.submission(submission_name(member.name, words.set))
            again = commands_of(member.name, recipe, words.repeat)("predict")
            first = f"{removal(old)} && " if old.exists() else ""
            notes.append(
                f"Note: {member.name} was predicted last with {' '.join(changed)}, and the blend takes these "
                f"predictions. For those of the present settings: {first}{again}"
            )
    return notes


def read_pool(members: Sequence[Member], settings: Settings, images: ImageSet) -> tuple[Pool, list[str]]:
    """Return the labelled rows that all members have predicted, and notes.  images: all labelled ones.

    Raises `UserError` if there are none, or too few that all have.
    """
    if not fits(len(images), images.columns):
        raise UserError(f"{len(images):,} rows of {images.columns:,} predictions are too many to be blended.")
    stored = [read_oof(member.run.oof, images.table, images.classes, images.task) for member in members]
    counts = [f"{member.name} {len(each.ids):,}" for member, each in zip(members, stored, strict=True)]
    common = set.intersection(*(set(each.ids.tolist()) for each in stored))
    differ = any(len(each.ids) != len(common) for each in stored)
    if differ and len(common) < LEAST_COMMON:
        raise UserError(
            f"Only {len(common):,} labelled rows were predicted by all members without being trained on, and a blend "
            f"takes {LEAST_COMMON} or more (rows of each: {'; '.join(counts)}). Blend runs that validate the same "
            f"rows, such as those of one train.fold{_folds(members, stored)}, or sets of make folds."
        )
    notes = []
    if differ:
        notes.append(
            f"Note: weights and scores come from the {len(common):,} labelled rows that no member was trained on "
            f"(rows of each: {'; '.join(counts)})."
        )
    return make_pool(settings, images, stored), notes


def _folds(members: Sequence[Member], stored: Sequence[Stored]) -> str:
    """Return the folds that each member validates, where there are several, for a message."""
    folds = [sorted(set(each.folds.tolist())) for each in stored]
    if all(each == folds[0] for each in folds):
        return ""
    named = [f"{member.name}: {', '.join(map(str, each))}" for member, each in zip(members, folds, strict=True)]
    return f" (folds now: {'; '.join(named)})"


def read_tests(members: Sequence[Member], test: ImageSet, columns: int) -> list[npt.NDArray[np.float32]]:
    """Return the predictions of the test images by each member, memory-mapped."""
    return [load_test(member.run.test_predictions, len(test), columns) for member in members]
