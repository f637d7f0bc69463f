"""The stage `audit`: what it writes and prints, and that its groups and its suspects are what they are said to be."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image

from pipelines import command, predict, split, train
from pipelines.analysis.results import Results, write_valid_predictions
from pipelines.analysis.suspects import find_suspects, listing
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.split_record import split_is_made
from pipelines.dataset.splits import read_groups, read_split_csv
from pipelines.dataset.tables import read_csv
from pipelines.system.errors import UserError
from pipelines.system.files import file_sha256, write_text
from pipelines.tools import audit
from tests.support.advice import follow
from tests.support.pictures import png_size
from tests.support.tiny import Tiny

GROUPS = "split.group_file=data/tiny/audit/groups.csv"


@pytest.fixture
def work(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tiny:
    """The tiny competition, split, with valid images whose bytes are those of train rows: one of another label, one of
    the same, and a test image."""
    monkeypatch.chdir(tiny.layout.root)
    assert command.run(split.main, [str(tiny.toml), "--set", "split.valid_ratio=0.25"]) == 0
    rows = read_split_csv(tiny.layout.split_csv)
    train_rows, valid = (rows[rows["split"] == part] for part in ("train", "valid"))
    first = train_rows.iloc[0]
    other = valid[valid["label"] != first["label"]].iloc[0]
    same = valid[valid["label"] == first["label"]].iloc[0]
    raw = tiny.layout.raw
    for path in (other["path"], same["path"], "test/5.png"):
        shutil.copyfile(raw / first["path"], raw / path)
    capsys.readouterr()
    return tiny


def write(path: Path, images: ImageSet, probabilities: npt.NDArray[np.float32]) -> None:
    """Write predictions of one class per image; probabilities: (N, K)."""
    everyone, decided = np.arange(len(images)), probabilities.argmax(axis=1)
    results = Results(images, probabilities.max(axis=1), decided, probabilities[everyone, images.labels])
    write_valid_predictions(path, results)


def call(work: Tiny, *overrides: str) -> int:
    return command.run(audit.main, [str(work.toml), "--set", "split.valid_ratio=0.25", *overrides])


def test_what_it_writes_and_prints(work: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(work) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[:2] == [
        "pairs of duplicates  train-valid  train-test  valid-test  within train  within valid  within test  conflicts",
        "bytes                          2           1           0             0             0            0          1",
    ]
    assert "Valid images with a twin in train: 2 of 6 (33.33%)." in printed
    assert "Test images with a twin in train: 1 of 12 (8.33%)." in printed
    assert "no run of this split has predicted yet. First: make train retrain predict COMP=" in printed
    files = work.layout.audit
    assert f"SET='split.valid_ratio=0.25 {GROUPS}'" in printed
    record = json.loads(files.record.read_text())
    assert record["pairs"]["bytes"]["train-valid"] == 2
    assert record["groups"] == {"groups": 1, "rows": 3}
    assert record["audit"] == {"distance": 56, "correlation": 0.85}
    assert record["split_csv_sha256"] == file_sha256(work.layout.split_csv)
    pairs = read_csv(files.pairs)
    assert pairs["conflict"].tolist().count("yes") == 1
    assert set(pairs["id_1"]) == {"1"}
    assert len(read_csv(files.groups)) == 3
    assert png_size(files.pairs_picture)
    assert not files.suspects.exists()
    written = {path: path.read_bytes() for path in files.folder.iterdir()}
    assert call(work) == 0
    assert {path: path.read_bytes() for path in files.folder.iterdir()} == written


def test_images_too_small_for_near_twins_are_told(work: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    with Image.open(work.layout.raw / "train" / "7.png") as image:
        pixels = np.array(image)
    pixels[7, 7] ^= 1
    Image.fromarray(pixels).save(work.layout.raw / "test" / "7.png")
    assert call(work) == 0
    assert "Images of less than 16 pixels that resemble others: 2. Only equal" in capsys.readouterr().out
    assert set(read_csv(work.layout.audit.pairs)["kind"]) == {"bytes"}


def test_it_needs_a_split(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tiny.layout.root)
    assert call(tiny) == 2
    assert "split.csv is missing. First: make split COMP=" in capsys.readouterr().err


@pytest.mark.parametrize("folds", [0, 3])
def test_a_split_by_its_groups_has_no_twins_across(work: Tiny, capsys: pytest.CaptureFixture[str], folds: int) -> None:
    assert call(work) == 0
    for path in (work.layout.split_record, work.layout.split_csv):
        path.unlink()
    words = [str(work.toml), "--set", "split.valid_ratio=0.25", f"split.folds={folds}", GROUPS]
    assert command.run(split.main, words) == 0
    assert "Groups of data/tiny/audit/groups.csv: 1 with 3 rows, each in one part." in capsys.readouterr().out
    rows = read_split_csv(work.layout.split_csv)
    of_group = rows[rows["id"].isin(read_csv(work.layout.audit.groups)["id"]) & (rows["split"] != "test")]
    assert len(of_group) == 3
    assert of_group[["split", "fold"]].drop_duplicates().shape[0] == 1
    assert command.run(audit.main, words) == 0
    printed = capsys.readouterr().out
    assert "The split keeps each group of images that belong together on one side" in printed
    assert json.loads(work.layout.audit.record.read_text())["pairs"]["bytes"]["train-valid"] == 0


def test_groups_by_which_the_split_was_made_stay_as_they_are(work: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(work) == 0
    for path in (work.layout.split_record, work.layout.split_csv):
        path.unlink()
    words = [str(work.toml), "--set", "split.valid_ratio=0.25", GROUPS]
    assert command.run(split.main, words) == 0
    raw, files = work.layout.raw, work.layout.audit
    before = files.groups.read_bytes()
    shutil.copyfile(raw / "train" / "2.png", raw / "train" / "3.png")
    capsys.readouterr()
    assert call(work) == 0  # though the words do not name the groups
    printed = capsys.readouterr().out
    assert "The split was made with data/tiny/audit/groups.csv, which is kept." in printed
    assert "  mv data/tiny/audit/groups-new.csv data/tiny/audit/groups.csv\n  make split" in printed
    assert files.groups.read_bytes() == before
    assert len(read_csv(files.other_groups)) == 5
    assert split_is_made(work.layout, work.settings("split.valid_ratio=0.25", GROUPS), "make split")

    files.other_groups.replace(files.groups)  # as it said, but without the two other lines
    assert call(work) == 0
    printed = capsys.readouterr().out
    assert "The split keeps" not in printed and "split again" in printed


def test_without_twins_there_are_no_groups(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny.layout.root)
    assert command.run(split.main, [str(tiny.toml), "--set", "split.valid_ratio=0.25"]) == 0
    write_text(tiny.layout.audit.groups, "id,group\n1,1\n2,1\n")  # of an earlier audit of other data
    assert call(tiny) == 0
    assert "No labelled rows belong together." in capsys.readouterr().out
    assert not tiny.layout.audit.groups.exists()


def test_a_changed_group_file_is_noticed(work: Tiny) -> None:
    assert call(work) == 0
    for path in (work.layout.split_record, work.layout.split_csv):
        path.unlink()
    words = [str(work.toml), "--set", "split.valid_ratio=0.25", GROUPS]
    assert command.run(split.main, words) == 0
    settings = work.settings("split.valid_ratio=0.25", GROUPS)
    assert split_is_made(work.layout, settings, "make split")
    write_text(work.layout.audit.groups, "id,group\n1,x\n2,x\n")
    with pytest.raises(UserError, match=r"groups\.csv \(split\.group_file\) has changed\. .*: rm -r"):
        split_is_made(work.layout, settings, "make split")
    work.layout.audit.groups.unlink()
    with pytest.raises(UserError, match=r"\(split\.group_file\) is missing\. Put back what was there"):
        split_is_made(work.layout, settings, "make split")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("id,group\n1,a\n99,a\n", r"not the id of a labelled row, 1 in all: line 3: '99'\."),
        ("id,set\n1,a\n", r"has no column 'group'\. It needs the columns id,group; it has: id, set"),
        ("id,group\n1,a\n1,b\n", r"listed twice, 1 in all: line 3: '1'\. Remove one"),
        ("id,group\n1,\n", r"without a group, 1 in all: line 2: '1'\. Add"),
        ("id,set\n", r"has no column 'group'"),
        ("", r"g\.csv is empty"),
        (None, r"There is no file .*g\.csv, which split\.group_file names"),
    ],
)
def test_a_wrong_group_file_is_named(tmp_path: Path, content: str | None, expected: str) -> None:
    if content is not None:
        write_text(tmp_path / "g.csv", content)
    with pytest.raises(UserError, match=expected):
        read_groups(tmp_path, "g.csv", ["1", "2"])


def test_a_group_file_without_rows_means_that_nothing_belongs_together(work: Tiny) -> None:
    write_text(work.layout.audit.groups, "id,group\n")
    splits = []
    for words in ([], [GROUPS]):
        for path in (work.layout.split_record, work.layout.split_csv):
            path.unlink(missing_ok=True)
        assert command.run(split.main, [str(work.toml), "--set", "split.valid_ratio=0.25", *words]) == 0
        splits.append(read_split_csv(work.layout.split_csv)["split"].value_counts().to_dict())
    assert splits[0] == splits[1]


def test_rows_that_are_not_listed_are_groups_of_their_own(tmp_path: Path) -> None:
    write_text(tmp_path / "g.csv", "id,group\n1,3\n2,3\n")
    assert read_groups(tmp_path, "g.csv", ["1", "2", "3", "4.png"]) == ["group 3", "group 3", "id 3", "id 4"]


def test_both_kinds_of_groups_are_refused(work: Tiny) -> None:
    with pytest.raises(UserError, match=r"split\.group_column and split\.group_file are both set; choose one"):
        work.settings("split.group_column=g", "split.group_file=g.csv")


def test_what_a_run_contradicts_is_listed(work: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(work.toml), "--set", "split.valid_ratio=0.25", "predict.checkpoint=best", "--run", "mine"]
    for stage in (train.main, predict.main):
        assert command.run(stage, words) == 0
    rows = read_split_csv(work.layout.split_csv)
    valid = rows[rows["split"] == "valid"]
    predictions = read_csv(work.layout.run("mine").valid_predictions)
    assert predictions["id"].tolist() == valid["id"].tolist()
    assert predictions["label"].tolist() == valid["label"].tolist()
    capsys.readouterr()
    assert call(work) == 0
    printed = capsys.readouterr().out
    assert "of 6 rows. data/tiny/audit/suspects.csv, data/tiny/audit/suspects.png" in printed
    assert (
        "18 of 24 labelled rows were never held out. To cover them, train on every fold, in a run of its own:"
        in printed
    )
    suspects = read_csv(work.layout.audit.suspects, may_lack_rows=True)
    predictions = predictions.astype({"p_predicted": float, "p_label": float})
    usual = predictions.groupby("label")["p_label"].mean()
    sure = predictions["p_predicted"] >= predictions["predicted"].map(usual).fillna(0)
    wrong = predictions[sure & (predictions["label"] != predictions["predicted"])]
    assert set(suspects["id"]) == set(wrong["id"])
    assert png_size(work.layout.audit.suspects_picture)
    assert json.loads(work.layout.audit.record.read_text())["suspects"] == {
        "runs": ["mine"],
        "covered": 6,
        "rows": len(suspects),
    }


def test_damaged_files_of_a_run_are_made_again_by_the_advice(work: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(work.toml), "--set", "split.valid_ratio=0.25", "predict.checkpoint=best", "--run", "mine"]
    run = work.layout.run("mine")
    for stage in (train.main, predict.main):
        assert command.run(stage, words) == 0

    def refused(main: Callable[[Sequence[str] | None], None]) -> str:
        capsys.readouterr()
        assert command.run(main, words) == 2
        return capsys.readouterr().err

    run.predicted.write_text("[")
    follow(refused(predict.main))
    assert command.run(predict.main, words) == 0
    run.trained.write_text("")
    follow(refused(predict.main))
    follow(refused(predict.main), "First: ")  # train ends without another epoch
    assert command.run(predict.main, words) == 0
    for other in ("id,label,predicted,p_predicted,p_label\nx,red,red,1,1\n", "id,label\nx,red\n"):
        run.valid_predictions.write_text(other)
        message = refused(audit.main)
        assert "RUN=mine" in message
        follow(message)
        stages: tuple[Callable[..., None], ...] = (predict.main, audit.main)
        for stage in stages:
            assert command.run(stage, words) == 0
    work.layout.submission("mine").unlink(missing_ok=True)
    for path in work.layout.submission("mine").parent.glob("*.csv"):
        path.unlink()
    run.best.write_bytes(run.best.read_bytes()[:1000])
    message = refused(predict.main)
    assert "runs/tiny/mine/best.pt cannot be read as a checkpoint: it is cut short or damaged (" in message
    follow(message)
    for stage in (train.main, predict.main):
        assert command.run(stage, words) == 0


def test_to_be_sure_of_a_class_is_to_give_it_what_its_own_rows_get(tiny: Tiny) -> None:
    valid = tiny.rows("valid").assign(label=["red", "red", "blue", "blue", "blue", "blue"])
    tiny.table.loc[valid.index, "label"] = valid["label"]
    run = tiny.layout.run("one")
    of_blue = [0.64, 0.7, 0.9, 0.9, 0.6, 0.1]  # 0.625 of those that are blue on average
    numbers = np.array([[each, 1 - each] for each in of_blue], np.float32)
    images = replace(tiny.images, rows=valid, classes=["blue", "red"])
    write(run.valid_predictions, images, numbers)
    found, _ = find_suspects([run], tiny.table)
    assert found.index.tolist() == [valid.index[place] for place in (5, 1, 0)]
    assert found["predicted"].tolist() == ["red", "blue", "blue"]
    numbers[0] = 0.62, 0.38
    write(run.valid_predictions, images, numbers)
    found, _ = find_suspects([run], tiny.table)
    assert found.index.tolist() == [valid.index[place] for place in (5, 1)]


def test_several_runs_of_a_row_are_averaged(tiny: Tiny) -> None:
    valid = tiny.rows("valid").iloc[:3].assign(label=["red", "=green", "red"])
    tiny.table.loc[valid.index, "label"] = valid["label"]
    runs = [tiny.layout.run(name) for name in ("one", "two")]
    classes = ["=green", "blue", "red"]
    of_one = [[0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.0, 0.1, 0.9]]
    of_two = [[0.1, 0.6, 0.3], [0.6, 0.1, 0.3]]
    for run, rows, numbers in zip(runs, (valid, valid.iloc[:2]), (of_one, of_two), strict=True):
        images = replace(tiny.images, rows=rows, classes=classes)
        write(run.valid_predictions, images, np.array(numbers, np.float32))
    found, covered = find_suspects(runs, tiny.table)
    assert covered == 3
    assert found.index.tolist() == valid.index.tolist()[:1]  # of the second row the label has more votes: 0.4 to 0.35
    row = found.iloc[0]
    assert (row["predicted"], row["runs"]) == ("blue", 2)
    assert (row["p_predicted"], row["p_label"]) == pytest.approx((0.7, 0.2))
    alone, covered = find_suspects(runs[:1], tiny.table)
    assert (len(alone), covered) == (2, 3)
    assert listing(alone, tiny.table)["label"].tolist() == ["red", "'=green"]


@pytest.mark.parametrize("content", ["id,label\n1,red\n", "id,label,predicted,p_predicted,p_label\n1,red,red,x,1\n"])
def test_damaged_predictions_are_named(tiny: Tiny, content: str) -> None:
    run = tiny.layout.run("one")
    write_text(run.valid_predictions, content)
    with pytest.raises(UserError, match=r"valid_predictions\.csv is damaged .*predict that run again"):
        find_suspects([run], tiny.table)


def test_runs_of_another_split_are_left_out(work: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(work.toml), "--set", "split.valid_ratio=0.25", "predict.checkpoint=best"]
    for stage in (train.main, predict.main):
        assert command.run(stage, words) == 0
    table = pd.read_csv(work.layout.split_csv, dtype=str, keep_default_na=False)
    table.iloc[::-1].to_csv(work.layout.split_csv, index=False)
    capsys.readouterr()
    assert call(work) == 0
    printed = capsys.readouterr().out
    assert "Left out, as they used another split: default" in printed
    assert "no run of this split has predicted yet" in printed
