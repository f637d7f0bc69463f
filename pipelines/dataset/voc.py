"""Read a folder of Pascal VOC annotations, an XML file per image, as a table of text."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pandas as pd

from pipelines.system.errors import UserError, refuse

SIDES = ("xmin", "ymin", "xmax", "ymax")
SIZE = ("image_width", "image_height")
STEM = "xml"  # the column of the names of the files themselves
COLUMNS = ("filename", STEM, "label", *SIDES, *SIZE)


class _Plain(ElementTree.TreeBuilder):
    """Refuses a document type, whose entities may expand without end or name other files."""

    def doctype(self, *_: object) -> None:
        raise ValueError("it has a DOCTYPE, which is not read; remove it")


def xml_files(folder: Path) -> list[Path]:
    """Return all files below `folder` that end in .xml or .XML, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".xml" and path.is_file())


def voc_table(folder: Path) -> pd.DataFrame:
    """Return `COLUMNS` of `xml_files`, a row per object, one with empty cells for a file without.

    xml: the name of the file without its extension; it is the file name too, where a file has none. The index says
    where a row is. Raises `UserError` if there are no files, or if some are no annotations.
    """
    rows, places, bad = [], [], []
    for path in xml_files(folder):
        place = path.relative_to(folder).as_posix()
        try:
            found = _objects(path)
        except (ElementTree.ParseError, LookupError, ValueError, OSError) as error:
            bad.append(f"{place}: {error}")
            continue
        rows += found
        places += [f"object {number} of {place}" for number in range(1, len(found) + 1)]
    refuse(f"{folder}: files that are no Pascal VOC annotations", bad, "Replace or remove them.")
    if not rows:
        raise UserError(f"{folder}, which data.labels names, has no .xml files. Name a CSV, or the folder of these.")
    return pd.DataFrame(rows, columns=[*COLUMNS], index=pd.Index(places, name="line"), dtype=str)


def _objects(path: Path) -> list[tuple[str, ...]]:
    root = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_Plain()))
    if root.tag != "annotation":
        raise ValueError(f"its root is <{root.tag}>, not <annotation>")
    name = (root.findtext("filename") or "").strip() or path.stem
    size = (root.findtext("size/width"), root.findtext("size/height"))
    texts = [
        (each.findtext("name"), *(each.findtext(f"bndbox/{side}") for side in SIDES)) for each in root.iter("object")
    ]
    return [(name, path.stem, *((text or "").strip() for text in (*each, *size))) for each in texts or [("",) * 5]]
