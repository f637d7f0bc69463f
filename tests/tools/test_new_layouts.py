"""Raw folders of many kinds are recognised, or refused by name, without anything that names their competition."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.analysis.recognise.compose import Known, recognise
from pipelines.system.errors import UserError
from tests.support.layouts import MAKERS, Layout, small

LAYOUTS = [make() for make in MAKERS]


@pytest.mark.parametrize("layout", [each for each in LAYOUTS if not each.refused], ids=lambda each: each.name)
def test_a_layout_is_recognised(layout: Layout, tmp_path: Path) -> None:
    layout.write(tmp_path)
    draft, _ = recognise(layout.name, tmp_path, Known(layout.metric, "given"))
    found = {key: draft.get(key) for key in layout.settings}
    assert found == layout.settings
    assert bool(draft.doubts) == layout.doubt, draft.doubts
    if not layout.metric:
        assert any("is a guess" in note for note in draft.notes)


def test_an_ambiguous_metric_and_unused_images_are_noted(tmp_path: Path) -> None:
    layouts = {layout.name: layout for layout in LAYOUTS}
    layouts["plant-village"].write(tmp_path / "plants")
    draft, _ = recognise("plants", tmp_path / "plants", Known("accuracy", "given"))
    (note,) = draft.notes
    assert note.startswith("3 images are neither in train nor test images, and are not used: 'valid/")
    layouts["planet-amazon"].write(tmp_path / "amazon")
    draft, _ = recognise("amazon", tmp_path / "amazon", Known("F-Score (Micro)", "given"))
    (note,) = draft.notes
    assert "may also mean fbeta_samples; competition.metric is fbeta_micro. Kaggle says" in note


@pytest.mark.parametrize("layout", [each for each in LAYOUTS if each.refused], ids=lambda each: each.name)
def test_what_is_not_supported_is_refused_by_name(layout: Layout, tmp_path: Path) -> None:
    layout.write(tmp_path)
    with pytest.raises(UserError) as error:
        recognise(layout.name, tmp_path, Known(layout.metric, "given"))
    assert layout.refused in str(error.value)


def test_a_positive_class_that_the_data_do_not_say_is_a_guess(tmp_path: Path) -> None:
    unsure: list[tuple[list[Any], str]] = [([1, 2], "ill"), ([0, 1], "healthy"), (["FAKE", "REAL"], "ill")]
    for number, (labels, column) in enumerate(unsure):
        small("x", labels, "ill", column, 0.5).write(tmp_path / str(number))
        draft, _ = recognise("x", tmp_path / str(number), Known("AUC", "given"))
        assert any("competition.positive" in note and "a guess" in note for note in draft.notes)
    small("x", [0, 1], "ill", "probability", 0.5).write(tmp_path / "sure")
    assert not recognise("x", tmp_path / "sure", Known("AUC", "given"))[0].notes
