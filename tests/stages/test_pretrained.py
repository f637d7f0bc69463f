"""The stages on files of weights, label maps and checkpoints: what they print, and what they refuse to mix."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch

from pipelines import command, predict, retrain, split, train
from tests.support.tiny import Tiny, pretrained

MAP = "label,category\nblue,tabby\ngreen,goldfish\nred,tench\n"
QUICK = ("finetune.frozen_stages=-1", "train.epochs=1", "features.mirror=false")


def run(stage: str, *settings: str) -> int:
    module = {"split": split, "train": train, "retrain": retrain, "predict": predict}[stage]
    return command.run(module.main, ["tiny.toml", "--run", "done", "--set", *settings])


def test_another_label_map_is_another_run(
    tiny: Tiny, small_weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny.layout.root)
    path = Path("map.csv")
    path.write_text(MAP)
    settings = (*pretrained(small_weights), "model.label_map=map.csv", *QUICK)
    assert [run(stage, *settings) for stage in ("split", "train")] == [0, 0]
    record = tiny.layout.run("done").record
    assert re.fullmatch("[0-9a-f]{64}", json.loads(record.read_text())["settings"]["model"]["label_map_sha256"])

    path.write_text(MAP.replace("tench", "hen"))
    capsys.readouterr()
    assert [run(stage, *settings) for stage in ("train", "retrain")] == [2, 2]
    messages = capsys.readouterr().err
    assert "runs/tiny/done was trained with another label map: map.csv has changed since. Put it back" in messages
    assert "map.csv, the label map, has the sha256" in messages
    path.write_text(MAP)
    assert [run(stage, *settings) for stage in ("train", "retrain")] == [0, 0]
    assert "Already trained" in capsys.readouterr().out
    path.unlink()
    assert run("train", *settings) == 0


def test_a_record_of_before_the_label_map_was_recorded_stays_valid(
    tiny: Tiny, small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.layout.root)
    Path("map.csv").write_text(MAP)
    settings = (*pretrained(small_weights), "model.label_map=map.csv", *QUICK)
    assert [run(stage, *settings) for stage in ("split", "train")] == [0, 0]
    record = tiny.layout.run("done").record
    content = json.loads(record.read_text())
    del content["settings"]["model"]["label_map_sha256"]
    record.write_text(json.dumps(content))
    assert [run(stage, *settings) for stage in ("train", "retrain")] == [0, 0]


def test_a_missing_label_map_is_named_before_training(
    tiny: Tiny, small_weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny.layout.root)
    settings = (*pretrained(small_weights), "model.label_map=maps.csv", *QUICK)
    assert [run(stage, *settings) for stage in ("split", "train")] == [0, 2]
    assert re.search(r"There is no label map maps\.csv or .*Correct model\.label_map", capsys.readouterr().err)


def test_a_file_without_a_last_layer_trains_and_says_so(
    tiny: Tiny, small_weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny.layout.root)
    state = torch.load(small_weights, weights_only=True)
    content = {f"backbone.{name}": value for name, value in state.items() if not name.startswith("fc.")}
    torch.save({"state_dict": content, "epoch": 3}, "headless.ckpt")
    settings = (*pretrained(Path("headless.ckpt")), *QUICK)
    assert [run(stage, *settings) for stage in ("split", "train", "retrain")] == [0, 0, 0]
    assert "headless.ckpt: it has no last layer, and none is needed.\n" in capsys.readouterr().out
    shown = command.run(train.main, ["tiny.toml", "--run", "b", "--set", *settings, "model.features=both"])
    assert shown == 2
    message = capsys.readouterr().err
    assert "has no last layer, but model.features=both uses the last layer" in message
    (advice,) = re.findall(r"Set (model\.features=\w+)", message)
    assert command.run(train.main, ["tiny.toml", "--run", "b", "--set", *settings, advice]) == 0


@pytest.mark.parametrize(
    ("name", "again"), [("final.pt", ["retrain", "predict"]), ("best.pt", ["train", "retrain", "predict"])]
)
def test_a_damaged_checkpoint_is_made_again_as_the_message_says(
    tiny: Tiny,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    again: list[str],
) -> None:
    monkeypatch.chdir(tiny.layout.root)
    assert [run(stage, "train.epochs=1") for stage in ("split", "train", "retrain")] == [0, 0, 0]
    path = tiny.layout.run("done").folder / name
    path.write_bytes(path.read_bytes()[:1000])
    assert run("predict", "train.epochs=1") == 2
    (remedy,) = re.findall(r"rm .*", capsys.readouterr().err)
    subprocess.run(remedy, shell=True, check=True)
    assert [run(stage, "train.epochs=1") for stage in again] == [0] * len(again)
