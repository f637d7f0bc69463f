"""Values of more than 8 bits are scaled by a stated rule; what has no defined white is refused by its name."""

import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image

from pipelines.dataset.images import describe_image, holds_deep, open_image
from pipelines.dataset.packed import PackedImages
from pipelines.settings.data_sections import DataSettings
from pipelines.system.errors import UserError
from tests.support.image_sets import image_set
from tests.support.pictures import noise

RAMP = np.array([[0, 1, 2, 3]], dtype=np.uint16)


def greys(path: Path, white: int = 0) -> list[int]:
    image = np.asarray(open_image(path, "row", white))
    assert (image == image[..., :1]).all()
    return [int(value) for value in image[0, :, 0]]


def problem(path: Path, white: int = 0) -> str:
    with pytest.raises(UserError) as error:
        open_image(path, "row", white)
    return str(error.value)


def saved(path: Path, values: npt.NDArray[np.uint16]) -> Path:
    Image.fromarray(values).save(path)
    return path


def with_chunk(path: Path, kind: bytes, content: bytes) -> Path:
    """Put a chunk behind the header of a PNG."""
    data = path.read_bytes()
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    path.write_bytes(data[:33] + chunk + data[33:])
    return path


def deep_png(path: Path, colour: int, rows: bytes, width: int) -> Path:
    """Write a PNG of 16 bits; `colour` is the PNG colour type: 2 for RGB, 4 for grey and alpha."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, 16, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0" + rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data)
    return path


@pytest.mark.parametrize(("largest", "white"), [(255, 255), (256, 1023), (1023, 1023), (4095, 4095), (4096, 16383)])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_white_is_the_smallest_usual_one_above_all_values(
    tmp_path: Path, suffix: str, largest: int, white: int
) -> None:
    path = saved(tmp_path / f"a.{suffix}", np.array([[0, largest // 2, largest]], np.uint16))
    assert greys(path) == [0, round(largest // 2 * 255 / white), round(largest * 255 / white)]
    described = describe_image(path, "row")
    assert (described.bits, described.minimum, described.maximum, described.white) == (16, 0, largest, white)


def test_full_16_bits_stay_as_they_were(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (40, 50)).astype(np.uint16)
    values[0, 0] = 65535
    pixels = np.asarray(open_image(saved(tmp_path / "a.png", values), "row"))[..., 0]
    assert (pixels == (values / 257).round().astype(np.uint8)).all()


def test_a_fixed_white_is_the_scale_of_all_images_and_a_value_above_it_is_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.array([[0, 1000, 2000]], np.uint16))
    assert greys(path, 4000) == [0, 64, 128]
    assert "a.png (row) cannot be read as an image: its largest value is 2,000, above data.white, 1,999" in problem(
        path, 1999
    )
    assert greys(path, 2000) == [0, 128, 255]


def test_images_of_8_bits_do_not_depend_on_white(tmp_path: Path) -> None:
    pixels = noise(5, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for white in (0, 4095, 255):
        assert (np.asarray(open_image(tmp_path / "a.png", "row", white)) == pixels).all()


def test_what_the_file_says_about_its_white_comes_first(tmp_path: Path) -> None:
    dark = np.array([[0, 100, 200]], np.uint16)
    path = with_chunk(saved(tmp_path / "a.png", dark), b"sBIT", b"\x0c")
    assert greys(path) == [0, 6, 12]  # of 4095
    scaled = with_chunk(saved(tmp_path / "b.png", dark * 300), b"sBIT", b"\x0c")  # as the standard has it
    assert greys(scaled) == [0, 117, 233]
    full = with_chunk(saved(tmp_path / "c.png", dark), b"sBIT", b"\x10")
    assert greys(full) == [0, 0, 1]
    Image.fromarray(dark).save(tmp_path / "d.tif", tiffinfo={281: 4000})
    assert greys(tmp_path / "d.tif") == [0, 6, 12]


def test_12_bits_packed_in_a_tiff_are_read(tmp_path: Path) -> None:
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x00])  # 0, 4095, 2048, 0
    entries = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(packed)}
    content = struct.pack("<2sHI", b"II", 42, 8 + len(packed)) + packed + struct.pack("<H", len(entries))
    content += b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries.items())
    (tmp_path / "a.tif").write_bytes(content + struct.pack("<I", 0))
    assert greys(tmp_path / "a.tif") == [0, 255, 128, 0]
    assert describe_image(tmp_path / "a.tif", "row").bits == 12


@pytest.mark.parametrize("magic", ["P2", "P5"])
@pytest.mark.parametrize("maxval", [255, 1000, 4095, 65535])
def test_a_pgm_has_the_white_of_its_header(tmp_path: Path, magic: str, maxval: int) -> None:
    values = [0, maxval // 3, maxval]
    header = f"{magic}\n3 1\n{maxval}\n".encode()
    form = ">u2" if maxval > 255 else "u1"
    data = " ".join(map(str, values)).encode() if magic == "P2" else np.array(values, form).tobytes()
    (tmp_path / "a.pgm").write_bytes(header + data + b"\n")
    assert greys(tmp_path / "a.pgm") == [0, 85, 255]
    if maxval > 255:
        assert describe_image(tmp_path / "a.pgm", "row").maximum == maxval
        assert greys(tmp_path / "a.pgm", 65535)[2] == round(maxval / 257)


@pytest.mark.parametrize("colour", [2, 4])
def test_colours_of_16_bits_are_refused_if_their_upper_bits_are_unused(tmp_path: Path, colour: int) -> None:
    channels = 3 if colour == 2 else 2
    dark, bright = (np.full((4, channels), value, ">u2") for value in (4095, 40000))
    if colour == 4:
        dark[:, 1] = bright[:, 1] = 65535
    path = deep_png(tmp_path / "a.png", colour, dark.tobytes(), 4)
    assert "nearly black; save it with 8 bits a channel; or, if it is so dark, set data.white = 65535" in problem(path)
    assert set(greys(path, 65535)) == {15}
    assert "data.white is for greys" in problem(path, 4095)
    assert set(greys(deep_png(tmp_path / "b.png", colour, bright.tobytes(), 4))) == {156}


@pytest.mark.parametrize(
    ("mode", "options", "text"),
    [
        ("I", {}, "signed numbers"),
        ("I;16", {262: 0}, "inverted (0 is white)"),
        ("I;16", {339: 2}, "signed numbers, as in CT pictures; add an offset"),
    ],
)
def test_a_tiff_without_a_defined_white_is_refused_by_name(
    tmp_path: Path, mode: str, options: dict[int, int], text: str
) -> None:
    image = Image.fromarray(RAMP) if mode == "I;16" else Image.new(mode, (4, 1), 7)
    image.save(tmp_path / "a.tif", tiffinfo=options)
    if options:  # Pillow writes its own values for these tags
        content = (tmp_path / "a.tif").read_bytes()
        (tag, value), at = next(iter(options.items())), 4
        place = struct.unpack("<I", content[at : at + 4])[0]
        for number in range(struct.unpack("<H", content[place : place + 2])[0]):
            entry = place + 2 + 12 * number
            if struct.unpack("<H", content[entry : entry + 2])[0] == tag:
                content = content[: entry + 8] + struct.pack("<HH", value, 0) + content[entry + 12 :]
        (tmp_path / "a.tif").write_bytes(content)
    assert text in problem(tmp_path / "a.tif")
    assert "8 or 16 bits a channel" in problem(tmp_path / "a.tif")


def test_what_is_described_of_an_image(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[7, 9, 200]]], np.uint8)).save(tmp_path / "a.jpg", quality=100, subsampling=0)
    described = describe_image(tmp_path / "a.jpg", "row")
    assert (described.format, described.width, described.height, described.mode) == ("JPEG", 1, 1, "RGB")
    assert (described.bits, described.white, described.frames) == (8, 255, 1)
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert describe_image(tmp_path / "a.gif", "row").frames == 2


def test_only_caches_of_deep_images_get_another_key(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    Image.fromarray(noise(4, 4, 3)).save(raw / "0.png")
    saved(raw / "1.png", noise(4, 8).view(np.uint16))
    assert [holds_deep(raw / name) for name in ("0.png", "1.png", "absent.png")] == [False, True, False]
    rows = [pd.DataFrame({"id": [name], "path": [f"{name}.png"]}) for name in ("0", "1")]
    plain, deep = (image_set(each, raw, tmp_path / "cache") for each in rows)
    assert plain.value_rule == ""
    assert deep.value_rule == "values-2 0"
    fixed = image_set(rows[1], raw, tmp_path / "cache", data=DataSettings(white=65535))
    assert PackedImages(deep, 4).path != PackedImages(fixed, 4).path


def test_white_reaches_packed_images(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    saved(tmp_path / "raw/1.png", np.full((4, 4), 1000, np.uint16))
    rows = pd.DataFrame({"id": ["1"], "path": ["1.png"]})
    for white, grey in ((0, 249), (2000, 128)):
        images = image_set(rows, tmp_path / "raw", tmp_path / "cache", data=DataSettings(white=white))
        assert set(PackedImages(images, 4).whole().ravel().tolist()) == {grey}
    images = image_set(rows, tmp_path / "raw", tmp_path / "cache", data=DataSettings(white=999))
    with pytest.raises(UserError, match=r"1\.png .*its largest value is 1,000, above data\.white, 999"):
        PackedImages(images, 4).whole()
