"""Load settings from a competition's TOML, recipe and overrides; each error names the key."""

import dataclasses
import hashlib
import json
import math
import operator
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pipelines.settings.checks import check_together, mistakes, no_effect
from pipelines.settings.competitions import COMPETITIONS, find_competition, read_toml, toml_problem
from pipelines.settings.overrides import split_settings
from pipelines.settings.schema import (
    DEFAULT_RECIPE,
    KEYS_OUTSIDE_A_RUN,
    OUTSIDE_A_RUN,
    SECTIONS,
    SHARED_BY_RECIPES,
    Settings,
    plain_input,
)
from pipelines.system.errors import UserError, did_you_mean, quoted, shown
from pipelines.system.files import CONTROL_CHARACTERS, is_plain_name

LARGEST_WHOLE_NUMBER = 2**63 - 1  # of TOML; torch takes no larger seed
TYPE_NAMES: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes"}
EXAMPLES = {int: "[1, 2]", float: "[0.5, 1.0]", str: '["one", "two"]'}
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
    content = read_toml(path)
    recipes = content.pop("recipes", {})
    if not isinstance(recipes, dict) or not all(isinstance(value, dict) for value in recipes.values()):
        raise UserError(f"{path}: recipes must be tables, written [recipes.<name>].")
    known = {DEFAULT_RECIPE: _effective(merge(Settings(name=path.stem, recipe=recipe), content, str(path)), str(path))}
    for name, changes in recipes.items():  # all of them, so that a mistake shows before its recipe is used
        known[name] = _with_recipe(known[DEFAULT_RECIPE], name, changes, f"{path}, recipe {name!r}")
    if recipe not in known:
        hint = did_you_mean(recipe, known)
        raise UserError(f"{path.stem} has no recipe {recipe!r}.{hint} It has: {', '.join(known)}.")
    parsed = parse_overrides(overrides)
    chosen = merge(known[recipe], parsed, "SET")
    given = [f"{section}.{key}" for section, values in parsed.items() for key in values]
    _effective(chosen, "SET", given)
    if not chosen.competition.slug:
        chosen = merge(chosen, {"competition": {"slug": path.stem}}, str(path))
    return chosen if chosen.model.weights else with_input(chosen, **plain_input(chosen.input.channels))


def recipe_names(competition: str) -> list[str]:
    """Return the names of the recipes of `competition`."""
    return [DEFAULT_RECIPE, *read_toml(find_competition(competition)).get("recipes", {})]


def _effective(settings: Settings, where: str, keys: Sequence[str] | None = None) -> Settings:
    """Return `settings`. Raises `UserError` for the first of `keys` (default: all) that can have no effect."""
    for key, problem in no_effect(settings):
        if keys is None or key in keys:
            raise UserError(f"{where}: {problem}")
    return settings


def _with_recipe(default: Settings, name: str, changes: Mapping[str, Any], where: str) -> Settings:
    if not is_plain_name(name) or name.startswith("-"):
        rule = (
            "must not be empty or overlong, and must have no slashes, no control characters and no dot or hyphen first"
        )
        raise UserError(f"{where}: the name of a recipe is also a folder name: it {rule}.")
    if name == DEFAULT_RECIPE:
        raise UserError(f"{where}: this name is reserved for the settings outside all recipes; rename the recipe.")
    if fixed := [section for section in SHARED_BY_RECIPES if section in changes]:
        raise UserError(f"{where}: [{fixed[0]}] is the same for all recipes; move it out of the recipe.")
    return _effective(merge(default, changes, where), where)


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


def parse_overrides(overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Turn `["train.epochs=5", …]` into `{"train": {"epochs": 5}, …}`; a value that is not TOML stays text."""
    parsed: dict[str, dict[str, Any]] = {}
    for override in split_settings(" ".join(overrides)):
        key, _, text = override.partition("=")
        section, _, name = key.partition(".")
        expected = get_type_hints(SECTIONS[section]).get(name) if section in SECTIONS else None
        parsed.setdefault(section, {})[name] = _value(text, expected, key)
    return parsed


def _value(text: str, expected: Any, key: str) -> Any:
    """Return the TOML value `text`, or the text itself where it is none, or where a setting `expected` to be text."""
    if expected is str and not text.startswith(("'", '"')):
        return text
    try:
        content = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        if expected == tuple[str, ...] and text.startswith("[") and text.endswith("]"):  # the shell removed its quotes
            return [each.strip(" '\"") for each in text[1:-1].split(",")]
        return text
    except (ValueError, RecursionError) as error:
        raise UserError(f"SET: {key} cannot be read: {toml_problem(error)}.") from None
    return content["value"] if len(content) == 1 else text  # several lines of text can be several keys


def merge(settings: Settings, changes: Mapping[str, Any], where: str) -> Settings:
    """Return `settings` with `changes`, {section: {key: value}}, checked; errors name their origin `where`."""
    merged = overlay(settings, changes, where)
    check_together(merged, where)
    return merged


def overlay(settings: Settings, changes: Mapping[str, Any], where: str) -> Settings:
    """Return `settings` with `changes`, each checked by itself."""
    sections: dict[str, Any] = {}
    problems = []
    for name, values in changes.items():
        if problem := _section_problem(name, values):
            problems.append(problem)
            continue
        types, fields = get_type_hints(SECTIONS[name]), _fields(name)
        checked = {}
        for key, value in values.items():
            try:
                if key not in fields:
                    raise UserError(_unknown_key(name, key, fields))
                checked[key] = _checked(value, types[key], fields[key].metadata, f"{name}.{key}")
            except UserError as error:
                problems.append(str(error))
        sections[name] = dataclasses.replace(getattr(settings, name), **checked)
    if problems:
        raise mistakes(where, problems)
    return dataclasses.replace(settings, **sections)


def _section_problem(name: str, values: Any) -> str:
    """Return why the section `name` cannot have `values`, its keys; empty if it can."""
    if name in SECTIONS:
        is_table = isinstance(values, Mapping)
        return "" if is_table else f"[{name}] is a section, not a value; write [{name}] and its keys below it."
    problem = f"unknown section [{shown(name)}]."
    if not isinstance(values, Mapping) and (homes := _homes(name)):
        return f"{shown(name)} is outside all sections; write it below {' or '.join(f'[{home}]' for home in homes)}."
    return f"{problem}{did_you_mean(name, SECTIONS)} Valid: {', '.join(SECTIONS)}."


def _unknown_key(section: str, key: str, fields: Sequence[str] | Mapping[str, Any]) -> str:
    problem = f"unknown key {section}.{shown(key)}."
    if homes := _homes(key):
        return f"{problem} It is a key of {' and '.join(f'[{home}]' for home in homes)}: move it there."
    return f"{problem}{did_you_mean(key, fields)} Valid: {', '.join(fields)}."


def _homes(key: str) -> list[str]:
    """Return the sections that have `key`."""
    return [section for section in SECTIONS if key in _fields(section)]


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
            if item is not str or not isinstance(value, str):
                kind = TYPE_NAMES[item].removeprefix("a ").removesuffix(" in quotes")
                bare = re.fullmatch(r"[-\d.e]+(, *[-\d.e]+)*", str(value))
                example = f"write [{value}]" if bare else f"for example {EXAMPLES[item]}"
                raise UserError(f"{key} is {_shown_value(value)}; expected a list of {kind}s, {example}.")
            value = [each.strip() for each in value.split(",")]  # one text, or several with commas
        return tuple(_checked(each, item, bounds, key) for each in value)
    if type(value) is int and abs(value) > LARGEST_WHOLE_NUMBER:
        raise UserError(f"{key} is a number of {len(f'{abs(value):x}')} hexadecimal digits; at most 16 digits fit.")
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:  # not isinstance: True must not pass for the number 1
        raise UserError(f"{key} is {_shown_value(value)}; expected {TYPE_NAMES[expected]}.{_meant(value, expected)}")
    if expected is float and not math.isfinite(value):
        raise UserError(f"{key} is {value}; it must be a finite number.")
    for rule, (holds, words) in BOUNDS.items():
        if rule in bounds and not holds(value, bounds[rule]):
            raise UserError(f"{key} is {value}; it must be {words} {bounds[rule]:g}.")
    if expected is str and CONTROL_CHARACTERS.search(value):
        raise UserError(f"{key} is {value!r}; it must be one line of text without control characters.")
    return value


def _shown_value(value: Any) -> str:
    """Return a value of another type than expected, as TOML has it, with its kind."""
    if isinstance(value, str):
        return f"{quoted(value)}, a text"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value}" if isinstance(value, (int, float)) else shown(str(value))


def _meant(value: Any, expected: Any) -> str:
    """Return ` Write …` if it is clear how `value` is to be written to be of the type `expected`."""
    written = ""
    if expected is bool:
        written = {"true": "true", "1": "true", "yes": "true", "false": "false", "0": "false", "no": "false"}.get(
            str(value).lower(), ""
        )
    elif isinstance(value, str) and (number := _number(value.replace(",", "."))) is not None:
        written = f"{number:g}" if expected is float or number.is_integer() else ""
    elif expected is str and isinstance(value, (int, float)):
        written = f'"{_shown_value(value)}"'
    return f" Write {written}." if written else ""


def _number(text: str) -> float | None:
    try:
        return float(text) if math.isfinite(float(text)) else None
    except ValueError:
        return None


def run_name(recipe: str, overrides: Sequence[str]) -> str:
    """Return the name of the run: the recipe, and a short hash of the overrides that change the training."""
    changes = {
        section: {key: value for key, value in values.items() if key not in KEYS_OUTSIDE_A_RUN.get(section, ())}
        for section, values in parse_overrides(overrides).items()
        if section not in OUTSIDE_A_RUN
    }
    return recipe + _short_hash({section: values for section, values in changes.items() if values})


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
    """Return a line `section.key: ours now, theirs then` for each key of `sections` that a run depends on and that
    differs."""
    return [
        f"{section}.{key}: {mine!r} now, {other!r} then"
        for section in sections
        for key, mine in vars(getattr(ours, section)).items()
        if key not in KEYS_OUTSIDE_A_RUN.get(section, ()) and mine != (other := getattr(getattr(theirs, section), key))
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
