"""What a split and a run were made from, and the checks that what is asked for now is the same."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.settings.layout import Layout, RunLayout
from pipelines.settings.loading import differences, from_dict, merge, to_dict, with_input
from pipelines.settings.schema import OUTSIDE_A_RUN, Settings
from pipelines.system.errors import UserError
from pipelines.system.files import file_sha256, plain_sha256, read_json, read_note, write_json

SPLIT_SECTIONS = ("data", "split")  # the settings that a split is made from
RUN_SECTIONS = ("input", "augment", "model", "finetune", "features", "train")  # and those that make a run what it is
GROUP_FILE = "split.group_file"  # what its SHA-256 is called among the inputs of a split
DOWNLOAD_RECORD = ".download.json"  # inside the raw folder


@dataclass(frozen=True)
class RunRecord:
    """What a run was started with: it is this, not the TOML of today, that retrain and predict go by."""

    settings: Settings
    split_sha256: str

    def sections(self) -> dict[str, dict[str, Any]]:
        """Return the settings as plain values, section by section."""
        return {key: value for key, value in to_dict(self.settings).items() if isinstance(value, dict)}


def split_inputs(layout: Layout, settings: Settings) -> dict[str, str]:
    """Return the SHA-256 of each file that says what the images are: the CSVs, and the record of the download; and of
    the one that says which belong together."""
    data = settings.data
    names = (data.labels, data.test_table, data.sample_submission, DOWNLOAD_RECORD)
    inputs = {name: file_sha256(layout.raw / name) for name in names if name and (layout.raw / name).is_file()}
    groups = layout.root / settings.split.group_file
    return inputs | ({GROUP_FILE: file_sha256(groups)} if groups.is_file() else {})


def code_version() -> str:
    """Return the git commit of this project, with `, changed` where files differ from it; empty where git has none."""
    git = ["git", "-C", str(Path(__file__).parents[1])]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run(
            [*git, "status", "--porcelain", "."], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{commit}, changed" if changes.strip() else commit


def split_is_made(layout: Layout, settings: Settings) -> bool:
    """Whether the split that `settings` ask for is there.  Raises `UserError` when another one is."""
    if not (layout.split_record.exists() and layout.split_csv.exists()):
        return False
    recorded, inputs, sha256 = _read_split_record(layout)
    then = merge(Settings(settings.name), recorded, str(layout.split_record))
    if changes := differences(settings, then, SPLIT_SECTIONS):
        raise UserError(
            f"{settings.name} is already split, with other settings: {'; '.join(changes)}. Take them back, or split "
            f"anew: {split_removal(layout)} (scores of runs that trained on the old split then no longer compare)."
        )
    today = split_inputs(layout, settings)
    if inputs.get(GROUP_FILE) != today.get(GROUP_FILE):
        state = "has changed since" if GROUP_FILE in today else "is missing, by which"
        raise UserError(
            f"{layout.root / settings.split.group_file}, which split.group_file names, {state} {layout.split_csv} was "
            f"made. Put it back, or split anew: {split_removal(layout)}"
        )
    if inputs != today:
        raise UserError(
            f"{layout.raw} holds other data than {layout.split_csv} was made from. Split anew: {split_removal(layout)}"
        )
    if file_sha256(layout.split_csv) != sha256:
        raise UserError(
            f"{layout.split_csv} was changed after it was made. Put it back, or split anew: {split_removal(layout)}"
        )
    return layout.tree.is_dir()


def is_split_by_audit(layout: Layout) -> bool:
    """Whether the split was made by the groups that lie where `audit` writes them: one of its inputs, which is to
    stay."""
    groups = layout.audit.groups
    if not (layout.split_record.exists() and groups.is_file()):
        return False
    sections, inputs, _ = _read_split_record(layout)
    group_file = sections["split"].get("group_file", "")  # which older ones do not know
    return bool(layout.root / group_file == groups and inputs.get(GROUP_FILE) == file_sha256(groups))


def _read_split_record(layout: Layout) -> tuple[dict[str, dict[str, Any]], dict[str, str], str]:
    """Return the settings, the digests of the inputs, and the digest of split.csv that the split's record names."""
    try:
        record = read_json(layout.split_record)
        sections = {name: dict(record[name]) for name in SPLIT_SECTIONS}
        return sections, dict(record["inputs"]), record["split_csv_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{layout.split_record} is damaged ({error!r}). Split anew: {split_removal(layout)}") from None


def split_removal(layout: Layout) -> str:
    """The command that removes the split."""
    paths = (layout.split_record, layout.split_csv, layout.tree)
    return "rm -r " + " ".join(str(path.relative_to(layout.root)) for path in paths)


def start_run(run: RunLayout, settings: Settings, split_csv: Path) -> None:
    """Write the record of a new run, or check that the run in progress was started with the same settings and split.

    Raises `UserError` that lists the differences; a run that has no finished epoch is simply started anew.
    """
    split_sha256 = file_sha256(split_csv)
    if run.last.exists() or run.trained.exists():
        record = read_record(run)
        check_split(run, record, split_csv)
        metrics = settings.competition.metric, record.settings.competition.metric
        changed = differences(settings, record.settings, RUN_SECTIONS)
        changed += [f"competition.metric: {metrics[0]!r} now, {metrics[1]!r} then"] if len(set(metrics)) > 1 else []
        if changed:
            raise UserError(
                f"{_shown(run)} was trained with other settings ({'; '.join(changed)}). Name a new run with RUN=, or "
                f"remove it: rm -r {_shown(run)}"
            )
        return
    # What is left of an earlier run of this name, maybe of another network, must not be taken for this one's.
    for stale in (run.precision, run.valid_predictions, run.retrained, run.retrain_last):
        stale.unlink(missing_ok=True)
    write_json(run.record, {"settings": to_dict(settings), "split_sha256": split_sha256})


def with_weights_of(settings: Settings, then: Settings) -> Settings:
    """Return `settings` with what files of weights determined for a run that has the settings `then`.

    It is the same as `transfer.resolve` finds in those files, but needs neither them nor torch, which takes a second to
    import: enough where the run is finished.  What `settings` say themselves stays, to be compared.
    """
    if plain_sha256(settings.model.weights_sha256) in ("", then.model.weights_sha256):
        settings = merge(settings, {"model": {"weights_sha256": then.model.weights_sha256}}, "model")
    image = then.input
    return with_input(settings, size=image.size, mean=image.mean, std=image.std, resize=image.resize)


def read_record(run: RunLayout) -> RunRecord:
    """Read the record of `run`; raises `UserError` where it is damaged."""
    try:
        content = read_json(run.record)
        return RunRecord(from_dict(content["settings"], str(run.record)), content["split_sha256"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{run.record} cannot be read ({type(error).__name__}: {error}). Remove the run and train again: "
            f"rm -r {_shown(run)}"
        ) from None


def check_split(run: RunLayout, record: RunRecord, split_csv: Path) -> None:
    """Raise `UserError` when the split is not the one that `run` was trained on: its validation would see rows it
    learned from."""
    if not split_csv.exists():
        raise UserError(
            f"{split_csv} is missing, by which {_shown(run)} was trained. Split again, with the same settings."
        )
    if file_sha256(split_csv) != record.split_sha256:
        raise UserError(
            f"{_shown(run)} was trained on another split than {split_csv} now holds. Name a new run with RUN=, or "
            f"remove it: rm -r {_shown(run)}"
        )


def finished_run(layout: Layout, name: str, settings: Settings, make_train: str) -> tuple[RunLayout, RunRecord, Any]:
    """Return the run `name`, its record with today's settings of prediction and hardware, and its train note.

    Raises `UserError` where training has not finished, naming the command `make_train` that does it.
    """
    run = layout.run(name)
    if not run.trained.exists():
        state = "has not finished training" if run.record.exists() else "does not exist"
        raise UserError(f"The run {_shown(run)} {state}. First: {make_train}")
    record = read_record(run)
    if record.settings.recipe != settings.recipe:
        raise UserError(
            f"{_shown(run)} was trained with the recipe {record.settings.recipe!r}, and this asks for "
            f"{settings.recipe!r}: add RECIPE={record.settings.recipe}"
        )
    check_split(run, record, layout.split_csv)
    current = {section: to_dict(settings)[section] for section in OUTSIDE_A_RUN}
    return run, RunRecord(merge(record.settings, current, "settings"), record.split_sha256), read_note(run.trained)


def _shown(run: RunLayout) -> str:
    """The run's folder as a person types it: from the working folder."""
    return "/".join(run.folder.parts[-3:])
