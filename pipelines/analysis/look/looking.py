"""Look at the data of a competition, and write what was seen: the picture, the table and the record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipelines.analysis.drawn_boxes import legend, with_boxes
from pipelines.analysis.look import charts, facts, findings, page
from pipelines.analysis.look.batch import Seen, completed, labels_text, numbers_text, seen_by_network
from pipelines.analysis.look.facts import Json
from pipelines.analysis.look.glance import SIDE, Glance, tile
from pipelines.analysis.look.sample import look_at
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.tables import write_csv
from pipelines.dataset.targets import JOINT, labels_in
from pipelines.settings.layout import Layout
from pipelines.settings.metrics import BOXES, NUMBERS
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError, shown
from pipelines.system.files import write_json
from pipelines.system.screen import table
from pipelines.system.watch import Watch, unwatched


@dataclass(frozen=True)
class Look:
    """What was seen. record: as JSON. headings, rows: of the table of facts. lines: what to look at."""

    record: Json
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    lines: Sequence[str]


def look(
    settings: Settings,
    images: ImageSet,
    layout: Layout,
    split_sha256: str | None,
    audit_command: str,
    watch: Watch = unwatched,
) -> Look:
    """Look at all images of a split table, and write the picture, the table and the record to `layout`.

    images: their classes are known. split_sha256: of split.csv; None if the table comes from no file. audit_command:
    what looks for duplicates; empty: it is not named. Raises `UserError` for damaged files of other tools.
    """
    layout.look_record.unlink(missing_ok=True)  # written last: it must not describe another picture
    sample = look_at(images, watch)
    found = _facts(settings, images, layout, sample, split_sha256)
    if images.task == BOXES:
        for name, about in facts.box_facts(images).items():
            found["parts"].get(name, {}).update(about)
    lines = _lines(found, layout, audit_command)
    seen, problem = _as_seen(settings, images, layout, sample)
    found["network"] = {part: each.title for part, each in seen.items()} | {"problem": problem}
    found["lines"] = lines = [*lines, *[f"The network's view is not shown: {problem}"] * bool(problem)]
    headings, rows = ("", *found["parts"]), facts.rows_of_table(found["parts"])
    parts = ", ".join(f"{each['images']:,} {name}" for name, each in found["parts"].items())
    blocks = [
        page.text_block(table(headings, rows), family="monospace"),
        page.text_block("\n".join(lines)),
        *([page.strip_block(legend(images.classes, with_true=False))] if images.task == BOXES else []),
        *(_examples(images, name, glances, found["parts"][name]) for name, glances in sample.items()),
        *(charts.class_blocks(found["classes"], images.task) if found["classes"] else []),
        *charts.number_blocks(found["numbers"]),
        charts.file_block(sample, found["brightness"]),
        *(_network_block(each, images.task) for each in seen.values()),
    ]
    page.draw_page(layout.look_picture, f"{shown(settings.name)}: {parts} images", blocks)
    write_csv(layout.look_table, facts.flat_table(found["parts"]))
    write_json(layout.look_record, found)
    return Look(found, headings, rows, lines)


def _facts(
    settings: Settings,
    images: ImageSet,
    layout: Layout,
    sample: Mapping[str, Sequence[Glance]],
    split_sha256: str | None,
) -> Json:
    """Return the record, without lines and what the network sees."""
    sizes = images.table["split"].value_counts()
    return {
        "competition": settings.name,
        "recipe": settings.recipe,
        "task": images.task,
        "split_csv_sha256": split_sha256,
        "parts": {name: facts.part_facts(int(sizes[name]), glances) for name, glances in sample.items()},
        "classes": facts.class_facts(images),
        "numbers": facts.number_facts(images),
        "brightness": facts.brightness(sample),
        "damaged": findings.damaged_facts(layout, sample, images.table),
        "audit": findings.audit_facts(layout, images.table),
    }


def _lines(found: Json, layout: Layout, audit_command: str) -> list[str]:
    """Return what to look at."""
    parts, light = found["parts"], found["brightness"]["shift"]
    lines = [facts.class_line(found["classes"], found["task"])] if found["classes"] else []
    lines += [facts.shift_line(parts, light)] if light else []
    lines += facts.differences(parts)
    damaged = findings.damaged_line(found["damaged"], layout)
    duplicates = findings.audit_line(found["audit"], audit_command)
    return [*lines, *filter(None, (damaged, duplicates))]


def _as_seen(
    settings: Settings, images: ImageSet, layout: Layout, sample: Mapping[str, Sequence[Glance]]
) -> tuple[dict[str, Seen], str]:
    """Return the images that are drawn as the network sees them, of train and valid; and why not, or an empty text."""
    seen: dict[str, Seen] = {}
    try:
        settings = completed(settings, layout.weights)
        for part in facts.LABELLED:
            rows = [each.row for each in sample.get(part, []) if each.small is not None and not each.problem]
            if rows:
                seen[part] = seen_by_network(settings, images, rows, training=part == "train")
    except UserError as error:
        return seen, str(error)
    return seen, ""


def _examples(images: ImageSet, part: str, glances: Sequence[Glance], about: Json) -> page.Block:
    """Return the block of the images of a part that are drawn, with their targets; test images with their ids."""
    cells = []
    for each in glances:
        if each.small is not None:
            row: Any = images.table.loc[each.row]
            text = shown(str(row["id"])) if part == "test" else _target(row, images)
            cells.append((each.small, "cannot be read\n" * bool(each.problem) + text))
    what = "their ids" if part == "test" else "their targets"
    heading = f"{part.capitalize()}: {len(cells)} of {about['images']:,} images with {what}"
    if images.task != BOXES:
        return page.picture_block(heading, cells)
    if part != "test":
        true = images.select(images.table.loc[[each.row for each in glances if each.small is not None]]).labels
        cells = [(with_boxes(pixels, boxes), text) for (pixels, text), boxes in zip(cells, true, strict=True)]
    return page.picture_block(heading, cells, page.WIDE)


def _target(row: "pd.Series[Any]", images: ImageSet) -> str:
    """Return the target of a row of the split table as text."""
    text = str(row["label"])
    if images.task == NUMBERS:
        return numbers_text(images.classes, text.split(JOINT))
    if images.task == BOXES:
        return labels_text(labels_in(text, images.task))
    return ", ".join(map(shown, labels_in(text, images.task))) or "(none)"


def _network_block(seen: Seen, task: str) -> page.Block:
    side, columns = (page.WIDE_SIDE, page.WIDE) if task == BOXES else (SIDE, page.COLUMNS)
    return page.picture_block(seen.title, [(tile(pixels, side), text) for pixels, text in seen.cells], columns)
