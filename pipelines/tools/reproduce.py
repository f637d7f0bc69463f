"""Rebuild a finished run's submission from its record alone, and compare the two byte for byte.

Reads   runs/<c>/<run>/run.json, train.json, predict.json; data/<c>/raw.
Writes  runs/<c>/<run>-reproduced/: a separate working folder in which all stages run again, with the settings of the
        record instead of today's TOML, and their output in <stage>.log.  It is removed when all bytes are equal.

A blend is combined again from the predictions that its members have stored; these are not made again.

Run the same command again after a kill: it continues.  Equal bytes are promised on the same machine with the same
number of threads and the same packages; where bytes differ, the changes since then are listed.
"""

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines import command
from pipelines.settings.layout import Layout, RunLayout
from pipelines.settings.overrides import toml
from pipelines.settings.records import RunRecord, blended, check_split, finished_run, read_record
from pipelines.system.errors import UserError
from pipelines.system.files import read_json, read_note, write_text

LENGTHS = {("train", "epochs"): 1 << 30, ("finetune", "head_epochs"): 0}  # with these, each setting has an effect
Stages = dict[str, list[str]]  # of each stage its module, and arguments of their own
Sections = Mapping[str, dict[str, Any]]  # settings: section -> key -> value


def main(arguments: Sequence[str] | None = None) -> None:
    words = command.parser(__doc__, "tools.reproduce").parse_args(arguments, namespace=command.Words())
    layout, submission = words.layout(), words.submission()
    run, members = layout.run(words.run_name()), blended(layout.run(words.run_name()))
    trained: dict[str, Any] = {}
    if members:
        record = read_record(run)
        check_split(run, record, layout.split_csv)
    else:
        run, record, trained = finished_run(layout, run.folder.name, words.settings(), words.repeat)
    note = read_note(run.predicted).get(submission.name) if run.predicted.exists() else None
    if note is None:
        make = words.repeat("blend", RUNS=shlex.join(members)) if members else words.repeat("predict")
        raise UserError(f"{submission.name} was not predicted from this run. First: {make}")
    sections, stages = _sections(record, note, words), _stages(run, record, note, trained)
    sections["hardware"] |= _hardware(record, note, trained)
    scratch = run.folder.with_name(f"{run.folder.name}-reproduced")
    copy = Layout(scratch, layout.competition)
    made, other = copy.run(run.folder.name), copy.submission(run.folder.name)
    with words.only_one_in(layout.run(scratch.name)):
        for name in members:
            _link(copy.run(name).folder, layout.run(name).folder)
        _rebuild(layout, copy, run.folder.name, sections, stages)
        again = read_json(made.predicted)[other.name]
        sums = {"split.csv": (record.split_sha256, read_json(made.record)["split_sha256"])}
        sums["submission"] = note["sha256"], again["sha256"]
        rows = [(name, a[:12], b[:12], "equal" if a == b else "DIFFERENT") for name, (a, b) in sums.items()]
        print(command.table(("sha256", "recorded", "reproduced", ""), rows))
        if all(a == b for a, b in sums.values()):
            shutil.rmtree(scratch)
            print(f"Reproduced: {submission.name}, byte for byte{_from(members, words)}")
            return
    then, now = (each.get("made_on", {}) | _of_members(each) for each in (note, again))
    changes = [(key, then.get(key, "unknown"), value) for key, value in now.items() if then.get(key) != value]
    print(command.table(("changed since", "then", "now"), changes) if changes else "Nothing has changed since.")
    cause = "The changes listed above may be the cause." if changes else "No cause is known: please report it."
    raise UserError(
        f"{submission.name} could not be reproduced byte for byte. {cause} Compare "
        f"{submission.relative_to(layout.root)} with {other.relative_to(layout.root)}."
    )


def _sections(record: RunRecord, note: dict[str, Any], words: command.Words) -> dict[str, dict[str, Any]]:
    """Return the settings of the record as the submission with this `note` was made with them."""
    sections = record.sections() | {"predict": note["predict"]}
    for key, value in note.get("form", {}).items():  # what was sent may have been corrected after the training
        section, _, name = key.partition(".")
        sections[section][name] = value
    sections["data"]["submitted_labels"] = words.settings().data.submitted_labels if note.get("answers") else ""
    return sections


def _stages(run: RunLayout, record: RunRecord, note: dict[str, Any], trained: dict[str, Any]) -> Stages:
    """Return the stages that made the submission with this `note`, with as many processes as trained then."""
    split: Stages = {"split": ["split"]}
    if members := blended(run):
        return split | {"blend": ["tools.blend", f"--runs={shlex.join(members)}"]}
    processes = trained["hardware"].get("processes", 1)
    launched = ["tools.launch", str(processes)] if processes > 1 else []
    folds: Stages = {"folds": ["tools.folds", "--seeds", str(record.seeds)]}
    train = folds if record.members else {"train": [*launched, "train"]}
    unused = note["checkpoint"] in (run.best.name, "folds")
    retrain = {} if unused else {"retrain": [*launched, "retrain"]}
    return split | train | retrain | {"predict": [*launched, "predict"]}


def _hardware(record: RunRecord, note: dict[str, Any], trained: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of [hardware] that a training has chosen.  trained: train.json; empty for a blend."""
    if not trained:
        return {"threads": note["made_on"]["threads"]}
    then = trained["hardware"]
    # Members of a set shared the cores, which the prediction had for itself.
    shared = record.members and note["made_on"]["threads"] != then["threads"]
    chosen = {"precision": then["precision"], "threads": 0 if shared else then["threads"]}
    return chosen | {"side_by_side": then.get("side_by_side", 0)}  # older runs lack it


def _from(members: Sequence[str], words: command.Words) -> str:
    """Return the end of the last line: what a blend was combined from, which was not made again itself."""
    if not members:
        return "."
    commands = "; ".join(words.repeat("reproduce", RUN=name) for name in members)
    return f", from the stored predictions of its members. To reproduce these too: {commands}"


def _of_members(note: dict[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of the test predictions of each member of a blend."""
    return {f"predictions of {name}": each["test_predictions"] for name, each in note.get("members", {}).items()}


def _rebuild(layout: Layout, copy: Layout, run: str, sections: Sections, stages: Stages) -> None:
    """Run `stages` with the settings `sections` in the working folder of `copy`.  Exit where a stage fails."""
    for link, target in ((copy.raw, layout.raw), (copy.weights, layout.weights)):
        if target.is_dir():
            _link(link, target)
    _link_files(sections, layout.root, copy.root)
    # A warm-up longer than the training is a mistake in a TOML, but not where SET= has shortened the training.
    lengths = {f"{section}.{key}": sections[section][key] for section, key in LENGTHS}
    sections = dict(sections) | {section: sections[section] | {key: LENGTHS[section, key]} for section, key in LENGTHS}
    path = copy.root / f"{layout.competition}.toml"
    write_text(path, toml_of(sections))
    words = [path.name, "--run", run, "--set", *(f"{key}={value}" for key, value in lengths.items())]
    for number, (stage, (module, *more)) in enumerate(stages.items(), 1):
        log = (copy.root / f"{module}.log").relative_to(layout.root)
        print(f"Stage {number} of {len(stages)}: {stage}; output: {log}", flush=True)
        if status := command.run_stage(module, [*more, *words], copy.root):
            sys.exit(status)


def toml_of(sections: Sections) -> str:
    """Return the text of a TOML with the settings `sections`."""
    lines = []
    for section, values in sections.items():
        known = {key: value for key, value in values.items() if value is not None}
        # a plain value is the same in JSON and TOML
        lines += [f"[{section}]", *(f"{key} = {toml(value)}" for key, value in known.items())]
    return "\n".join(lines) + "\n"


def _link_files(sections: Sections, root: Path, scratch: Path) -> None:
    """Link the files that `sections` name relative to `root` into `scratch`, and change `sections` to the links."""

    def linked(name: str, key: str) -> str:
        file = root / name
        if Path(name).is_absolute() or not file.is_file():
            return name  # it does not depend on the working folder
        link = scratch / "inputs" / key / file.name
        _link(link, file)
        return str(link.relative_to(scratch))

    data, model, split = sections["data"], sections["model"], sections["split"]
    data["submitted_labels"] = linked(data["submitted_labels"], "submitted_labels")
    split["group_file"] = linked(split["group_file"], "group_file")
    if model["label_map"] != "names":
        model["label_map"] = linked(model["label_map"], "label_map")
    weights = model["weights"].split("+") if "+" in model["name"] else [model["weights"]]
    model["weights"] = "+".join(linked(name, f"weights-{number}") for number, name in enumerate(weights))


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target.resolve(), target.is_dir())


if __name__ == "__main__":
    sys.exit(command.run(main))
