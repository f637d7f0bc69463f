"""Make the path of an image from the columns of its row, by data.train_file or data.test_file."""

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipelines.dataset.image_paths import normal, posix
from pipelines.system.errors import UserError, did_you_mean, few, quoted

ID = "id"  # in a template: the id of the row
FIELD = re.compile(r"(.+?)((?:\[-?[0-9]+\])*)")  # a column, and maybe one of its characters


class _Template(string.Formatter):
    """Format texts: `{id:06}` fills numbers with zeros, `{id[0]}` is the first character."""

    def get_field(self, field_name: str, args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, str]:
        match = FIELD.fullmatch(field_name)
        name, places = match.groups() if match else (field_name, "")
        value = kwargs[name]
        for place in re.findall("-?[0-9]+", places):
            value = value[int(place)]
        return value, name

    def format_field(self, value: Any, format_spec: str) -> str:
        if re.fullmatch("0?[0-9]+d?", format_spec) and re.fullmatch("[0-9]+", value):
            return value.zfill(int(format_spec.rstrip("d")))
        return str(super().format_field(value, format_spec))


def fill(template: str, key: str, ids: "pd.Series[str]", table: pd.DataFrame) -> "pd.Series[str]":
    """Return the path of each row by the `template`, which the setting `key` holds.

    ids: what {id} means, the ids of the rows of `table`; other names are its columns. Raises `UserError` for a name
    that is no column, and for a value that the template cannot take.
    """
    form = _Template()
    try:
        fields = [FIELD.fullmatch(name) for _, name, _, _ in form.parse(template) if name is not None]
    except ValueError as error:
        raise UserError(f"{key} is {quoted(template)}: {error}. Write it as {{id}}.png.") from None
    names = {match[1] for match in fields if match}
    if None in fields or not names:
        raise UserError(f"{key} is {quoted(template)}; it must name a column of each row, as {{id}}.png does.")
    columns = {ID: ids, **{name: table[name] for name in names - {ID} if name in table}}
    if unknown := sorted(names - columns.keys()):
        hint = did_you_mean(unknown[0], list(table.columns))
        raise UserError(
            f"{key} is {quoted(template)}, but {{{unknown[0]}}} is no column.{hint} It can name id, which is the id of "
            f"the row, and {few(list(map(str, table.columns)), 10)}."
        )
    paths = []
    for row in zip(*(columns[name].tolist() for name in names), strict=True):
        values = dict(zip(names, row, strict=True))
        try:
            paths.append(form.vformat(template, (), values))
        except (ValueError, IndexError) as error:
            raise UserError(f"{key} is {quoted(template)}, which does not fit the row {values}: {error}.") from None
    return pd.Series(paths, index=ids.index, name=ids.name, dtype=str)


def exact_matches(paths: "pd.Series[str]", images: Sequence[str], folder: str) -> dict[str, list[str]]:
    """Return the image of each path, in `normal` form, which starts at `folder` or at the raw folder."""
    known = {normal(image): image for image in images}
    top = f"{posix(folder)}/".lstrip("/")
    found = {}
    for path in map(normal, set(paths.tolist())):
        if image := known.get(top + path) or known.get(path):
            found[path] = [image]
    return found
