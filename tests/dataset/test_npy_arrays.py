"""Images that are arrays of NumPy, and floating-point TIFFs: their axes, their values, and what is refused."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image

from pipelines.dataset.channels import PLANE
from pipelines.dataset.image_paths import image_files
from pipelines.dataset.images import decode, describe_image, holds_deep, open_image, shorter_side
from pipelines.dataset.packed import PackedImages
from pipelines.dataset.understood import _images
from pipelines.settings.data_sections import DataSettings
from pipelines.system.errors import UserError
from tests.support.image_sets import image_set
from tests.support.pictures import noise


def saved(path: Path, values: npt.NDArray[Any]) -> Path:
    np.save(path, values)
    return path


def pixels(path: Path, channels: int = 3, white: int = 0) -> npt.NDArray[np.uint8]:
    return np.asarray(open_image(path, "row", white, channels))


def problem(path: Path, channels: int = 3, white: int = 0) -> str:
    with pytest.raises(UserError) as error:
        open_image(path, "row", white, channels)
    return str(error.value)


@pytest.mark.parametrize(
    ("shape", "channels", "axes"),
    [
        ((6, 8), 1, "hw"),
        ((6, 8), 3, "hw"),
        ((6, 8, 1), 1, "hwc"),
        ((1, 6, 8), 1, "chw"),
        ((6, 8, 1), 3, "hwc"),
        ((1, 6, 8), 3, "chw"),
        ((6, 8, 3), 3, "hwc"),
        ((3, 6, 8), 3, "chw"),
        ((3, 6, 3), 3, "hwc"),
        ((6, 8, 2), 2, "hwc"),
        ((5, 6, 8), 5, "chw"),
    ],
)
def test_the_axis_of_the_channels(tmp_path: Path, shape: tuple[int, ...], channels: int, axes: str) -> None:
    values = noise(*shape)
    expected = values[..., None] if axes == "hw" else values if axes == "hwc" else values.transpose(1, 2, 0)
    found = pixels(saved(tmp_path / "a.npy", values), channels)
    assert (found.reshape(*found.shape[:2], -1) == expected).all()  # one channel becomes three equal ones
    assert found.reshape(*found.shape[:2], -1).shape[2] == channels


def test_colours_become_grey_by_their_luma_and_a_plane_by_their_largest(tmp_path: Path) -> None:
    values = noise(6, 8, 3)
    path = saved(tmp_path / "a.npy", values)
    assert (pixels(path, 1) == np.asarray(Image.fromarray(values).convert("L"))).all()
    assert (np.asarray(decode(path, "row", 0, PLANE)) == values.max(axis=2)).all()


@pytest.mark.parametrize(
    ("dtype", "values", "bytes_"),
    [
        ("uint8", [0, 1, 2], [0, 1, 2]),
        ("bool", [0, 1, 1], [0, 255, 255]),
        ("int64", [0, 1, 255], [0, 1, 255]),
        ("uint16", [0, 2048, 4095], [0, 128, 255]),
        ("uint16", [0, 32768, 65535], [0, 128, 255]),
        ("float32", [0, 0.5, 1], [0, 128, 255]),
        ("float16", [0, 0.25, 0.5], [0, 64, 128]),
        ("float64", [-0.0005, 0.5, 1.0005], [0, 128, 255]),
        ("float64", [0, 128, 255], [0, 128, 255]),
        ("float32", [0, 1.5, 3], [0, 128, 255]),
        ("float32", [-2, 0, 2], [0, 128, 255]),
        ("int16", [-1000, 0, 1000], [0, 128, 255]),
        ("uint32", [0, 50_000, 100_000], [0, 128, 255]),
        ("float32", [-3, -3, -3], [0, 0, 0]),
    ],
)
def test_values_are_scaled_by_the_stated_rule(
    tmp_path: Path, dtype: str, values: list[float], bytes_: list[int]
) -> None:
    path = saved(tmp_path / "a.npy", np.array([values], dtype))
    assert pixels(path, 1).tolist() == [bytes_]
    assert holds_deep(path) == (dtype != "uint8")


def test_a_white_is_that_of_all_arrays_and_bounds_them(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npy", np.array([[0.0, 1.0, 2.0]]))
    assert pixels(path, 1, white=4).tolist() == [[0, 64, 128]]
    assert "its values are 0 to 2, outside of 0 to data.white, 1" in problem(path, white=1)
    assert "outside of 0 to data.white" in problem(saved(tmp_path / "b.npy", np.array([[-1, 1]])), white=9)


@pytest.mark.parametrize(
    ("values", "channels", "text"),
    [
        (noise(6, 8, 4), 3, "set input.channels = 4"),
        (noise(4, 6, 8), 3, "set input.channels = 4"),
        (noise(6, 8), 2, "it has 1 channel, and input.channels is 2; set input.channels = 1"),
        (noise(70, 80, 90), 3, "its shape is (70, 80, 90), which has no axis of 3 channels (input.channels), last or"),
        (noise(5, 6, 8, 3), 3, "which is an array of 5 images. Write each to a file of its own"),
        (noise(7), 3, "it must be (height, width)"),
        (np.zeros((0, 4)), 3, "it must be (height, width)"),
        (np.array([[1.0, np.nan]]), 3, "not finite numbers"),
        (np.array([[1.0, np.inf]]), 3, "not finite numbers"),
        (np.array([["a"]]), 3, "values of the type <U1"),
        (np.array([[1j]]), 3, "values of the type complex128"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, values: npt.NDArray[Any], channels: int, text: str) -> None:
    assert text in problem(saved(tmp_path / "a.npy", values), channels)


def test_pickled_objects_and_damaged_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "it holds Python objects, which may run code" in problem(tmp_path / "a.npy")
    path = saved(tmp_path / "b.npy", noise(6, 8))
    path.write_bytes(path.read_bytes()[:-4])
    assert "cannot be read as an image" in problem(path)
    path.write_bytes(b"text")
    assert "it is not an array of NumPy" in problem(path) and not holds_deep(path)
    assert "the file is missing" in problem(tmp_path / "c.npy")


def test_the_advice_for_an_array_of_all_images_works(tmp_path: Path) -> None:
    values = noise(3, 6, 8)
    message = problem(saved(tmp_path / "all.npy", values[..., None]))
    command = message.split("from 0: ")[1].split(" Replace the file")[0].rstrip(".")
    subprocess.run(["bash", "-c", command.replace("python3", sys.executable)], check=True)
    assert not (tmp_path / "all.npy").exists()
    assert (pixels(tmp_path / "2.npy", 1) == values[2]).all()


def test_arrays_are_images_only_where_there_are_no_others(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    saved(tmp_path / "train/a.npy", noise(4, 4))
    assert image_files(tmp_path, "train", "data.train_images") == ["train/a.npy"]
    Image.fromarray(noise(4, 4)).save(tmp_path / "train/b.png")
    assert image_files(tmp_path, "train", "data.train_images") == ["train/b.png"]


def test_arrays_are_described_and_packed(tmp_path: Path) -> None:
    for number, most in enumerate((1.0, 2.5)):
        saved(tmp_path / f"{number}.npy", np.linspace(0, most, 96).reshape(2, 6, 8).astype(np.float32))
    described = describe_image(tmp_path / "1.npy", "row")
    assert (described.width, described.height, described.bits, described.maximum) == (8, 6, 32, 2.5)
    assert shorter_side(tmp_path / "0.npy") == 6
    text = _images(tmp_path, ["0.npy", "1.npy"], 0)
    assert "8 x 6 pixels; 32-bit array of 2 channels; values 0 to 2.5, white is 1 (1), 2.5 (1)" in text
    rows = pd.DataFrame({"id": ["0", "1"], "path": ["0.npy", "1.npy"]})
    images = image_set(rows, tmp_path, tmp_path / "cache", channels=2)
    assert images.value_rule == "values-2 0 channels 2"
    assert PackedImages(images, 4).whole().shape == (2, 4, 4, 2)
    assert "the value of white is 1 in 1, 2.5 in 1" in images.note_whites()
    assert "SET=data.white=3" in images.note_whites()
    fixed = image_set(rows, tmp_path, tmp_path / "cache", channels=2, data=DataSettings(white=3))
    assert PackedImages(fixed, 6).whole()[0].max() == 84 and not fixed.note_whites()
    saved(tmp_path / "1.npy", np.full((2, 6, 8), -1.5))
    assert "Some have negative values" in images.note_whites()


def test_a_tiff_of_floating_point_numbers_is_scaled_as_an_array(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(tmp_path / "a.tif")
    assert pixels(tmp_path / "a.tif", 1).tolist() == [[0, 128, 255]]
    assert pixels(tmp_path / "a.tif", 1, white=2).tolist() == [[0, 64, 128]]
    assert holds_deep(tmp_path / "a.tif")
    described = describe_image(tmp_path / "a.tif", "row")
    assert (described.bits, described.maximum, described.white) == (32, 1, 1)
