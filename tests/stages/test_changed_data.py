"""What each stage says when the data have changed since the split: what has changed, and commands that lead on."""

import shutil
from pathlib import Path

import pytest

from pipelines.command import Words
from pipelines.settings.loading import load_settings
from pipelines.tools.doctor import _stages, next_command
from tests.support.advice import follow
from tests.support.pets import Pets, picture
from tests.support.stages import run_stage_here

CHANGED = "have changed since data/odd pets/split.csv was made: "


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the pets in class folders are trained, retrained and predicted."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as place:
        place.chdir(folder)
        pets = Pets(folder, "packed", listed=False)
        pets.split()
        for stage in ("train", "retrain", "predict"):
            assert run_stage_here(stage, [str(pets.toml)]) == 0
    return folder


class Place:
    """A copy of the finished pets, in the working folder; `say` runs a stage and returns its status and output."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.raw, self.capsys = folder / "data/odd pets/raw", capsys
        self.submission = folder / "submissions/odd pets/default.csv"
        self.words = Words(competition="odd pets.toml", recipe="default", run="", set=[])

    def say(self, stage: str) -> tuple[int, str]:
        self.capsys.readouterr()
        status = run_stage_here(stage, ["odd pets.toml"])
        printed = self.capsys.readouterr()
        return status, printed.out + printed.err

    def doctor(self) -> str:
        settings, layout = load_settings("odd pets.toml"), self.words.layout()
        return "\n".join(f"{check} {' '.join(check.steps)}" for check in _stages(settings, layout, self.words))


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Place:
    folder = shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(folder)
    return Place(folder, capsys)


def test_nothing_has_changed(place: Place) -> None:
    for stage in ("split", "train", "retrain", "predict", "tools.audit"):
        status, said = place.say(stage)
        assert status == 0 and CHANGED not in said, stage
    assert "split        ok" in place.doctor()


def test_added_images_stop_a_training_and_are_noted_by_the_others(place: Place) -> None:
    (place.raw / "train/cat/77.png").write_bytes(picture(77))
    text = "1 image added, e.g. 'train/cat/77.png'"
    for stage, stops in {"split": 1, "train": 1, "retrain": 1, "predict": 0, "tools.audit": 0}.items():
        status, said = place.say(stage)
        assert (status, CHANGED + text in said) == (2 * stops, True), stage
    found = place.doctor()
    assert "split        fails    The data in data/odd pets/raw have changed since" in found and text in found
    follow(place.say("train")[1])
    status, said = place.say("train")
    assert status == 2 and "was trained on another split" in said
    follow(said)
    for stage in ("train", "retrain", "predict"):
        assert place.say(stage)[0] == 0


def test_added_test_images_stop_a_prediction(place: Place) -> None:
    (place.raw / "test/9.png").write_bytes(picture(9))
    for stage, stops in {"split": 1, "train": 1, "retrain": 0, "predict": 1, "tools.audit": 0}.items():
        status, said = place.say(stage)
        assert (status, "1 image added, e.g. 'test/9.png'" in said) == (2 * stops, True), stage


def test_a_missing_raw_folder_is_named_by_all_stages(place: Place) -> None:
    shutil.move(place.raw, place.raw.with_name("elsewhere"))
    for stage in ("split", "train", "retrain", "predict", "tools.audit"):
        status, said = place.say(stage)
        assert status == 2 and "data/odd pets/raw is missing. First: " in said and "download" in said, stage
    assert "data         -        not downloaded yet" in place.doctor()
    shutil.move(place.raw.with_name("elsewhere"), place.raw)
    assert place.say("train")[0] == 0


def test_doctor_leads_to_the_stage_that_mends_a_removed_tree(place: Place) -> None:
    shutil.rmtree(place.words.layout().tree)
    assert "split        -        not complete: train_valid_test is missing" in place.doctor()
    assert "split" in next_command(load_settings("odd pets.toml"), place.words.layout(), place.words).split()[:4]
    follow(place.say("train")[1], "First: ")
    assert place.say("train")[0] == 0


def test_other_contents_under_the_same_names_are_decoded_again_and_noted(place: Place) -> None:
    (place.raw / "train/cat/0.png").write_bytes(picture(99))
    place.submission.unlink()
    status, said = place.say("predict")
    assert status == 0 and "Note: labelled images have other contents than when default was trained" in said
