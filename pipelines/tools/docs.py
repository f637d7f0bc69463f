"""Write docs/settings.md, the list of all settings, and the table of metrics in docs/tasks.md.

Run it after a setting, its help line or a metric has changed; a test fails while a page is stale.
"""

import argparse
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pipelines.settings.loading import BOUNDS
from pipelines.settings.metrics import METRICS
from pipelines.settings.schema import OUTSIDE_A_RUN, SECTIONS, SHARED_BY_RECIPES
from pipelines.system.files import write_text

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
METRICS_PAGE = PAGE.with_name("tasks.md")
METRICS_TABLE = re.compile(r"^\| metric \| direction \|.*?(?=^$)", re.MULTILINE | re.DOTALL)
TYPES = {int: "whole number", float: "number", bool: "`true`, `false`", str: "text"}
INTRODUCTION = """\
# Settings

Every setting with its default, its allowed values and its meaning. `make docs` writes this page from
the sections in [pipelines/settings](../pipelines/settings); change the help lines there.

A competition is one TOML file in `pipelines/competitions`. It states only what differs from the defaults below:

```toml
[train]
epochs = 30
lr = 0.05

[recipes.quick.train]     # used with RECIPE=quick
epochs = 5
```

- Later sources override earlier ones: the defaults below, the TOML, the recipe, `SET`.
- A recipe, `[recipes.<name>.<section>]`, is a named variant of the TOML and states only what differs from it. These
  sections are the same for all recipes: {shared}.
- `SET` overrides single settings: `make train COMP=cifar-10 SET='train.epochs=5 augment.crop_scale=[0.5, 1.0]'`, or
  `--set` after `python -m pipelines.train`. A space separates settings; a value may hold spaces itself. A value that is
  not TOML is text: `SET='competition.title=My leaves'` needs no quotes inside. Put single quotes around all: then the
  shell keeps the brackets, the double quotes of a list of texts, and `$`. Write `$` once: make passes it on as it is.
- A run is named after its recipe, with a hash of the overrides, or by `RUN=`. These sections are not part of a run and
  may change between its stages: {outside}; and `train.tensorboard`.
  Overrides of `[predict]` name another submission of the same run.
- Unknown sections and keys, wrong types, values out of range and contradictions are errors, in every recipe. The
  message names the file and the key, and suggests the nearest valid name.
"""


def page() -> str:
    """Return the text of docs/settings.md."""
    text = INTRODUCTION.format(shared=_sections(SHARED_BY_RECIPES), outside=_sections(OUTSIDE_A_RUN))
    for name, section in SECTIONS.items():
        text += (
            f"\n## [{name}]\n\n{inspect.getdoc(section)}\n\n| key | default | allowed | meaning |\n|---|---|---|---|\n"
        )
        types = get_type_hints(section)
        for field in fields(section):
            allowed = _allowed(types[field.name], field.metadata)
            text += f"| `{field.name}` | `{json.dumps(field.default)}` | {allowed} | {field.metadata['help']} |\n"
    return text


def _sections(names: tuple[str, ...]) -> str:
    *others, last = (f"`[{name}]`" for name in names)
    return f"{', '.join(others)} and {last}"


def _allowed(expected: Any, bounds: Mapping[str, Any]) -> str:
    """Return the choices, or the type and the bounds, of a setting of the type `expected`."""
    if get_origin(expected) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(expected))
    limits = [f"{words} {bounds[rule]:g}" for rule, (_, words) in BOUNDS.items() if rule in bounds]
    if get_origin(expected) is tuple:
        return ", each ".join([f"list of {TYPES[get_args(expected)[0]]}s", *limits])
    return ", ".join([TYPES[expected], *limits])


def metrics_table() -> str:
    """Return the table of metrics in docs/tasks.md."""
    text = "| metric | direction | task | what is sent | definition | settings |\n|---|---|---|---|---|---|\n"
    for name, facts in METRICS.items():
        better = "higher" if facts.higher_is_better else "lower"
        options = ", ".join(f"`{option}`" for option in facts.options if option != "classes") or "-"
        choices = (" or ".join(f"`{each}`" for each in some) for some in (facts.tasks, facts.sends))
        text += f"| `{name}` | {better} | {' | '.join(choices)} | {facts.definition} | {options} |\n"
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(prog="python -m pipelines.tools.docs", description=__doc__).parse_args(arguments)
    write_text(PAGE, page())
    text = METRICS_PAGE.read_text(encoding="utf-8")
    write_text(METRICS_PAGE, METRICS_TABLE.sub(lambda _: metrics_table(), text))
    print(f"Written: {PAGE}, {METRICS_PAGE}")


if __name__ == "__main__":
    main()
