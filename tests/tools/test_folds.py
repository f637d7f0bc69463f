"""Folds: every labelled row is predicted by a model that was not trained on it; a stopped set goes on."""

import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from pipelines import command, predict, retrain, split, train
from pipelines.core import prediction
from pipelines.core.prediction import Resources
from pipelines.core.stored import read_oof
from pipelines.dataset.image_set import read_images
from pipelines.dataset.splits import read_split_csv
from pipelines.settings.layout import RunLayout
from pipelines.settings.loading import load_settings
from pipelines.settings.records import read_record
from pipelines.settings.running_sections import HardwareSettings
from pipelines.system.files import only_one, read_json
from pipelines.system.processes import cores
from pipelines.tools import folds, parallel
from pipelines.tools.parallel import Training, places_for, threads_for
from tests.support.fold_sets import trained_here
from tests.support.starter import spawned_by
from tests.support.tiny import Tiny, pretrained

REPOSITORY = Path(__file__).parents[2]
WORDS = ["tiny.toml", "--run", "set"]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folds, "run_side_by_side", trained_here)


@pytest.fixture
def divided(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """The working folder of the tiny competition, with two folds."""
    with open(tiny.toml, "a") as file:
        file.write("[split]\nfolds = 2\n")
    monkeypatch.chdir(tiny.layout.root)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    assert command.run(split.main, ["tiny.toml"]) == 0
    return tiny


def made(*words: str) -> int:
    return command.run(folds.main, [*WORDS, *words])


def states(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_at_most_so_many_trainings_at_a_time() -> None:
    words = command.Words(at_once=2)
    assert (words.most(5), words.most(1), command.Words(at_once=0).most(5)) == (2, 1, 5)
    one = HardwareSettings(device="cpu", threads=1)
    assert len(places_for(one, command.Words(at_once=1).most(5))) == 1
    assert threads_for(HardwareSettings(device="cpu"), command.Words(at_once=1).most(5)) == cores()


def test_each_row_is_predicted_by_the_model_that_was_not_trained_on_it(
    divided: Tiny, here: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert made("--at-once", "1", "--set", "predict.mirror=true") == 0
    layout, run = divided.layout, divided.layout.run("set")
    out = capfd.readouterr().out
    table = read_split_csv(layout.split_csv)
    labelled = table[table["split"] != "test"]
    stored = read_oof(run.oof, table, divided.classes, "one_class")
    assert stored.ids.tolist() == labelled["id"].tolist() and stored.folds.tolist() == labelled["fold"].tolist()
    for fold in (0, 1):
        settings = load_settings("tiny.toml", overrides=[f"train.fold={fold}", "predict.mirror=true"])
        train_rows, valid = read_images(settings, layout, "make split").divide(settings)
        assert not set(train_rows.ids) & set(valid.ids)
        assert read_json(run.member(f"fold-{fold}").trained)["train_images"] == len(train_rows)
        blocks = prediction.predict(
            run.member(f"fold-{fold}").best, settings, valid, Resources(layout.weights), "validating"
        )
        places, alone = (torch.cat([torch.as_tensor(each) for each in parts]) for parts in zip(*blocks, strict=True))
        rows = stored.predictions[torch.from_numpy(stored.folds == fold)]
        torch.testing.assert_close(rows[places], alone, rtol=1e-6, atol=1e-6)

    note, trained = read_json(run.folds), read_json(run.trained)
    right = stored.predictions.argmax(dim=1).numpy() == [divided.classes.index(each) for each in labelled["label"]]
    assert note["score"] == trained["score"] == right.mean()
    assert note["scores"] == [right[stored.folds == fold].mean() for fold in (0, 1)]
    assert math.isclose(note["mean"], sum(note["scores"]) / 2)
    assert math.isclose(note["sd"], abs(note["scores"][0] - note["scores"][1]) / math.sqrt(2), abs_tol=1e-12)
    assert (note["members"], note["folds"], note["seeds"], note["images"]) == (["fold-0", "fold-1"], 2, 1, 24)
    assert trained["best_epoch"] == round(sum(note["best_epochs"]) / 2) and trained["valid_images"] == 24
    assert f"together, as predicted here: {note['score']:.4f}" in out and "n = 24)" in out
    assert out.endswith("Next: make predict COMP=tiny.toml RUN=set SET=predict.mirror=true\n")


def test_a_finished_set_is_not_repeated_and_retrained_up_to_the_mean_best_epoch(
    divided: Tiny, here: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert made() == 0
    run = divided.layout.run("set")
    before = states(run.folder)
    capfd.readouterr()
    assert made() == 0
    said = capfd.readouterr().out
    assert said.startswith("Already trained: runs/tiny/set, 2 members, accuracy of all rows ")
    assert "To do it again: rm -r runs/tiny/set\nNext: make predict COMP=tiny.toml RUN=set\n" in said
    assert states(run.folder) == before
    assert command.run(retrain.main, WORDS) == 0
    assert "24 training images" in (said := capfd.readouterr().out) and "the mean best one of the members" in said
    epochs = round(sum(read_json(run.folds)["best_epochs"]) / 2)
    assert read_json(run.retrained)["epochs"] == epochs and read_json(run.retrained)["train_images"] == 24

    made_again = run.oof.read_bytes(), read_json(run.folds)
    subprocess.run(["rm", "-r", run.member("fold-1").folder], check=True)
    assert made() == 0
    assert (run.oof.read_bytes(), read_json(run.folds)) == made_again


def test_a_set_goes_on_where_it_was_stopped(
    divided: Tiny, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(trainings: Sequence[Training], places: Sequence[Mapping[str, str]]) -> Generator[Training | None]:
        yield next(each for each in trained_here(trainings, places) if each)
        raise KeyboardInterrupt

    monkeypatch.setattr(folds, "run_side_by_side", stopped)
    assert made() == 130
    run = divided.layout.run("set")
    first = states(run.member("fold-0").folder)
    assert first and not run.folds.exists() and not run.trained.exists()
    for stage in (retrain, predict):
        capfd.readouterr()
        assert command.run(stage.main, WORDS) == 2
        error = capfd.readouterr().err
        message = "The set runs/tiny/set is not finished: 1 of 2 members are trained. First: "
        assert error == f"error: {message}make folds COMP=tiny.toml RUN=set\n"
    monkeypatch.setattr(folds, "run_side_by_side", trained_here)
    assert made() == 0
    assert "1 of them finished before" in capfd.readouterr().out
    assert states(run.member("fold-0").folder) == first


def test_a_set_keeps_its_settings_its_split_and_its_kind(
    divided: Tiny, here: None, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(pattern: str, main: Any, *words: str) -> None:
        capfd.readouterr()
        assert command.run(main, [*WORDS, *words]) == 2
        assert re.search(pattern, said := capfd.readouterr().err), said

    assert made("--set", "train.epochs=1") == 0
    before = states(divided.layout.run("set").folder)
    refused(r"runs/tiny/set was trained with other settings \(train\.epochs: 3 now, 1 then\)", folds.main)
    one = ("--set", "train.epochs=1")
    refused("runs/tiny/set is a set of runs, which folds trains. Name a new run with RUN=", train.main, *one)
    refused("was started with SEEDS=1", folds.main, "--seeds", "2", *one)
    refused("folds sets train.fold itself", folds.main, "--set", "train.fold=1")
    refused(r"make split COMP=tiny\.toml RUN=set SET=split\.folds=3", folds.main, "--set", "split.folds=3")
    assert states(divided.layout.run("set").folder) == before
    assert command.run(train.main, ["tiny.toml", "--run", "plain", *one]) == 0
    capfd.readouterr()
    assert command.run(folds.main, ["tiny.toml", "--run", "plain", *one]) == 2
    assert "runs/tiny/plain is a plain run of the stage train. Name a new run" in capfd.readouterr().err
    for path in (divided.layout.split_csv, divided.layout.split_record):
        path.unlink()
    assert command.run(split.main, ["tiny.toml", "--set", "split.seed=1"]) == 0
    refused("was trained on another split", folds.main, "--set", "split.seed=1", "train.epochs=1")


def test_seeds_of_a_fold_are_averaged(divided: Tiny, here: None, capfd: pytest.CaptureFixture[str]) -> None:
    assert made("--seeds", "2", "--set", "train.epochs=1", "train.seed=7") == 0
    layout, run = divided.layout, divided.layout.run("set")
    names = ["fold-0", "fold-1", "fold-0-seed-1", "fold-1-seed-1"]
    assert read_json(run.folds)["members"] == list(read_record(run).members) == names
    settings = [read_record(run.member(name)).settings for name in names]
    assert [(each.train.fold, each.train.seed) for each in settings] == [(0, 7), (1, 7), (0, 8), (1, 8)]
    table = read_split_csv(layout.split_csv)
    stored = read_oof(run.oof, table, divided.classes, "one_class")
    own = load_settings("tiny.toml", overrides=["train.fold=1"])
    _, valid = read_images(own, layout, "make split").divide(own)
    both = []
    for name in ("fold-1", "fold-1-seed-1"):
        blocks = prediction.predict(run.member(name).best, own, valid, Resources(layout.weights), "validating")
        both.append(torch.cat([block.exp() for _, block in blocks]))
    mean = stored.predictions[torch.from_numpy(stored.folds == 1)].exp()
    torch.testing.assert_close(mean, (both[0] + both[1]) / 2, rtol=1e-5, atol=1e-6)
    capfd.readouterr()
    run.folds.unlink()
    assert command.run(retrain.main, [*WORDS, "--set", "train.epochs=1", "train.seed=7"]) == 2
    assert "make folds COMP=tiny.toml RUN=set SET='train.epochs=1 train.seed=7' SEEDS=2" in capfd.readouterr().err


def test_without_folds_seeds_share_the_validation_rows(
    tiny: Tiny, here: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.layout.root)
    assert command.run(split.main, ["tiny.toml"]) == 0
    capfd.readouterr()
    assert made() == 2
    first, *advice = capfd.readouterr().err.splitlines()
    assert first.startswith("error: split.folds is 0 and there is one seed: this is a single training")
    split_again = first.rpartition("split again: make ")[2]
    assert made("--seeds", "2", "--set", "train.epochs=1") == 0
    table, note = read_split_csv(tiny.layout.split_csv), read_json(tiny.layout.run("set").folds)
    stored = read_oof(tiny.layout.run("set").oof, table, tiny.classes, "one_class")
    assert stored.ids.tolist() == table.loc[table["split"] == "valid", "id"].tolist()
    assert note["members"] == ["seed-0", "seed-1"] and note["folds"] == 0 and set(stored.folds.tolist()) == {0}
    out = capfd.readouterr().out
    assert "are in the training rows of every member, so no score covers them" in out
    assert shlex.split(split_again)[-1] == "SET=split.folds=5"
    assert [line.split(": make ")[0] for line in advice] == ["Then", "Or train several seeds on the present split"]


def test_rows_that_are_always_in_train_are_counted(
    tiny: Tiny, here: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = tiny.layout.raw / "labels.csv"
    rows = pd.read_csv(labels, dtype=str)
    rows.loc[rows["id"] == "5", "label"] = "violet"
    rows.to_csv(labels, index=False)
    sample = tiny.layout.raw / "sample.csv"
    monkeypatch.chdir(tiny.layout.root)
    assert sample.exists()
    words = ["--set", "split.folds=2", "train.epochs=1"]
    assert command.run(split.main, ["tiny.toml", *words]) == 0
    assert made(*words) == 0
    run = tiny.layout.run("set")
    assert "5" not in pd.read_csv(run.oof, dtype=str)["id"].tolist() and read_json(run.folds)["images"] == 23
    assert "1 labelled rows are in the training rows of every member" in capfd.readouterr().out


def test_each_fold_is_ranked_by_itself_where_only_the_order_counts(
    tiny: Tiny, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = tiny.toml.read_text() + "[split]\nfolds = 2\n"
    competition = '[competition]\nmetric = "auc"\nsubmission = "probability"\npositive = "red"\n'
    tiny.toml.write_text(competition + toml)
    labels = pd.read_csv(tiny.layout.raw / "labels.csv", dtype=str)
    labels.assign(label=labels["label"].replace("blue", "green")).to_csv(tiny.layout.raw / "labels.csv", index=False)
    sample = (tiny.layout.raw / "sample.csv").read_text().replace("red", "0.5")
    (tiny.layout.raw / "sample.csv").write_text(sample)
    monkeypatch.chdir(tiny.layout.root)
    assert command.run(split.main, ["tiny.toml"]) == 0
    assert made("--seeds", "2", "--set", "train.epochs=1") == 0
    run, table = tiny.layout.run("set"), read_split_csv(tiny.layout.split_csv)
    stored = read_oof(run.oof, table, ["green", "red"], "one_class")
    shares, targets = stored.predictions.exp(), (table.loc[table["split"] != "test", "label"] == "red").to_numpy()
    counts = [int((stored.folds == fold).sum()) for fold in (0, 1)]
    ranked = np.concatenate([rankdata(shares[stored.folds == fold, 1]) / (counts[fold] + 1) for fold in (0, 1)])
    known = np.concatenate([targets[stored.folds == fold] for fold in (0, 1)])
    assert read_json(run.folds)["score"] == pytest.approx(roc_auc_score(known, ranked))


def test_cores_are_shared_and_gpus_taken_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    here = cores()
    on = HardwareSettings(device="cpu")
    assert threads_for(on, 1) == here and threads_for(on, 10 * here) == 1
    assert len(places_for(HardwareSettings(device="cpu", threads=1), 10 * here)) == here
    assert places_for(HardwareSettings(device="cpu", threads=10 * here), 5) == [{}]
    assert threads_for(HardwareSettings(device="cpu", threads=3), 5) == 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    auto = HardwareSettings(threads=1)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places_for(auto, 5)] == ["0", "1"]
    assert len(places_for(auto, 1)) == 1 and places_for(HardwareSettings(device="cuda:1", threads=1), 5) == [{}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places_for(auto, 5)] == ["5", "3"]
    assert parallel.describe(auto, places_for(auto, 5)) == "one at a time on each GPU (5, 3), 1 thread each"
    assert threads_for(HardwareSettings(), 5) == max(1, here // 2)


def start(folder: Path, *words: str) -> "subprocess.Popen[bytes]":
    call = [sys.executable, "-m", "pipelines.tools.folds", *WORDS, "--set", *words]
    return subprocess.Popen(call, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for(pattern: str, folder: Path, count: int = 1) -> list[Path]:
    deadline = time.monotonic() + 180
    while len(found := list(folder.glob(pattern))) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(found) >= count, pattern
    return found


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the children in /proc")
@pytest.mark.parametrize(
    ("number", "to_child", "status"),
    [
        (signal.SIGKILL, False, -signal.SIGKILL),
        (signal.SIGKILL, True, 2),
        pytest.param(signal.SIGTERM, False, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, False, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, True, 143, marks=pytest.mark.slow),
    ],
)
def test_all_trainings_end_with_the_set_and_with_each_other(
    divided: Tiny, number: signal.Signals, to_child: bool, status: int
) -> None:
    words = ["train.epochs=100000", "hardware.threads=1"]
    process = start(divided.layout.root, *words)
    last = wait_for("runs/tiny/set/*/last.pt", divided.layout.root)
    (child, *_) = spawned_by(process.pid)
    os.kill(child if to_child else process.pid, number)
    _, error = process.communicate(timeout=60)  # the trainings hold its standard error open until they have their logs
    assert process.returncode == status and b"Traceback" not in error
    if number == signal.SIGKILL and to_child:
        assert b"was killed (SIGKILL), most likely because memory ran out. The same command continues." in error
    for run in (divided.layout.run("set"), *map(RunLayout, {path.parent for path in last})):
        with only_one(run.lock, "training", patience=5, inherited=False):
            pass


def test_the_message_of_a_failed_training_is_shown_once_with_its_status(divided: Tiny) -> None:
    words = ["train.lr=1e30", "train.epochs=2", "model.dropout=0"]
    process = start(divided.layout.root, *words)
    _, error = process.communicate(timeout=180)
    said = error.decode()
    assert process.returncode == 2 and said.startswith("error: ") and said.count("error: ") == 1, said
    assert re.search(r"\nThe training of fold-\d failed\. The same command continues from there\. Its log: ", said)
    assert f"Its log: runs/tiny/set/{re.search('fold-[01]', said)[0]}/train.log" in said  # type: ignore[index]


def test_a_searched_head_is_chosen_once_for_all_members(divided: Tiny, here: None, small_weights: Path) -> None:
    head = ("finetune.frozen_stages=-1", "train.optimizer=lbfgs", "train.lr=1", "train.epochs=1", "train.search=true")
    words = ("--set", *pretrained(small_weights), *head)
    assert made(*words) == 0
    run = divided.layout.run("set")

    def heads() -> set[tuple[bool, float, bool]]:
        records = [read_record(each).settings for each in (run, run.member("fold-0"), run.member("fold-1"))]
        return {(each.train.search, each.train.weight_decay, each.features.mirror) for each in records}

    (chosen,) = heads()
    assert not chosen[0]
    tried = run.search.read_bytes()
    shutil.rmtree(run.member("fold-1").folder)  # as after a kill: the set goes on with its choice
    assert made(*words) == 0
    assert heads() == {chosen}
    assert run.search.read_bytes() == tried
