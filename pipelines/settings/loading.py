"""Load settings from a competition's TOML, recipe and overrides; each error names the key."""

import dataclasses
import hashlib
import json
import math
import operator
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pipelines.settings.checks import check_together
from pipelines.settings.schema import DEFAULT_RECIPE, OUTSIDE_A_RUN, PLAIN_INPUT, SECTIONS, SHARED_BY_RECIPES, Settings
from pipelines.system.errors import UserError, did_you_mean, shown
from pipelines.system.files import CONTROL_CHARACTERS, is_plain_name, path_problem

COMPETITIONS = Path(__file__).parent.parent / "competitions"
LARGEST_WHOLE_NUMBER = 2**63 - 1  # of TOML; torch takes no larger seed
TYPE_NAMES: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes"}
BOUNDS = {
    "minimum": (operator.ge, "at least"),
    "above": (operator.gt, "more than"),
    "maximum": (operator.le, "at most"),
    "below": (operator.lt, "less than"),
}


def load_settings(
    competition: str, recipe: str = DEFAULT_RECIPE, overrides: Sequence[str] = (), folder: Path = COMPETITIONS
) -> Settings:
    """Return the settings of `competition`, the name of a TOML in `folder` or the path of one.

    Raises `UserError` for an unknown competition, recipe, section or key (with the nearest names), and for a value of
    the wrong type or out of range, in any recipe.
    """
    path = find_competition(competition, folder)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid TOML: {_reason(error)}.") from None
    recipes = content.pop("recipes", {})
    if not isinstance(recipes, dict) or not all(isinstance(value, dict) for value in recipes.values()):
        raise UserError(f"{path}: recipes must be tables, written [recipes.<name>].")
    known = {DEFAULT_RECIPE: merge(Settings(name=path.stem, recipe=recipe), content, str(path))}
    for name, changes in recipes.items():  # all of them, so that a mistake shows before its recipe is used
        known[name] = _with_recipe(known[DEFAULT_RECIPE], name, changes, f"{path}, recipe {name!r}")
    if recipe not in known:
        hint = did_you_mean(recipe, known)
        raise UserError(f"{path.stem} has no recipe {recipe!r}.{hint} It has: {', '.join(known)}.")
    chosen = merge(known[recipe], parse_overrides(overrides), "--set")
    if not chosen.competition.slug:
        chosen = merge(chosen, {"competition": {"slug": path.stem}}, str(path))
    return chosen if chosen.model.weights else with_input(chosen, **PLAIN_INPUT)


def _with_recipe(default: Settings, name: str, changes: Mapping[str, Any], where: str) -> Settings:
    if not is_plain_name(name):
        rule = "must not be empty or overlong, and must have no slashes, no control characters and no leading dot"
        raise UserError(f"{where}: the name of a recipe is also a folder name: it {rule}.")
    if name == DEFAULT_RECIPE:
        raise UserError(f"{where}: this name is reserved for the settings outside all recipes; rename the recipe.")
    if fixed := [section for section in SHARED_BY_RECIPES if section in changes]:
        raise UserError(f"{where}: [{fixed[0]}] is the same for all recipes; move it out of the recipe.")
    return merge(default, changes, where)


def with_input(settings: Settings, **values: Any) -> Settings:
    """Return `settings` with `values` for the keys of [input] that are not set (0 or empty)."""
    unset = {key: value for key, value in values.items() if not getattr(settings.input, key)}
    return merge(settings, {"input": unset}, "input")


def label_map_file(label_map: str) -> Path | None:
    """Return the CSV that `model.label_map` names; None if it names none, or one that does not exist."""
    if label_map in ("", "names"):
        return None
    return next((place for place in _label_map_places(label_map) if place.is_file()), None)


def missing_label_map(label_map: str) -> UserError:
    places = " or ".join(map(str, _label_map_places(label_map)))
    return UserError(
        f"There is no label map {places}. Correct model.label_map: names, or the path of a CSV with the columns "
        "label,category."
    )


def _label_map_places(label_map: str) -> list[Path]:
    return [Path(label_map).expanduser().absolute(), COMPETITIONS / label_map]


def find_competition(competition: str, folder: Path = COMPETITIONS) -> Path:
    """Return the TOML of a competition given by name or path. Raises `UserError` if there is none."""
    is_path = competition.endswith(".toml")
    path = Path(competition) if is_path else folder / f"{competition}.toml"
    if not path_problem(competition) and path.is_file():
        return path
    if is_path:
        raise UserError(f"There is no file {shown(competition)}. Give the name of a competition or the path of a TOML.")
    known = sorted(file.stem for file in folder.glob("*.toml"))
    raise UserError(
        f"There is no competition {competition!r}.{did_you_mean(competition, known)} Valid: {', '.join(known)}. "
        f"To add one, write {folder / shown(competition)}.toml (docs/competitions.md)."
    )


def parse_overrides(overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Turn `["train.epochs=5", …]` into `{"train": {"epochs": 5}, …}`; a value that is not TOML stays text."""
    parsed: dict[str, dict[str, Any]] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        section, dot, name = key.strip().partition(".")
        if not (equals and dot):
            raise UserError(
                f"--set {override!r} is not of the form section.key=value, for example train.epochs=5. Write lists "
                "without spaces: augment.crop_scale=[0.5,1.0]."
            )
        try:
            content = tomllib.loads(f"value = {text}")
        except tomllib.TOMLDecodeError:
            content = {}
        except (ValueError, RecursionError) as error:
            raise UserError(f"--set {key.strip()}: {_reason(error)}.") from None
        value = content["value"] if len(content) == 1 else text  # several lines of text can be several keys
        parsed.setdefault(section, {})[name] = value
    return parsed


def merge(settings: Settings, changes: Mapping[str, Any], where: str) -> Settings:
    """Return `settings` with `changes`, {section: {key: value}}, checked; errors name their origin `where`."""
    sections: dict[str, Any] = {}
    for name, values in changes.items():
        if name not in SECTIONS:
            hint = did_you_mean(name, SECTIONS)
            raise UserError(f"{where}: unknown section [{shown(name)}].{hint} Valid: {', '.join(SECTIONS)}.")
        if not isinstance(values, Mapping):
            raise UserError(f"{where}: [{name}] is a section, not a value; write [{name}] and its keys below it.")
        types, fields = get_type_hints(SECTIONS[name]), _fields(name)
        if unknown := [key for key in values if key not in fields]:
            hint = did_you_mean(unknown[0], fields)
            raise UserError(f"{where}: unknown key {name}.{shown(unknown[0])}.{hint} Valid: {', '.join(fields)}.")
        checked = {
            key: _checked(value, types[key], fields[key].metadata, f"{where}: {name}.{key}")
            for key, value in values.items()
        }
        sections[name] = dataclasses.replace(getattr(settings, name), **checked)
    merged = dataclasses.replace(settings, **sections)
    check_together(merged, where)
    return merged


def _fields(section: str) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(SECTIONS[section])}


def _checked(value: Any, expected: Any, bounds: Mapping[str, Any], key: str) -> Any:
    """Return `value` as the type `expected`, within `bounds`; raise a `UserError` that names `key` otherwise."""
    if get_origin(expected) is Literal:
        if value not in (choices := get_args(expected)):
            raise UserError(f"{key} is {value!r}.{did_you_mean(str(value), choices)} Valid: {', '.join(choices)}.")
        return value
    if get_origin(expected) is tuple:
        item = get_args(expected)[0]
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise UserError(f"{key} is {value!r}; expected a list of {item.__name__}, for example [1, 2].")
        return tuple(_checked(each, item, bounds, key) for each in value)
    if type(value) is int and abs(value) > LARGEST_WHOLE_NUMBER:
        raise UserError(f"{key} is a number of {len(f'{abs(value):x}')} hexadecimal digits; at most 16 digits fit.")
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:  # not isinstance: True must not pass for the number 1
        raise UserError(f"{key} is {value!r}, a {type(value).__name__}; expected {TYPE_NAMES[expected]}.")
    if expected is float and not math.isfinite(value):
        raise UserError(f"{key} is {value}; it must be a finite number.")
    for rule, (holds, words) in BOUNDS.items():
        if rule in bounds and not holds(value, bounds[rule]):
            raise UserError(f"{key} is {value}; it must be {words} {bounds[rule]:g}.")
    if expected is str and CONTROL_CHARACTERS.search(value):
        raise UserError(f"{key} is {value!r}; it must be one line of text without control characters.")
    return value


def _reason(error: Exception) -> str:
    """Return why tomllib could not read a text; it also raises exceptions that are not its own."""
    if isinstance(error, RecursionError):
        return "its lists or tables are nested too deeply"
    if isinstance(error, (tomllib.TOMLDecodeError, UnicodeDecodeError)):
        return str(error)
    return "it holds a number of thousands of digits" if "digits" in str(error) else str(error)


def run_name(recipe: str, overrides: Sequence[str]) -> str:
    """Return the name of the run: the recipe, and a short hash of the overrides that change the training."""
    return recipe + _short_hash({k: v for k, v in parse_overrides(overrides).items() if k not in OUTSIDE_A_RUN})


def submission_name(run: str, overrides: Sequence[str]) -> str:
    """Return the name, without extension, of a submission of `run`: with a short hash of overrides of [predict]."""
    return run + _short_hash({k: v for k, v in parse_overrides(overrides).items() if k == "predict"})


def _short_hash(changes: Mapping[str, Any]) -> str:
    text = json.dumps(changes, sort_keys=True, default=str)  # str: a date is refused only when settings are loaded
    return f"-{hashlib.sha256(text.encode()).hexdigest()[:6]}" if changes else ""


def to_dict(settings: Settings) -> dict[str, Any]:
    """Return `settings` as plain values, for JSON and checkpoints."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def from_dict(values: Mapping[str, Any], where: str) -> Settings:
    """Return the settings that `to_dict` turned into `values`; errors name their origin `where`."""
    sections = {key: value for key, value in values.items() if key not in ("name", "recipe")}
    return merge(Settings(name=values["name"], recipe=values["recipe"]), sections, where)


def differences(ours: Settings, theirs: Settings, sections: Sequence[str]) -> list[str]:
    """Return a line `section.key: ours now, theirs then` for each key of `sections` that differs."""
    return [
        f"{section}.{key}: {mine!r} now, {other!r} then"
        for section in sections
        for key, mine in vars(getattr(ours, section)).items()
        if mine != (other := getattr(getattr(theirs, section), key))
    ]


def describe() -> str:
    """Return all settings with their defaults and meaning, one per line, for `--help`."""
    lines = []
    for section, kind in SECTIONS.items():
        types = get_type_hints(kind)
        lines.append(f"[{section}]  {(kind.__doc__ or '').splitlines()[0]}")
        for key, field in _fields(section).items():
            choices = f" ({' | '.join(get_args(types[key]))})" if get_origin(types[key]) is Literal else ""
            lines.append(f"  {key} = {json.dumps(field.default)}{choices}: {field.metadata['help']}")
    return "\n".join(lines)
