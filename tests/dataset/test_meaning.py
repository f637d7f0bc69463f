"""Labels that do not mean one class per image are refused; labels of real competitions are accepted."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines.dataset.labels import labelled_rows
from pipelines.dataset.meaning import check_labels, ungarbled
from pipelines.dataset.raw_data import RawData
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from tests.support.raw_files import touch, write

CSV = DataSettings(labels="labels.csv")


def check(raw: Path, data: DataSettings = CSV) -> list[str]:
    """Check the labels below `raw` as `split` does, and return the classes."""
    rows = labelled_rows(RawData(raw, data))
    check_labels(rows, raw, Settings("x", data=data))
    return sorted(set(rows["label"]))


def refusal(raw: Path, data: DataSettings = CSV) -> str:
    with pytest.raises(UserError) as caught:
        check(raw, data)
    return str(caught.value)


def labelled(raw: Path, labels: Sequence[str], header: str = "id,label", more: Sequence[str] = ()) -> Path:
    """Write an image file and a row for each of `labels`; `more` are cells of a third column."""
    touch(raw / "train", *(f"{number}.png" for number in range(len(labels))))
    cells = [f',"{text}"' for text in more] or [""] * len(labels)
    rows = (f'{n},"{label}"{cell}\n' for n, (label, cell) in enumerate(zip(labels, cells, strict=True)))
    return write(raw / "labels.csv", f"{header}\n{''.join(rows)}")


REFUSED: dict[str, tuple[str, list[str], list[str]]] = {
    "one class": ("one_class", ["cat"] * 4, ["all 4 labels are 'cat' (4)", "no other column"]),
    "parts of a split": ("split_names", ["train", "train", "Test"], ["'Test' (1), 'train' (2). They are no classes."]),
    "a missing value": (
        "missing_labels",
        ["cat", "dog", "nan", "cat", "dog", "None", "?"],
        ["'?' (1), 'None' (1), 'nan' (1), of the images 'train/2.png', 'train/5.png', 'train/6.png'"],
    ),
    "fractions": ("numeric_labels", ["0.5", "1.5", "2.0", "1.5"], ["3 different numbers, 0.5 to 2", "quantities"]),
    "decimal commas": ("numeric_labels", ["0,5", "1,5"], ["2 different numbers, 0.5 to 1.5"]),
    "a scale": ("numeric_labels", [str(n % 30) for n in range(60)], ["30 different numbers, 0 to 29, in 60 rows"]),
    "hundreds of whole numbers": (
        "numeric_labels",
        [str(n % 60 + 1) for n in range(600)],
        ["60 different numbers, 1 to 60, in 600 rows", 'task = "numbers"'],
    ),
    "addresses": ("unique_labels", [f"https://x/photo{n}" for n in range(4)], ["4 different labels for 4 images"]),
    "texts": ("unique_labels", [f"text {n}" for n in range(30)], ["30 different labels for 30 images"]),
    "boxes": ("unique_labels", [f"[{n}, 2, 3, 4]" for n in range(30)], ["They look like names, texts or coordinates"]),
    "several labels that are classes": (
        "combined_labels",
        ["rust", "scab", "rust scab", "rust", "scab"],
        ["separated by ' ': 'rust scab' (1)", "Each combination would be a class of its own"],
    ),
    "several labels that repeat": (
        "combined_labels",
        [*["haze|road", "haze|water", "road|water", "haze|road|water"] * 6],
        ["separated by '|'", "'haze|road' (6)"],
    ),
    "numbers of several labels": ("combined_labels", ["0", "1", "2", "0 1", "1 2"], ["separated by ' ': '0 1' (1)"]),
    "numbers of several labels, each once": ("combined_labels", ["16 0", "5", "1"], ["separated by ' ': '16 0' (1)"]),
    "a rare separator": ("combined_labels", ["a+b", "a", "b"], ["separated by '+': 'a+b' (1)"]),
    "lists as Python writes them": ("combined_labels", ["['a', 'b']", "['c']", "[]"], ["separated by ','"]),
    "case": ("similar_labels", ["Cat", "cat", "dog", "cat"], ["'Cat' (1), 'cat' (2)", "in one way"]),
    "spaces": ("similar_labels", ["hot dog", "hot  dog", "hot_dog", "x"], ["'hot  dog' (1), 'hot dog' (1), 'hot_dog'"]),
    "forms of numbers": ("similar_labels", ["1", "1.0", "0", "01"], ["'01' (1), '1' (1), '1.0' (1)"]),
    "Unicode forms": ("similar_labels", ["caf\u00e9", "cafe\u0301", "tea"], ["(1), 'caf"]),
    "lost characters": (
        "garbled_labels",
        ["caf\ufffd", "tea"],
        ["lost when a file was saved: 'caf\ufffd' (1). Correct"],
    ),
    "another encoding": (
        "garbled_labels",
        ["cafÃ©", "tea"],
        ["probably 'cafÃ©' for 'café'", "iconv -f utf-8 -t cp1252"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_labels_that_are_not_a_class_each_are_refused_unless_accepted(tmp_path: Path, name: str) -> None:
    word, labels, words = REFUSED[name]
    path = labelled(tmp_path, labels)
    message = refusal(tmp_path)
    assert message.startswith(f"{path}, column 'label': ")
    assert all(text in message for text in words), message
    assert message.endswith(f'Or, if it is right as it is: data.accept = ["{word}"]')
    assert check(tmp_path, DataSettings(labels="labels.csv", accept=(word,))) == sorted(set(labels))


ACCEPTED = {
    "digits": [str(n % 10) for n in range(20)],
    "cassava": [str(n % 5) for n in range(15)],
    "state-farm": [f"c{n % 10}" for n in range(20)],
    "cactus": ["0", "1", "1"],
    "names with a slash": ["corn/maize", "rice", "soy/bean", "corn"],
    "floats of a column with a gap": ["0.0", "1.0", "1.0"],
    "dog breeds": ["boston_bull", "german_shepherd", "german_short-haired_pointer", "boxer", "bull_mastiff"] * 2,
    "seedlings": [
        *["Small-flowered Cranesbill", "Common Chickweed", "Common wheat", "Black-grass", "Maize", "Sugar beet"] * 2
    ],
    "whales, most of one image": ["new_whale", *(f"w_{n % 43:03x}" for n in range(98))],
    "two images of each of many numbers as text": [f"{n // 2:05}_a" for n in range(60)],
    "herbarium": [str(1000 * (n % 20)) for n in range(40)],
    "many numbers of many images": [str(n % 30) for n in range(150)],
    "cifar": ["airplane", "automobile", "bird", "cat"],
    "NA is a class": ["NA", "EU", "NA", "none"],
    "letters in both cases": ["a", "A", "b", "B"],
    "grades": ["A+", "A", "A-", "B"],
    "a colour and a shape": [f"{a} {b}" for a in ("red", "blue", "green") for b in ("disc", "box", "star")],
    "a plant and a disease": [
        "Tomato healthy",
        "Tomato leaf mold",
        "Potato healthy",
        "Potato early blight",
        "Grape rot",
    ],
    "accents": ["café", "größe", "猫", "кот", "ñandú", "Ångström", "naïve", "ελιά"],
    "each label once, but few": ["cat", "dog", "fox"],
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_labels_of_real_competitions_are_accepted(tmp_path: Path, name: str) -> None:
    labelled(tmp_path, ACCEPTED[name])
    assert check(tmp_path) == sorted(set(ACCEPTED[name]))


def test_other_columns_are_named_and_the_setting_works(tmp_path: Path) -> None:
    labelled(tmp_path, [f"photo {n}" for n in range(30)], "id,title,breed", [["cat", "dog"][n % 2] for n in range(30)])
    message = refusal(tmp_path)
    assert "Other columns: 'breed' (2 different values); set data.label_column." in message
    assert check(tmp_path, DataSettings(labels="labels.csv", label_column="breed")) == ["cat", "dog"]


@pytest.mark.skipif(not shutil.which("iconv"), reason="iconv is not installed")
@pytest.mark.parametrize(("label", "encoding"), [("cafÃ©", "utf-8"), ("ä¸\xadæ–‡", "utf-8"), ("├¿├╢", "utf-8")])
def test_the_command_that_converts_garbled_labels_back_works(tmp_path: Path, label: str, encoding: str) -> None:
    labelled(tmp_path, [label, "tea"])
    command = refusal(tmp_path).split("`")[1]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    found = ungarbled(label)
    assert found is not None
    assert check(tmp_path) == sorted([found[0], "tea"])


def test_garbled_class_folders_name_the_setting_of_the_archive(tmp_path: Path) -> None:
    touch(tmp_path / "train", "µ│ó/1.png", "tea/2.png")
    message = refusal(tmp_path, DataSettings())
    assert 'Set data.zip_encoding = "' in message
    assert "rename these folders" in message
    touch(tmp_path / "other", "caf\ufffd/1.png", "tea/2.png")
    assert "Rename these folders" in refusal(tmp_path, DataSettings(train_images="other"))


def test_class_folders_are_checked_in_their_own_words(tmp_path: Path) -> None:
    touch(tmp_path / "train", "cat/1.png", "cat/2.png")
    assert "class folders: all 2 labels are 'cat' (2). Training needs two classes. Set data.train_images" in refusal(
        tmp_path, DataSettings()
    )
    touch(tmp_path / "ids", *(f"a{n:02}/x.png" for n in range(30)))
    assert "Folders of one image are no classes" in refusal(tmp_path, DataSettings(train_images="ids"))
    touch(tmp_path / "twins", "Cat/1.png", "cat/2.png", "dog/3.png")
    assert "'Cat' (1), 'cat' (1). Merge these folders." in refusal(tmp_path, DataSettings(train_images="twins"))
    touch(tmp_path / "numbers", "0/1.png", "1/2.png", "None/3.png")
    assert check(tmp_path, DataSettings(train_images="numbers")) == ["0", "1", "None"]
