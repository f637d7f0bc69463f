"""Two runs that are compared: their checks, and the labelled rows that both have predicted."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipelines.core.blending import Pool, make_pool
from pipelines.core.stored import read_oof
from pipelines.dataset.image_set import ImageSet
from pipelines.settings.layout import Layout, RunLayout, split_sha256
from pipelines.settings.records import RunRecord, blended, finished_run, in_todays_words, read_record
from pipelines.settings.schema import DEFAULT_RECIPE, Settings
from pipelines.system.errors import UserError, did_you_mean, few
from pipelines.system.files import file_sha256, read_note
from pipelines.system.shell import path_word, removal

Repeat = Callable[..., str]  # returns the command of stages, as `repeat` of command.Words


def predicted_run(name: str, layout: Layout, settings: Settings, repeat: Repeat) -> RunLayout:
    """Return the run, fold set or blend `name`, whose labelled rows are predicted.

    settings: of today.  Raises `UserError`, with what to do, if there is none, if it has another split, task or metric,
    or if it has no stored predictions.
    """
    run, shown = find_run(layout, name), f"runs/{layout.competition}/{name}"
    record = read_record(run)
    if not layout.split_csv.exists():
        raise UserError(f"{path_word(layout.split_csv)} is missing. First: {repeat('split', RUN='')}")
    if record.split_sha256 != split_sha256(layout.split_csv):
        raise UserError(
            f"{shown} was trained on another split than {path_word(layout.split_csv)} now holds, so its validation "
            "rows may be training rows of other runs. Train it again on this split, with another RUN=."
        )
    in_todays_words(run, record.settings, settings)  # raises where task or metric have changed
    if run.oof.exists() and _as_left(run):
        return run
    state = "are not as predict left them" if run.oof.exists() else "are missing"
    raise UserError(
        f"{shown} cannot be compared: its stored predictions ({run.oof.name}) {state}. "
        f"First: {_to_predict(run, record, layout, settings, repeat)}"
    )


def find_run(layout: Layout, name: str) -> RunLayout:
    """Return the run, fold set or blend `name`.  Raises `UserError`, with the names there are, if there is none."""
    run = layout.run(name)
    if not run.record.exists():
        known = [each.folder.name for each in layout.runs()]
        raise UserError(
            f"The run runs/{layout.competition}/{name} does not exist.{did_you_mean(name, known)} There are: "
            f"{few(known, 20)}."
        )
    return run


def commands_of(run: str, recipe: str, repeat: Repeat) -> Repeat:
    """Return what gives the command of a stage for another run, which has a `recipe` of its own."""
    return partial(repeat, RUN=run, RECIPE="" if recipe == DEFAULT_RECIPE else recipe)


def _as_left(run: RunLayout) -> bool:
    """Return whether a record of the run names the stored predictions by their SHA-256."""
    notes = [read_note(run.folds)] if run.folds.exists() else []
    notes += list(read_note(run.predicted).values()) if run.predicted.exists() else []
    digest = file_sha256(run.oof)
    return any(note.get("oof") == digest for note in notes)


def _to_predict(run: RunLayout, record: RunRecord, layout: Layout, settings: Settings, repeat: Repeat) -> str:
    """Return the command that stores the predictions of `run`.  Raises `UserError` if its training is not finished."""
    recipe = record.settings.recipe
    again = commands_of(run.folder.name, recipe, repeat)
    if members := blended(run):
        return again("blend", RUNS=shlex.join(members))
    finished_run(layout, run.folder.name, replace(settings, recipe=recipe), again)
    if run.predicted.exists() and (files := read_note(run.predicted)):  # by a version that stored none
        return f"{removal(*(layout.submission(Path(file).stem) for file in files))} && {again('predict')}"
    return again("predict" if record.members or run.retrained.exists() else "retrain predict")


def read_pair(first: RunLayout, second: RunLayout, images: ImageSet, settings: Settings) -> Pool:
    """Return what both runs have predicted of the labelled rows that neither was trained on.

    images: all labelled ones.  Raises `UserError` if there are no such rows, or a file is damaged.
    """
    runs = first, second
    stored = [read_oof(run.oof, images.table, images.classes, images.task) for run in runs]
    if not set(stored[0].ids) & set(stored[1].ids):
        names = (
            f"{run.folder.name} {len(each.ids):,} rows of the folds {', '.join(map(str, sorted(set(each.folds))))}"
            for run, each in zip(runs, stored, strict=True)
        )
        raise UserError(
            f"No labelled row was predicted by both runs ({'; '.join(names)}). Compare runs that validate the same "
            "rows, such as those of one train.fold, or sets of make folds."
        )
    return make_pool(settings, images, stored)
