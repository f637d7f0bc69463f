"""A finished run made again from its record alone: the same bytes, or what has changed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import command, predict, retrain, split, train
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.loading import to_dict
from pipelines.settings.schema import Settings
from pipelines.system.group import SHARED
from pipelines.tools import reproduce
from tests.support.stages import run_stage_here
from tests.support.tiny import Tiny, pretrained


@pytest.fixture
def finished(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that has predicted, with settings that its TOML does not have."""
    monkeypatch.chdir(tiny.layout.root)
    for stage in (split, train, retrain, predict):
        words = ["tiny.toml", "--run", "done", "--set", "train.epochs=2", "predict.mirror=true"]
        assert command.run(stage.main, words) == 0
    return tiny.layout.run("done").folder


def submission(folder: Path) -> Path:
    (found,) = (folder.parent.parent.parent / "submissions/tiny").glob("*.csv")
    return found


def again(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    words = ["tiny.toml", "--run", "done", "--set", *(more or ("predict.mirror=true",))]
    program = [sys.executable, "-m", "pipelines.tools.reproduce", *words]
    return subprocess.run(program, cwd=folder.parent.parent.parent, env=environment, capture_output=True, text=True)


def again_here(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(command, "run_stage", run_stage_here)
    return command.run(reproduce.main, ["tiny.toml", "--run", "done", "--set", "predict.mirror=true"])


def test_same_bytes_though_the_toml_and_the_submission_are_gone(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = finished.parent.parent.parent
    toml = root / "tiny.toml"
    toml.write_text(toml.read_text().replace("widths = [8, 8]", "widths = [16]").replace("lr = 0.1", "lr = 9.0"))
    submission(finished).unlink()
    capsys.readouterr()
    assert again_here(monkeypatch) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1].endswith(", byte for byte.")
    assert out.splitlines()[:4] == [
        f"Stage {number} of 4: {stage}; output: runs/tiny/done-reproduced/{stage}.log"
        for number, stage in enumerate(("split", "train", "retrain", "predict"), 1)
    ]
    assert "Next:" not in out  # the stages print it for another working folder
    assert not finished.with_name("done-reproduced").exists()


@pytest.mark.slow
@pytest.mark.slow
def test_a_run_of_two_processes_is_made_again_by_two(tiny: Tiny) -> None:
    root = tiny.layout.root
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    words = ["tiny.toml", "--run", "done", "--set", "train.epochs=2"]
    for call in (["pipelines.split"], *(["pipelines.tools.launch", "2", stage] for stage in SHARED)):
        assert subprocess.run([sys.executable, "-m", *call, *words], cwd=root, env=environment).returncode == 0
    done = again(tiny.layout.run("done").folder, "train.epochs=2")
    assert done.returncode == 0, done.stderr
    assert "Stage 2 of 4: train; output: runs/tiny/done-reproduced/tools.launch.log" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(", byte for byte.")


def test_a_difference_is_an_error_that_lists_what_has_changed(finished: Path) -> None:
    notes = json.loads((finished / "predict.json").read_text())
    (name,) = notes
    assert {"device", "threads", "torch", "code", "digest of all images"} <= notes[name]["made_on"].keys()
    notes[name]["sha256"] = "0" * 64
    notes[name]["made_on"]["torch"] = "1.0"
    (finished / "predict.json").write_text(json.dumps(notes))
    done = again(finished)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {name} could not be reproduced byte for byte.")
    assert "DIFFERENT" in done.stdout and "torch" in done.stdout and "1.0" in done.stdout
    (made,) = finished.with_name("done-reproduced").glob("submissions/tiny/*.csv")
    assert made.read_bytes() == submission(finished).read_bytes()


def test_a_stage_that_fails_says_why(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished.parent.parent.parent / "data/tiny/raw/train/7.png").write_text("no image")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        again_here(monkeypatch)
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].startswith("Stage 2 of 4: train")
    assert said.err.startswith("error: 1 image cannot be used:\n") and "train/7.png" in said.err
    log = finished.with_name("done-reproduced") / "split.log"
    assert "Next: make train" in log.read_text()


def test_a_process_that_fails_says_why(finished: Path) -> None:
    labels = finished.parent.parent.parent / "data/tiny/raw/labels.csv"
    labels.write_text(labels.read_text() + "99,red\n")
    done = again(finished)
    assert done.returncode == 2
    assert done.stdout.splitlines() == ["Stage 1 of 4: split; output: runs/tiny/done-reproduced/split.log"]
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "'99'" in done.stderr


@pytest.mark.slow
def test_files_that_the_settings_name_from_the_working_folder(
    tiny: Tiny, small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.layout.root)
    Path("models").mkdir()
    shutil.copyfile(small_weights, "models/small.pth")
    Path("map.csv").write_text("label,category\nblue,tabby\ngreen,goldfish\nred,tench\n")
    Path("groups.csv").write_text("id,group\n1,a\n4,a\n")
    files = ("model.label_map=map.csv", "split.group_file=groups.csv", "predict.checkpoint=best")
    settings = (*pretrained(Path("models/small.pth")), *files, "train.epochs=1")
    for stage in (split, train, predict):
        assert command.run(stage.main, ["tiny.toml", "--run", "done", "--set", *settings]) == 0
    done = again(tiny.layout.run("done").folder, *settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(", byte for byte.")


def test_a_run_that_has_not_predicted_names_the_target(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (finished / "predict.json").unlink()
    assert command.run(reproduce.main, ["tiny.toml", "--run", "done"]) == 2
    assert "First: make predict" in capsys.readouterr().err


def test_a_run_that_SET_made_shorter_than_its_warm_up_is_reproduced(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny.layout.root)
    tiny.toml.write_text(tiny.toml.read_text().replace("epochs = 3", "epochs = 3\nwarmup_epochs = 2"))
    words = ["tiny.toml", "--set", "train.epochs=1", "predict.checkpoint=best"]
    for stage in (split, train, predict):
        assert command.run(stage.main, words) == 0
    monkeypatch.setattr(command, "run_stage", run_stage_here)
    assert command.run(reproduce.main, words) == 0
    assert "byte for byte" in capsys.readouterr().out


def test_the_texts_of_the_classes_beside_the_toml_are_found(tmp_path: Path) -> None:
    (tmp_path / "tiny-labels.csv").write_text("label,answer\ncat,0\n")
    sections = to_dict(Settings("tiny", data=DataSettings(submitted_labels="tiny-labels.csv")))
    reproduce._link_files(sections, tmp_path, tmp_path / "scratch")
    assert (tmp_path / "scratch" / sections["data"]["submitted_labels"]).read_text() == "label,answer\ncat,0\n"
