"""Write and read the records of runs, and check that the current request equals them."""

import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.settings.layout import BOXES_CSV, Layout, RunLayout, split_sha256
from pipelines.settings.loading import (
    differences,
    from_dict,
    label_map_file,
    merge,
    missing_label_map,
    to_dict,
    with_input,
)
from pipelines.settings.metrics import BOXES, METRICS
from pipelines.settings.schema import KEYS_OUTSIDE_A_RUN, OUTSIDE_A_RUN, SHARED_BY_RECIPES, Settings
from pipelines.system.errors import UserError
from pipelines.system.files import file_sha256, plain_sha256, read_json, read_note, write_json
from pipelines.system.shell import removal

RUN_SECTIONS = ("input", "augment", "model", "finetune", "features", "train")  # settings that determine a run
LABEL_MAP = "model.label_map_sha256:"  # the key that changes with the content of the label map's CSV
ANCHORS = ("anchor_sizes", "anchor_ratios")  # keys of [model] that a run takes from its training boxes
MEASURED = ("precision", "side_by_side")  # keys of [hardware] that a run may choose by timing
WHITE = "data.white:"  # the one key of [data] that a run depends on, beside the split


@dataclass(frozen=True)
class RunRecord:
    """The settings and split that a run was started with; retrain and predict use them, not the current TOML.

    members: the names of the runs of a fold set, in its folder; empty for a plain run.
    """

    settings: Settings
    split_sha256: str
    members: tuple[str, ...] = ()

    @property
    def seeds(self) -> int:
        """The number of seeds of a fold set."""
        return len(self.members) // max(self.settings.split.folds, 1)

    def sections(self) -> dict[str, dict[str, Any]]:
        """Return the settings as plain values, {section: {key: value}}."""
        return {key: value for key, value in to_dict(self.settings).items() if isinstance(value, dict)}


def code_version() -> str:
    """Return the git commit of this code, with `, changed` if files differ from it; empty if git knows none."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parents[1]), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (", changed" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def start_run(run: RunLayout, settings: Settings, split_csv: Path, members: Sequence[str] = ()) -> Settings:
    """Write the record of a new run; for a run with a finished epoch, check that settings and split are the same.

    members: of a fold set, whose `settings` have the number of threads of each member; empty for a plain run.
    Return the settings to train with: [predict], which says what is chosen for a score, is that of the first epoch, and
    so are the threads of a set. Raises `UserError` with the differences. A run without a finished epoch starts from the
    beginning.
    """
    if not _begun(run):
        # Files of an earlier run of this name, perhaps of another network, must not be used for the new one.
        for stale in (run.precision, run.search, run.valid_predictions, run.retrained, run.retrain_last, run.oof):
            stale.unlink(missing_ok=True)
        shutil.rmtree(run.events, ignore_errors=True)
        content = {"settings": to_dict(settings), "split_sha256": split_sha256(split_csv)}
        write_json(run.record, content | ({"members": list(members)} if members else {}))
        return settings
    record = read_record(run)
    if bool(record.members) != bool(members):
        kinds = ("a plain run of the stage train", "a set of runs, which folds trains")
        raise UserError(f"{_shown(run)} is {kinds[bool(record.members)]}. {_new_run(run)}")
    check_split(run, record, split_csv)
    changes = differences(settings, record.settings, RUN_SECTIONS)
    changes += _other_meaning(settings, record.settings)
    if other_map := [line for line in changes if line.startswith(LABEL_MAP)]:
        changes.remove(other_map[0])
        if record.settings.model.label_map_sha256 and not changes:  # older records lack it
            changed = f"with another label map: {settings.model.label_map} has changed since. Put it back, or name"
            raise UserError(f"{_shown(run)} was trained {changed} a new run with RUN=.")
    if changes:
        raise UserError(f"{_shown(run)} was trained with other settings ({'; '.join(changes)}). {_new_run(run)}")
    if len(record.members) != len(members):  # the folds are the same
        raise UserError(
            f"{_shown(run)} was started with SEEDS={record.seeds}. Give this number again, or another RUN= for another "
            "number."
        )
    threads = record.settings.hardware.threads if members else settings.hardware.threads
    hardware = replace(settings.hardware, threads=threads)
    return replace(settings, predict=record.settings.predict, hardware=hardware)


def measured_choices(run: RunLayout, given: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the overrides with which another run computes as `run` does, where its timing has chosen.

    Otherwise the other run's timing could choose differently.  given: the overrides of the command, which stay.
    """
    if not run.precision.exists():
        return []
    found, hardware = read_note(run.precision), given.get("hardware", {})
    return [f"hardware.{key}={found[key]}" for key in MEASURED if key in found and key not in hardware]


def _other_meaning(ours: Settings, theirs: Settings) -> list[str]:
    """Return the differences in what a training depends on outside `RUN_SECTIONS`: its task, its score, its pixels."""
    keys = set[str]()
    for settings in (ours, theirs):
        facts = METRICS[settings.competition.metric]
        keys |= {"task", "metric", *facts.options}
        keys |= {"positive"} if facts.takes == "positive" else set()
        keys |= {"grades"} if settings.train.loss == "ordinal" else set()
    depends = tuple(f"competition.{key}:" for key in keys)
    return [line for line in differences(ours, theirs, ("competition", "data")) if line.startswith((*depends, WHITE))]


def with_weights_of(settings: Settings, then: Settings) -> Settings:
    """Return `settings` with the values that weights files, or boxes, determined for a finished run with `then`.

    The result equals that of `transfer.resolve` for the same files, but needs neither the files nor torch. Values that
    `settings` set themselves stay, to be compared.
    """
    if plain_sha256(settings.model.weights_sha256) in ("", then.model.weights_sha256):
        settings = merge(settings, {"model": {"weights_sha256": then.model.weights_sha256}}, "model")
    if label_map_file(settings.model.label_map):
        settings = with_label_map(settings)
    elif settings.model.label_map == then.model.label_map:
        settings = merge(settings, {"model": {"label_map_sha256": then.model.label_map_sha256}}, "model")
    image = then.input
    keys = ("size", "mean", "std", "resize", "interpolation")
    return with_input(with_anchors_of(settings, then), **{key: getattr(image, key) for key in keys})


def with_anchors_of(settings: Settings, then: Settings) -> Settings:
    """Return `settings` with the anchors that they leave open as a run with the settings `then` has them."""
    anchors = {key: getattr(then.model, key) for key in ANCHORS if not getattr(settings.model, key)}
    return merge(settings, {"model": anchors}, "model")


def _begun(run: RunLayout) -> bool:
    """Return whether a run, or a member of a set, has a finished epoch."""
    return any(each.last.exists() or each.trained.exists() for each in (run, *map(run.member, members_of(run))))


def with_head_of(run: RunLayout, settings: Settings) -> Settings:
    """Return `settings` with the head that `train.search` chose when `run` began, if it has a finished epoch."""
    if not (settings.train.search and run.search.exists() and _begun(run)):
        return settings
    return with_head(settings, read_record(run).settings)


def with_head(settings: Settings, chosen: Settings) -> Settings:
    """Return `settings` with what `train.search` chose in the settings `chosen`; mirror images stay off where they are
    off: then it would not have tried them."""
    train = replace(settings.train, weight_decay=chosen.train.weight_decay, search=chosen.train.search)
    mirror = settings.features.mirror and chosen.features.mirror
    return replace(settings, features=replace(settings.features, mirror=mirror), train=train)


def with_label_map(settings: Settings) -> Settings:
    """Return `settings` with the SHA-256 of the label map's CSV, if `model.label_map` names one.

    Raises `UserError` if the file is missing or has another SHA-256 than `settings` expect.
    """
    model = settings.model
    if model.label_map in ("", "names") or not model.pretrained:
        return settings
    path = label_map_file(model.label_map)
    if path is None:
        raise missing_label_map(model.label_map)
    digest, wanted = file_sha256(path), plain_sha256(model.label_map_sha256)
    if wanted and digest != wanted:
        raise UserError(
            f"{path}, the label map, has the sha256 {digest}, but the settings expect {wanted} "
            "(model.label_map_sha256; a run records it). Put the file back that the run was trained with, or train a "
            "new run."
        )
    return merge(settings, {"model": {"label_map_sha256": digest}}, "model")


def read_record(run: RunLayout) -> RunRecord:
    """Return the record of `run`. Raises `UserError` if it cannot be read."""
    try:
        content = read_json(run.record)
        members = tuple(map(str, content.get("members", ())))
        return RunRecord(from_dict(content["settings"], str(run.record)), content["split_sha256"], members)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{run.record} cannot be read ({type(error).__name__}: {error})"
        raise UserError(f"{problem}. Remove the run and train again: {removal(run.folder)}") from None


def members_of(run: RunLayout) -> tuple[str, ...]:
    """Return the names of the members of a fold set; none for other runs, and for a record that cannot be read."""
    return _names(run, "members")


def blended(run: RunLayout) -> tuple[str, ...]:
    """Return the names of the runs that a blend combines; none for other runs, and for a record that cannot be read."""
    return _names(run, "blend")


def _names(run: RunLayout, key: str) -> tuple[str, ...]:
    with suppress(OSError, ValueError, TypeError, AttributeError):
        return tuple(map(str, read_json(run.record).get(key, ())))
    return ()


def refuse_blend(run: RunLayout, repeat: Callable[..., str]) -> None:
    """Raise `UserError` if `run` is a blend, which has no network.  repeat: returns the command of a stage."""
    if members := blended(run):
        again = repeat("blend", RUNS=shlex.join(members), RUN=run.folder.name)
        raise UserError(
            f"{_shown(run)} is a blend of {', '.join(members)}: these are trained and predicted, and it combines their "
            f"predictions. To combine them again: {again}"
        )


def check_split(run: RunLayout, record: RunRecord, split_csv: Path) -> None:
    """Raise `UserError` if `run` was trained on another split: its training rows could be validation rows now."""
    boxes = [split_csv.with_name(BOXES_CSV)] if record.settings.competition.task == BOXES else []
    for path in (split_csv, *boxes):
        if not path.exists():
            raise UserError(f"{path} is missing; {_shown(run)} was trained on it. Split again with the same settings.")
    if split_sha256(split_csv) != record.split_sha256:
        now = f"{split_csv} and {BOXES_CSV} now hold" if boxes else f"{split_csv} now holds"
        raise UserError(f"{_shown(run)} was trained on another split than {now}. {_new_run(run)}")


def finished_run(
    layout: Layout, name: str, settings: Settings, repeat: Callable[..., str]
) -> tuple[RunLayout, RunRecord, Any]:
    """Return the run `name`, its record and its train note; what a run does not depend on is that of `settings`.

    repeat: returns the command of a stage, as `repeat` of command.Words. Raises `UserError` if training has not
    finished, with the command that continues it, or if recipe or split differ.
    """
    run = layout.run(name)
    refuse_blend(run, repeat)
    if members := members_of(run):
        _check_finished(run, members, repeat)
    elif not run.trained.exists():
        state = "has not finished training" if run.record.exists() else "does not exist"
        raise UserError(f"The run {_shown(run)} {state}. First: {repeat('train')}")
    record = read_record(run)
    if record.settings.recipe != settings.recipe:
        problem = f"{_shown(run)} was trained with the recipe {record.settings.recipe!r}, but the recipe given is"
        raise UserError(f"{problem} {settings.recipe!r}: add RECIPE={shlex.quote(record.settings.recipe)}")
    check_split(run, record, layout.split_csv)
    now = to_dict(settings)
    current = {section: now[section] for section in OUTSIDE_A_RUN}
    current |= {section: {key: now[section][key] for key in keys} for section, keys in KEYS_OUTSIDE_A_RUN.items()}
    return run, replace(record, settings=merge(record.settings, current, "settings")), read_note(run.trained)


def _check_finished(run: RunLayout, members: Sequence[str], repeat: Callable[..., str]) -> None:
    """Raise `UserError` if the fold set `run` has not finished, with the command that continues it."""
    done = sum(run.member(name).trained.exists() for name in members)
    if done < len(members) or not (run.folds.exists() and run.trained.exists()):
        seeds = read_record(run).seeds
        more = {"SEEDS": str(seeds)} if seeds > 1 else {}
        state = f"is not finished: {done} of {len(members)} members are trained"
        raise UserError(f"The set {_shown(run)} {state}. First: {repeat('folds', **more)}")


def in_todays_words(run: RunLayout, then: Settings, settings: Settings) -> Settings:
    """Return the settings `then` of a finished run with the current [competition], [data] and [split].

    So what is sent, and how, may be corrected after the training. Raises `UserError` if a training depends on what has
    changed, such as the metric.
    """
    if changes := _other_meaning(settings, then):
        raise UserError(
            f"{_shown(run)} was trained with other settings ({'; '.join(changes)}). Undo these changes, or train "
            f"again. {_new_run(run)}"
        )
    return replace(then, **{section: getattr(settings, section) for section in SHARED_BY_RECIPES})


def _shown(run: RunLayout) -> str:
    """Return the run's folder, relative to the working folder."""
    parts = run.folder.parts
    return "/".join(parts[-4 if parts[-4:-3] == ("runs",) else -3 :])  # a member is one level below its set


def _new_run(run: RunLayout) -> str:
    return f"Name a new run with RUN=, or remove this one: {removal(run.folder)}"
