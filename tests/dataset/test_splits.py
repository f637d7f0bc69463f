"""Dividing rows into train and valid: each rule, each error, and what a split must not depend on."""

import tracemalloc
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipelines.dataset.splits import assign, read_split_csv, with_test, write_split_csv
from pipelines.settings.data_sections import SplitSettings
from pipelines.system.errors import UserError


def rows_of(groups: str = "", /, **sizes: int) -> pd.DataFrame:
    """Return rows with ids 1 to n and the given number of each class; `groups` has one letter per row."""
    labels = [label for label, size in sizes.items() for _ in range(size)]
    ids = [str(number) for number in range(1, len(labels) + 1)]
    paths = [f"train/{name}.png" for name in ids]
    return pd.DataFrame({"id": ids, "path": paths, "label": labels, "group": list(groups) or ""}, dtype=str)


def valid_sizes(rows: pd.DataFrame, **settings: Any) -> dict[str, int]:
    """Return the number of valid rows of each class, including zeros; check that each class keeps a train row."""
    result = assign(rows, SplitSettings(**settings))
    assert list(result["id"]) == list(rows["id"])
    assert set(result["label"][result["split"] == "train"]) == set(rows["label"])
    counts = Counter(result["label"][result["split"] == "valid"])
    return {label: counts[label] for label in sorted(set(rows["label"]))}


def chosen(rows: pd.DataFrame, **settings: Any) -> dict[str, tuple[str, int]]:
    """Return {id without extension: (split, fold)}."""
    result = assign(rows, SplitSettings(**settings))
    names = [name.removesuffix(".png").removesuffix(".JPG") for name in result["id"]]
    return dict(zip(names, zip(result["split"], result["fold"], strict=True), strict=True))


ALL_METHODS: list[dict[str, Any]] = [
    {},
    {"method": "equal-per-class"},
    {"folds": 3},
    {"group_column": "g", "valid_ratio": 0.3},
    {"group_column": "g", "folds": 3},
]


@pytest.mark.parametrize("settings", ALL_METHODS)
def test_a_split_depends_on_ids_and_seed_alone(settings: dict[str, Any]) -> None:
    groups = "aabbccddeeff" + "ghijkl" * 3 if "group_column" in settings else ""
    rows = rows_of(groups, cat=12, dog=18)
    expected = chosen(rows, **settings)
    shuffled = rows.sample(frac=1, random_state=1)
    assert chosen(shuffled, **settings) == expected
    for extension in (".png", ".JPG"):
        assert chosen(rows.assign(id=rows["id"] + extension), **settings) == expected
    assert chosen(rows, seed=1, **settings) != expected


def test_a_split_never_changes_between_versions() -> None:
    """The expected ids are recorded: a change would force every user to train again."""
    result = assign(rows_of(cat=10, dog=10), SplitSettings(valid_ratio=0.2))
    assert list(result["id"][result["split"] == "valid"]) == ["4", "7", "15", "20"]


def test_one_text_in_two_unicode_forms_is_one_id() -> None:
    names = [f"{number}ä" for number in range(20)]
    splits = []
    for form in ("NFC", "NFD"):
        ids = [unicodedata.normalize(form, name) for name in names]
        splits.append(list(assign(rows_of(a=20).assign(id=ids), SplitSettings())["split"]))
    assert splits[0] == splits[1]


# Stratified


def test_each_class_in_proportion() -> None:
    assert valid_sizes(rows_of(a=100, b=50, c=10)) == {"a": 10, "b": 5, "c": 1}


def test_the_total_is_the_rounded_ratio_and_largest_remainders_get_the_rest() -> None:
    assert valid_sizes(rows_of(a=14, b=17, c=19)) == {"a": 1, "b": 2, "c": 2}
    sizes = valid_sizes(rows_of(**{f"class{number}": 3 for number in range(100)}))
    assert sum(sizes.values()) == 30
    assert max(sizes.values()) == 1


def test_a_class_keeps_its_last_train_row_at_any_ratio() -> None:
    assert valid_sizes(rows_of(a=1, b=2, c=30), valid_ratio=0.9) == {"a": 0, "b": 1, "c": 29}
    assert valid_sizes(rows_of(a=2, b=2), valid_ratio=0.99) == {"a": 1, "b": 1}


# Equal per class, the textbook's


@pytest.mark.parametrize(
    ("rarest", "ratio", "share"),
    [(30, 0.1, 3), (100, 0.29, 29), (10, 0.3, 3), (66, 0.1, 6), (5, 0.1, 1), (2, 0.9, 1), (1, 0.5, 1)],
)
def test_equal_shares_by_the_rarest_class(rarest: int, ratio: float, share: int) -> None:
    sizes = valid_sizes(rows_of(rare=rarest, common=200), method="equal-per-class", valid_ratio=ratio)
    assert sizes == {"rare": min(share, rarest - 1), "common": share}


# Folds


def test_folds_differ_by_at_most_one_row_and_each_class_is_spread() -> None:
    rows = rows_of(a=7, b=8, c=9, d=2)
    result = assign(rows, SplitSettings(folds=5))
    sizes = Counter(result["fold"])
    assert sorted(sizes) == [0, 1, 2, 3, 4]
    assert max(sizes.values()) - min(sizes.values()) <= 1
    for label in "abcd":
        of_class = [Counter(result["fold"][result["label"] == label])[fold] for fold in range(5)]
        assert max(of_class) - min(of_class) <= 1
    assert list(result["split"] == "valid") == list(result["fold"] == 0)


def test_a_single_image_trains_in_every_fold() -> None:
    rows = rows_of(a=6, only=1)
    result = assign(rows, SplitSettings(folds=2)).set_index("label")
    assert (result.loc["only", "fold"], result.loc["only", "split"]) == (-1, "train")


# Groups


@pytest.mark.parametrize("settings", [{"valid_ratio": 0.25}, {"valid_ratio": 0.6}, {"folds": 4}])
def test_groups_stay_whole_and_sizes_near_their_shares(settings: dict[str, Any]) -> None:
    letters = "".join(letter * size for letter, size in zip("abcdefghijklmnop", [1, 2, 3, 4] * 4, strict=True))
    rows = rows_of(letters, cat=20, dog=20)
    result = assign(rows, SplitSettings(group_column="g", **settings))
    assert result.groupby("group")[["split", "fold"]].nunique().to_numpy().max() == 1
    share = settings.get("valid_ratio", 0.25)
    assert abs((result["split"] == "valid").sum() - share * 40) <= 2
    for fold in range(settings.get("folds", 0)):
        assert set(result["label"][result["fold"] != fold]) == {"cat", "dog"}


def test_a_class_within_one_group_always_trains() -> None:
    rows = rows_of("aabbccddeeff" + "zzz", cat=12, rare=3)
    folds = assign(rows, SplitSettings(group_column="g", folds=3))
    assert set(folds["fold"][folds["label"] == "rare"]) == {-1}
    assert valid_sizes(rows, group_column="g", valid_ratio=0.4)["rare"] == 0


# Refusals


@pytest.mark.parametrize(
    ("rows", "settings", "expected"),
    [
        (rows_of(a=3), {}, "0 of 3 labelled rows would be valid, which leaves nothing to validate on"),
        (rows_of(a=1, b=1), {"method": "equal-per-class"}, "each class has a single image, which stays in train"),
        (rows_of(a=3), {"folds": 5}, "Fold 3 of 5 would be empty"),
        (rows_of("xyxy", a=4), {"folds": 3, "group_column": "g"}, "2 groups in column 'g' cannot fill 3 parts"),
        (rows_of("xxxx", a=4), {"group_column": "g"}, "1 groups in column 'g' cannot fill 2 parts"),
        (rows_of("xyxy", a=4), {"method": "equal-per-class", "group_column": "g"}, "split.group_column exclude"),
        (rows_of(a=4), {"method": "equal-per-class", "folds": 2}, "split.folds exclude"),
    ],
)
def test_refusals(rows: pd.DataFrame, settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        assign(rows, SplitSettings(**settings))
    assert expected in str(caught.value)


def test_the_ratio_that_a_refusal_names_works() -> None:
    rows = rows_of(a=2, b=1)
    with pytest.raises(UserError, match=r"raise split\.valid_ratio, now 0\.1, for example to 0\.33") as caught:
        assign(rows, SplitSettings())
    ratio = float(str(caught.value).rpartition(" to ")[2].rstrip("."))
    assert (assign(rows, SplitSettings(valid_ratio=ratio))["split"] == "valid").sum() == 1


def test_groups_that_cannot_be_divided_name_their_setting() -> None:
    rows = rows_of("xy", a=1, b=1)
    with pytest.raises(UserError, match=r"groups are too few or too large.*Empty split\.group_column") as caught:
        assign(rows, SplitSettings(group_column="g"))
    assert "0 of 2 labelled rows would be valid" in str(caught.value)


# The CSV


STRANGE = ["007", "NA", "nan", "", " a ", "a,b", 'a "b"', "two\nlines", "a\r\nb", "a\rb", "ä/é 犬", "'", "#1"]


def test_split_csv_is_read_back_identical(tmp_path: Path) -> None:
    number = len(STRANGE)
    labelled = pd.DataFrame(
        {"id": STRANGE, "path": STRANGE[::-1], "label": STRANGE, "split": "train", "fold": range(number), "group": "g"}
    )
    test = pd.DataFrame({"id": ["1"], "path": ["test/1.png"]})
    rows = with_test(labelled, test)
    write_split_csv(tmp_path / "split.csv", rows)
    back = read_split_csv(tmp_path / "split.csv")
    assert back.to_numpy().tolist() == rows.to_numpy().tolist()
    assert list(back.columns) == ["id", "path", "label", "split", "fold"]
    assert back.to_numpy().tolist()[-1] == ["1", "test/1.png", "", "test", -1]


def test_split_csv_is_plain_utf8_with_unix_line_ends(tmp_path: Path) -> None:
    labelled = assign(rows_of(hündchen=2), SplitSettings(valid_ratio=0.5))
    write_split_csv(tmp_path / "split.csv", with_test(labelled, labelled[["id", "path"]][:0]))
    lines = (tmp_path / "split.csv").read_bytes().decode("utf-8").split("\n")
    assert lines[0] == "id,path,label,split,fold"
    assert lines[1] in ("1,train/1.png,hündchen,train,-1", "1,train/1.png,hündchen,valid,-1")
    assert [path.name for path in tmp_path.iterdir()] == ["split.csv"]


def test_a_row_of_the_split_takes_at_most_300_bytes(tmp_path: Path) -> None:
    count = 60_000
    rows = "".join(
        f"{number},train/{number}.png,{number % 120},{'train' if number % 10 else 'valid'},{number % 5}\n"
        for number in range(10**6, 10**6 + count)
    )
    (tmp_path / "split.csv").write_text(f"id,path,label,split,fold\n{rows}")
    read_split_csv(tmp_path / "split.csv")  # what is imported and kept for all tables is not counted
    tracemalloc.start()
    try:
        table = read_split_csv(tmp_path / "split.csv")
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(table) == count
    assert held / count < 200
    assert peak / count < 300


def test_missing_or_foreign_split_csv(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"split\.csv is missing\. First: make split COMP=x"):
        read_split_csv(tmp_path / "split.csv", "make split COMP=x")
    (tmp_path / "split.csv").write_text("id,label\n1,a\n")
    with pytest.raises(UserError, match=r"is not a split\. Remove it and run `make split COMP=x`"):
        read_split_csv(tmp_path / "split.csv", "make split COMP=x")


def test_a_million_folds_are_refused_at_once() -> None:
    rows = pd.DataFrame({"id": [str(number) for number in range(200)], "label": ["a", "b"] * 100, "group": ""})
    with pytest.raises(UserError, match="Fold 200 of 100000000 would be empty"):
        assign(rows, SplitSettings(folds=100_000_000))
