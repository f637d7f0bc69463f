"""`make new` writes a TOML that the stages accept, and says what it saw, what it guessed and what it refuses."""

import contextlib
import json
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import split
from pipelines.analysis.recognise.compose import Known, recognise
from pipelines.analysis.recognise.draft import Draft, toml_value
from pipelines.dataset.archives import unpack
from pipelines.settings.competitions import find_competition
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.loading import load_settings
from pipelines.tools import new
from tests.support.clients import forget, kept_client, run_stage, shared_environment
from tests.support.forms import FORMS, Form
from tests.support.layouts import MAKERS, TEST, Layout, cycle, folders, sheet
from tests.support.pictures import png_size
from tests.support.standin import Competition, Standin

BY_NAME = {form.name: form for form in FORMS}
CACTUS, SEEDLINGS = BY_NAME["aerial-cactus-identification"], BY_NAME["plant-seedlings-classification"]


def run_new(folder: Path, *words: str, stage: object = new) -> tuple[int, str, str]:
    return run_stage(stage, list(words), folder, {"CALLED_FROM": ""})  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_form_is_recognised_and_its_toml_loads(form: Form, tmp_path: Path) -> None:
    archive, _ = form.archive(tmp_path)
    unpack(archive, tmp_path / "raw", data=DataSettings(train_images="", test_images=""))
    draft, _ = recognise("mine", tmp_path / "raw", Known(form.metric, "given"))
    assert not draft.doubts
    toml = tmp_path / "mine.toml"
    toml.write_text(draft.text("make all"), encoding="utf-8")
    settings = load_settings(str(toml))
    assert not draft.recipes or load_settings(str(toml), "pretrained").model.weights
    for section, values in form.settings.items():
        found = {key: getattr(getattr(settings, section), key) for key in values}
        assert found == values


def test_what_was_seen_is_printed_drawn_and_commented(tmp_path: Path) -> None:
    archive, _ = SEEDLINGS.archive(tmp_path)
    status, printed, errors = run_new(tmp_path, "weeds", f"--archive={archive}", "--metric=Mean F1 Score (micro)")
    assert (status, errors) == (0, "")
    lines = dict(line.split("  ", 1) for line in printed.splitlines() if "  " in line)
    assert lines["images"].strip().startswith("60 PNG: 16 in test, 9 in train/")
    assert lines["sizes"].strip() == "16 x 16 pixels; 3 channels in those looked at"
    assert "Class folders below train: one label per image, 5 different values" in printed
    assert "plant" not in printed and printed.endswith("Next: make all COMP=weeds\n")
    seen = json.loads((tmp_path / "data/weeds/look.json").read_text())
    assert png_size(tmp_path / "data/weeds/look.png")[0] == 1280 and (tmp_path / "data/weeds/look.csv").exists()
    assert (seen["split_csv_sha256"], seen["parts"]["test"]["images"]) == (None, 16)
    assert (
        "Classes: 5; smallest class: " in printed
        and "Brightness: no clear difference between train and test" in printed
    )
    assert {path.name for path in (tmp_path / "data/weeds").iterdir()} == {"raw", "look.png", "look.csv", "look.json"}
    text = (tmp_path / "weeds.toml").read_text()
    keys = [line for line in text.splitlines() if "=" in line and line[0] not in "#[ "]
    before = text.partition("[augment]")[0].splitlines()
    uncommented = [line for line, above in zip(before[1:], before, strict=False) if line in keys and above[:1] != "#"]
    assert uncommented == ['title = "weeds"'] and "# sample_submission.csv has 16 rows" in text
    assert run_new(tmp_path, "weeds", stage=split)[0] == 0


def test_an_existing_toml_is_never_overwritten(tmp_path: Path) -> None:
    archive, _ = SEEDLINGS.archive(tmp_path)
    (tmp_path / "weeds.toml").write_text("# mine\n")
    status, printed, errors = run_new(tmp_path, "weeds", f"--archive={archive}")
    assert status == 2 and not printed and "is not overwritten. To use it: make all COMP=weeds\n" in errors
    assert not (tmp_path / "data").exists() and (tmp_path / "weeds.toml").read_text() == "# mine\n"
    subprocess.run(errors.partition("first: ")[2], shell=True, cwd=tmp_path, check=True)
    assert run_new(tmp_path, "weeds", f"--archive={archive}")[0] == 0


def test_a_toml_in_the_working_folder_comes_before_one_of_the_pipeline(tmp_path: Path) -> None:
    archive, _ = SEEDLINGS.archive(tmp_path)
    status, printed, _ = run_new(tmp_path, "digits", f"--archive={archive}")
    assert status == 0 and "Note: digits comes with the pipeline" in printed
    with contextlib.chdir(tmp_path):
        assert find_competition("digits").resolve() == tmp_path / "digits.toml"


def test_without_a_metric_the_usual_one_is_marked_as_a_guess(tmp_path: Path) -> None:
    archive, _ = SEEDLINGS.archive(tmp_path)
    status, printed, _ = run_new(tmp_path, "weeds", f"--archive={archive}")
    assert status == 0 and "Note: The metric accuracy is a guess" in printed
    text = (tmp_path / "weeds.toml").read_text()
    assert "# A GUESS, the usual one of this form" in text and "# Note: The metric accuracy is a guess." in text


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("Weighted Categorization Accuracy", "is none that this pipeline computes"),
        ("RMSE", "is rmse, which does not score what the data seem to want, one_class and submission labels"),
    ],
)
def test_a_metric_that_does_not_fit_is_a_doubt_on_top_and_status_2(tmp_path: Path, metric: str, words: str) -> None:
    archive, _ = SEEDLINGS.archive(tmp_path)
    status, _, errors = run_new(tmp_path, "weeds", f"--archive={archive}", f"--metric={metric}")
    assert status == 2 and "weeds.toml was written, but needs a correction:" in errors and words in errors
    top = " ".join((tmp_path / "weeds.toml").read_text().partition("[competition]")[0].replace("\n# ", " ").split())
    assert "DOUBT: " in top and words in top
    with contextlib.chdir(tmp_path):
        assert load_settings("weeds").competition.metric == "accuracy"


def test_what_split_would_refuse_is_a_doubt_on_top_and_status_2(tmp_path: Path) -> None:
    archive, _ = CACTUS.archive(tmp_path)
    raw = tmp_path / "folder"
    unpack(archive, raw)
    lines = (raw / "train.csv").read_text().splitlines()
    (raw / "train.csv").write_text("\n".join([*lines, lines[1].replace(",1", ",0")]) + "\n")  # the same image twice
    status, _, errors = run_new(tmp_path, "cacti", f"--archive={raw}", "--metric=AUC")
    assert status == 2 and "images with two different labels" in errors
    assert "DOUBT: data/cacti/raw/train.csv" in (tmp_path / "cacti.toml").read_text()
    assert png_size(tmp_path / "data/cacti/look.png") == (880, 1060)  # sixteen examples
    assert not (tmp_path / "data/cacti/look.json").exists()


def test_what_is_not_supported_leaves_no_toml(tmp_path: Path) -> None:
    layout = next(made for make in MAKERS if (made := make()).name == "severstal")
    layout.write(tmp_path / "folder")
    status, _, errors = run_new(tmp_path, "steel", f"--archive={tmp_path / 'folder'}")
    assert status == 2 and "segmentation" in errors and not (tmp_path / "steel.toml").exists()


def test_a_sample_in_other_words_gets_a_table_of_both(tmp_path: Path) -> None:
    train, test, files = folders("train", "test")
    files |= {
        "train.csv": sheet("id,label", train, cycle(["0", "1", "10"])),
        "sample.csv": sheet("id,class_0,class_1,class_10", test, *[cycle([0.3], TEST)] * 3),
    }
    Layout("words", files).write(tmp_path / "folder")
    status, _, errors = run_new(tmp_path, "words", f"--archive={tmp_path / 'folder'}", "--metric=log_loss")
    assert (status, errors) == (0, "")
    assert (tmp_path / "words-labels.csv").read_text() == "label,answer\n0,class_0\n1,class_1\n10,class_10\n"


@pytest.mark.parametrize("name", ["a/b", ".hidden", "-x", "x" * 300])
def test_a_name_that_cannot_be_a_file_is_refused(name: str, tmp_path: Path) -> None:
    status, _, errors = run_new(tmp_path, "--", name)
    assert status == 2 and "cannot be the name of a competition" in errors


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    with Standin(tmp_path_factory.mktemp("standin")) as started, kept_client(started):
        yield started


def test_kaggles_record_names_title_metric_and_kind(standin: Standin, tmp_path: Path) -> None:
    archive, _ = SEEDLINGS.archive(tmp_path)
    record = Competition("weeds", archive, load_settings("digits"), code_only=True, metric="Mean F1 Score (micro)")
    standin.competitions["weeds"] = record
    environment = {"CALLED_FROM": "", **shared_environment(standin)}
    status, printed, errors = run_stage(new, ["https://www.kaggle.com/competitions/weeds"], tmp_path, environment)
    assert (status, errors) == (0, ""), errors
    with contextlib.chdir(tmp_path):
        settings = load_settings("weeds").competition
    assert (settings.title, settings.metric, settings.takes) == ("Handwritten digits", "f1_micro", "code")
    assert "f1_micro: 'Mean F1 Score (micro)', Kaggle's record of the competition." in printed
    forget(standin)


def test_comments_cannot_end_early_and_values_are_read_back() -> None:
    draft = Draft("x")
    draft.set("competition.title", 'a "b"\n\x7f\\ ü', "seen\nvalue = 1")
    draft.set("data.label_columns", [f"column {number}" for number in range(40)], "x " * 300)
    draft.set("data.label_pattern", r"(?P<label>\d+)\.png")
    read = tomllib.loads(draft.text("make all"))
    assert read == draft.values()
    assert toml_value({"a": [0.5, 1e-4], "b": True}) == "{ a = [0.5, 0.0001], b = true }"
