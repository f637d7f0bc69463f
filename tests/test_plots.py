"""Pictures: whole PNGs for every size of run and every label, without a warning (which pytest turns into an error)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import noise, png_size
from PIL import Image

from pipelines.core.plots import Mistake, draw_confusion, draw_curves, draw_mistakes

ODD = ["$x$", r"$\frac{$", "a$b", r"\frac{", "größer", "猫", "عربي", "🐕", "_^", "%s {0}", "x" * 100, "", " "]


def rows(epochs: int) -> list[dict[str, Any]]:
    return [
        {"epoch": n, "train_loss": 2 / n, "valid_loss": 2.5 / n, "accuracy": 1 - 1 / (n + 1)}
        for n in range(1, epochs + 1)
    ]


def mistake(number: int, label: str = "cat", predicted: str = "dog") -> Mistake:
    return Mistake(str(number), noise(8, 8, 3, seed=number), label, predicted, 0.987)


def is_blank(path: Path) -> bool:
    with Image.open(path) as image:
        return len(np.unique(np.asarray(image.convert("L")))) < 2


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_curves_of_any_length(tmp_path: Path, epochs: int) -> None:
    path = tmp_path / "run" / "curves.png"
    draw_curves(path, rows(epochs), "accuracy", epochs, "a title")
    assert png_size(path) == (1000, 400)
    assert not is_blank(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["curves.png"]


@pytest.mark.parametrize("title", ["costs $5 or $6", "größer 猫", r"$\frac{$"])
def test_curves_of_a_run_with_an_odd_name(tmp_path: Path, title: str) -> None:
    draw_curves(tmp_path / "curves.png", rows(3), "accuracy", 2, title)
    assert png_size(tmp_path / "curves.png") == (1000, 400)


@pytest.mark.parametrize(("count", "lines"), [(0, 1), (1, 1), (6, 1), (7, 2), (24, 4)])
def test_mistakes_of_any_number(tmp_path: Path, count: int, lines: int) -> None:
    path = tmp_path / "mistakes.png"
    draw_mistakes(path, [mistake(number) for number in range(count)], "a title\nof two lines")
    assert png_size(path) == (1200, round((lines * 2.5 + 0.6) * 100))
    assert not is_blank(path)


@pytest.mark.parametrize("label", ODD)
def test_mistakes_with_odd_labels(tmp_path: Path, label: str) -> None:
    draw_mistakes(tmp_path / "mistakes.png", [mistake(1, label, label)], label)
    assert png_size(tmp_path / "mistakes.png")[0] == 1200


@pytest.mark.parametrize("number", [1, 2, 20, 21, 120])
def test_confusion_of_any_number_of_classes(tmp_path: Path, number: int) -> None:
    path = tmp_path / "confusion.png"
    counts = np.random.default_rng(0).integers(0, 9, (number, number))
    counts[0] = 0  # a class without valid images
    draw_confusion(path, counts, [f"class number {n}" for n in range(number)], "a title")
    assert min(png_size(path)) >= 500
    assert not is_blank(path)


def test_confusion_with_odd_labels(tmp_path: Path) -> None:
    draw_confusion(tmp_path / "confusion.png", np.eye(len(ODD), dtype=np.int64), ODD, "$ and $")
    assert not is_blank(tmp_path / "confusion.png")


def test_the_same_numbers_draw_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        draw_curves(tmp_path / name / "curves.png", rows(3), "accuracy", 2, "a title")
        draw_mistakes(tmp_path / name / "mistakes.png", [mistake(1)], "a title")
    for name in ("curves.png", "mistakes.png"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_picture_shows_its_numbers(tmp_path: Path) -> None:
    draw_curves(tmp_path / "a.png", rows(3), "accuracy", 2, "a title")
    draw_curves(tmp_path / "b.png", rows(3), "accuracy", 3, "a title")
    draw_mistakes(tmp_path / "c.png", [mistake(1)], "a title")
    draw_mistakes(tmp_path / "d.png", [mistake(2)], "a title")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "c.png").read_bytes() != (tmp_path / "d.png").read_bytes()
