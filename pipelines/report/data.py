"""The data: the pictures of `make look`, and what `make audit` has found."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.report.blocks import Block, Plate, Section, Table, Text
from pipelines.report.standing import Repeat
from pipelines.report.thumbnails import picture_file
from pipelines.settings.layout import Layout
from pipelines.system.files import read_note

WIDTH = 1000  # of the pictures in pixels
SUSPECTS = 10


def section(layout: Layout, repeat: Repeat) -> Section:
    """Return the section on the data; where nothing was looked at yet, the commands that do."""
    blocks: list[Block] = []
    if layout.look_table.exists():
        heading, *rows = _rows(layout.look_table)
        blocks.append(Table("The images", heading, rows, words=1))
    if address := picture_file(layout.look_picture, WIDTH):
        about = "Images of each split with their targets, images per class, sizes, brightness, and a batch as trained"
        blocks.append(Plate(address, about))
    if not blocks:
        blocks.append(Text(f"To see the data, and a batch as the network sees it: {repeat('look')}"))
    blocks += _audit(layout, repeat)
    return Section("data", "The data", blocks)


def _audit(layout: Layout, repeat: Repeat) -> list[Block]:
    if not layout.audit.record.exists():
        return [Text(f"Duplicates and wrong labels were not looked for: {repeat('audit')}")]
    found = read_note(layout.audit.record)
    return [Text(_twins(found)), *_suspects(layout, found)]


def _twins(found: Mapping[str, Any]) -> str:
    said = []
    for part, words in (("valid", "validation"), ("test", "test")):
        counts = found.get("twins", {}).get(part, {})
        if counts.get("images"):
            said.append(f"{counts['with a twin in train']:,} of {counts['images']:,} {words} images")
    return f"Images with a duplicate among the training images: {'; '.join(said)}." if said else ""


def _suspects(layout: Layout, found: Mapping[str, Any]) -> list[Block]:
    suspects = found.get("suspects", {})
    if not suspects.get("covered"):
        return []
    blocks: list[Block] = [
        Text(f"Labels that predictions confidently contradict: {suspects['rows']:,} of {suspects['covered']:,} rows.")
    ]
    if suspects["rows"] and layout.audit.suspects.exists():
        heading, *rows = _rows(layout.audit.suspects)
        blocks.append(Table("The surest of them", heading, rows[:SUSPECTS], words=len(heading)))
    return blocks


def _rows(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))
