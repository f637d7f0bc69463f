"""Finding duplicates: each kind where it was planted, nothing where there is none, and n - 1 pairs of n equals."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from PIL import Image, ImageFilter

from pipelines.analysis import duplicates
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.splits import assign, read_groups
from pipelines.dataset.tables import write_csv
from pipelines.models.device import Hardware
from pipelines.settings.data_sections import SplitSettings
from pipelines.settings.layout import Layout
from pipelines.settings.running_sections import AuditSettings
from pipelines.system.errors import UserError

Picture = npt.NDArray[np.uint8]
FLOAT32 = Hardware(torch.device("cpu"), torch.float32)


def scene(seed: int, size: int = 48) -> Picture:
    """A picture with low frequencies, as photos have: noise of 6x6, enlarged, with finer noise on it."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((size, size), 3)
    fine = Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)).filter(ImageFilter.BoxBlur(1))
    return np.asarray(Image.blend(coarse, fine, 0.25))


class Shelf:
    """A split that is filled image by image."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root, "c")
        self.rows: list[tuple[str, str, str, str, int]] = []
        self.left_out = 0  # images, in the last search

    def put(self, split: str, content: Picture | bytes, label: str = "a", kind: str = "png") -> int:
        number = len(self.rows)
        path = f"images/{number}.{kind}"
        file = self.layout.raw / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            Image.fromarray(content).save(file, quality=80)
        self.rows.append((f"i{number}", path, "" if split == "test" else label, split, -1))
        return number

    def bytes_of(self, number: int) -> bytes:
        return (self.layout.raw / self.rows[number][1]).read_bytes()

    @property
    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=["id", "path", "label", "split", "fold"])

    def pairs(self, hardware: Hardware = FLOAT32, channels: int = 3, **audit: float) -> pd.DataFrame:
        how = AuditSettings(**audit)  # type: ignore[arg-type]
        table = self.table
        images = ImageSet(table, table, self.layout.raw, self.layout.cache, channels=channels)
        pixels, marks = duplicates.small_copies(images, "time")
        pairs, self.left_out = duplicates.find_pairs(images, pixels, marks, how, hardware)
        return pairs


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path)
    for seed in range(30):
        shelf.put(("train", "train", "valid", "test")[seed % 4], scene(seed))
    return shelf


def listed(pairs: pd.DataFrame) -> list[tuple[object, ...]]:
    return [tuple(row) for row in pairs[["kind", "first", "second", "between", "conflict"]].to_numpy().tolist()]


def test_nothing_where_there_is_nothing(shelf: Shelf) -> None:
    pairs = shelf.pairs()
    assert pairs.empty
    assert duplicates.groups_of(pairs, shelf.table).empty
    assert not duplicates.with_twin_in_train(pairs, shelf.table).any()
    assert duplicates.listing(pairs, shelf.table).empty
    assert duplicates.most_telling(pairs, 10).empty


def test_twins_of_one_channel_and_of_four(tmp_path: Path) -> None:
    for channels in (1, 4):
        shelf = Shelf(tmp_path / str(channels))
        pictures = [np.dstack([scene(seed), scene(seed + 50)[..., :1]]) for seed in range(6)]
        for picture in pictures:
            shelf.put("train", picture if channels == 4 else picture[..., 0])
        copied = pictures[1][:, ::-1] if channels == 4 else pictures[1][:, ::-1, 0]
        mirrored = shelf.put("valid", np.ascontiguousarray(copied))
        found = listed(shelf.pairs(channels=channels))
        assert [(kind, {one, other}) for kind, one, other, *_ in found] == [("mirrored", {1, mirrored})]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_kind_where_it_was_planted(shelf: Shelf, dtype: torch.dtype) -> None:
    same = shelf.put("valid", shelf.bytes_of(0), label="b")
    pixels = shelf.put("test", scene(1), kind="bmp")
    near = shelf.put("valid", scene(5), kind="jpg")
    mirrored = shelf.put("train", np.ascontiguousarray(scene(2)[:, ::-1]), label="b")
    brighter = shelf.put("test", (scene(8) * 0.8 + 40).astype(np.uint8))
    pairs = shelf.pairs(Hardware(torch.device("cpu"), dtype))
    assert sorted(listed(pairs)) == sorted(
        [
            ("bytes", 0, same, "train-valid", True),
            ("pixels", 1, pixels, "train-test", False),
            ("near", 5, near, "train-valid", False),
            ("near", 8, brighter, "train-test", False),
            ("mirrored", mirrored, 2, "train-valid", True),
        ]
    )
    twins = np.flatnonzero(duplicates.with_twin_in_train(pairs, shelf.table)).tolist()
    assert twins == sorted([2, same, pixels, near, brighter])
    groups = duplicates.groups_of(pairs, shelf.table)
    tied = {frozenset(part) for part in groups.groupby("group")["id"].agg(list)}
    assert tied == {frozenset({"i0", f"i{same}"}), frozenset({"i5", f"i{near}"}), frozenset({"i2", f"i{mirrored}"})}


@pytest.mark.parametrize("folds", [0, 3])
def test_a_split_by_the_groups_has_no_twins_across(shelf: Shelf, folds: int) -> None:
    """Whichever twins were found in the split before, those in the next one are the same."""
    for number in (0, 1, 4, 5, 8, 9):  # each three times more, in a chain: equal, near, mirrored
        equal = shelf.put("valid", shelf.bytes_of(number), label=str(number % 2))
        near = scene(number)
        shelf.put("train", near, kind="jpg")
        shelf.put("train", np.ascontiguousarray(near[:, ::-1]), label="b")
        assert shelf.bytes_of(equal) == shelf.bytes_of(number)
    table = shelf.table
    before = duplicates.groups_of(shelf.pairs(), table)
    assert before["group"].value_counts().tolist() == [4] * 6
    write_csv(shelf.layout.root / "groups.csv", before)
    labelled = table[table["split"] != "test"].drop(columns=["split", "fold"])
    labelled["group"] = read_groups(shelf.layout.root, "groups.csv", labelled["id"].tolist())
    for seed in range(2):
        rows = assign(labelled, SplitSettings(folds=folds, valid_ratio=0.3, seed=seed, group_file="groups.csv"))
        for fold in range(max(folds, 1)):
            valid = (rows["fold"] == fold) if folds else (rows["split"] == "valid")
            table.loc[rows.index, "split"] = np.where(valid, "valid", "train")
            shelf.rows = [tuple(row) for row in table.to_numpy().tolist()]
            pairs = shelf.pairs()
            assert {"train-train", "valid-valid"} == set(pairs["between"])
            pd.testing.assert_frame_equal(duplicates.groups_of(pairs, table), before)


def test_of_n_equal_images_n_less_one_pairs_are_listed(shelf: Shelf) -> None:
    copies = [shelf.put("test", shelf.bytes_of(4)) for _ in range(5)]
    copies += [shelf.put("train", scene(4), kind="bmp") for _ in range(3)]
    assert len(shelf.pairs()) == len(copies)


def test_a_twin_is_found_through_those_that_a_leader_stands_for(shelf: Shelf) -> None:
    """Valid 2 leads its equals and test rows; what is near it is a train row, so all of them have a twin there."""
    equal = shelf.put("test", shelf.bytes_of(2))
    near = shelf.put("train", scene(2), kind="jpg")
    pairs = shelf.pairs()
    assert sorted(listed(pairs)) == [("bytes", 2, equal, "valid-test", False), ("near", near, 2, "train-valid", False)]
    assert np.flatnonzero(duplicates.with_twin_in_train(pairs, shelf.table)).tolist() == [2, equal]


def test_equal_copies_within_train_are_no_twins_of_valid(shelf: Shelf) -> None:
    copy = shelf.put("train", shelf.bytes_of(0))
    twins = duplicates.with_twin_in_train(shelf.pairs(), shelf.table)
    assert np.flatnonzero(twins).tolist() == [0, copy]


def test_flat_images_match_exactly_only(shelf: Shelf) -> None:
    random = np.random.default_rng(0)
    flat = [np.full((40, 40, 3), 200, np.uint8) - random.integers(0, 2, (40, 40, 3), dtype=np.uint8) for _ in range(4)]
    for picture in flat:
        shelf.put("train", picture)
    again = shelf.put("valid", flat[2], kind="bmp")
    assert listed(shelf.pairs()) == [("pixels", again - 2, again, "train-valid", False)]


def test_tiny_images_match_exactly_only(shelf: Shelf) -> None:
    tiny = scene(200, size=15)
    changed = tiny.copy()
    changed[0, 0] += 1
    first, equal, near = shelf.put("train", tiny), shelf.put("valid", tiny, kind="bmp"), shelf.put("valid", changed)
    assert listed(shelf.pairs()) == [("pixels", first, equal, "train-valid", False)]
    assert shelf.left_out == 2  # the third is equal to the first, which stands for it
    enough = scene(200, size=16)
    changed = enough.copy()
    changed[0, 0] += 1
    one, two = shelf.put("train", enough), shelf.put("valid", changed)
    assert ("near", one, two, "train-valid", False) in listed(shelf.pairs())
    assert near not in shelf.pairs()["second"].tolist()


def test_thousands_of_tiny_images_that_are_nearly_equal_are_not_compared_with_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def counted(self: duplicates._Judge, one: Picture, two: Picture) -> npt.NDArray[np.bool_]:
        compared.append(len(one))
        return compare(self, one, two)

    compare = duplicates._Judge._alike
    monkeypatch.setattr(duplicates._Judge, "_alike", counted)
    count, random = 3000, np.random.default_rng(0)
    Image.fromarray(scene(1, size=8)).save(tmp_path / "tiny.png")
    noisy = scene(1, size=8).astype(np.int16) + random.integers(-6, 7, (count, 8, 8, 3), dtype=np.int16)
    pixels = noisy.clip(0, 255).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    row = {"path": "tiny.png", "label": "a", "split": "train", "fold": -1}
    table = pd.DataFrame([{"id": str(number), **row} for number in range(count)])
    images = ImageSet(table, table, tmp_path, tmp_path / "cache")
    marks = np.arange(count, dtype=np.uint64)
    pairs, left_out = duplicates.find_pairs(images, pixels, marks, AuditSettings(), FLOAT32)
    assert (len(pairs), left_out, sum(compared)) == (0, count, 0)


def test_too_many_pairs_name_the_settings_that_lower_their_number(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        shelf.put("valid", scene(number), kind="jpg")
    monkeypatch.setattr(duplicates, "MOST_PAIRS", 3)
    with pytest.raises(UserError, match=r"Lower audit\.distance or raise audit\.correlation"):
        shelf.pairs()
    assert len(shelf.pairs(distance=0, correlation=1)) <= 3


def test_large_images_that_are_equal_in_small_only_are_near_not_equal(shelf: Shelf) -> None:
    large = scene(100, size=320)
    changed = large.copy()
    changed[0, 0] += 1  # one pixel of the hundred that become one
    one, two = shelf.put("train", large), shelf.put("valid", changed)
    assert listed(shelf.pairs()) == [("near", one, two, "train-valid", False)]


def test_the_distance_and_the_correlation_are_bounds(shelf: Shelf) -> None:
    random = np.random.default_rng(0)
    noisy = (scene(3) + random.normal(0, 25, (48, 48, 3))).clip(0, 255).astype(np.uint8)
    shelf.put("test", noisy)
    (distance,) = shelf.pairs(distance=100)["distance"]
    assert 0 < distance <= 100
    assert len(shelf.pairs(distance=distance)) == 1
    assert shelf.pairs(distance=distance - 1).empty
    assert shelf.pairs(distance=100, correlation=0.9999).empty


def test_more_images_than_a_block_are_all_compared(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    near = [shelf.put("valid", scene(number), kind="jpg") for number in (0, 9, 20, 29)]
    mirrored = shelf.put("test", np.ascontiguousarray(scene(13)[:, ::-1]))
    whole = shelf.pairs()
    assert set(whole["second"]) | set(whole["first"]) == {0, 9, 20, 29, 13, *near, mirrored}
    monkeypatch.setattr(duplicates, "BLOCK", 7)
    by_place = ["first", "second"]
    pd.testing.assert_frame_equal(
        shelf.pairs().sort_values(by_place, ignore_index=True), whole.sort_values(by_place, ignore_index=True)
    )


def test_what_is_shown_first_are_conflicts_then_pairs_across_the_split() -> None:
    between = ["train-train"] * 50 + ["train-test"] * 50 + ["train-valid"] * 50
    pairs = pd.DataFrame({"between": between, "distance": range(150), "conflict": [True] * 3 + [False] * 147})
    shown = duplicates.most_telling(pairs, 20)
    assert len(shown) == 20
    assert shown["conflict"].tolist() == [True] * 3 + [False] * 17
    assert shown["between"].tolist()[3:] == ["train-valid"] * 9 + ["train-test"] * 4 + ["train-train"] * 4
    assert len(duplicates.most_telling(pairs, 1000)) == 150


def test_a_listing_holds_no_formulas() -> None:
    table = pd.DataFrame(
        {"id": ["=1+1", "@x"], "path": ["-1.png", "+2.png"], "label": ["a", ""], "split": ["train", "test"]}
    )
    pairs = pd.DataFrame({"kind": ["near"], "distance": [3], "first": [0], "second": [1], "conflict": [False]})
    (row,) = duplicates.listing(pairs, table).to_dict("records")
    assert (row["id_1"], row["path_1"], row["id_2"], row["path_2"]) == ("'=1+1", "'-1.png", "'@x", "'+2.png")
    assert (row["split_2"], row["label_2"], row["conflict"]) == ("test", "", "no")
