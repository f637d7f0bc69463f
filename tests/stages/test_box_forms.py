"""Boxes in each form that they are published in, from the archive to the submission, by the TOML of `make new`."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from pipelines.analysis.recognise.compose import Known, recognise
from pipelines.dataset.archives import unpack
from pipelines.dataset.splits import read_split_csv
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.layout import Layout
from pipelines.settings.loading import load_settings
from tests.support.box_forms import BOX_FORMS, CLASSES, HEIGHT, TEST, TRAIN, WIDTH, BoxForm, name
from tests.support.stages import run_stage_here

SMALL = [
    *("model.name=ssdlite320/mobilenet_v3_small", 'model.weights=""', "model.pretrained=false", "input.size=64"),
    *("input.mean=[0.5, 0.5, 0.5]", "input.std=[0.25, 0.25, 0.25]", "finetune.freeze_norms=false"),
    *("train.epochs=1", "train.batch_size=8", "train.warmup_epochs=0", "split.valid_ratio=0.25"),
    *("hardware.precision=float32", "hardware.threads=1", "hardware.workers=0"),
]
QUICK = ("shares", "wheat", "findings", "bananas")
FORMS = [pytest.param(form, id=form.name, marks=[pytest.mark.slow] * (form.name not in QUICK)) for form in BOX_FORMS]
Array = npt.NDArray[Any]


def written_toml(form: BoxForm, folder: Path) -> None:
    """Unpack the archive, and write the TOML that `make new` writes, which test_new_boxes.py lets that do."""
    raw = Layout(folder, form.name).raw
    unpack(form.archive(folder), raw, data=DataSettings(train_images="", test_images=""))
    draft, _ = recognise(form.name, raw, Known(form.metric, "given"))
    (folder / f"{form.name}.toml").write_text(draft.text("make all"), encoding="utf-8")


def boxes_of(cell: str, words: list[str]) -> list[tuple[str, float, Array]]:
    """Return label, confidence and the four sides of each box in a cell, as they are there."""
    parts = cell.split()
    assert len(parts) % len(words) == 0, cell
    found = [
        dict(zip(words, parts[place : place + len(words)], strict=True)) for place in range(0, len(parts), len(words))
    ]
    sides = [word for word in words if word not in ("label", "confidence")]
    return [
        (box.get("label", ""), float(box["confidence"]), np.array([float(box[side]) for side in sides]))
        for box in found
    ]


def corners(sides: Array, form: str, units: str) -> Array:
    """Return sides in a notation of the submission as corners, shares of the image."""
    scaled = sides / ([WIDTH, HEIGHT] * 2 if units == "pixels" else 1)
    start, end = scaled[:2], scaled[2:]
    if "xcentre" in form:
        start = start - end / 2
    return np.concatenate([start, start + end if "width" in form else end])


@pytest.mark.parametrize("form", FORMS)
def test_a_form_of_boxes_from_its_archive_to_its_submission(form: BoxForm, tmp_path: Path) -> None:
    written_toml(form, tmp_path)
    words = [f"{form.name}.toml", "--run", "small", "--set", *SMALL]
    for stage in ("split", "train", "retrain", "predict"):
        said = run_stage_here(stage, words, tmp_path)
        assert said == 0, (stage, (tmp_path / f"{stage}.log").read_text())
    layout, settings = Layout(tmp_path, form.name), load_settings(str(tmp_path / f"{form.name}.toml"))
    sent = pd.read_csv(tmp_path / f"submissions/{form.name}/small.csv", dtype=str, keep_default_na=False)
    if sample := settings.data.sample_submission:
        given = pd.read_csv(layout.raw / sample, dtype=str, keep_default_na=False)
        assert list(sent) == list(given) and sent.iloc[:, 0].tolist() == given.iloc[:, 0].tolist()
    rows = read_split_csv(layout.split_csv)
    tests = rows[rows["split"] == "test"]
    assert sorted(tests["path"].map(lambda path: Path(path).stem)) == sorted(map(name, range(TRAIN, TRAIN + TEST)))
    predicted = np.load(layout.run("small").test_predictions).reshape(TEST, -1, 6)
    place_of = {each: place for place, each in enumerate(tests["id"])}
    box_words, count = settings.competition.box_answer.split(), 0
    labels = {"class_id": ["0", "1", "2"], "label": CLASSES}.get(settings.data.label_column, CLASSES)
    for each, cell in sent.itertuples(index=False):
        if cell == settings.competition.no_boxes:
            continue
        boxes = boxes_of(cell, box_words)
        stored = predicted[place_of[each]]
        count += len(boxes)
        assert [confidence for _, confidence, _ in boxes] == sorted((one for _, one, _ in boxes), reverse=True)
        for label, confidence, sides in boxes:
            number = 0 if form.one_class else labels.index(label)
            box = corners(sides, settings.competition.box_answer, settings.data.box_units)
            same = (stored[:, 0] == number) & (abs(stored[:, 1] - confidence) < 1e-6)
            apart = abs(np.clip(stored[same, 2:], 0, 1) - box).max(axis=1)
            assert apart.min() * HEIGHT < 0.51, (label, confidence, sides)  # some samples have whole pixels
    assert count or settings.competition.metric == "box_precision"  # whose confidence may leave out all
