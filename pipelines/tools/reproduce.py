"""Make a finished run's submission again from its record alone, and compare the two byte for byte.

Reads   runs/<c>/<run>/run.json, train.json, predict.json; data/<c>/raw.
Writes  runs/<c>/<run>-reproduced/: a working folder of its own, in which all stages run anew, with the settings of the
        record rather than the TOML of today, and what they say, <stage>.log; it is removed when all bytes are equal.

Killed at any moment, the same command goes on where it was.  Equal bytes are promised on the same machine, with as many
threads and the same packages: where bytes differ, what has changed since is listed.
"""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines import command
from pipelines.settings.loading import submission_name
from pipelines.system.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    words = command.parser(__doc__, "tools.reproduce").parse_args(arguments, namespace=command.Words())
    from pipelines.settings.layout import Layout
    from pipelines.settings.records import finished_run
    from pipelines.system.files import read_json, read_note

    layout = words.layout()
    run, record, trained = finished_run(layout, words.run_name(), words.settings(), words.repeat("train"))
    name = f"{submission_name(run.folder.name, words.set)}.csv"
    note = read_note(run.predicted).get(name) if run.predicted.exists() else None
    if note is None:
        raise UserError(f"{name} was not predicted from this run. First: {words.repeat('predict')}")
    scratch = run.folder.with_name(f"{run.folder.name}-reproduced")
    shown = scratch.relative_to(layout.root)
    with words.only_one_in(layout.run(scratch.name)):
        copy = Layout(scratch, layout.competition)
        _link(copy.raw, layout.raw)
        _link(copy.weights, layout.weights)
        sections = record.sections() | {"predict": note["predict"]}
        _link_files(sections, layout.root, scratch)
        sections["hardware"] |= {key: trained["hardware"][key] for key in ("precision", "threads")}
        toml = scratch / f"{layout.competition}.toml"
        _write_toml(toml, sections)
        stages = ["split", "train", "retrain", "predict"]
        if note["checkpoint"] == run.best.name:
            stages.remove("retrain")
        for number, stage in enumerate(stages, 1):
            print(f"Stage {number} of {len(stages)}: {stage}; what it says: {shown / stage}.log", flush=True)
            if status := command.run_stage(stage, [toml.name, "--run", run.folder.name], scratch):
                sys.exit(status)
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
        print(command.table(("what has changed since", "then", "now"), changes) if changes else "Nothing has changed.")
    raise UserError(
        f"{name} could not be reproduced byte for byte. Both are there to be compared: "
        f"{layout.submission(Path(name).stem).relative_to(layout.root)} and "
        f"{copy.submission(run.folder.name).relative_to(layout.root)}."
        + (" What is listed above can be the cause." if changes else " No cause is known: please report it.")
    )


def _link(link: Path, target: Path) -> None:
    """Let `link` stand for the folder `target`, where there is one."""
    if target.is_dir() and not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target.resolve(), target_is_directory=True)


def _link_files(sections: Mapping[str, dict[str, Any]], root: Path, scratch: Path) -> None:
    """Let the settings of `sections` that name a file from the working folder `root` name it from `scratch` too."""

    def linked(name: str, key: str) -> str:
        file = root / name
        if Path(name).is_absolute() or not file.is_file():
            return name  # it means the same everywhere
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


def _write_toml(path: Path, sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the settings as a competition's TOML; JSON's plain values are TOML's too."""
    from pipelines.system.files import write_text

    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [
            f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value is not None
        ]
    write_text(path, "\n".join(lines) + "\n")


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [(key, str(then.get(key, "unknown")), str(value)) for key, value in now.items() if then.get(key) != value]


if __name__ == "__main__":
    sys.exit(command.run(main))
