"""Images that are rows of numbers in a table become files, and everything else uses them as other images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image

from pipelines import split
from pipelines.dataset import labels, test_set
from pipelines.dataset.archive_layout import missing_names
from pipelines.dataset.image_set import all_images
from pipelines.dataset.packed import PackedImages
from pipelines.dataset.pixel_tables import as_files
from pipelines.dataset.raw_data import RawData
from pipelines.dataset.split_record import require_split, split_is_made
from pipelines.dataset.splits import read_split_csv
from pipelines.settings.layout import Layout
from pipelines.settings.loading import load_settings, merge
from pipelines.settings.schema import Settings
from pipelines.system import files
from pipelines.system.errors import UserError
from tests.support.pictures import noise

DIGITS = noise(6, 4, 4)
DATA = {"labels": "train.csv", "test_table": "test.csv", "pixel_columns": "pixel*"}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path, "x")
    layout.raw.mkdir(parents=True)
    return layout


def settings(**data: Any) -> Settings:
    return merge(Settings("x"), {"data": {**DATA, **data}}, "here")


def columns(values: npt.NDArray[Any], names: list[str] | None = None) -> pd.DataFrame:
    flat = values.reshape(len(values), -1)
    return pd.DataFrame(flat, columns=names or [f"pixel{number}" for number in range(flat.shape[1])])


def write(layout: Layout, train: pd.DataFrame, test: pd.DataFrame | None = None) -> None:
    train.to_csv(layout.raw / "train.csv", index=False)
    if test is not None:
        test.to_csv(layout.raw / "test.csv", index=False)


def digits(layout: Layout) -> None:
    """Write tables as digit-recognizer has them: without ids."""
    train = columns(DIGITS[:4])
    train.insert(0, "label", list("abab"))
    write(layout, train, columns(DIGITS[4:]))
    (layout.raw / "sample.csv").write_text("ImageId,Label\n1,0\n2,0\n")


def image(layout: Layout, name: str) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(layout.images / name))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def problem(layout: Layout, **data: Any) -> str:
    with pytest.raises(UserError) as error:
        as_files(layout, settings(**data))
    assert not layout.images.exists()
    return str(error.value)


def test_rows_of_many_columns_are_images_named_by_their_numbers(layout: Layout) -> None:
    digits(layout)
    found, note = as_files(layout, settings(sample_submission="sample.csv"))
    assert (
        not note
        and (image(layout, "train/1.png") == DIGITS[0]).all()
        and (image(layout, "test/2.png") == DIGITS[5]).all()
    )
    assert (layout.images / "train.csv").read_text() == "id,label\n1,a\n2,b\n3,a\n4,b\n"
    rows = labels.labelled_rows(RawData(layout.raw, found.data))
    assert rows["path"].tolist() == [f"../images/train/{number}.png" for number in range(1, 5)]
    assert rows["label"].tolist() == list("abab")
    tests, unlisted = test_set.test_rows(RawData(layout.raw, found.data))
    assert tests["id"].tolist() == ["1", "2"] and tests["path"].tolist()[1] == "../images/test/2.png" and not unlisted


def test_spaces_around_the_names_of_columns_do_not_count(layout: Layout) -> None:
    (layout.raw / "train.csv").write_text("emotion, Usage, pixels\n3,Training,0 1 2 3\n4,Training,4 5 6 7\n")
    found, _ = as_files(layout, settings(pixel_columns="pixels", test_table=""))
    assert (layout.images / "train.csv").read_text() == "id,emotion,Usage\n1,3,Training\n2,4,Training\n"
    assert image(layout, "train/2.png").tolist() == [[4, 5], [6, 7]]
    assert found.data.labels == "../images/train.csv"


def test_settings_without_pixels_write_nothing(layout: Layout) -> None:
    plain = Settings("x")
    assert as_files(layout, plain) == (plain, "") and not layout.images.exists()


@pytest.mark.parametrize(
    ("name", "text", "shape"),
    [
        ("one cell with spaces", lambda cells: " ".join(map(str, cells)), ()),
        ("a list", lambda cells: str(list(map(int, cells))), (4, 4)),
        ("commas", lambda cells: ",".join(map(str, cells)), ()),
    ],
)
def test_one_cell_holds_the_numbers(
    layout: Layout, name: str, text: Callable[[Any], str], shape: tuple[int, ...]
) -> None:
    cells = [text(digit.ravel()) for digit in DIGITS]
    train = pd.DataFrame({"emotion": list("abab"), "pixels": cells[:4], "Usage": "Training"})
    write(layout, train, pd.DataFrame({"pixels": cells[4:]}))
    found, _ = as_files(layout, settings(pixel_columns="pixels", pixel_shape=shape))
    assert (image(layout, "train/4.png") == DIGITS[3]).all() and (image(layout, "test/1.png") == DIGITS[4]).all(), name
    assert labels.labelled_rows(RawData(layout.raw, found.data))["label"].tolist() == list("abab")
    assert test_set.test_rows(RawData(layout.raw, found.data))[0]["id"].tolist() == ["1", "2"]


def test_ids_are_those_of_a_column_where_there_is_one(layout: Layout) -> None:
    train, test = columns(DIGITS[:4]), columns(DIGITS[4:])
    train.insert(0, "Image_ID", ["t 1", "t2", "t3", "t4"])
    train.insert(1, "label", list("abab"))
    test.insert(0, "key", [7, 9])
    write(layout, train, test)
    as_files(layout, settings())
    assert names(layout.images / "train") == ["t 1.png", "t2.png", "t3.png", "t4.png"]
    assert names(layout.images / "test") == ["1.png", "2.png"]
    as_files(layout, settings(id_column="key"))
    assert names(layout.images / "test") == ["7.png", "9.png"]


def test_several_cells_are_channels_and_json_is_read(layout: Layout) -> None:
    bands = np.random.default_rng(0).normal(-20, 5, (3, 2, 16)).round(3)
    records = [
        {
            "id": f"s{n}",
            "band_1": bands[n, 0].tolist(),
            "band_2": bands[n, 1].tolist(),
            "angle": "na",
            "is_iceberg": n % 2,
        }
        for n in range(3)
    ]
    (layout.raw / "train.json").write_text(json.dumps(records))
    data = {"labels": "train.json", "test_table": "", "pixel_columns": "band_*", "label_column": "is_iceberg"}
    found, note = as_files(layout, settings(**data))
    lowest, highest = bands.min(), bands.max()
    expected = ((bands[1].T.reshape(4, 4, 2) - lowest) * (255 / (highest - lowest))).round()
    written = np.load(layout.images / "train/s1.npy")
    assert np.abs(written.astype(float) - expected).max() <= 1  # float32 in between
    assert note == f"Pixels from {lowest:g} to {highest:g} become black to white."
    rows = labels.labelled_rows(RawData(layout.raw, found.data))
    assert rows["label"].tolist() == ["0", "1", "0"] and rows["path"].tolist()[0] == "../images/train/s0.npy"


@pytest.mark.parametrize(("shape", "axes"), [((4, 4, 3), (0, 1, 2)), ((3, 4, 8), (1, 2, 0))])
def test_colours_have_a_shape(layout: Layout, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    colours = noise(2, *shape)
    train = columns(colours)
    train["label"] = ["a", "b"]
    write(layout, train)
    as_files(layout, settings(test_table="", pixel_shape=shape))
    assert (image(layout, "train/2.png") == colours[1].transpose(axes)).all()


@pytest.mark.parametrize(
    ("values", "white", "expected"),
    [
        ([0, 1, 1, 0], 0, [0, 255, 255, 0]),
        ([0, 16, 8, 0], 0, [0, 16, 8, 0]),
        ([0, 16, 8, 0], 16, [0, 255, 128, 0]),
        ([0.0, 0.5, 1.0, 0.25], 0, [0, 128, 255, 64]),
        ([0.0, 1.0, 2.0, 255.0], 0, [0, 1, 2, 255]),
        ([0, 4000, 2048, 0], 0, [0, 249, 128, 0]),
        ([-1, 0, 1, 1], 0, [0, 128, 255, 255]),
    ],
)
def test_values_have_one_scale_in_all_images(
    layout: Layout, values: list[float], white: int, expected: list[int]
) -> None:
    dark = np.zeros((1, 4)) if min(values) >= 0 else np.full((1, 4), -1.0)
    table = columns(np.concatenate([np.array([values]), dark]).astype(np.asarray(values).dtype))
    table["label"] = ["a", "b"]
    write(layout, table)
    as_files(layout, settings(test_table="", white=white))
    assert image(layout, "train/1.png").ravel().tolist() == expected
    assert not image(layout, "train/2.png").any()


def test_columns_sorted_as_text_are_in_the_order_of_their_numbers(layout: Layout) -> None:
    digit = noise(1, 16)
    table = columns(digit, [f"pixel{number}" for number in range(16)])
    table = table[sorted(map(str, table))]
    table["label"] = "a"
    write(layout, table)
    as_files(layout, settings(test_table=""))
    assert (image(layout, "train/1.png").ravel() == digit).all()
    shuffled = ["pixel3", "pixel0", "pixel2", "pixel1"]
    write(layout, columns(digit[:, :4], shuffled).assign(label="a"))
    as_files(layout, settings(test_table=""))
    assert (image(layout, "train/1.png").ravel() == digit[0, :4]).all()


def test_semicolons_indexes_and_compression(layout: Layout) -> None:
    table = columns(DIGITS[:4]).assign(label=list("abab"))
    table.to_csv(layout.raw / "train.csv.gz", sep=";")
    found, _ = as_files(layout, settings(labels="train.csv.gz", test_table=""))
    assert (image(layout, "train/4.png") == DIGITS[3]).all()
    assert labels.labelled_rows(RawData(layout.raw, found.data))["label"].tolist() == list("abab")


@pytest.mark.parametrize(
    ("text", "data", "expected"),
    [
        ("label,p\na,1\n", {}, "no column is named like 'pixel*' (data.pixel_columns). It has: 'label', 'p'."),
        ("label,pixel0,pixel1\na,1,2\n", {}, "an image has 2 numbers, which are no square"),
        (f"label,pixel\na,{' '.join('1' * 12)}\n", {"pixel_columns": "pixel"}, "such as [2, 2, 3]"),
        ("label,pixel\na,1 2 3 4\n", {"pixel_shape": (3, 2)}, "4 numbers, which do not fill data.pixel_shape, [3, 2]"),
        ("label,pixel\na,1 2 3 4\nb,1 2 3\n", {}, "line 3, column pixel: 3"),
        ("label,pixel\na,1 2 3 4\nb,1 x 3 4\n", {}, "line 3, column pixel: 1"),
        (
            "label,pixel0,pixel1,pixel2,pixel3\na,1,2,3,4\nb,1,2,,4\n",
            {},
            "pixels that are no numbers, 1 in all: line 3, column pixel2: ''",
        ),
        ("label,pixel0,pixel1,pixel2,pixel3\na,1,2,3,inf\n", {}, "not finite numbers"),
        ("id,label,pixel\n1,a,1 2 3 4\n1,b,1 2 3 4\n", {}, "ids listed twice, 1 in all: line 3: '1', first on line 2"),
        ("id,label,pixel\na/b,a,1 2 3 4\n", {}, "ids that cannot name a file, 1 in all: line 2: 'a/b'"),
        ("label,pixel\na,1 2 3 4\n", {"id_column": "key"}, "no column 'key', which data.id_column names"),
        ("label,pixel\na,1 2 3 400\n", {"white": 300}, "values are 1 to 400, outside of 0 to data.white, 300"),
        ("label,pixel\n", {}, "has no rows"),
        ("", {}, "cannot be read as a table"),
        ("label,pixel\n", {"labels": ""}, "so set data.labels to their table too"),
        ("label,pixel\n", {"labels": "absent.csv"}, "There is no file"),
    ],
)
def test_tables_that_hold_no_images_are_refused(layout: Layout, text: str, data: dict[str, Any], expected: str) -> None:
    (layout.raw / "train.csv").write_text(text)
    assert expected in problem(layout, test_table="", **data)


def test_an_archive_of_tables_needs_no_folders_of_images(layout: Layout) -> None:
    digits(layout)
    assert not missing_names(layout.raw, settings().data)
    assert missing_names(layout.raw, settings(pixel_columns="").data) == ["train_images", "test_images"]


def test_the_stages_use_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    layout = Layout(tmp_path, "x")
    layout.raw.mkdir(parents=True)
    train = columns(noise(40, 4, 4)).assign(label=[*"ab"] * 20)
    write(layout, train, columns(DIGITS[4:]))
    (layout.raw / "sample.csv").write_text("ImageId,Label\n1,a\n2,b\n")
    (tmp_path / "x.toml").write_text(
        '[data]\nlabels = "train.csv"\nlabel_column = "label"\ntest_table = "test.csv"\npixel_columns = "pixel*"\n'
        'sample_submission = "sample.csv"\n[input]\nchannels = 1\nsize = 4\n'
    )
    split.main(["x.toml"])
    printed = capsys.readouterr().out
    assert "PNG; 4 x 4 pixels; 8-bit grey" in printed and "Next: make train" in printed
    chosen = load_settings("x.toml")
    assert split_is_made(layout, chosen, "make split")
    with pytest.raises(UserError, match=r"other settings: data\.white: 100 now, 0 then"):
        split_is_made(layout, load_settings("x.toml", overrides=["data.white=100"]), "make split")
    assert (layout.tree / "train/a").is_dir() and len(list((layout.tree / "train_valid").rglob("*.png"))) == 40
    images = all_images(chosen, layout, read_split_csv(layout.split_csv), "make split")
    packed = PackedImages(images.part(test=True), 4).whole()
    assert (packed[..., 0] == DIGITS[4:]).all()
    monkeypatch.setattr("builtins.print", lambda *texts: None)
    columns(DIGITS[:2]).to_csv(layout.raw / "test.csv", index=False)
    with pytest.raises(UserError, match=r"test\.csv has changed.*rm -r .*data/x/images.* && make split"):
        require_split(layout, chosen, "make split")
    columns(DIGITS[4:]).to_csv(layout.raw / "test.csv", index=False)
    require_split(layout, chosen, "make split")
    layout.images.rename(tmp_path / "gone")
    with pytest.raises(UserError, match=r"data/x/images is missing\. First: make split"):
        require_split(layout, chosen, "make split")
    split.main(["x.toml"])
    assert layout.images.is_dir()


def test_many_images_are_written_into_numbered_folders(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_IN_FOLDER", 2)
    digits(layout)
    given = settings(sample_submission="sample.csv", label_column="label")
    found, _ = as_files(layout, given)
    assert names(layout.images / "train") == ["0", "1"] and names(layout.images / "test") == ["1.png", "2.png"]
    assert names(layout.images / "train/1") == ["3.png", "4.png"]
    assert (image(layout, "train/1/3.png") == DIGITS[2]).all()
    source = RawData(layout.raw, found.data, found.split, found.competition)
    rows = labels.labelled_rows(source)
    assert rows["path"].tolist() == [f"../images/train/{number // 2}/{number + 1}.png" for number in range(4)]
    assert rows["id"].tolist() == ["1", "2", "3", "4"]
