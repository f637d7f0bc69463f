"""Stored predictions come back as they were, and damaged files are refused by name."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipelines.core.stored import MOST_STORED, Stored, fits, load_test, read_oof, save_test, write_oof
from pipelines.system.errors import UserError
from tests.support.found_boxes import random_boxes

IDS = ["7", "=1+1", 'a "b", c']
TABLE = pd.DataFrame({"id": [*IDS, "9"], "split": ["train", "valid", "train", "test"]})
FOLDS = np.array([2, 0, 1])


def stored(task: str, columns: int = 3) -> Stored:
    values = torch.randn(len(IDS), columns, generator=torch.Generator().manual_seed(0))
    made = {"one_class": values.mul(40).log_softmax(dim=1), "several_labels": values.sigmoid(), "numbers": values * 1e6}
    return Stored(np.array(IDS, object), FOLDS, made[task])


@pytest.mark.parametrize("task", ["one_class", "several_labels", "numbers"])
def test_predictions_come_back_as_they_were(tmp_path: Path, task: str) -> None:
    given = stored(task)
    write_oof(tmp_path / "oof.csv", given, ["a", "b,c", "id"], task)
    read = read_oof(tmp_path / "oof.csv", TABLE, ["a", "b,c", "id"], task)
    assert read.ids.tolist() == IDS
    assert read.folds.tolist() == FOLDS.tolist()
    assert read.predictions.dtype == torch.float32
    torch.testing.assert_close(read.predictions, given.predictions, rtol=1e-6, atol=1e-6)
    write_oof(tmp_path / "again.csv", read, ["a", "b,c", "id"], task)
    again = read_oof(tmp_path / "again.csv", TABLE, ["a", "b,c", "id"], task)
    torch.testing.assert_close(again.predictions, read.predictions, rtol=1e-6, atol=1e-6)


def test_a_probability_of_0_comes_back(tmp_path: Path) -> None:
    write_oof(
        tmp_path / "oof.csv", Stored(np.array(IDS[:1]), FOLDS[:1], torch.tensor([[0.0, -1000.0]])), "ab", "one_class"
    )
    read = read_oof(tmp_path / "oof.csv", TABLE, "ab", "one_class")
    assert read.predictions.tolist() == [[0.0, -np.inf]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id,fold,p_a,p_b\n7,0,0.5\n8", "damaged"),
        ("id,fold,p_a,p_b\n7,0,0.5,x\n", "damaged"),
        ("id,fold,p_a,p_b\n7,0,0.5,\n", "damaged"),
        ("id,fold,p_a,p_c\n7,0,0.5,0.5\n", "damaged|other columns"),
        ("id,fold,p_b,p_a\n7,0,0.5,0.5\n", "other columns"),
        ("id,fold,p_a,p_b\n7,0,0.5,0.5\n7,0,0.5,0.5\n", "lists an id twice"),
        ("id,fold,p_a,p_b\n", "has no rows"),
        ("id,fold,p_a,p_b\n9,0,0.5,0.5\n", "no labelled row.*9"),
        ("id,fold,p_a,p_b\n7,0,1.5,-0.5\n", "outside 0 to 1.*7"),
        ("id,fold,p_a,p_b\n7,0,nan,0.5\n", "damaged"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "runs" / "oof.csv"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError, match=reason) as caught:
        read_oof(path, TABLE, "ab", "one_class")
    assert "RUN=runs" in str(caught.value)
    assert "rm " in str(caught.value)


def test_test_predictions_are_mapped_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "test_predictions.npy"
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    save_test(path, values)
    read = load_test(path, 3, 2)
    assert isinstance(read, np.memmap)
    np.testing.assert_array_equal(read, values)
    with pytest.raises(UserError, match=r"holds float32 \(3, 2\) instead of float32 \(4, 2\)"):
        load_test(path, 4, 2)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="damaged"):
        load_test(path, 3, 2)
    with pytest.raises(UserError, match="missing"):
        load_test(tmp_path / "none.npy", 3, 2)


def test_what_is_too_large_is_not_kept() -> None:
    assert fits(300_000, 200)
    assert not fits(MOST_STORED, 2)


def test_boxes_come_back_as_they_were_and_impossible_ones_are_refused(tmp_path: Path) -> None:
    values = torch.from_numpy(random_boxes(len(IDS), 0, 3)[0])
    path = tmp_path / "oof.csv"
    write_oof(path, Stored(np.array(IDS, object), FOLDS, values), "abc", "boxes")
    assert "box_99_ymax" in path.read_text().splitlines()[0]
    assert torch.equal(read_oof(path, TABLE, "abc", "boxes").predictions, values)
    with pytest.raises(UserError, match="boxes of no class, or of no confidence"):
        read_oof(path, TABLE, "ab", "boxes")
