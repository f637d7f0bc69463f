"""Rebuild a finished run's submission from its record alone, and compare the two byte for byte.

Reads   runs/<c>/<run>/run.json, train.json, predict.json; data/<c>/raw.
Writes  runs/<c>/<run>-reproduced/: a separate working folder in which all stages run again, with the settings of the
        record instead of today's TOML, and their output in <stage>.log.  It is removed when all bytes are equal.

Run the same command again after a kill: it continues.  Equal bytes are promised on the same machine with the same
number of threads and the same packages; where bytes differ, the changes since then are listed.
"""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines import command
from pipelines.settings.layout import Layout
from pipelines.settings.loading import submission_name
from pipelines.settings.records import finished_run
from pipelines.system.errors import UserError
from pipelines.system.files import read_json, read_note, write_text

Sections = Mapping[str, dict[str, Any]]  # settings: section -> key -> value


def main(arguments: Sequence[str] | None = None) -> None:
    words = command.parser(__doc__, "tools.reproduce").parse_args(arguments, namespace=command.Words())
    layout = words.layout()
    run, record, trained = finished_run(layout, words.run_name(), words.settings(), words.repeat("train"))
    name = f"{submission_name(run.folder.name, words.set)}.csv"
    note = read_note(run.predicted).get(name) if run.predicted.exists() else None
    if note is None:
        raise UserError(f"{name} was not predicted from this run. First: {words.repeat('predict')}")
    sections = record.sections() | {"predict": note["predict"]}
    sections["hardware"] |= {key: trained["hardware"][key] for key in ("precision", "threads")}
    stages = ["split", "train", "retrain", "predict"]
    if note["checkpoint"] == run.best.name:
        stages.remove("retrain")
    scratch = run.folder.with_name(f"{run.folder.name}-reproduced")
    with words.only_one_in(layout.run(scratch.name)):
        copy = Layout(scratch, layout.competition)
        _rebuild(layout, copy, run.folder.name, sections, stages)
        made = copy.run(run.folder.name)
        again = read_json(made.predicted)[f"{run.folder.name}.csv"]
        rows = [
            ("split.csv", record.split_sha256, read_json(made.record)["split_sha256"]),
            ("submission", note["sha256"], again["sha256"]),
        ]
        cells = [(what, then[:12], now[:12], "equal" if then == now else "DIFFERENT") for what, then, now in rows]
        print(command.table(("sha256", "recorded", "reproduced", ""), cells))
        if all(then == now for _, then, now in rows):
            shutil.rmtree(scratch)
            print(f"Reproduced: {name}, byte for byte.")
            return
    changes = _changes(note.get("made_on", {}), again["made_on"])
    print(command.table(("changed since", "then", "now"), changes) if changes else "Nothing has changed since.")
    cause = "The changes listed above may be the cause." if changes else "No cause is known: please report it."
    old, new = layout.submission(Path(name).stem), copy.submission(run.folder.name)
    raise UserError(
        f"{name} could not be reproduced byte for byte. {cause} Compare {old.relative_to(layout.root)} with "
        f"{new.relative_to(layout.root)}."
    )


def _rebuild(layout: Layout, copy: Layout, run: str, sections: Sections, stages: Sequence[str]) -> None:
    """Run `stages` with the settings `sections` in the working folder of `copy`.  Exit where a stage fails."""
    _link_folder(copy.raw, layout.raw)
    _link_folder(copy.weights, layout.weights)
    _link_files(sections, layout.root, copy.root)
    toml = copy.root / f"{layout.competition}.toml"
    _write_toml(toml, sections)
    for number, stage in enumerate(stages, 1):
        log = (copy.root / f"{stage}.log").relative_to(layout.root)
        print(f"Stage {number} of {len(stages)}: {stage}; output: {log}", flush=True)
        if status := command.run_stage(stage, [toml.name, "--run", run], copy.root):
            sys.exit(status)


def _link_folder(link: Path, target: Path) -> None:
    if target.is_dir() and not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target.resolve(), target_is_directory=True)


def _link_files(sections: Sections, root: Path, scratch: Path) -> None:
    """Link the files that `sections` name relative to `root` into `scratch`, and change `sections` to the links."""

    def linked(name: str, key: str) -> str:
        file = root / name
        if Path(name).is_absolute() or not file.is_file():
            return name  # it does not depend on the working folder
        link = scratch / "inputs" / key / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(file.resolve())
        return str(link.relative_to(scratch))

    model, split = sections["model"], sections["split"]
    split["group_file"] = linked(split["group_file"], "group_file")
    if model["label_map"] != "names":
        model["label_map"] = linked(model["label_map"], "label_map")
    weights = model["weights"].split("+") if "+" in model["name"] else [model["weights"]]
    model["weights"] = "+".join(linked(name, f"weights-{number}") for number, name in enumerate(weights))


def _write_toml(path: Path, sections: Sections) -> None:
    """Write `sections` as a competition's TOML.  A plain value is the same in JSON and TOML."""
    lines = []
    for section, values in sections.items():
        known = {key: value for key, value in values.items() if value is not None}
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in known.items())]
    write_text(path, "\n".join(lines) + "\n")


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [(key, str(then.get(key, "unknown")), str(value)) for key, value in now.items() if then.get(key) != value]


if __name__ == "__main__":
    sys.exit(command.run(main))
