"""Plots: complete PNGs for runs of every size and every label, without warnings (pytest turns these into errors)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.analysis.plots import (
    Mistake,
    draw_comparison,
    draw_confusion,
    draw_curves,
    draw_mistakes,
    draw_twins,
    mean_interval,
)
from pipelines.system.screen import short
from tests.support.pictures import noise, png_size

ODD = ["$x$", r"$\frac{$", "a$b", r"\frac{", "größer", "猫", "عربي", "🐕", "_^", "%s {0}", "x" * 100, "", " "]


def rows(epochs: int) -> list[dict[str, Any]]:
    return [
        {"epoch": n, "train_loss": 2 / n, "valid_loss": 2.5 / n, "accuracy": 1 - 1 / (n + 1), "lr": 0.1 / n}
        for n in range(1, epochs + 1)
    ]


def mistake(number: int, label: str = "cat", predicted: str = "dog") -> Mistake:
    return noise(8, 8, 3, seed=number), label, predicted, 0.987


def is_blank(path: Path) -> bool:
    with Image.open(path) as image:
        return len(np.unique(np.asarray(image.convert("L")))) < 2


@pytest.mark.parametrize("epochs", [1, 30])
def test_curves_of_any_length(tmp_path: Path, epochs: int) -> None:
    path = tmp_path / "run" / "curves.png"
    draw_curves(path, rows(epochs), "accuracy", epochs, "a title", "loss (nats)")
    assert png_size(path) == (1000, 400)
    assert not is_blank(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["curves.png"]


@pytest.mark.parametrize("title", ["costs $5 or $6", "\n".join(["größer 猫", *ODD])], ids=["dollars", "odd"])
def test_curves_of_a_run_with_an_odd_name(tmp_path: Path, title: str) -> None:
    draw_curves(tmp_path / "curves.png", rows(3), "accuracy", 2, title, "loss (nats)")
    assert png_size(tmp_path / "curves.png") == (1000, 400)


def runs(*epochs: int) -> list[list[dict[str, Any]]]:
    """Return a run for each number of epochs, each a little better than the one before."""
    return [
        [row | {"accuracy": row["accuracy"] + seed / 100, "valid_loss": row["valid_loss"] - seed / 100} for row in each]
        for seed, each in enumerate(map(rows, epochs))
    ]


@pytest.mark.parametrize(
    "histories",
    [
        {"default": runs(1, 1), "scratch": runs(1, 1)},
        {"default": runs(3)},
        {"default": runs(3), "scratch": runs(3, 2)},
        {"default": runs(7, 2, 5), **{name: runs(3) for name in ODD}},
    ],
    ids=["one epoch", "one run", "another number of seeds", "odd names"],
)
def test_comparison_of_any_runs(tmp_path: Path, histories: Any) -> None:
    path = tmp_path / "runs" / "compare.png"
    draw_comparison(path, histories, "accuracy", "costs $5 or $6", "loss (nats)")
    assert png_size(path) == (1000, 400)
    assert not is_blank(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["compare.png"]


def test_comparison_shows_every_run(tmp_path: Path) -> None:
    draw_comparison(tmp_path / "a.png", {"default": runs(3, 3, 3)}, "accuracy", "a title", "loss (nats)")
    draw_comparison(tmp_path / "b.png", {"default": runs(3, 3, 4)}, "accuracy", "a title", "loss (nats)")
    draw_comparison(tmp_path / "c.png", {"default": runs(3, 3, 3)}, "accuracy", "a title", "loss (nats)")
    first, second, again = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert first != second
    assert first == again


def test_interval_is_students() -> None:
    mean, margin = mean_interval(np.array([1.0, 2.0, 3.0]))
    assert mean == 2
    assert margin == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)  # t of 2 degrees of freedom, from any table
    means, margins = mean_interval(np.array([[1.0, 5.0], [3.0, 5.0]]))
    assert means.tolist() == [2, 5]
    assert margins == pytest.approx([12.706205, 0], rel=1e-6)
    assert np.isnan(mean_interval(np.array([1.0]))[1])


@pytest.mark.parametrize(("count", "lines"), [(0, 1), (6, 1), (7, 2)])
def test_mistakes_of_any_number(tmp_path: Path, count: int, lines: int) -> None:
    path = tmp_path / "mistakes.png"
    draw_mistakes(path, [mistake(number) for number in range(count)], "a title\nof two lines")
    assert png_size(path) == (1200, round((lines * 2.5 + 0.6) * 100))
    assert not is_blank(path)


def test_mistakes_with_odd_labels(tmp_path: Path) -> None:
    draw_mistakes(tmp_path / "mistakes.png", [mistake(1, label, label) for label in ODD], "\n".join(ODD))
    assert png_size(tmp_path / "mistakes.png") == (1200, round((3 * 2.5 + 0.6) * 100))


@pytest.mark.parametrize("number", [1, 20, 21, pytest.param(120, marks=pytest.mark.slow)])
def test_confusion_of_any_number_of_classes(tmp_path: Path, number: int) -> None:
    path = tmp_path / "confusion.png"
    counts = np.diag(np.arange(number))  # the first class has no validation images
    counts[-1] = 1
    draw_confusion(path, counts, [f"class number {n}" for n in range(number)], "a title")
    assert min(png_size(path)) >= 500
    assert not is_blank(path)


def test_confusion_with_odd_labels(tmp_path: Path) -> None:
    draw_confusion(tmp_path / "confusion.png", np.eye(len(ODD), dtype=np.int64), ODD, "$ and $")
    assert not is_blank(tmp_path / "confusion.png")


def test_the_same_numbers_draw_the_same_bytes_and_others_do_not(tmp_path: Path) -> None:
    def curves(best: int) -> bytes:
        draw_curves(tmp_path / "curves.png", rows(3), "accuracy", best, "a title", "loss (nats)")
        return (tmp_path / "curves.png").read_bytes()

    def mistakes(number: int) -> bytes:
        draw_mistakes(tmp_path / "mistakes.png", [mistake(number)], "a title")
        return (tmp_path / "mistakes.png").read_bytes()

    for drawn in (curves, mistakes):
        first = drawn(2)
        assert drawn(3) != first
        assert drawn(2) == first


@pytest.mark.parametrize("count", [0, 7])
def test_twins_of_any_number_and_name(tmp_path: Path, count: int) -> None:
    twins = [
        (noise(8, 8, 3, seed=n), noise(9, 9, 3)[:8], ("train-valid, near 3", *ODD[n : n + 2])) for n in range(count)
    ]
    draw_twins(tmp_path / "twins.png", twins, "a $title")
    assert png_size(tmp_path / "twins.png")[0] == 1300
    assert not is_blank(tmp_path / "twins.png")


def test_long_names_with_the_same_beginning_stay_apart() -> None:
    names = [f"a rather long label of several words, number {number:02d}" for number in range(80)]
    shown = [short(name) for name in names]
    assert shown[7] == "a rather lon…, number 07" and len(set(shown)) == 80
    assert short("Acer capillipes") == "Acer capillipes"
