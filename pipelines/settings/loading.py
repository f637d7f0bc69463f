"""Load a competition's TOML into settings; every mistake is named with its key."""

import dataclasses
import hashlib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pipelines.settings.checks import CONTROL_CHARACTERS, check_together, is_plain_name, path_problem
from pipelines.settings.schema import DEFAULT_RECIPE, OUTSIDE_A_RUN, PLAIN_INPUT, SECTIONS, SHARED_BY_RECIPES, Settings
from pipelines.system.errors import UserError, did_you_mean, shown

COMPETITIONS = Path(__file__).parent.parent / "competitions"


LARGEST_WHOLE_NUMBER = 2**63 - 1  # of TOML; torch takes no larger seed


def _fields(section: type) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(section)}


def load_settings(
    competition: str, recipe: str = DEFAULT_RECIPE, overrides: Sequence[str] = (), folder: Path = COMPETITIONS
) -> Settings:
    """Return the settings of `competition`: a name in `folder`, or the path of a TOML anywhere.

    Raises `UserError` for an unknown competition, recipe, section or key (with the near ones) and for a value of the
    wrong type or out of range.
    """
    path = find_competition(competition, folder)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid TOML: {_reason(error)}.") from None
    recipes = content.pop("recipes", {})
    if not isinstance(recipes, dict) or not all(isinstance(value, dict) for value in recipes.values()):
        raise UserError(f"{path}: recipes are tables, written [recipes.<name>].")
    settings = merge(Settings(name=path.stem, recipe=recipe), content, str(path))
    for name, changes in recipes.items():  # all of them, so that a mistake shows before its recipe is wanted
        where = f"{path}, recipe {name!r}"
        if not is_plain_name(name):
            raise UserError(
                f"{where}: a recipe names a folder of runs, so it is not empty nor overlong, and has no slashes, no "
                "control characters and no leading dot."
            )
        if name == DEFAULT_RECIPE:
            raise UserError(f"{where}: the recipe of that name is what stands outside all recipes; rename this one.")
        if fixed := [section for section in SHARED_BY_RECIPES if section in changes]:
            raise UserError(f"{where}: [{fixed[0]}] is the same for all recipes; move it out of the recipe.")
        changed = merge(settings, changes, where)
        if name == recipe:
            chosen = changed
    if recipe == DEFAULT_RECIPE:
        chosen = settings
    elif recipe not in recipes:
        known = [DEFAULT_RECIPE, *recipes]
        raise UserError(
            f"{path.stem} has no recipe {recipe!r}.{did_you_mean(recipe, known)} It has: {', '.join(known)}."
        )
    chosen = merge(chosen, parse_overrides(overrides), "--set")
    if not chosen.competition.slug:
        chosen = merge(chosen, {"competition": {"slug": path.stem}}, str(path))
    return chosen if chosen.model.weights else with_input(chosen, **PLAIN_INPUT)


def with_input(settings: Settings, **values: Any) -> Settings:
    """Return `settings` with those `values` of [input] that are still to be chosen (0 or empty)."""
    chosen = {key: value for key, value in values.items() if not getattr(settings.input, key)}
    return merge(settings, {"input": chosen}, "input")


def find_competition(competition: str, folder: Path = COMPETITIONS) -> Path:
    """Return the TOML of a competition given by name or by path.  Raises `UserError` when there is none."""
    path = Path(competition) if competition.endswith(".toml") else folder / f"{competition}.toml"
    if not path_problem(competition) and path.is_file():
        return path
    if competition.endswith(".toml"):
        raise UserError(
            f"There is no file {shown(competition)}. A competition is the name of one, or the path of its TOML."
        )
    known = sorted(file.stem for file in folder.glob("*.toml"))
    raise UserError(
        f"There is no competition {competition!r}.{did_you_mean(competition, known)} There are: {', '.join(known)}. "
        f"To add one, write {folder / shown(competition)}.toml (README: Adding a competition)."
    )


def parse_overrides(overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Turn `["train.epochs=5", …]` into `{"train": {"epochs": 5}, …}`; a value that is not TOML is taken as text."""
    parsed: dict[str, dict[str, Any]] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        section, dot, name = key.strip().partition(".")
        if not (equals and dot):
            raise UserError(
                f"--set {override!r} is not of the form section.key=value, such as train.epochs=5; a list has no "
                "spaces: augment.crop_scale=[0.5,1.0]."
            )
        try:
            content = tomllib.loads(f"value = {text}")
        except tomllib.TOMLDecodeError:
            content = {}
        except (ValueError, RecursionError) as error:
            raise UserError(f"--set {key.strip()}: {_reason(error)}.") from None
        value = content["value"] if len(content) == 1 else text  # text of several lines may be several keys
        parsed.setdefault(section, {})[name] = value
    return parsed


def merge(settings: Settings, changes: Mapping[str, Any], where: str) -> Settings:
    """Return `settings` with `changes` (`{section: {key: value}}`) applied; `where` names their origin in errors."""
    sections: dict[str, Any] = {}
    for name, values in changes.items():
        if name not in SECTIONS:
            raise UserError(
                f"{where}: unknown section [{shown(name)}].{did_you_mean(name, SECTIONS)} Valid: {', '.join(SECTIONS)}."
            )
        if not isinstance(values, Mapping):
            raise UserError(
                f"{where}: [{name}] is a section of keys, not a value; write [{name}] and its keys below it."
            )
        types_of = get_type_hints(SECTIONS[name])
        checked: dict[str, Any] = {}
        for key, value in values.items():
            if key not in types_of:
                raise UserError(
                    f"{where}: unknown key {name}.{shown(key)}.{did_you_mean(key, types_of)} "
                    f"Valid: {', '.join(types_of)}."
                )
            field = _fields(SECTIONS[name])[key]
            checked[key] = _checked(value, types_of[key], field.metadata, f"{where}: {name}.{key}")
        sections[name] = dataclasses.replace(getattr(settings, name), **checked)
    merged = dataclasses.replace(settings, **sections)
    check_together(merged, where)
    return merged


def _checked(value: Any, expected: Any, bounds: Mapping[str, Any], key: str) -> Any:
    """Return `value` as the type `expected`, or raise a `UserError` that names `key` and what was expected."""
    if get_origin(expected) is Literal:
        if value not in get_args(expected):
            choices = [str(choice) for choice in get_args(expected)]
            raise UserError(f"{key} is {value!r}.{did_you_mean(str(value), choices)} Valid: {', '.join(choices)}.")
        return value
    if get_origin(expected) is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise UserError(f"{key} is {value!r}; expected a list of {get_args(expected)[0].__name__}, such as [1, 2].")
        return tuple(_checked(item, get_args(expected)[0], bounds, key) for item in value)
    if type(value) is int and abs(value) > LARGEST_WHOLE_NUMBER:
        raise UserError(f"{key} is a number of {len(f'{abs(value):x}')} hexadecimal digits; at most 16 digits fit.")
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:  # not isinstance: True must not pass for the number 1
        raise UserError(f"{key} is {value!r}, a {type(value).__name__}; expected {_TYPE_NAMES[expected]}.")
    if expected in (int, float):
        if not math.isfinite(value):
            raise UserError(f"{key} is {value}; it must be a finite number.")
        rules = {
            "minimum": (lambda bound: value >= bound, "at least"),
            "maximum": (lambda bound: value <= bound, "at most"),
            "above": (lambda bound: value > bound, "more than"),
            "below": (lambda bound: value < bound, "less than"),
        }
        for rule, (holds, words) in rules.items():
            if rule in bounds and not holds(bounds[rule]):
                raise UserError(f"{key} is {value}; it must be {words} {bounds[rule]:g}.")
    if expected is str and CONTROL_CHARACTERS.search(value):
        raise UserError(f"{key} is {value!r}; it must be one line of text without control characters.")
    return value


def _reason(error: Exception) -> str:
    """Why tomllib could not read a text, which it also says by exceptions that are not its own."""
    if isinstance(error, RecursionError):
        return "its lists or tables are nested too deeply"
    if isinstance(error, (tomllib.TOMLDecodeError, UnicodeDecodeError)):
        return str(error)
    return "it holds a number of thousands of digits" if "digits" in str(error) else str(error)


_TYPE_NAMES: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes"}


def run_name(recipe: str, overrides: Sequence[str]) -> str:
    """Return the name of the run that `recipe` and `overrides` lead to, the same each time.

    It is the recipe's own name, with a short hash behind it when overrides change what is trained.
    """
    changes = {k: v for k, v in parse_overrides(overrides).items() if k not in OUTSIDE_A_RUN}
    return recipe + _short_hash(changes)


def submission_name(run: str, overrides: Sequence[str]) -> str:
    """Return the name, without extension, of the submission of `run` under overrides of how to predict."""
    return run + _short_hash({k: v for k, v in parse_overrides(overrides).items() if k == "predict"})


def _short_hash(changes: Mapping[str, Any]) -> str:
    if not changes:
        return ""
    text = json.dumps(changes, sort_keys=True, default=str)  # str: a date is refused only when settings are loaded
    return "-" + hashlib.sha256(text.encode()).hexdigest()[:6]


def to_dict(settings: Settings) -> dict[str, Any]:
    """Return `settings` as plain values that JSON and checkpoints can hold."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def from_dict(values: Mapping[str, Any], where: str) -> Settings:
    """Return the settings that `to_dict` took apart; `where` names their origin in errors."""
    sections = {key: value for key, value in values.items() if key not in ("name", "recipe")}
    return merge(Settings(name=values["name"], recipe=values["recipe"]), sections, where)


def differences(ours: Settings, theirs: Settings, sections: Sequence[str]) -> list[str]:
    """Return a line `section.key: ours, theirs` for each key of `sections` in which the two differ."""
    lines = []
    for section in sections:
        for key in _fields(SECTIONS[section]):
            mine, other = getattr(getattr(ours, section), key), getattr(getattr(theirs, section), key)
            if mine != other:
                lines.append(f"{section}.{key}: {mine!r} now, {other!r} then")
    return lines


def describe() -> str:
    """Return all settings with their defaults and meaning, a line each, for `--help`."""
    lines = []
    for section, kind in SECTIONS.items():
        lines.append(f"[{section}]  {kind.__doc__.splitlines()[0]}")  # type: ignore[union-attr]
        for field in dataclasses.fields(kind):
            default = json.dumps(field.default)
            choices = get_type_hints(kind)[field.name]
            names = f" ({' | '.join(get_args(choices))})" if get_origin(choices) is Literal else ""
            lines.append(f"  {field.name} = {default}{names}: {field.metadata['help']}")
    return "\n".join(lines)
