"""The tool `look`: what it writes and prints for data of every kind, and that it leaves everything else as it is."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from pipelines import command, split
from pipelines.dataset.digits import write_digits
from pipelines.dataset.splits import read_split_csv
from pipelines.settings.layout import Layout
from pipelines.system.files import file_sha256
from pipelines.tools import audit, look
from tests.support.pictures import noise, png_size
from tests.support.raw_files import write
from tests.support.tiny import Tiny, pretrained

LABELS = '[data]\nlabels = "labels.csv"\n'
SMALL = "[split]\nvalid_ratio = 0.25\n[hardware]\nworkers = 0\n[input]\nsize = 8\n"
HOSTILE = ["$x$", r"$\frac{$", "a\nb", "🐕", "猫", "%s {0}", "=1+1", "x" * 300, "a|b", "<b>", "\\", "it's"]


@dataclass(frozen=True)
class Made:
    """A competition in the working folder, split; `words` name it."""

    layout: Layout
    words: list[str]

    def look(self, *overrides: str) -> dict[str, Any]:
        """Call the tool, and return its record."""
        assert command.run(look.main, [*self.words, *(["--set", *overrides] if overrides else [])]) == 0
        assert png_size(self.layout.look_picture)[0] == 1280
        record: dict[str, Any] = json.loads(self.layout.look_record.read_text())
        return record


def make(folder: Path, toml: str, files: Mapping[str, bytes | str]) -> Made:
    layout = Layout(folder, "mine")
    (folder / "mine.toml").write_text(SMALL + toml, encoding="utf-8")
    for name, content in files.items():
        write(layout.raw / name, content)
    assert command.run(split.main, ["mine"]) == 0
    return Made(layout, ["mine"])


def stored(pixels: np.ndarray[Any, Any] | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(content, kind, **options)
    return content.getvalue()


def pictures(part: str, count: int, ending: str = "png") -> dict[str, bytes]:
    return {f"{part}/{number}.{ending}": stored(noise(8, 8, 3, seed=number)) for number in range(count)}


def sheet(targets: Sequence[str], header: str = "id,label") -> str:
    rows = [header.split(","), *([str(number), *target.split(";")] for number, target in enumerate(targets))]
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def mean_of(path: Path) -> float:
    with Image.open(path) as image:
        return float(np.asarray(image).mean())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_digits(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(here, "digits")
    write_digits(layout.raw, layout.held_back)
    assert command.run(split.main, ["digits", "--set", "split.tree=false"]) == 0
    before = {path.name for path in layout.data.iterdir()}
    capsys.readouterr()
    seen = Made(layout, ["digits"]).look()
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["images", "1,038", "259", "500"]
    assert printed[-5:] == [
        "Classes: 10; smallest class: 8 (126), largest: 3 (132).",
        "Brightness: no clear difference between train and test (means 78 and 78 of 255, sd 8 and 9; KS distance 0.04, "
        "bound 0.11).",
        "Duplicates: not looked for. To look: make audit COMP=digits",
        "Picture: data/digits/look.png",
        "Table: data/digits/look.csv",
    ]
    assert {path.name for path in layout.data.iterdir()} - before == {"look.png", "look.csv", "look.json"}
    table = read_split_csv(layout.split_csv)
    for part in ("train", "valid"):
        counts = table[table["split"] == part]["label"].value_counts()
        assert dict(zip(seen["classes"]["names"], seen["classes"][part], strict=True)) == counts.to_dict()
    assert seen["split_csv_sha256"] == file_sha256(layout.split_csv)
    values = [mean_of(layout.raw / path) for path in table["path"][table["split"] == "test"]]
    assert seen["parts"]["test"]["brightness"] == {
        "mean": pytest.approx(np.mean(values), abs=1e-4),
        "sd": pytest.approx(np.std(values), abs=1e-4),
    }
    assert seen["brightness"]["test"] == np.histogram(values, seen["brightness"]["edges"])[0].tolist()
    lines = layout.look_table.read_text().splitlines()
    assert lines[:4] == ["fact,train,valid,test", "images,1038,259,500", "looked at,1000,259,500", "damaged,0,0,0"]
    assert "formats PNG,1000,259,500" in lines and "width most,8,8,8" in lines


def test_photos_of_any_size_and_mode(here: Path) -> None:
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    palette = Image.fromarray(noise(20, 30, 3)).quantize(8)
    clear = Image.fromarray(noise(40, 30, 4), "RGBA")
    files = {
        "train/a/0.jpg": stored(noise(60, 300, 3), "JPEG", exif=turned),
        "train/a/1.png": stored(palette),
        "train/b/2.png": stored(clear),
        "train/b/3.png": stored(noise(500, 20)),
        "test/4.tif": stored(Image.fromarray(noise(9, 9).astype(np.uint16) * 16), "TIFF"),
        "test/5.gif": stored(palette, "GIF"),
    }
    made, layout = make(here, "", files), Layout(here, "mine")
    words = ("input.source=photos", "augment.crop_scale=[0.2, 1.0]", "augment.colour_jitter=1")
    seen, paths = made.look(*words), (layout.look_picture, layout.look_table, layout.look_record)
    first = [path.read_bytes() for path in paths]
    made.look(*words)
    assert [path.read_bytes() for path in paths] == first
    train, valid = seen["parts"]["train"], seen["parts"]["valid"]
    formats = [{**train["formats"]}, {**valid["formats"]}]
    assert sum(sum(each.values()) for each in formats) == 4 and {*formats[0], *formats[1]} == {"PNG", "JPEG"}
    assert {*train["channels"], *valid["channels"]} == {"RGB", "palette", "RGB with transparency", "grey"}
    widths = [each["width"][end] for each in (train, valid) for end in ("least", "most")]
    assert min(widths) == 20 and max(widths) == 60  # the first one upright
    assert seen["parts"]["test"]["bits"] == {"16": 1, "8": 1}
    assert "Formats of train and test differ (" in "".join(seen["lines"])
    assert "augmented: crop_scale [0.2, 1.0], colour_jitter 1.0" in seen["network"]["train"]


def test_several_labels(here: Path) -> None:
    labels = ["cat dog", "cat", "", "dog", "cat", "dog cat", "bear", "bear"]
    toml = '[competition]\ntask = "several_labels"\nmetric = "fbeta_samples"\nsubmission = "label_lists"\n'
    toml += f'{LABELS}label_separator = " "\n'
    seen = make(here, toml, {**pictures("train", 8), **pictures("test", 2), "labels.csv": sheet(labels)}).look(
        "augment.mixup=0.5"
    )
    columns = (seen["classes"][key] for key in ("names", "train", "valid"))
    counts = {name: sum(pair) for name, *pair in zip(*columns, strict=True)}
    assert counts == {"bear": 2, "cat": 4, "dog": 3}
    assert sum(seen["classes"]["without_label"].values()) == 1
    assert "Labels: 3; smallest label: bear (2), largest: cat (4); images without a label: 1." in seen["lines"]


@pytest.mark.parametrize("count", [1, 8])
def test_numbers(here: Path, count: int) -> None:
    names = [f"weight {number}" for number in range(count)]
    cells = [["" if row == number == 1 else f"{row + number / 2}" for number in range(count)] for row in range(8)]
    targets = [";".join(each) for each in cells]
    toml = '[competition]\ntask = "numbers"\nmetric = "rmse"\nsubmission = "numbers"\n'
    toml += f"{LABELS}label_columns = {json.dumps(names)}\n"
    table = {"labels.csv": sheet(targets, f"id,{','.join(names)}")}
    seen = make(here, toml, {**pictures("train", 8), **pictures("test", 2), **table}).look()
    assert [each["name"] for each in seen["numbers"]] == names and seen["classes"] == {}
    assert sum(seen["numbers"][0]["train"] + seen["numbers"][0]["valid"]) == 8
    if count > 1:
        assert sum(seen["numbers"][1]["missing"].values()) == 1


def test_images_of_many_channels_and_16_bits(here: Path) -> None:
    arrays = {}
    for number in range(8):
        content = io.BytesIO()
        np.save(content, noise(9, 7, 5, seed=number).astype(np.uint16) * 16)
        arrays[f"train/{'ab'[number % 2]}/{number}.npy"] = content.getvalue()
    seen = make(here, 'channels = 5\n[data]\ntest_images = ""\n', arrays).look()
    train = seen["parts"]["train"]
    assert train["formats"] == {"NumPy": 6} and train["bits"] == {"16": 6} and train["width"]["most"] == 7
    assert train["channels"] == {"array of 5 channels": 6} and "test" not in seen["parts"]
    assert seen["brightness"]["shift"] is None


def test_images_that_are_rows_of_numbers(here: Path) -> None:
    rows = [[number, "ab"[number % 2], *noise(16, seed=number).tolist()] for number in range(8)]
    header = ["id", "label", *(f"pixel{number}" for number in range(16))]
    tables = {}
    for name, columns in (("train", [*range(18)]), ("test", [0, *range(2, 18)])):
        lines = [[line[column] for column in columns] for line in [header, *rows]]
        tables[f"{name}.csv"] = "\n".join(",".join(map(str, line)) for line in lines)
    toml = '[data]\nlabels = "train.csv"\ntest_table = "test.csv"\nlabel_column = "label"\npixel_columns = "pixel*"\n'
    seen = make(here, toml, tables).look()
    assert (
        seen["parts"]["test"]["width"] == {"least": 4, "median": 4, "most": 4} and seen["parts"]["test"]["images"] == 8
    )


def test_damaged_images_are_counted_and_shown(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {f"train/{'ab'[number % 2]}/{number}.png": stored(noise(8, 8, 3, seed=number)) for number in range(8)}
    made = make(here, "", {**files, **pictures("test", 3)})
    (made.layout.raw / "train/a/2.png").write_bytes(files["train/a/2.png"][:70])
    (made.layout.raw / "test/1.png").unlink()
    seen = made.look()
    assert seen["damaged"]["seen"] == 2 and seen["damaged"]["listed"] is None
    assert {each["path"]: each["problem"] for each in seen["damaged"]["first"]} == {
        "train/a/2.png": "the file is cut short",
        "test/1.png": "the file is missing",
    }
    assert sum(part["damaged"] for part in seen["parts"].values()) == 2
    assert "Damaged images: 2 of those looked at cannot be read, such as train/a/2.png: " in capsys.readouterr().out
    write(made.layout.damaged, "path,id,split,problem\ndata/mine/raw/test/1.png,1,test,the file is missing\n")
    assert "; data/mine/damaged.csv lists 1." in "".join(made.look()["lines"])
    for path in made.layout.raw.rglob("*.png"):
        path.write_bytes(b"")
    seen = made.look()
    assert seen["parts"]["train"]["width"] == {} and seen["brightness"]["shift"] is None
    assert seen["network"] == {"problem": ""}


@pytest.mark.parametrize(("count", "toml"), [(61, ""), (60, ""), (1, '[data]\naccept = ["one_class"]\n')])
def test_any_number_of_classes(here: Path, count: int, toml: str) -> None:
    files = {f"train/c{place % count}/{place}.png": stored(noise(4, 4, seed=place)) for place in range(max(122, count))}
    seen = make(here, toml or '[data]\ntest_images = ""\n', {**files, **pictures("test", 1)}).look()
    assert len(seen["classes"]["names"]) == count and sum(seen["classes"]["train"] + seen["classes"]["valid"]) == 122


def test_hostile_names(here: Path) -> None:
    targets = HOSTILE * 2
    files = {f"train/{number}.png": stored(noise(8, 8, 3, seed=number)) for number in range(len(targets))}
    tests = {f"test/{name}.png": stored(noise(8, 8, 3)) for name in ("$x$", "a b", "y" * 200)}
    seen = make(here, LABELS, {**files, **tests, "labels.csv": sheet(targets)}).look()
    assert {*seen["classes"]["names"]} == {*HOSTILE}
    assert all("\n" not in line for line in seen["lines"])


def test_a_shift_of_brightness_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {f"train/{'ab'[number % 2]}/{number}.png": stored(noise(8, 8, 3, seed=number)) for number in range(40)}
    dark = {f"test/{number}.png": stored(noise(8, 8, 3, seed=number) // 2) for number in range(40)}
    seen = make(here, "", {**files, **dark}).look()
    assert seen["brightness"]["shift"]["test_is"] == "darker" and seen["brightness"]["shift"]["distance"] == 1
    assert "Brightness: test images are darker than train: means 12" in capsys.readouterr().out


def test_the_duplicates_of_audit_are_counted_for_the_present_split(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.layout.root)
    words, raw = [str(tiny.toml), "--set", "split.valid_ratio=0.25"], tiny.layout.raw
    for other in ("train/4.png", "test/5.png"):  # number 4 has the class of 1
        (raw / other).write_bytes((raw / "train/1.png").read_bytes())
    for stage in (split.main, audit.main):
        assert command.run(stage, words) == 0
    made = Made(tiny.layout, words)
    found = made.look()["audit"]
    assert (found["pairs"], found["kinds"], found["conflicts"]) == (2, {"bytes": 2}, 0)  # each with the first
    table = read_split_csv(tiny.layout.split_csv)
    table.loc[table["path"].isin(["train/1.png", "train/4.png"]), "split"] = "train"
    table.to_csv(tiny.layout.split_csv, index=False)
    found = made.look()["audit"]
    assert found["between"] == {"train-train": 1, "train-test": 1}
    assert found["with_a_twin_in_train"] == {"valid": 0, "test": 1}
    tiny.layout.audit.pairs.write_text("kind\nbytes\n")
    assert command.run(look.main, words) == 2 and not tiny.layout.look_record.exists()


def test_wrong_states_are_named(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny.layout.root)
    words = [str(tiny.toml)]
    assert command.run(look.main, words) == 2
    assert "split.csv is missing. First: make split COMP=" in capsys.readouterr().err
    assert command.run(split.main, words) == 0
    tiny.layout.raw.rename(tiny.layout.root / "elsewhere")
    assert command.run(look.main, words) == 2
    assert "raw is missing. First: make download COMP=" in capsys.readouterr().err


def test_without_its_weights_a_network_sees_nothing(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.layout.root)
    words = [str(tiny.toml), "--set", "split.valid_ratio=0.25", "finetune.frozen_stages=-1"]
    assert command.run(split.main, words[:3]) == 0
    made = Made(tiny.layout, [*words, *pretrained(Path("absent.pth"))])
    seen = made.look()
    assert "There is no file of weights" in seen["network"]["problem"] and "train" not in seen["network"]
    assert seen["lines"][-1].startswith("The network's view is not shown: There is no file of weights")


def test_a_frozen_network_is_shown_views_of_its_images(
    tiny: Tiny, small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.layout.root)
    words = [str(tiny.toml), "--set", "split.valid_ratio=0.25", "finetune.frozen_stages=-1"]
    assert command.run(split.main, words[:3]) == 0
    seen = Made(tiny.layout, [*words, *pretrained(small_weights)]).look()
    assert seen["network"]["valid"] == (
        "Valid images as the frozen network sees them: the centre of 8 x 8 pixels, each mirrored too; features are "
        "computed once"
    )
    assert not tiny.layout.cache.exists()
