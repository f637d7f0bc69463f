"""Write and read the records of splits and runs, and check that the current request equals them."""

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.settings.layout import Layout, RunLayout
from pipelines.settings.loading import differences, from_dict, merge, to_dict, with_input
from pipelines.settings.schema import OUTSIDE_A_RUN, Settings
from pipelines.system.errors import UserError
from pipelines.system.files import file_sha256, plain_sha256, read_json, read_note, write_json
from pipelines.system.shell import removal

SPLIT_SECTIONS = ("data", "split")  # settings that determine a split
RUN_SECTIONS = ("input", "augment", "model", "finetune", "features", "train")  # settings that determine a run
METRIC = "competition.metric:"  # the one key of [competition] that a run depends on
GROUP_FILE = "split.group_file"  # key of its SHA-256 among the inputs of a split
DOWNLOAD_RECORD = ".download.json"  # inside the raw folder


@dataclass(frozen=True)
class RunRecord:
    """The settings and split that a run was started with; retrain and predict use them, not the current TOML."""

    settings: Settings
    split_sha256: str

    def sections(self) -> dict[str, dict[str, Any]]:
        """Return the settings as plain values, {section: {key: value}}."""
        return {key: value for key, value in to_dict(self.settings).items() if isinstance(value, dict)}


def split_inputs(layout: Layout, settings: Settings) -> dict[str, str]:
    """Return the SHA-256 of each input of a split: the CSVs, the download record and split.group_file, if present."""
    data = settings.data
    names = (data.labels, data.test_table, data.sample_submission, DOWNLOAD_RECORD)
    paths = {name: layout.raw / name for name in names if name}
    paths[GROUP_FILE] = layout.root / settings.split.group_file  # the root folder if not set
    return {name: file_sha256(path) for name, path in paths.items() if path.is_file()}


def code_version() -> str:
    """Return the git commit of this code, with `, changed` if files differ from it; empty if git knows none."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parents[1]), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (", changed" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def split_is_made(layout: Layout, settings: Settings) -> bool:
    """Return whether the split of `settings` exists. Raises `UserError` if it was made from anything else."""
    if not (layout.split_record.exists() and layout.split_csv.exists()):
        return False
    recorded, inputs, sha256 = _read_split_record(layout)
    again = f"split again: {split_removal(layout)}"
    then = merge(Settings(settings.name), recorded, str(layout.split_record))
    if changes := differences(settings, then, SPLIT_SECTIONS):
        problem = f"{settings.name} is already split, with other settings: {'; '.join(changes)}"
        compare = "Scores of runs on the old split then no longer compare."
        raise UserError(f"{problem}. Undo these, or split again. {compare} To split again: {split_removal(layout)}")
    current = split_inputs(layout, settings)
    if inputs.get(GROUP_FILE) != current.get(GROUP_FILE):
        state = "has changed" if GROUP_FILE in current else "is missing"
        file = layout.root / settings.split.group_file
        raise UserError(f"{file} (split.group_file) {state} since {layout.split_csv} was made. Put it back, or {again}")
    if inputs != current:
        raise UserError(f"{layout.raw} holds other data than {layout.split_csv} was made from. Put it back, or {again}")
    if file_sha256(layout.split_csv) != sha256:
        raise UserError(f"{layout.split_csv} was changed after it was made. Put it back, or {again}")
    return layout.tree.is_dir()


def is_split_by_audit(layout: Layout) -> bool:
    """Return whether the split was made with the current groups CSV of `audit`, which must then not be overwritten."""
    groups = layout.audit.groups
    if not (layout.split_record.exists() and groups.is_file()):
        return False
    sections, inputs, _ = _read_split_record(layout)
    group_file = sections["split"].get("group_file", "")  # absent in older records
    return bool(layout.root / group_file == groups and inputs.get(GROUP_FILE) == file_sha256(groups))


def _read_split_record(layout: Layout) -> tuple[dict[str, dict[str, Any]], dict[str, str], str]:
    """Return the settings, the SHA-256 of each input and that of split.csv, as the split's record has them."""
    try:
        record = read_json(layout.split_record)
        sections = {name: dict(record[name]) for name in SPLIT_SECTIONS}
        return sections, dict(record["inputs"]), record["split_csv_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{layout.split_record} is damaged ({error!r}). Split again: {split_removal(layout)}") from None


def split_removal(layout: Layout) -> str:
    """Return the command that removes the split."""
    return removal(layout.split_record, layout.split_csv, layout.tree)


def start_run(run: RunLayout, settings: Settings, split_csv: Path) -> None:
    """Write the record of a new run; for a run with a finished epoch, check that settings and split are the same.

    Raises `UserError` with the differences. A run without a finished epoch starts from the beginning.
    """
    if not (run.last.exists() or run.trained.exists()):
        # Files of an earlier run of this name, perhaps of another network, must not be used for the new one.
        for stale in (run.precision, run.valid_predictions, run.retrained, run.retrain_last):
            stale.unlink(missing_ok=True)
        write_json(run.record, {"settings": to_dict(settings), "split_sha256": file_sha256(split_csv)})
        return
    record = read_record(run)
    check_split(run, record, split_csv)
    changes = differences(settings, record.settings, (*RUN_SECTIONS, "competition"))
    if changes := [line for line in changes if not line.startswith("competition.") or line.startswith(METRIC)]:
        raise UserError(f"{_shown(run)} was trained with other settings ({'; '.join(changes)}). {_new_run(run)}")


def with_weights_of(settings: Settings, then: Settings) -> Settings:
    """Return `settings` with the values that weights files determined for a finished run with the settings `then`.

    The result equals that of `transfer.resolve` for the same files, but needs neither the files nor torch. Values that
    `settings` set themselves stay, to be compared.
    """
    if plain_sha256(settings.model.weights_sha256) in ("", then.model.weights_sha256):
        settings = merge(settings, {"model": {"weights_sha256": then.model.weights_sha256}}, "model")
    image = then.input
    return with_input(settings, size=image.size, mean=image.mean, std=image.std, resize=image.resize)


def read_record(run: RunLayout) -> RunRecord:
    """Return the record of `run`. Raises `UserError` if it cannot be read."""
    try:
        content = read_json(run.record)
        return RunRecord(from_dict(content["settings"], str(run.record)), content["split_sha256"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{run.record} cannot be read ({type(error).__name__}: {error})"
        raise UserError(f"{problem}. Remove the run and train again: {removal(run.folder)}") from None


def check_split(run: RunLayout, record: RunRecord, split_csv: Path) -> None:
    """Raise `UserError` if `run` was trained on another split: its training rows could be validation rows now."""
    if not split_csv.exists():
        raise UserError(f"{split_csv} is missing; {_shown(run)} was trained on it. Split again with the same settings.")
    if file_sha256(split_csv) != record.split_sha256:
        raise UserError(f"{_shown(run)} was trained on another split than {split_csv} now holds. {_new_run(run)}")


def finished_run(layout: Layout, name: str, settings: Settings, make_train: str) -> tuple[RunLayout, RunRecord, Any]:
    """Return the run `name`, its record and its train note; sections outside a run are those of `settings`.

    Raises `UserError` if training has not finished, with the command `make_train`, or if recipe or split differ.
    """
    run = layout.run(name)
    if not run.trained.exists():
        state = "has not finished training" if run.record.exists() else "does not exist"
        raise UserError(f"The run {_shown(run)} {state}. First: {make_train}")
    record = read_record(run)
    if record.settings.recipe != settings.recipe:
        problem = f"{_shown(run)} was trained with the recipe {record.settings.recipe!r}, but the recipe given is"
        raise UserError(f"{problem} {settings.recipe!r}: add RECIPE={shlex.quote(record.settings.recipe)}")
    check_split(run, record, layout.split_csv)
    current = {section: to_dict(settings)[section] for section in OUTSIDE_A_RUN}
    return run, RunRecord(merge(record.settings, current, "settings"), record.split_sha256), read_note(run.trained)


def _shown(run: RunLayout) -> str:
    """Return the run's folder, relative to the working folder."""
    return "/".join(run.folder.parts[-3:])


def _new_run(run: RunLayout) -> str:
    return f"Name a new run with RUN=, or remove this one: {removal(run.folder)}"
