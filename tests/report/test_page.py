"""The report page: it holds what the runs did, is the same each time, and survives damaged files and strange names."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.report_pages import HOSTILE, Page, Site

SECTIONS = ["runs", "best", "mistakes", "sure", "submission", "data", "repeat"]
LARGEST = 3_000_000  # bytes
ROOT = Path(__file__).parents[2]


def cards(page: Page) -> str:
    """Return the words of the first screen."""
    return " ".join(page.words.partition("Best validation")[2].partition("All runs")[0].split())


def test_the_page_holds_what_the_runs_did(digits: Site) -> None:
    text = digits.page()
    page = Page(text)
    page.check_harmless()
    assert list(page.sections) == SECTIONS and len(text.encode()) < LARGEST
    note = json.loads((digits.layout.run("a").predicted).read_text())
    (facts,) = note.values()
    assert f"{facts['valid_score']:.4f}" in cards(page) and "recall" in cards(page)
    runs = page.sections["runs"]
    assert "0.31 #1" in runs and "0.29 #1" in runs and "-0.0100" in runs
    assert "0.12 #3" in runs and "0.13 #2" in runs and "+0.0100" in runs
    assert "not predicted" in runs and "train.lr=0.0001" in runs and "train.lr=0.0001" not in page.sections["repeat"]
    assert "In 2 of 2 pairs of submissions" in runs
    assert (
        "The best run: a" in page.words and "Duplicates and wrong labels were not looked for" in page.sections["data"]
    )
    assert "train.epochs=2" in page.sections["repeat"] and "RUN=a" in page.sections["repeat"].replace("--run=", "RUN=")
    pictures = [found for tag, found in page.elements if tag == "img"]
    assert len(pictures) > 40 and all(found["alt"] for found in pictures)
    anchors = [found["href"] for tag, found in page.elements if tag == "a"]
    assert anchors == [f"#{section}" for section in SECTIONS]


def test_the_same_runs_give_the_same_bytes(digits: Site) -> None:
    before = digits.page()
    assert digits.current()
    digits.layout.report.unlink()
    assert not digits.current()
    assert digits.page() == before


def test_the_page_is_written_without_packages_that_take_long_to_import(digits: Site) -> None:
    code = "import sys; from pipelines.tools import report; report.main(['digits']); "
    code += "assert not {'torch', 'matplotlib', 'sklearn'} & set(sys.modules), sorted(sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=digits.folder, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize(
    "changed",
    [
        lambda site: change(site.layout.run("a").predicted),
        lambda site: change(site.layout.run("b").trained),
        lambda site: change(site.layout.submission_log),
        lambda site: change(site.layout.split_csv),
        lambda site: change(site.layout.run("a").oof),
        lambda site: shutil.rmtree(site.layout.run("b").folder),
        lambda site: shutil.copytree(site.layout.run("b").folder, site.layout.run("c").folder),
        lambda site: site.layout.report.write_text("[]"),
        lambda site: (site.folder / site.name).write_text((site.folder / site.name).read_text().replace("A", "The")),
        lambda site: site.look(),
    ],
)
def test_a_change_of_a_file_makes_the_page_old(small: Site, tmp_path: Path, changed: Callable[[Site], object]) -> None:
    site = small.copied(tmp_path)
    site.page()
    assert site.current()
    changed(site)
    assert not site.current()
    site.page()
    assert site.current()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\xfe\x00", b'{"score": [1, {}]}', b'id,label\n"', None])
@pytest.mark.parametrize(
    "name",
    [
        *("a/valid_predictions.csv", "a/oof.csv", "a/history.csv", "a/train.json", "a/predict.json", "a/run.json"),
        *("a/test_predictions.npy", "b/train.json"),
    ],
)
def test_a_damaged_file_of_a_run(small: Site, tmp_path: Path, name: str, content: bytes | None) -> None:
    """content: None for half of what was there."""
    site = small.copied(tmp_path)
    path = site.layout.runs_folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    page = Page(site.page())
    page.check_harmless()
    said = " ".join(page.words.split())
    assert any(word in said for word in ("damaged", "does not match", "other columns", "no history", "not predicted"))
    assert "Traceback" not in said and "runs" in page.sections and "data" in page.sections


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\xfe\x00", b"time,run\n1,2\n", None])
def test_a_damaged_log(small: Site, tmp_path: Path, content: bytes | None) -> None:
    site = small.copied(tmp_path)
    path = site.layout.submission_log
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    page = Page(site.page())
    assert ("The log of submissions cannot be read" in page.words) and "log.csv" in page.words
    assert list(page.sections) == SECTIONS


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\xfe\x00", b"{}", b'{"twins": 3, "suspects": []}'])
@pytest.mark.parametrize("name", ["look.png", "look.csv", "audit/audit.json"])
def test_damaged_files_of_the_data(small: Site, tmp_path: Path, name: str, content: bytes) -> None:
    site = small.copied(tmp_path)
    site.look()
    path = site.layout.data / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    page = Page(site.page())
    assert list(page.sections) == SECTIONS and page.sections["data"].strip()


def test_without_the_images_the_page_has_no_pictures(small: Site, tmp_path: Path) -> None:
    site = small.copied(tmp_path)
    shutil.rmtree(site.layout.raw)
    page = Page(site.page())
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert {*page.sections} <= {*SECTIONS} and "The best run: a" in page.words


def test_names_of_the_worst_kind_are_only_text(hostile: Site) -> None:
    text = hostile.page()
    page = Page(text)
    page.check_harmless()
    assert list(page.sections) == SECTIONS and len(text.encode()) < LARGEST
    heading, alternatives = page.headings[0][1], " ".join(found.get("alt", "") for _, found in page.elements)
    assert HOSTILE[0] in heading and HOSTILE[0] in alternatives
    for name in HOSTILE[:4]:
        assert name in page.sections["mistakes"], name
    assert "\u202e" not in alternatives


def test_a_run_of_another_split_or_metric_is_not_compared(small: Site, tmp_path: Path) -> None:
    site = small.copied(tmp_path)
    record = json.loads(site.layout.run("a").record.read_text())
    for key, value, said in (("split", "0" * 64, "other split"), ("metric", "f1_macro", "trained for f1_macro")):
        other = json.loads(json.dumps(record))
        if key == "split":
            other["split_sha256"] = value
        else:
            other["settings"]["competition"]["metric"] = value
        site.layout.run("a").record.write_text(json.dumps(other))
        page = Page(site.page())
        assert said in page.sections["runs"] and "The best run: b" in page.words
        assert "mistakes" not in page.sections


def test_without_a_finished_run_the_page_says_what_is_missing(small: Site, tmp_path: Path) -> None:
    site = small.copied(tmp_path)
    shutil.rmtree(site.layout.run("a").folder)
    site.layout.run("b").trained.unlink()
    page = Page(site.page())
    assert "training unfinished" in page.sections["runs"] and list(page.sections) == ["runs", "data"]
    shutil.rmtree(site.layout.run("b").folder)
    site.stage("tools.report", expect=2)


def test_the_repeated_commands_predict_with_the_settings_of_the_submission(small: Site) -> None:
    page = Page(small.page())
    assert "predict.checkpoint=best" in page.sections["repeat"]


def test_runs_that_chance_may_have_ordered_are_counted(small: Site, tmp_path: Path) -> None:
    site = small.copied(tmp_path)
    predicted, trained = site.layout.run("a").predicted, site.layout.run("b").trained
    (note,) = (notes := json.loads(predicted.read_text())).values()
    note |= {"valid_score": 0.9, "valid_interval": [0.7, 1.0]}
    predicted.write_text(json.dumps(notes))
    for score, said in ((0.8, True), (0.6, False)):
        trained.write_text(json.dumps(json.loads(trained.read_text()) | {"score": score}))
        assert ("another run lies within the interval of a" in Page(site.page()).sections["runs"]) is said
