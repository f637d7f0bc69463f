"""The report page of other tasks than one class of a few: several labels, numbers, ranks, and many classes."""

from pathlib import Path

import pandas as pd

from tests.support.report_pages import Page, make_classes, make_site

IDS = [f"n{number}" for number in range(36)]


def test_several_labels(tmp_path: Path) -> None:
    labels = pd.DataFrame({"id": IDS, "tags": [("red", "red blue", "<b>")[number % 3] for number in range(36)]})
    sample = pd.DataFrame({"id": ["t1", "t2"], "tags": ["red", "red"]})
    competition = 'task = "several_labels"\nmetric = "fbeta_samples"\nsubmission = "label_lists"'
    site = make_site(tmp_path, labels, sample, competition=competition, data='label_separator = " "')
    site.run("a")
    page = Page(site.page())
    page.check_harmless()
    assert "Labels, the lowest F1 first" in page.sections["mistakes"] and "F1" in page.words and "sure" in page.sections


def test_numbers_of_which_the_lowest_error_is_the_best(tmp_path: Path) -> None:
    labels = pd.DataFrame({"id": IDS, "size": [number % 9 + 0.5 for number in range(36)]})
    sample = pd.DataFrame({"id": ["t1", "t2"], "size": [1.5, 1.5]})
    site = make_site(
        tmp_path,
        labels,
        sample,
        competition='task = "numbers"\nmetric = "rmse"\nsubmission = "numbers"',
        data='label_columns = ["size"]',
    )
    site.run("a")
    site.send("a", "3.0", "2.5")
    site.send("b", "3.5", "2.9")
    page = Page(site.page())
    page.check_harmless()
    assert "lowest rmse first" in page.sections["runs"] and "2.5 #1" in page.sections["runs"]
    assert "RMSE" in page.sections["mistakes"]


def test_many_classes(tmp_path: Path) -> None:
    site = make_classes(tmp_path, [f"class {n:02}" for n in range(70)], [f"n{number}" for number in range(140)])
    site.run("a")
    page = Page(site.page())
    page.check_harmless()
    assert "55 more classes" in page.sections["mistakes"] and "Confusion" not in page.sections["mistakes"]
    assert "the 20 that differ most" in page.sections["submission"]
