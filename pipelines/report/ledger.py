"""All runs, fold sets and blends of a competition with their scores, as their files and the log of submissions say.

Nothing is computed here: it reads what the stages wrote. A file that cannot be read makes a line of its run, no error.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from pipelines.kaggle.submission_log import COMPLETE, Row, SubmissionLog
from pipelines.settings.layout import Layout, RunLayout, split_sha256
from pipelines.settings.loading import load_settings
from pipelines.settings.metrics import METRICS, badness
from pipelines.settings.overrides import setting
from pipelines.settings.records import (
    RUN_SECTIONS,
    RunRecord,
    blended,
    members_of,
    read_record,
    with_head,
    with_weights_of,
)
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.files import read_note

PLAIN, FOLDS, BLEND = "run", "folds", "blend"
Recipes = Callable[[str], Settings]  # the settings of a recipe by its name
FROM_FILES = ("weights_sha256", "label_map_sha256")  # settings that follow from files and are no choice


@dataclass(frozen=True)
class Entry:
    """A run, fold set or blend.

    state: what is missing or wrong; empty where training has finished. differs: the settings that are not those of its
    recipe. score: of the validation rows, as predicted where `as_predicted`, else of the best epoch; NaN if there is
    none. bounds: of its 95 % interval. images: the number of validated rows. folds: the score of each member. seconds:
    training, features and retraining. when: the last of them ended or, without an end, the run began; seconds since
    1970. file: the name of the submission that was predicted, and note: its entry in predict.json; empty if there is
    none. sent: rows of the log, oldest first.
    """

    run: RunLayout
    kind: str = PLAIN
    state: str = ""
    recipe: str = ""
    differs: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    other_split: bool = False
    score: float = math.nan
    bounds: tuple[float, float] = (math.nan, math.nan)
    images: int = 0
    as_predicted: bool = False
    folds: tuple[float, ...] = ()
    epochs: int = 0
    best_epoch: int = 0
    seconds: float = 0.0
    when: float = 0.0
    device: str = ""
    file: str = ""
    note: Mapping[str, Any] = field(default_factory=dict)
    sent: tuple[Row, ...] = ()

    @property
    def name(self) -> str:
        return self.run.folder.name

    @property
    def scored(self) -> bool:
        """Whether it has a score that can be compared with the others'."""
        return not math.isnan(self.score) and not self.other_split


@dataclass(frozen=True)
class Ledger:
    """The entries of a competition, best first: those without a score and those of another split are the last.

    log: all rows of the log of submissions, oldest first. problem: why it could not be read.
    """

    metric: str
    entries: tuple[Entry, ...]
    log: tuple[Row, ...] = ()
    problem: str = ""

    @property
    def higher_is_better(self) -> bool:
        return METRICS[self.metric].higher_is_better

    @property
    def best(self) -> Entry | None:
        """The entry with the best score; None if no entry has one."""
        return next((entry for entry in self.entries if entry.scored), None)

    def entry(self, name: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.name == name), None)

    def best_sent(self, entry: Entry) -> Row | None:
        """Return the submission of the entry with the best public score; else the last one; None if there is none."""
        scored = [row for row in entry.sent if row.public_score]
        if not scored:
            return entry.sent[-1] if entry.sent else None
        return max(scored, key=lambda row: self.goodness(float(row.public_score)))

    def rank(self, row: Row, score: str) -> int:
        """Return the rank of a submission among all of the log, 1 the best.  score: `public_score`, `private_score`."""
        ours = self.goodness(float(getattr(row, score)))
        others = [getattr(each, score) for each in self.log if getattr(each, score)]
        return 1 + sum(self.goodness(float(other)) > ours for other in others)

    def goodness(self, score: float) -> float:
        """Return `score` with the sign for which higher is better; minus infinity for NaN."""
        return -badness(score, self.metric)


def read_ledger(layout: Layout, settings: Settings, competition: str) -> Ledger:
    """Return the ledger.  settings: of today.  competition: the name or TOML that gives the recipes' settings."""
    metric = settings.competition.metric
    log, problem = _log(layout)
    split = split_sha256(layout.split_csv) if layout.split_csv.exists() else ""
    recipes = cache(partial(load_settings, competition))  # read once for all runs of a recipe
    entries = [_entry(layout, run, metric, recipes, split) for run in layout.runs()]
    entries = [_with_sent(entry, log) for entry in entries]
    entries.sort(key=lambda entry: (not entry.scored, badness(entry.score, metric), entry.name))
    return Ledger(metric, tuple(entries), log, problem)


def _log(layout: Layout) -> tuple[tuple[Row, ...], str]:
    try:
        return tuple(SubmissionLog(layout.submission_log).rows), ""
    except (UserError, OSError) as error:
        return (), str(error)


def _with_sent(entry: Entry, log: Sequence[Row]) -> Entry:
    rows = tuple(row for row in log if row.run == entry.name and (row.ref or row.status == COMPLETE))
    return Entry(**(vars(entry) | {"sent": rows}))


def _entry(layout: Layout, run: RunLayout, metric: str, recipes: Recipes, split: str) -> Entry:
    kind = BLEND if blended(run) else FOLDS if members_of(run) else PLAIN
    try:
        record = read_record(run)
        other_split = bool(split) and record.split_sha256 != split
        facts: dict[str, Any] = {"recipe": record.settings.recipe, "other_split": other_split, "when": _when(run)}
        if record.settings.competition.metric != metric:
            return Entry(run, kind, f"trained for {record.settings.competition.metric}", **facts)
        facts |= {"members": blended(run) or record.members}
        if kind != BLEND:
            facts["differs"] = differs(record, recipes)
        facts |= _trained(run, kind, record) | _predicted(layout, run)
        return Entry(run, kind, **facts)
    except UserError as error:
        return Entry(run, kind, str(error).partition("\n")[0].replace(f"{layout.root}/", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # a file that no stage wrote like this
        return Entry(run, kind, f"a file of it is damaged ({type(error).__name__}: {error})")


def _when(run: RunLayout) -> float:
    ends = (run.blend, run.retrained, run.trained, run.record)
    return next(path.stat().st_mtime for path in ends if path.exists())


def _trained(run: RunLayout, kind: str, record: RunRecord) -> dict[str, Any]:
    """Return what the end of the training has written, or in which state it is."""
    if kind == BLEND:
        if not run.blend.exists():
            return {"state": "not finished"}
        note = read_note(run.blend)
        return {"score": _number(note["score"]), "bounds": _bounds(note["interval"]), "images": int(note["rows"])}
    finished = run.trained.exists() and (kind == PLAIN or run.folds.exists())
    if not finished:
        done = sum(run.member(name).trained.exists() for name in record.members)
        return {
            "state": f"{done} of {len(record.members)} members trained" if record.members else "training unfinished"
        }
    note = read_note(run.trained)
    seconds = float(note["seconds"]) + float(note.get("features_seconds", 0.0))
    if run.retrained.exists():
        seconds += float(read_note(run.retrained)["seconds"])
    facts = {"score": _number(note["score"]), "bounds": _bounds(note.get("interval", ())), "seconds": seconds}
    facts |= {"images": int(note["valid_images"]), "epochs": int(note["epochs"]), "best_epoch": int(note["best_epoch"])}
    facts |= {"device": str(note["hardware"]["device"])}
    if kind == FOLDS:
        facts |= {"folds": tuple(map(_number, read_note(run.folds)["scores"])), "as_predicted": True}
    return facts


def _predicted(layout: Layout, run: RunLayout) -> dict[str, Any]:
    """Return the scores as predicted, of the submission with the run's own name, else of the first one."""
    if not run.predicted.exists():
        return {}
    notes = read_note(run.predicted)
    own = layout.submission(run.folder.name).name
    file = own if own in notes else next(iter(notes), "")
    note = notes.get(file, {})
    if not isinstance(note, dict):
        raise ValueError(f"the entry of {file} in {run.predicted.name} is no object")
    if "valid_score" not in note:
        return {"file": file, "note": note}
    facts = {"score": _number(note["valid_score"]), "bounds": _bounds(note.get("valid_interval", ()))}
    return facts | {"images": int(note["valid_images"]), "as_predicted": True, "file": file, "note": note}


def differs(record: RunRecord, recipes: Recipes) -> tuple[str, ...]:
    """Return the settings of a run that are not those of its recipe today, each as SET= takes it."""
    then = record.settings
    with suppress(UserError):  # the TOML has lost the recipe, or is another one
        recipe = with_weights_of(recipes(then.recipe), then)
        if then.train.search:
            recipe = with_head(recipe, then)
        return tuple(
            setting(f"{section}.{key}", list(value) if isinstance(value, tuple) else value)
            for section in RUN_SECTIONS
            for key, value in vars(getattr(then, section)).items()
            if value != getattr(getattr(recipe, section), key) and key not in FROM_FILES
        )
    return (f"the recipe {then.recipe}, which is no longer there",)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _bounds(values: Sequence[Any]) -> tuple[float, float]:
    low, high = values or (None, None)
    return _number(low), _number(high)


def submission_path(layout: Layout, entry: Entry) -> Path:
    """Return the path of the entry's submission."""
    return layout.submission(Path(entry.file).stem)
