"""What a sample of the images and all targets say, as values of JSON, lines of text and cells of a table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.analysis.look.glance import Glance
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.targets import count_labels, encode
from pipelines.dataset.understood import COLOURS
from pipelines.settings.metrics import BOXES, NUMBERS, SEVERAL_LABELS
from pipelines.system.errors import shown
from pipelines.system.screen import short

LABELLED = ("train", "valid")
EDGES = list(range(0, 257, 8))  # of the histogram of brightness
BINS = 20  # of the histogram of a number
WHOLE = 40  # whole numbers that span less have a bin each
LEAST_DISTANCE = 0.1  # between distributions of brightness that are told apart, whatever the number of images
SURE = 1.949  # times sqrt((n + m) / nm): the critical value of Kolmogorov and Smirnov's test at p = 0.001
LEAST_SHIFT = 0.1  # between means, in standard deviations, to call one of them brighter
NAME = 40  # characters of a class in a line
COMMON = 0.05  # share of a part's images that makes a format worth a line
Values = npt.NDArray[np.float64]
Json = dict[str, Any]


def part_facts(count: int, glances: Sequence[Glance]) -> Json:
    """Return the facts about a part of the split: `count` images; `glances`: those that were looked at."""
    good = [each for each in glances if not each.problem]
    facts: Json = {"images": count, "looked_at": len(glances), "damaged": len(glances) - len(good)}
    facts["formats"] = _counts(each.format for each in good)
    facts["channels"] = _counts(COLOURS.get(each.mode, each.mode) for each in good)
    facts["bits"] = _counts(str(each.bits) for each in good)
    facts["width"] = _range([each.width for each in good])
    facts["height"] = _range([each.height for each in good])
    facts["aspect_ratio"] = _range([each.width / each.height for each in good])
    values = np.array([each.brightness for each in good])
    facts["brightness"] = {"mean": _rounded(values.mean()), "sd": _rounded(values.std())} if good else {}
    return facts


def _counts(values: Any) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _range(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    ends = {"least": min(values), "median": float(np.median(values)), "most": max(values)}
    return {name: _rounded(value) for name, value in ends.items()}


def _rounded(value: float) -> float:
    rounded = round(float(value), 4)
    return int(rounded) if rounded == int(rounded) else rounded


def brightness(parts: Mapping[str, Sequence[Glance]]) -> Json:
    """Return the histograms of the parts with common `edges`, and the `shift` from train to test; None without test."""
    values = {name: np.array([each.brightness for each in parts[name] if not each.problem]) for name in parts}
    found: Json = {"edges": EDGES}
    found |= {name: np.histogram(each, EDGES)[0].tolist() for name, each in values.items()}
    train, test = values.get("train", np.zeros(0)), values.get("test", np.zeros(0))
    return found | {"shift": shift(train, test) if len(train) and len(test) else None}


def shift(train: Values, test: Values) -> Json:
    """Return how the distributions (n,) and (m,) differ: the Kolmogorov-Smirnov distance, and whether it is clear.

    It is clear above `bound`, the larger of `LEAST_DISTANCE` and the critical value at p = 0.001.
    """
    both = np.concatenate([train, test])
    shares = [np.searchsorted(np.sort(each), both, "right") / len(each) for each in (train, test)]
    distance = float(np.abs(shares[0] - shares[1]).max())
    bound = max(LEAST_DISTANCE, SURE * sqrt((len(train) + len(test)) / (len(train) * len(test))))
    change, spread = float(test.mean() - train.mean()), np.sqrt((train.var() + test.var()) / 2)
    word = "different" if abs(change) <= LEAST_SHIFT * spread else "brighter" if change > 0 else "darker"
    clear = distance > bound
    return {"distance": _rounded(distance), "bound": _rounded(bound), "clear": clear, "test_is": word if clear else ""}


def shift_line(parts: Mapping[str, Json], found: Json) -> str:
    """Return one line about the brightness of train and test."""
    train, test = (parts[name]["brightness"] for name in ("train", "test"))
    means = f"means {train['mean']:.0f} and {test['mean']:.0f} of 255, sd {train['sd']:.0f} and {test['sd']:.0f}"
    how = f"KS distance {found['distance']:.2f}, bound {found['bound']:.2f}"
    if not found["clear"]:
        return f"Brightness: no clear difference between train and test ({means}; {how})."
    compared = {"different": "differ from train images"}.get(found["test_is"], f"are {found['test_is']} than train")
    return f"Brightness: test images {compared}: {means} ({how})."


def differences(parts: Mapping[str, Json]) -> list[str]:
    """Return lines about formats, channels and bits that are common in train or test and absent in the other."""
    lines = []
    for key, heading in (("formats", "Formats"), ("channels", "Channels"), ("bits", "Bits")):
        train, test = (parts.get(name, {}).get(key, {}) for name in ("train", "test"))
        alone = [
            f"only {name}: {value}"
            for name, here, there in (("train", train, test), ("test", test, train))
            for value, count in here.items()
            if there and value not in there and count >= COMMON * sum(here.values())
        ]
        lines += [f"{heading} of train and test differ ({'; '.join(alone)})."] if alone else []
    return lines


def class_facts(images: ImageSet) -> Json:
    """Return the names of the classes or labels, and how many images of train and valid have each; not of numbers."""
    if images.task == NUMBERS:
        return {}
    parts = {part: _texts(images, part) for part in LABELLED}
    counts = {part: count_labels(texts, images.task) for part, texts in parts.items()}
    found: Json = {"names": images.classes}
    found |= {part: [counts[part][name] for name in images.classes] for part in LABELLED}
    if images.task in (SEVERAL_LABELS, BOXES):
        found["without_label"] = {part: sum(not text for text in texts) for part, texts in parts.items()}
    return found


def class_line(found: Json, task: str) -> str:
    """Return one line about the classes or labels."""
    totals = [sum(counts) for counts in zip(found["train"], found["valid"], strict=True)]
    order = sorted(range(len(totals)), key=lambda place: totals[place])
    what, one = ("Labels", "label") if task == SEVERAL_LABELS else ("Classes", "class")
    ends = [f"{short(shown(found['names'][place]), NAME)} ({totals[place]:,})" for place in (order[0], order[-1])]
    line = f"{what}: {len(totals):,}; smallest {one}: {ends[0]}, largest: {ends[1]}"
    if "without_label" in found:
        line += f"; images without a {'box' if task == BOXES else 'label'}: {sum(found['without_label'].values()):,}"
    return f"{line}."


def box_facts(images: ImageSet) -> dict[str, Json]:
    """Return of train and valid the ranges of the number of boxes per image, and of their sides as shares."""
    found = {}
    for part in LABELLED:
        true = images.select(images.table[images.table["split"] == part]).labels
        exists = ~np.isnan(true[:, :, 0])
        width, height = (true[exists][:, 3:] - true[exists][:, 1:3]).T.tolist()
        values = {"boxes_per_image": exists.sum(axis=1).tolist(), "box_width": width, "box_height": height}
        found[part] = {key: _range(some) for key, some in values.items()}
    return found


def number_facts(images: ImageSet) -> list[Json]:
    """Return the histogram of each number in train and valid, and how many are missing; nothing for other tasks."""
    if images.task != NUMBERS:
        return []
    columns = {part: encode(_texts(images, part), NUMBERS, images.classes).astype(np.float64) for part in LABELLED}
    found = []
    for place, name in enumerate(images.classes):
        every = {part: column[:, place] for part, column in columns.items()}
        known = {part: values[np.isfinite(values)] for part, values in every.items()}
        edges = _edges(np.concatenate([*known.values()]))
        facts: Json = {"name": name, "edges": edges.tolist()}
        facts |= {part: np.histogram(values, edges)[0].tolist() for part, values in known.items()}
        found.append(facts | {"missing": {part: len(every[part]) - len(known[part]) for part in LABELLED}})
    return found


def _edges(values: Values) -> Values:
    """Return the edges of bins for `values`; whole numbers near each other are in the middle of theirs."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if high - low < WHOLE and (values == np.rint(values)).all():
        return np.arange(low - 0.5, high + 1)
    return np.linspace(low, high if high > low else low + 1, BINS + 1)


def _texts(images: ImageSet, part: str) -> list[str]:
    return images.table["label"][images.table["split"] == part].tolist()


def rows_of_table(parts: Mapping[str, Json]) -> list[tuple[str, ...]]:
    """Return the facts as cells, a row for each fact: its name, and its text for each part."""
    texts = {name: _texts_of(facts) for name, facts in parts.items()}
    return [(fact, *(texts[name].get(fact, "-") for name in parts)) for fact in next(iter(texts.values()))]


def _texts_of(facts: Json) -> dict[str, str]:
    found = {key.replace("_", " "): f"{facts[key]:,}" for key in ("images", "looked_at", "damaged")}
    for key in ("formats", "channels", "bits"):
        counts = facts[key]
        found[key] = ", ".join(f"{name} ({count:,})" if len(counts) > 1 else name for name, count in counts.items())
    for key in ("width", "height", "aspect_ratio", *(key for key in facts if "box" in key)):
        least, median, most = (f"{value:,.4g}" for value in facts[key].values()) if facts[key] else [""] * 3
        found[key.replace("_", " ")] = f"{least} to {most}, median {median}" if least != most else least
    light = facts["brightness"]
    found["brightness"] = f"mean {light['mean']:.1f}, sd {light['sd']:.1f}" if light else ""
    return {key: text or "-" for key, text in found.items()}


def flat_table(parts: Mapping[str, Json]) -> pd.DataFrame:
    """Return the facts as a row each: the column `fact`, and one for each part, with a single value in a cell."""
    columns: dict[str, dict[str, str]] = {}
    for name, facts in parts.items():
        column = columns.setdefault(name, {})
        for key, value in facts.items():
            for inner, each in value.items() if isinstance(value, dict) else [("", value)]:
                column[f"{key.replace('_', ' ')} {inner}".rstrip()] = str(each)
    names = [*dict.fromkeys(name for column in columns.values() for name in column)]
    cells = {part: [column.get(name, "") for name in names] for part, column in columns.items()}
    return pd.DataFrame({"fact": names} | cells)
