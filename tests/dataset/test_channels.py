"""Images of one, two, three and more channels, in one file or in several, from the file to the packed array."""

import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from PIL import Image

from pipelines.dataset import labels, test_set
from pipelines.dataset.batches import open_source
from pipelines.dataset.channels import as_colours
from pipelines.dataset.fingerprints import fingerprints, undecodable
from pipelines.dataset.image_paths import common_name, files_at, files_of, image_files, images_by_id, join_channels
from pipelines.dataset.image_reader import Reader
from pipelines.dataset.images import crop, describe_image, fit, holds_deep, open_image, shorter_side
from pipelines.dataset.packed import PackedImages
from pipelines.dataset.raw_data import RawData
from pipelines.dataset.split_record import list_images
from pipelines.dataset.tree import build
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.loading import merge
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from tests.support.image_sets import image_set
from tests.support.pictures import noise
from tests.support.tiny import Tiny

ENDINGS = ("_red", "_green", "_blue", "_yellow")
BRACES = "{_red,_green,_blue,_yellow}"


def save(path: Path, values: npt.NDArray[np.uint8], mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(path, compress_level=0)
    return path


def cells(raw: Path, names: tuple[str, ...] = ("a", "b"), folder: str = "train") -> dict[str, npt.NDArray[np.uint8]]:
    """Write a PNG per channel of each image; return the values of all channels, (H, W, 4)."""
    written = {}
    for number, name in enumerate(names):
        written[name] = noise(6, 8, 4, seed=number)
        for channel, ending in enumerate(ENDINGS):
            save(raw / folder / f"{name}{ending}.png", written[name][..., channel])
    return written


@pytest.mark.parametrize(
    ("path", "files"),
    [
        ("train/a.png", ["train/a.png"]),
        ("train/a{_r,_g}.png", ["train/a_r.png", "train/a_g.png"]),
        ("train/a{,_2}.tif", ["train/a.tif", "train/a_2.tif"]),
        ("train/{a}.png", ["train/{a}.png"]),
        ("{x,y}/a.png", ["{x,y}/a.png"]),
    ],
)
def test_the_files_of_a_path(path: str, files: list[str]) -> None:
    assert files_of(path) == files
    assert common_name(path) == (path if len(files) == 1 else path.replace("{_r,_g}", "").replace("{,_2}", ""))


def test_paths_beside_the_raw_folder_are_found_where_it_is_a_link(tmp_path: Path) -> None:
    save(tmp_path / "data/images/train/1.png", noise(4, 4))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data/raw").symlink_to(tmp_path / "elsewhere")
    raw = tmp_path / "data/raw"
    assert Path(files_at(raw, "../images/train/1.png")[0]).is_file()
    assert image_files(raw, "../images/train", "key") == ["../images/train/1.png"]
    assert files_at(Path("raw"), "../images/1.png") == ["./images/1.png"]


def test_files_are_joined_by_the_longest_ending_and_others_are_left_out() -> None:
    images = ["t/a_red.png", "t/a_far_red.png", "t/a.png", "t/b_red.tif", "t/b_far_red.tif", "t/a_note.png"]
    assert join_channels(images, ("_red", "_far_red"), "t") == ["t/a{_red,_far_red}.png", "t/b{_red,_far_red}.tif"]
    assert join_channels([], ENDINGS, "t") == []


def test_a_missing_channel_and_endings_that_no_image_has_are_errors(tmp_path: Path) -> None:
    cells(tmp_path)
    (tmp_path / "train/b_green.png").unlink()
    (tmp_path / "train/b_yellow.png").unlink()
    with pytest.raises(UserError, match=r"train/b: no _green.png or _yellow.png"):
        image_files(tmp_path, "train", "data.train_images", ENDINGS)
    with pytest.raises(UserError, match=r"no image has a name with an ending of data\.channel_files"):
        image_files(tmp_path, "train", "data.train_images", ("_nir",))


def test_names_that_would_mean_several_files_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "train/a{b,c}.png", noise(4, 4))
    with pytest.raises(UserError, match="would mean several files"):
        image_files(tmp_path, "train", "data.train_images")


def test_ids_are_the_common_part_of_the_names(tmp_path: Path) -> None:
    cells(tmp_path)
    cells(tmp_path, ("c",), "test")
    (tmp_path / "labels.csv").write_text("id,label\nb,x\na,y\n")
    (tmp_path / "sample.csv").write_text("id,label\nC.PNG,x\n")
    data = DataSettings(labels="labels.csv", sample_submission="sample.csv", channel_files=ENDINGS)
    rows = labels.labelled_rows(RawData(tmp_path, data))
    assert rows["path"].tolist() == [f"train/b{BRACES}.png", f"train/a{BRACES}.png"]
    assert test_set.test_rows(RawData(tmp_path, data))[0]["path"].tolist() == [f"test/c{BRACES}.png"]
    unlisted = DataSettings(labels="labels.csv", channel_files=ENDINGS)
    assert test_set.test_rows(RawData(tmp_path, unlisted))[0]["id"].tolist() == ["c"]
    assert len(list_images(tmp_path, data).labelled) == 8  # files, so that a missing one is a change
    assert images_by_id(["a"], rows["path"].tolist(), "train") == {"a": [f"train/a{BRACES}.png"]}


def test_the_tree_links_each_file(tmp_path: Path) -> None:
    cells(tmp_path / "raw")
    rows = pd.DataFrame({"id": ["a"], "path": [f"train/a{BRACES}.png"], "label": "x", "split": "train"})
    assert build(tmp_path / "tree", tmp_path / "raw", rows).total() == 8  # train and train_valid
    assert sorted(path.name for path in (tmp_path / "tree/train/x").iterdir()) == sorted(f"a{e}.png" for e in ENDINGS)


def test_channels_in_files_are_packed_in_the_order_of_the_setting(tmp_path: Path) -> None:
    written = cells(tmp_path / "raw")
    rows = pd.DataFrame({"id": ["a", "b"], "path": [f"train/a{BRACES}.png", f"train/b{BRACES}.png"]})
    images = image_set(rows, tmp_path / "raw", tmp_path / "cache", channels=4)
    packed = PackedImages(images, 6)
    whole = packed.whole()
    assert whole.shape == (2, 6, 6, 4) and (whole[0] == written["a"][:, 1:7]).all()
    before = fingerprints(images)
    save(tmp_path / "raw/train/a_blue.png", noise(6, 8, seed=9))
    changed = fingerprints(image_set(rows, tmp_path / "raw", tmp_path / "cache", channels=4))
    assert (before != changed).tolist() == [True, False]
    assert PackedImages(images, 6).path != packed.path
    with packed.reading() as take:  # the old file stays open
        assert (take(np.array([1])) == whole[1]).all()


def test_three_files_are_the_colours_of_an_image(tmp_path: Path) -> None:
    written = cells(tmp_path)["a"]
    image = Reader(tmp_path).open("train/a{_red,_green,_blue}.png", "row")
    assert (np.asarray(image) == written[..., :3]).all()


def test_files_of_other_sizes_or_in_colour(tmp_path: Path) -> None:
    cells(tmp_path)
    save(tmp_path / "train/a_green.png", noise(4, 4))
    reader = Reader(tmp_path, channels=4)
    with pytest.raises(UserError, match=r"a_green\.png has 4 x 4 pixels, and a_red.png has 8 x 6"):
        reader.open(f"train/a{BRACES}.png", "row")
    colour = np.zeros((6, 8, 3), np.uint8)
    colour[..., 1] = 7
    save(tmp_path / "train/b_green.png", colour)
    assert set(np.asarray(reader.open(f"train/b{BRACES}.png", "row"))[..., 1].ravel()) == {7}
    (tmp_path / "train/b_blue.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"b_blue.png: it is none of PNG"):
        reader.open(f"train/b{BRACES}.png", "row")
    cells(tmp_path / "c")
    with pytest.raises(UserError, match=r"4 channels \(data.channel_files\), and input.channels is 2"):
        Reader(tmp_path / "c", channels=2).open(f"train/a{BRACES}.png", "row")


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4), ("CMYK", 4)])
def test_a_file_has_the_channels_that_are_set(tmp_path: Path, mode: str, channels: int) -> None:
    original = Image.fromarray(noise(6, 8, 3)).convert(mode)
    original.save(tmp_path / "a.tif")
    image = open_image(tmp_path / "a.tif", "row", channels=channels)
    expected = original.convert("L") if channels == 1 else original
    for pixels in (fit(image, 6, 6), crop(image, (1, 0, 7, 6), 6)):
        assert pixels.shape == (6, 6, channels)
        assert (pixels == np.asarray(expected)[:, 1:7].reshape(6, 6, channels)).all()
    smaller = fit(image, 3, 3)
    assert smaller.shape == (3, 3, channels)


@pytest.mark.parametrize(("mode", "own", "channels"), [("RGB", 3, 4), ("L", 1, 2), ("RGB", 3, 5), ("RGBA", 4, 5)])
def test_a_file_with_other_channels_is_refused_with_the_setting(
    tmp_path: Path, mode: str, own: int, channels: int
) -> None:
    Image.fromarray(noise(6, 8, 3)).convert(mode).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=f"input.channels is {channels}; set input.channels = {own}"):
        open_image(tmp_path / "a.png", "row", channels=channels)
    assert np.asarray(open_image(tmp_path / "a.png", "row", channels=own)).shape[:2] == (6, 8)


def test_a_fourth_channel_that_is_no_transparency_is_not_lost(tmp_path: Path) -> None:
    Image.fromarray(noise(6, 8, 4)).save(tmp_path / "a.tif", tiffinfo={338: 0})  # ExtraSamples: unspecified
    content = (tmp_path / "a.tif").read_bytes()
    at = content.index(b"\x52\x01\x03\x00\x01\x00\x00\x00") + 8
    (tmp_path / "a.tif").write_bytes(content[:at] + b"\0\0\0\0" + content[at + 4 :])
    for channels in (1, 3):
        with pytest.raises(
            UserError, match=f"it has 4 channels, and input.channels is {channels}; set input.channels = 4"
        ):
            open_image(tmp_path / "a.tif", "row", channels=channels)
    assert (np.asarray(open_image(tmp_path / "a.tif", "row", channels=4)) == noise(6, 8, 4)).all()
    packed = Image.fromarray(noise(6, 8, 4))
    packed.save(tmp_path / "b.tif", tiffinfo={338: 0}, compression="tiff_lzw")
    content = (tmp_path / "b.tif").read_bytes()
    at = content.index(b"\x52\x01\x03\x00\x01\x00\x00\x00") + 8
    (tmp_path / "b.tif").write_bytes(content[:at] + b"\0\0\0\0" + content[at + 4 :])
    with pytest.raises(UserError, match="it has 4 channels, of which only 3 can be read; save it as an array"):
        open_image(tmp_path / "b.tif", "row", channels=4)


def test_the_key_of_a_cache_names_other_channels_than_three(tmp_path: Path) -> None:
    save(tmp_path / "raw/a.png", noise(6, 8))
    rows = pd.DataFrame({"id": ["a"], "path": ["a.png"]})
    one, three = (image_set(rows, tmp_path / "raw", tmp_path / "cache", channels=count) for count in (1, 3))
    assert (one.value_rule, three.value_rule) == ("channels 1", "")
    assert PackedImages(one, 6).path != PackedImages(three, 6).path
    assert (PackedImages(three, 6).whole() == PackedImages(one, 6).whole()).all()
    two = image_set(rows, tmp_path / "raw", tmp_path / "cache", channels=2)
    assert undecodable(three) == [] and len(undecodable(two)) == 1 and undecodable(one) == []


def test_pictures_show_one_channel_as_grey_and_the_first_three_of_more() -> None:
    pixels = noise(2, 2, 5)
    assert (as_colours(pixels) == pixels[..., :3]).all()
    assert (as_colours(pixels[..., :1]) == pixels[..., [0, 0, 0]]).all()
    assert (as_colours(pixels[..., :2])[..., :2] == pixels[..., :2]).all() and not as_colours(pixels[..., :2])[
        ..., 2
    ].any()


@pytest.mark.parametrize("source", ["packed", "photos"])
def test_batches_have_the_channels_that_are_set(tiny: Tiny, source: str) -> None:
    varied = "augment.flip=true augment.translate=1 augment.cutout=2 augment.crop_scale=[0.5, 1.0] input.resize=8"
    settings = tiny.settings(f"input.source={source}", "input.channels=1", varied)
    images = replace(tiny.part("valid"), channels=1)
    for training in (True, False):
        batches = list(open_source(settings, images, torch.device("cpu"), training).batches(1))
        assert {tuple(batch.inputs.shape[1:]) for batch in batches} == {(1, 8, 8)}
    greys = [images.reader.open(path, "row") for path in images.rows["path"]]
    expected = (torch.from_numpy(np.stack([np.asarray(grey) for grey in greys]))[:, None].float() / 255 - 0.5) / 0.25
    torch.testing.assert_close(torch.cat([batch.inputs for batch in batches]), expected)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"data": {"channel_files": ["_a", "_b"]}}, "set input.channels = 2"),
        ({"input": {"channels": 1}, "augment": {"colour_jitter": 0.2}}, "augment.colour_jitter changes colours"),
        ({"input": {"channels": 2, "mean": [0.5]}}, "input.mean has 1 numbers; it takes 2"),
        ({"data": {"white": 65536}}, "1 to 65535"),
    ],
)
def test_settings_that_do_not_fit_the_number_of_channels(changes: dict[str, dict[str, object]], text: str) -> None:
    with pytest.raises(UserError, match=text):
        merge(Settings("x"), changes, "here")


def tiff(values: npt.NDArray[Any], order: Literal["<", ">"] = "<", apart: bool = False, deflate: bool = False) -> bytes:
    """Return a TIFF of an array (H, W, channels), whose further channels have no stated meaning."""
    (height, width, channels), rows = values.shape, 4
    values = values.astype(values.dtype.newbyteorder(order))
    planes = [values[..., channel] for channel in range(channels)] if apart else [values]
    strips = [plane[top : top + rows].tobytes() for plane in planes for top in range(0, height, rows)]
    strips = [zlib.compress(strip) for strip in strips] if deflate else strips
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    extra = [0] * (channels - 3) or [0]
    tags = {256: [width], 257: [height], 258: [8 * values.itemsize] * channels, 259: [8 if deflate else 1]}
    tags |= {262: [2 if channels > 3 else 1], 273: [], 277: [channels], 278: [rows], 279: list(map(len, strips))}
    tags |= {284: [1 + apart], 338: extra, 339: [kind] * channels}
    body = b"".join(strips)
    tags[273] = [8 + sum(map(len, strips[:number])) for number in range(len(strips))]
    at, entries, more = 8 + len(body) + 2 + 12 * len(tags) + 4, b"", b""
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        where = packed if len(numbers) == 1 else struct.pack(f"{order}I", at + len(more))
        more += packed if len(numbers) > 1 else b""
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + where
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(body))
    return head + body + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + more


@pytest.mark.parametrize("channels", [2, 4, 6])
@pytest.mark.parametrize(("order", "apart", "deflate"), [("<", False, False), (">", True, False), ("<", False, True)])
def test_a_tiff_of_any_number_of_channels(
    tmp_path: Path, channels: int, order: Literal["<", ">"], apart: bool, deflate: bool
) -> None:
    values = noise(6, 8, channels)
    (tmp_path / "a.tif").write_bytes(tiff(values, order, apart, deflate))
    assert (np.asarray(open_image(tmp_path / "a.tif", "row", channels=channels)) == values).all()
    deep = values.astype(np.uint16) * 16
    deep[0, 0, 0] = 4095
    (tmp_path / "b.tif").write_bytes(tiff(deep, order, apart, deflate))
    pixels = np.asarray(open_image(tmp_path / "b.tif", "row", channels=channels)).astype(int)
    assert np.abs(pixels - deep / 4095 * 255).max() <= 0.5
    described = describe_image(tmp_path / "b.tif", "row")
    assert (described.width, described.height, described.bits, described.white) == (8, 6, 16, 4095)
    assert described.mode == f"array of {channels} channels" and holds_deep(tmp_path / "b.tif")
    assert shorter_side(tmp_path / "b.tif") == 6
    with pytest.raises(UserError, match=f"set input.channels = {channels}"):
        open_image(tmp_path / "b.tif", "row")


def test_damaged_tiffs_of_many_channels(tmp_path: Path) -> None:
    whole = tiff(noise(6, 8, 5), deflate=True)
    (tmp_path / "a.tif").write_bytes(whole[:12] + b"x" * 40 + whole[52:])
    with pytest.raises(UserError, match="cannot be read as an image"):
        open_image(tmp_path / "a.tif", "row", channels=5)
    (tmp_path / "a.tif").write_bytes(whole[:-60])
    with pytest.raises(UserError, match="cannot be read as an image"):
        open_image(tmp_path / "a.tif", "row", channels=5)
