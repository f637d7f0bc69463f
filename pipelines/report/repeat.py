"""How to repeat a run: its command, and what its bytes depend on."""

import json
import shlex
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pipelines.report.blocks import Block, Section, Table, Text
from pipelines.report.ledger import BLEND, FOLDS, Entry
from pipelines.report.standing import Repeat, run_variables
from pipelines.settings.loading import load_settings, to_dict
from pipelines.settings.overrides import setting
from pipelines.settings.records import read_record
from pipelines.system.errors import UserError
from pipelines.system.files import read_note

DIGESTS = ("weights", "sha256", "oof", "test_predictions", "sample")
HIDDEN = ("device", "code")  # shown by themselves


def predict_settings(entry: Entry, competition: str) -> list[str]:
    """Return the settings of [predict] with which the entry has predicted, where they are not those of its recipe.

    SET= must have them for predict, and for the name of the submission.
    """
    chosen = entry.note.get("predict", {})
    with suppress(UserError, AttributeError):  # the TOML has lost the recipe, or predict.json is damaged
        usual = to_dict(load_settings(competition, entry.recipe or "default"))["predict"]
        return [setting(f"predict.{key}", value) for key, value in chosen.items() if value != usual.get(key, value)]
    return []


def section(entry: Entry, repeat: Repeat, chosen: Sequence[str]) -> Section:
    """Return the section on the best run.  chosen: its `predict_settings`."""
    blocks: list[Block] = [Text(command(entry, repeat, chosen), "code")]
    blocks.append(Text("The same code, data, packages, threads and device give the same bytes. To check that:"))
    blocks.append(Text(repeat("reproduce", **run_variables(entry, chosen)), "code"))
    if entry.kind != BLEND:
        differs = ", ".join(entry.differs) or "none"
        blocks.append(Text(f"Recipe {entry.recipe}; settings that differ from it: {differs}."))
    blocks.append(Table("What it depends on", ("what", "value"), _facts(entry), words=2, folded=True))
    return Section("repeat", f"How to repeat {entry.name}", blocks)


def command(entry: Entry, repeat: Repeat, chosen: Sequence[str] = ()) -> str:
    """Return the command that trains and predicts the run again, under its name."""
    variables = run_variables(entry, chosen)
    if entry.kind == BLEND:
        return repeat("blend", RUNS=shlex.join(entry.members), RUN=entry.name)
    if entry.differs and not entry.differs[0].startswith("the recipe"):
        variables["SET"] = " ".join([*entry.differs, *chosen])
    stages = ["folds" if entry.kind == FOLDS else "train"]
    if entry.kind == FOLDS and (seeds := read_record(entry.run).seeds) > 1:
        variables["SEEDS"] = str(seeds)
    stages += ["retrain"] if entry.run.retrained.exists() else []
    return repeat(" ".join([*stages, "predict"]), **variables)


def _facts(entry: Entry) -> list[tuple[str, str]]:
    record = read_record(entry.run)
    made_on: dict[str, Any] = dict(entry.note.get("made_on", {}))
    facts = {"seed": str(record.settings.train.seed), "split.csv": record.split_sha256}
    if code := made_on.get("code"):
        facts["git commit"] = str(code)
    if entry.run.trained.exists():
        made_on = {**read_note(entry.run.trained).get("hardware", {}), **made_on}
    facts |= {"device": str(made_on.get("device", entry.device))}
    facts |= {name: _text(value) for name, value in made_on.items() if name not in HIDDEN}
    names = {"sha256": "sha256 of the submission", "sample": "sha256 of the sample"}
    facts |= {names.get(key, f"sha256 of {key}"): _text(entry.note[key]) for key in DIGESTS if entry.note.get(key)}
    return list(facts.items())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
