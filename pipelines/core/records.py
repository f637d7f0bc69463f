"""A run's records: the settings it was started with, and a note from each stage that finished."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.errors import UserError
from pipelines.core.files import file_sha256, read_json, write_json
from pipelines.core.layout import Layout, RunLayout
from pipelines.core.settings import OUTSIDE_A_RUN, SECTIONS, Settings, differences, from_dict, merge, to_dict


@dataclass(frozen=True)
class RunRecord:
    """What a run was started with: it is this, not the TOML of today, that retrain and predict go by."""

    settings: Settings
    split_sha256: str


def start_run(run: RunLayout, settings: Settings, split_csv: Path) -> None:
    """Write the record of a new run, or check that the run in progress was started with the same settings and split.

    Raises `UserError` that lists the differences; a run that has no finished epoch is simply started anew.
    """
    split_sha256 = file_sha256(split_csv)
    if run.last.exists():
        record = read_record(run)
        check_split(run, record, split_csv)
        within = [section for section in SECTIONS if section not in OUTSIDE_A_RUN]
        if changed := differences(settings, record.settings, within):
            raise UserError(
                f"{_shown(run)} was trained with other settings ({'; '.join(changed)}). Name a new run with RUN=, or "
                f"remove it: rm -r {_shown(run)}"
            )
        return
    write_json(run.record, {"settings": to_dict(settings), "split_sha256": split_sha256})


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
    if not split_csv.exists() or file_sha256(split_csv) != record.split_sha256:
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
    check_split(run, record, layout.split_csv)
    current = {section: to_dict(settings)[section] for section in OUTSIDE_A_RUN}
    return run, RunRecord(merge(record.settings, current, "settings"), record.split_sha256), read_json(run.trained)


def _shown(run: RunLayout) -> str:
    """The run's folder as a person types it: from the working folder."""
    return "/".join(run.folder.parts[-3:])
