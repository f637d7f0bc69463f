"""The members of a fold set: one training for each fold and seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.settings.layout import RunLayout
from pipelines.settings.loading import differences
from pipelines.settings.records import RUN_SECTIONS, RunRecord, read_record, with_anchors_of
from pipelines.settings.running_sections import PredictSettings
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.files import file_sha256
from pipelines.system.shell import path_word, removal


@dataclass(frozen=True)
class Member:
    """One training of a set, in the folder `name` of the set: it validates `fold`, with `seed` as train.seed."""

    name: str
    fold: int
    seed: int

    def settings(self, settings: Settings) -> Settings:
        """Return the `settings` of the set as this member has them."""
        return replace(settings, train=replace(settings.train, fold=self.fold, seed=self.seed))


def plan(settings: Settings, seeds: int) -> list[Member]:
    """Return the members of a set with so many `seeds`, which count from train.seed.

    All folds of one seed come before the next seed. Without folds, all members validate the same rows.
    """
    members = []
    for number in range(seeds):
        seed = settings.train.seed + number
        if not settings.split.folds:
            members.append(Member(f"seed-{number}", 0, seed))
        for fold in range(settings.split.folds):
            members.append(Member(f"fold-{fold}" + (f"-seed-{number}" if number else ""), fold, seed))
    return members


def check_members(run: RunLayout, record: RunRecord, repeat: Callable[..., str]) -> None:
    """Raise `UserError` if a member of the fold set `run` is missing, or was trained otherwise than the set says.

    record: of the set; one without members is a plain run.  repeat: returns the command of a stage.
    """
    more = {"SEEDS": str(record.seeds)} if record.seeds > 1 else {}
    for member in plan(record.settings, record.seeds) if record.members else ():
        files = run.member(member.name)
        if not (files.record.exists() and files.best.exists()):
            problem = "lacks run.json or best.pt"
        else:
            theirs = read_record(files)
            ours = with_anchors_of(member.settings(record.settings), theirs.settings)  # each has those of its boxes
            changes = differences(theirs.settings, ours, RUN_SECTIONS)
            changes += ["another split"] * (theirs.split_sha256 != record.split_sha256)
            problem = f"was trained with other settings than its set ({'; '.join(changes)})" if changes else ""
        if problem:
            raise UserError(
                f"{path_word(files.folder)} {problem}. Remove it, then train it again: {removal(files.folder)}\n"
                f"{repeat('folds', **more)}"
            )


def checkpoints(run: RunLayout, members: Sequence[Member], predict: PredictSettings) -> dict[str, Path]:
    """Return the checkpoints that predict the test images, by their names in the folder of `run`.

    members: of a fold set; none of a plain run.
    """
    if not members:
        paths = [run.final if predict.checkpoint == "final" else run.best]
    else:
        folds = [run.member(member.name).best for member in members]
        paths = folds * (predict.members != "final") + [run.final] * (predict.members != "folds")
    return {path.relative_to(run.folder).as_posix(): path for path in paths}


def made_from(run: RunLayout, members: Sequence[Member], predict: PredictSettings) -> dict[str, Any]:
    """Return what predict.json records of the `checkpoints`: their SHA-256, and which of them there are."""
    digests = {name: file_sha256(path) for name, path in checkpoints(run, members, predict).items()}
    if members:
        return {"checkpoint": predict.members, "weights": digests}
    ((name, digest),) = digests.items()
    return {"checkpoint": name, "weights": digest}
