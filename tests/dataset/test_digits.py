"""The bundled digits in the form of a Kaggle competition."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipelines.dataset.digits import write_digits


def rows(path: Path) -> dict[str, str]:
    with open(path, newline="") as file:
        reader = csv.reader(file)
        assert next(reader) == ["id", "label"]
        return {row[0]: row[1] for row in reader}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("digits")
    write_digits(home / "raw", home / "held_back" / "labels.csv")
    return home


def test_every_digit_is_there_once_with_its_label(home: Path) -> None:
    digits = load_digits()
    expected = Counter(
        ((image * 255 / 16).round().astype("uint8").tobytes(), str(label))
        for image, label in zip(digits.images, digits.target, strict=True)
    )
    found: Counter[tuple[bytes, str]] = Counter()
    for folder, labels in (("train", home / "raw/labels.csv"), ("test", home / "held_back/labels.csv")):
        for number, label in rows(labels).items():
            with Image.open(home / "raw" / folder / f"{number}.png") as image:
                assert (image.mode, image.size) == ("L", (8, 8))
                found[image.tobytes(), label] += 1
    assert found == expected


def test_ids_are_numbers_that_tell_nothing(home: Path) -> None:
    labels = rows(home / "raw/labels.csv")
    assert list(labels) == [str(number) for number in range(1, 1298)]
    assert list(rows(home / "raw/sample_submission.csv")) == [str(number) for number in range(1, 501)]
    assert set(rows(home / "raw/sample_submission.csv").values()) == {"0"}
    correlation = np.corrcoef(np.arange(len(labels)), [int(label) for label in labels.values()])[0, 1]
    assert abs(correlation) < 0.1


def test_test_images_are_drawn_in_proportion(home: Path) -> None:
    everything = Counter(load_digits().target.tolist())
    held_back = Counter(map(int, rows(home / "held_back/labels.csv").values()))
    assert sum(held_back.values()) == 500
    for digit, count in everything.items():
        assert held_back[digit] == pytest.approx(count * 500 / 1797, abs=1)


def test_raw_holds_no_test_labels(home: Path) -> None:
    assert sorted(path.name for path in (home / "raw").iterdir()) == [
        "labels.csv",
        "sample_submission.csv",
        "test",
        "train",
    ]


def test_the_same_bytes_each_time(home: Path, tmp_path: Path) -> None:
    write_digits(tmp_path / "raw", tmp_path / "held_back" / "labels.csv")
    assert contents(tmp_path) == contents(home)
