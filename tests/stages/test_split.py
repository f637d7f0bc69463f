"""The stage `split`: its output and files, repeated calls, and kills."""

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from pipelines import command, split
from pipelines.dataset.splits import read_split_csv
from pipelines.system.files import file_sha256

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
LOCK = ".split.lock"  # never removed: another process may be waiting for it
TOML = '[data]\nlabels = "labels.csv"\nsample_submission = "sample.csv"\n'


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with 12 labelled images in two classes and 3 test images, one of them not listed."""
    monkeypatch.chdir(tmp_path)
    raw = tmp_path / "data/tiny/raw"
    for folder, count in (("train", 12), ("test", 3)):
        (raw / folder).mkdir(parents=True)
        for number in range(1, count + 1):
            (raw / folder / f"{number}.png").write_bytes(b"image")
    rows = "".join(f"{number},{'cat' if number % 2 else 'dog'}\n" for number in range(1, 13))
    (raw / "labels.csv").write_text("id,label\n" + rows)
    (raw / "sample.csv").write_text("id,label\n2,cat\n1,cat\n")
    (tmp_path / "tiny.toml").write_text(TOML)
    return tmp_path


def call(*words: str) -> int:
    return command.run(split.main, ["tiny.toml", *words])


def test_the_table_of_several_labels_and_of_numbers() -> None:
    parts = ["train", "train", "valid", "test"]
    labels = pd.DataFrame({"label": ["a|b", "a", "", ""], "split": parts})
    assert split.summarise(labels, "several_labels", ["a", "b"]) == (
        ("split", "images", "labels", "smallest label", "largest label", "without a label"),
        [
            ("train", "2", "2", "b (1)", "a (2)", "0"),
            ("valid", "1", "0", "- (0)", "- (0)", "1"),
            ("test", "1", "-", "-", "-", "-"),
        ],
    )
    numbers = pd.DataFrame({"label": ["1|2000", "2.5|", "|30", ""], "split": parts})
    assert split.summarise(numbers, "numbers", ["x", "y"]) == (
        ("split", "images", "number", "least", "mean", "most", "missing"),
        [
            ("train", "2", "x", "1", "1.75", "2.5", "0"),
            ("train", "2", "y", "2,000", "2,000", "2,000", "1"),
            ("valid", "1", "x", "-", "-", "-", "1"),
            ("valid", "1", "y", "30", "30", "30", "0"),
            ("test", "1", "-", "-", "-", "-", "-"),
        ],
    )


def stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.name != "raw"}


def test_what_it_writes_and_prints(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--set", "split.valid_ratio=0.3") == 0
    data = work / "data/tiny"
    rows = read_split_csv(data / "split.csv")
    assert list(rows["id"]) == [str(number) for number in range(1, 13)] + ["2", "1"]
    assert (data / "train_valid_test/test/unknown/2.png").samefile(data / "raw/test/2.png")
    record = json.loads((data / "split.json").read_text())
    assert record["images"] == {"train": 8, "valid": 4, "test": 2}
    assert record["links"] == {"hard link": 26}
    assert record["split"]["valid_ratio"] == 0.3
    assert record["data"]["labels"] == "labels.csv"
    assert record["split_csv_sha256"] == file_sha256(data / "split.csv")
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "target    one of 2 classes; sent: a label; scored by accuracy, higher is better",
        "labels    column 'label' of labels.csv (to choose others: data.label_column, data.id_column)",
        "classes   2: cat (6), dog (6)",
        "ids       column 'id' of labels.csv: '1' is train/1.png",
        "images    none of 14 that were tried can be read",
        "test ids  column 'id' of sample.csv: '2' is test/2.png",
        "sample    a label for each of 2 ids in column 'label', such as 'cat'",
        "split  images  classes  smallest class  largest class",
        "train       8        2         cat (4)        dog (4)",
        "valid       4        2         cat (2)        dog (2)",
        "test        2        -               -              -",
        "Tree: data/tiny/train_valid_test, 26 hard links.",
        "Note: Only 4 validation images: scores on them are coarse. To have more: split.valid_ratio.",
        "Note: Images in test that are not listed, and so left out: 1.",
        "Next: make train COMP=tiny.toml SET=split.valid_ratio=0.3",
    ]


def test_it_says_what_is_not_plain_from_the_table(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = work / "data/tiny/raw"
    with open(raw / "labels.csv", "a") as file:
        file.write("13,owl\n")
    (raw / "train/13.png").write_bytes(b"image")
    (work / "tiny.toml").write_text('[data]\nlabels = "labels.csv"\ntest_images = "none"\n[split]\nfolds = 3\n')
    assert call() == 0
    printed = capsys.readouterr().out
    assert "Folds: 4, 4, 4 images, and 1 always in train; fold 0 is valid above." in printed
    assert "To have more: make folds, which validates every row." in printed
    assert "Classes with a single image, which stays in train: 1 ('owl')." in printed
    assert "Classes without a validation image: 1." in printed
    assert "No test images, so there is nothing to predict." in printed


def test_listings_of_other_programs_are_split_as_they_are_meant(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = work / "data/tiny/raw"
    order = [7, 3, 12, 1, 5, 2, 8, 4, 11, 10, 6, 9]
    rows = "".join(f"{place};{n}.jpg;{'cat' if n % 2 else 'dog'}\n" for place, n in enumerate(order, 1))
    (raw / "labels.csv").write_text(";id;label\n" + rows)  # the index is an id of an image too
    (raw / "test.csv").write_text("image\n1.JPG\n2.JPG\n")
    (work / "tiny.toml").write_text(TOML.replace("[data]", '[data]\ntest_table = "test.csv"'))
    assert call() == 0
    printed = capsys.readouterr().out
    assert "labels.csv: semicolons separate its values." in printed
    columns = "column 'id' of labels.csv, after an index that is not used, compared without their extension"
    assert f"ids       {columns} with the names of files: '7.jpg' is train" in printed
    table = read_split_csv(work / "data/tiny/split.csv")
    labels = table[table["split"] != "test"].set_index("path")["label"]
    assert labels.to_dict() == {f"train/{n}.png": "cat" if n % 2 else "dog" for n in order}
    assert table[table["split"] == "test"][["id", "path"]].to_numpy().tolist() == [
        ["1", "test/1.png"],
        ["2", "test/2.png"],
    ]


def test_a_second_call_does_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 0
    before = stamps(work)
    capsys.readouterr()
    assert call() == 0
    printed = capsys.readouterr().out
    assert printed.startswith("tiny is already split: nothing to do. To do it again: rm -r data/tiny/split.json")
    assert printed.count("\n") == 1
    assert stamps(work) == before


@pytest.mark.parametrize("missing", ["split.json", "split.csv", "train_valid_test"])
def test_whatever_is_missing_is_made_again_the_same(work: Path, missing: str) -> None:
    assert call() == 0
    digest = file_sha256(work / "data/tiny/split.csv")
    (work / "data/tiny" / missing).rename(work / "gone")
    assert call() == 0
    assert (work / "data/tiny" / missing).exists()
    assert file_sha256(work / "data/tiny/split.csv") == digest


def test_the_tree_can_be_left_out_added_and_removed(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree, csv = work / "data/tiny/train_valid_test", work / "data/tiny/split.csv"
    assert call("--set", "split.tree=false") == 0
    assert "\nTree: none, as split.tree is false.\n" in capsys.readouterr().out
    assert not tree.exists()
    written = file_sha256(csv), csv.stat().st_mtime_ns
    assert call("--set", "split.tree=false") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert call() == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        "tiny is already split, and stays so. Tree: data/tiny/train_valid_test, 26 hard links.\nNext"
    )
    assert len([path for path in tree.rglob("*") if path.is_file()]) == 27  # with classes.csv
    assert call() == 0
    assert "nothing to do" in capsys.readouterr().out
    assert call("--set", "split.tree=false") == 0
    assert not tree.exists() and json.loads((work / "data/tiny/split.json").read_text())["links"] == {}
    (tree / "left").mkdir(parents=True)  # by a process that was killed
    assert call("--set", "split.tree=false") == 0
    assert not tree.exists()
    assert written == (file_sha256(csv), csv.stat().st_mtime_ns)


def test_a_new_split_without_a_tree_removes_that_of_the_old_one(work: Path) -> None:
    assert call() == 0
    (work / "data/tiny/split.json").unlink()
    assert call("--set", "split.tree=false", "split.seed=3") == 0
    assert not (work / "data/tiny/train_valid_test").exists()


def test_row_order_and_extension_do_not_change_the_split(work: Path) -> None:
    assert call() == 0
    raw = work / "data/tiny/raw"
    first = read_split_csv(work / "data/tiny/split.csv").query("split != 'test'").set_index("id")["split"]
    header, *rows = (raw / "labels.csv").read_text().splitlines()
    (raw / "labels.csv").write_bytes("\r\n".join(["\ufeff" + header, *rows[::-1]]).encode())
    for path in sorted((raw / "train").iterdir(), reverse=True):
        path.rename(path.with_suffix(".JPEG"))
    (work / "data/tiny/split.json").unlink()
    assert call() == 0
    second = read_split_csv(work / "data/tiny/split.csv").query("split != 'test'").set_index("id")["split"]
    assert first.to_dict() == second.to_dict()


def test_other_settings_are_refused_with_the_differences(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 0
    before = stamps(work)
    assert call("--set", "split.seed=1", "data.id_column=id") == 2
    message = capsys.readouterr().err
    assert "data.id_column: 'id' now, '' then; split.seed: 1 now, 0 then" in message
    assert "rm -r data/tiny/split.json data/tiny/split.csv data/tiny/train_valid_test" in message
    assert call("--set", "train.epochs=3") == 0
    assert stamps(work) == before


def test_a_split_changed_by_hand_is_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 0
    with open(work / "data/tiny/split.csv", "a") as file:
        file.write("x,train/1.png,cat,train,-1\n")
    assert call() == 2
    assert "split.csv was changed after it was made" in capsys.readouterr().err


def test_a_damaged_record_is_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 0
    (work / "data/tiny/split.json").write_text("{}")
    assert call() == 2
    assert "split.json is damaged" in capsys.readouterr().err


def test_not_downloaded_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TOML)
    assert call() == 2
    assert capsys.readouterr().err == "error: data/tiny/raw is missing. First: make download COMP=tiny.toml\n"


def test_a_mistake_in_the_data_writes_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "data/tiny/raw/train/1.png").unlink()
    assert call() == 2
    assert "labels.csv: ids without an image in train, 1 in all: line 2: '1'" in capsys.readouterr().err
    assert {path.name for path in (work / "data/tiny").iterdir()} == {"raw", LOCK}


KILLED = """
import os, signal, sys
from pipelines import split
from pipelines.{room} import {module}
original, calls = {module}.{name}, 0
def dying(*arguments, **options):
    global calls
    calls += 1
    if calls > {calls}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)
{module}.{name} = dying
split.main(["tiny.toml"])
"""


@pytest.mark.parametrize(
    ("room", "module", "name", "calls", "left"),
    [
        ("dataset", "tree", "_link", 5, {"raw", LOCK, ".train_valid_test.partial"}),
        ("dataset", "splits", "write_split_csv", 0, {"raw", LOCK, "train_valid_test"}),
        ("system", "files", "write_json", 0, {"raw", LOCK, "train_valid_test", "split.csv"}),
    ],
)
def test_a_kill_leaves_nothing_that_looks_whole(
    work: Path, capsys: pytest.CaptureFixture[str], room: str, module: str, name: str, calls: int, left: set[str]
) -> None:
    code = KILLED.format(room=room, module=module, name=name, calls=calls)
    killed = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert {path.name for path in (work / "data/tiny").iterdir()} == left
    assert call() == 0
    assert "already split" not in capsys.readouterr().out
    complete = {"raw", LOCK, "train_valid_test", "split.csv", "split.json"}
    assert {path.name for path in (work / "data/tiny").iterdir()} == complete


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pipelines import split\n"
        "try: split.main(['--help'])\n"
        "except SystemExit: sys.exit(any(name in sys.modules for name in ('pandas', 'numpy', 'torch')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "split.csv: id, path, label, split, fold" in done.stdout


# The real data


def unpacked(archive: str, work: Path) -> None:
    if not (DATA / archive).is_file():
        pytest.skip(f"{DATA / archive} is not there")
    with zipfile.ZipFile(DATA / archive) as file:
        file.extractall(work / "data/tiny/raw")


def test_hotdog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    unpacked("hotdog-64px.zip", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text('[data]\ntrain_images = "hotdog/train"\ntest_images = "hotdog/test"\n')
    assert call() == 0
    rows = read_split_csv(tmp_path / "data/tiny/split.csv")
    assert rows.groupby(["split", "label"]).size().to_dict() == {
        ("test", ""): 600,
        ("train", "hotdog"): 629,
        ("train", "not-hotdog"): 629,
        ("valid", "hotdog"): 70,
        ("valid", "not-hotdog"): 70,
    }
    assert "3,396 hard links" in capsys.readouterr().out


def test_dog_breeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    unpacked("dog-breed-identification-300photos.zip", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(
        '[competition]\nsubmission = "probabilities"\n' + TOML.replace("sample.csv", "sample_submission.csv")
    )
    assert call() == 0
    rows = read_split_csv(tmp_path / "data/tiny/split.csv")
    assert rows["split"].value_counts().to_dict() == {"train": 270, "valid": 30, "test": 300}
    assert rows["label"][rows["split"] == "train"].nunique() == 110
    assert "Classes with a single image, which stays in train: 20 (" in capsys.readouterr().out
