"""The report page of boxes: what is right of them, how sure they are, and those that are sent."""

import json
from pathlib import Path

import numpy as np

from pipelines.dataset.boxes import FOUND, MOST
from pipelines.dataset.tables import read_csv
from tests.support.box_pages import add_run, make_boxes, opened
from tests.support.report_pages import HOSTILE, Page


def test_the_page_of_boxes(tmp_path: Path) -> None:
    site = make_boxes(tmp_path)
    add_run(site)
    text = site.page()
    page = Page(text)
    page.check_harmless()
    assert site.current() and site.page() == text
    assert "classifier" in page.sections["best"]
    mistakes = page.sections["mistakes"]
    assert "right" in mistakes and "missed" in mistakes and "AP at 0.5" in mistakes
    assert [found["class"] for tag, found in page.elements if tag == "img" and "plate" in found.get("class", "")]
    assert "Share of boxes that are right, by confidence" in page.sections["sure"]
    assert "8 test images, chosen at random" in page.sections["submission"]
    table = read_csv(site.layout.split_csv)
    counts = [len(text.split("|")) if text else 0 for text in table["label"][table["split"] != "test"]]
    assert f"Boxes per image: {np.mean(counts):.1f} in the labels, " in page.words
    assert "damaged" not in page.words


def test_a_run_that_found_nothing_and_names_of_the_worst_kind(tmp_path: Path) -> None:
    site = make_boxes(tmp_path, [name.strip()[:60].replace(" ", "_") for name in HOSTILE[:3]])
    _, valid = opened(site)
    add_run(site, predicted=np.zeros((len(valid), MOST * FOUND), np.float32))
    page = Page(site.page())
    page.check_harmless()
    assert "0 right" in page.sections["mistakes"] and "damaged" not in page.words


def test_a_chosen_confidence_decides_which_test_boxes_count(tmp_path: Path) -> None:
    site = make_boxes(tmp_path)
    add_run(site)
    before = Page(site.page()).sections["submission"]
    path = site.layout.run("a").predicted
    note = json.loads(path.read_text())
    note["a.csv"]["confidence"] = [0.95, 0.5]
    path.write_text(json.dumps(note))
    after = Page(site.page()).sections["submission"]
    assert ", 0.0 in the test images" in after and ", 0.0 in the test images" not in before
