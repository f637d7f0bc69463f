"""Each form that boxes are published in is recognised, and the stages accept the TOML that `make new` writes for it."""

from pathlib import Path

import pytest

from pipelines import split
from pipelines.analysis.recognise.compose import Known, recognise
from pipelines.dataset.archives import unpack
from pipelines.dataset.boxes import SIDES, read_boxes
from pipelines.dataset.splits import read_split_csv
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.loading import load_settings
from pipelines.tools import new
from tests.support.box_forms import BOX_FORMS, HEIGHT, TEST, TRAIN, TRUE, WIDTH, BoxForm, name
from tests.support.clients import run_stage

COMPETITION = {"competition.task": "boxes", "competition.submission": "boxes"}


@pytest.mark.parametrize("form", BOX_FORMS, ids=lambda form: form.name)
def test_a_form_of_boxes_is_recognised(form: BoxForm, tmp_path: Path) -> None:
    unpack(form.archive(tmp_path), tmp_path / "raw", data=DataSettings(train_images="", test_images=""))
    draft, _ = recognise("mine", tmp_path / "raw", Known(form.metric, "given"))
    assert not draft.doubts
    toml = tmp_path / "mine.toml"
    toml.write_text(draft.text("make all"), encoding="utf-8")
    settings = load_settings(str(toml))
    expected = COMPETITION | form.settings
    found = {key: getattr(getattr(settings, key.partition(".")[0]), key.partition(".")[2]) for key in expected}
    assert found == expected


@pytest.mark.parametrize("form", BOX_FORMS, ids=lambda form: form.name)
def test_the_stages_accept_the_toml_of_a_form(form: BoxForm, tmp_path: Path) -> None:
    words = ["mine", f"--archive={form.archive(tmp_path)}", f"--metric={form.metric}"]
    for stage, arguments in ((new, words), (split, ["mine"])):
        status, _, errors = run_stage(stage, arguments, tmp_path, {"CALLED_FROM": ""})
        assert (status, errors) == (0, ""), errors
    rows = read_split_csv(tmp_path / "data/mine/split.csv")
    named = dict(zip(rows["id"], rows["path"].map(lambda path: Path(path).stem), strict=True))
    found = read_boxes(tmp_path / "data/mine/boxes.csv")
    sides = (found[SIDES] * [WIDTH, HEIGHT, WIDTH, HEIGHT]).round().astype(int).to_numpy().tolist()
    expected = sorted((name(box.image), *box[2:]) for box in TRUE)
    assert sorted((named[each], *box) for each, box in zip(found["id"], sides, strict=True)) == expected
    assert len(found["label"].unique()) == (1 if form.one_class else 3)
    counts = rows["split"].value_counts()
    assert counts["train"] + counts["valid"] == TRAIN and counts["test"] == TEST
