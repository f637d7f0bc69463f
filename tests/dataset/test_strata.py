"""Division of images with several labels or with numbers: proportions, sizes, and what it must not depend on."""

from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines.dataset.splits import assign
from pipelines.dataset.strata import NONE, strata_of
from pipelines.dataset.targets import join_labels, labels_in
from pipelines.settings.data_sections import SplitSettings
from pipelines.settings.metrics import NUMBERS, SEVERAL_LABELS
from pipelines.system.errors import UserError


def rows_of(texts: list[str], groups: list[str] | None = None) -> pd.DataFrame:
    ids = [f"{number}.png" for number in range(len(texts))]
    return pd.DataFrame({"id": ids, "label": texts, "group": groups or ""}, dtype=str)


def several(count: int, labels: int, seed: int) -> list[str]:
    """Return targets of `count` images: few labels are frequent, most are rare, and some images have none."""
    generator = np.random.default_rng(seed)
    chances = np.minimum(2 / (1 + np.arange(labels)), 0.6)
    flags = generator.random((count, labels)) < chances / 2
    return [join_labels(f"label {number}" for number in np.flatnonzero(row)) for row in flags]


def numbers(count: int, columns: int, seed: int) -> list[str]:
    """Return targets of `count` images, a tenth of the numbers missing."""
    generator = np.random.default_rng(seed)
    values = generator.lognormal(size=(count, columns)).round(2)
    return ["|".join("" if generator.random() < 0.1 else str(value) for value in row) for row in values]


def sizes(rows: pd.DataFrame, task: str) -> Counter[str]:
    return Counter(name for names in strata_of(rows["label"].tolist(), task) for name in names)


CASES = [
    (task, make(count, width, seed), settings)
    for seed, (count, width) in enumerate([(40, 3), (200, 12), (300, 60), (7, 2)])
    for task, make in ((SEVERAL_LABELS, several), (NUMBERS, numbers))
    for settings in ({"valid_ratio": 0.25}, {"valid_ratio": 0.13, "seed": 3}, {"folds": 3})
]
IDS = [f"{task}-{len(texts)}-{'-'.join(settings)}" for task, texts, settings in CASES]
LABELS_VALID = [1, 2, 3, 6, 13, 16]
NUMBERS_VALID = [1, 5, 11, 13, 22, 28]


@pytest.mark.parametrize(("task", "texts", "settings"), CASES, ids=IDS)
def test_any_targets_are_divided_in_proportion(task: str, texts: list[str], settings: dict[str, Any]) -> None:
    rows = rows_of(texts)
    split = assign(rows, SplitSettings(**settings), task)
    assert list(split["id"]) == list(rows["id"])
    folds = settings.get("folds", 0)
    homes = split["fold"] if folds else split["split"]
    for home in range(folds) if folds else ["valid"]:  # whichever validates, each label has train rows
        rest = {
            name for names, each in zip(strata_of(texts, task), homes, strict=True) if each != home for name in names
        }
        assert rest == sizes(rows, task).keys()
    if folds:
        placed = Counter(homes[homes >= 0])
        assert max(placed.values()) - min(placed.values()) <= 1
        assert list(split["split"] == "valid") == list(homes == 0)
    else:
        exact = len(rows) * Fraction(str(settings["valid_ratio"]))
        assert abs((homes == "valid").sum() - exact) <= Fraction(1, 2)
    shuffled = rows.sample(frac=1, random_state=1)
    again = assign(shuffled, SplitSettings(**settings), task)
    assert again.set_index("id").loc[rows["id"]]["fold"].tolist() == split["fold"].tolist()
    assert again.set_index("id").loc[rows["id"]]["split"].tolist() == split["split"].tolist()


@pytest.mark.parametrize(("task", "make"), [(SEVERAL_LABELS, several), (NUMBERS, numbers)])
@pytest.mark.parametrize("settings", [{"valid_ratio": 0.3}, {"folds": 4}], ids=["ratio", "folds"])
def test_no_group_is_divided(task: str, make: Any, settings: dict[str, Any]) -> None:
    texts = make(240, 6, seed=1)
    groups = [f"group {number}" for number in np.random.default_rng(2).integers(0, 40, len(texts))]
    rows = rows_of(texts, groups)
    split = assign(rows, SplitSettings(group_column="g", **settings), task)
    assert split.groupby("group")["split"].nunique().max() == 1
    assert split.groupby("group")["fold"].nunique().max() == 1
    share = 1 / settings["folds"] if "folds" in settings else settings["valid_ratio"]
    valid = split[split["split"] == "valid"]
    assert len(valid) / len(rows) == pytest.approx(share, abs=0.05)
    for name, count in sizes(rows, task).most_common(5):
        assert sizes(valid, task)[name] / count == pytest.approx(share, abs=0.12)
    shuffled = rows.sample(frac=1, random_state=1)
    again = assign(shuffled, SplitSettings(group_column="g", **settings), task).set_index("id")
    assert again.loc[rows["id"]]["split"].tolist() == split["split"].tolist()


def test_frequent_labels_are_near_their_share_and_more_so_than_by_chance() -> None:
    rows = rows_of(several(2000, 20, seed=0))
    split = assign(rows, SplitSettings(folds=5), SEVERAL_LABELS)
    worst = max(
        abs(sizes(split[split["fold"] == fold], SEVERAL_LABELS)[name] - count / 5)
        for fold in range(5)
        for name, count in sizes(rows, SEVERAL_LABELS).items()
    )
    assert worst <= 6  # by chance, a label of 1,200 images would be off by 14 in each fold


def test_a_label_of_one_image_stays_in_train_and_one_of_two_is_on_both_sides() -> None:
    texts = ["a|lonely", *["a"] * 18, *["a|pair"] * 2, "b"]
    for settings in (SplitSettings(valid_ratio=0.9), SplitSettings(folds=2)):
        split = assign(rows_of(texts), settings, SEVERAL_LABELS)
        parts = split.groupby("label")["split"].agg(sorted).to_dict()
        assert parts["a|lonely"] == parts["b"] == ["train"]
        assert parts["a|pair"] == ["train", "valid"]
        assert (split["fold"] == -1).sum() == (2 if settings.folds else len(texts))


def test_a_split_never_changes_between_versions() -> None:
    """The expected ids are recorded: a change would force every user to train again."""
    labels = assign(rows_of(several(30, 5, seed=0)), SplitSettings(valid_ratio=0.2), SEVERAL_LABELS)
    values = assign(rows_of([str(n * n) for n in range(30)]), SplitSettings(valid_ratio=0.2), NUMBERS)
    assert [int(name[:-4]) for name in labels["id"][labels["split"] == "valid"]] == LABELS_VALID
    assert [int(name[:-4]) for name in values["id"][values["split"] == "valid"]] == NUMBERS_VALID


def test_strata_of_labels_and_numbers() -> None:
    assert strata_of(["a|b", "", "b"], SEVERAL_LABELS) == [["a", "b"], [NONE], ["b"]]
    assert labels_in("", SEVERAL_LABELS) == []
    grades = strata_of(["2", "0", "", "2", "1.0", "1"] * 4, NUMBERS)[:6]
    assert grades == [["0:2"], ["0:0"], ["0:"], ["0:2"], ["0:1"], ["0:1"]]
    ranges = [name for ((name,),) in zip(strata_of([str(n) for n in range(100)], NUMBERS), strict=True)]
    assert Counter(ranges) == {f"0:{number}": 10 for number in range(10)}
    mostly = [name for ((name,),) in zip(strata_of(["0"] * 60 + [str(n) for n in range(1, 41)], NUMBERS), strict=True)]
    assert Counter(mostly) == {"0:3": 60, "0:6": 10, "0:7": 10, "0:8": 10, "0:9": 10}
    assert strata_of(["1|", "|2"], NUMBERS) == [["0:0", "1:"], ["0:", "1:0"]]


@pytest.mark.parametrize("task", [SEVERAL_LABELS, NUMBERS])
def test_equal_per_class_needs_one_class(task: str) -> None:
    with pytest.raises(UserError, match=f"competition.task is {task}: set split.method=stratified"):
        assign(rows_of(["1", "2"] * 10), SplitSettings(method="equal-per-class"), task)
    assert set(assign(rows_of(["1", "2"] * 10), SplitSettings(), task)["split"]) == {"train", "valid"}


@pytest.mark.parametrize(
    ("task", "texts", "settings", "message"),
    [
        (SEVERAL_LABELS, ["a", "b", "c|d"], {}, "each label has a single image, which stays in train"),
        (SEVERAL_LABELS, ["a"] * 4, {}, r"raise split.valid_ratio, now 0.1, for example to 0.25"),
        (NUMBERS, ["1", "2", "3"], {}, r"raise split.valid_ratio, now 0.1, for example to 0.33"),
        (NUMBERS, ["1", "2", "3"], {"folds": 100_000_000}, r"Fold . of 100000000 would be empty with 3 rows"),
    ],
)
def test_what_cannot_be_divided(task: str, texts: list[str], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        assign(rows_of(texts), SplitSettings(**settings), task)


def test_the_advised_ratio_works() -> None:
    for task, texts, ratio in ((SEVERAL_LABELS, ["a"] * 4, 0.25), (NUMBERS, ["1", "2", "3"], 0.33)):
        split = assign(rows_of(texts), SplitSettings(valid_ratio=ratio), task)
        assert (split["split"] == "valid").sum() == 1
