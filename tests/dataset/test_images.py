"""Images of every kind are decoded to upright RGB of 8 bits; errors name the file and its row."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from pipelines.dataset import depth
from pipelines.dataset.images import MAX_PIXELS, crop, fit, open_image, random_crop_box, upright_size
from pipelines.system.errors import UserError
from tests.support.pictures import noise

WHITE = (255, 255, 255)


def opened(path: Path) -> Image.Image:
    image = open_image(path, "id '7', line 9 of split.csv")
    assert isinstance(image, Image.Image) and image.mode == "RGB"
    return image


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """Return a PNG of `depth` bits per channel; `colour` is the PNG colour type: 0 for grey, 2 for RGB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def png_of_size(width: int, height: int) -> bytes:
    """Return a PNG whose header declares `width` x `height`, with almost no data."""
    return png(width, height, 8, 0, b"\0")


def tiff_of_16_bits(pixels: npt.NDArray[np.int64], order: str) -> bytes:
    """Return an uncompressed RGB TIFF of `pixels` (height, width, 3) in the byte order `<` or `>`."""
    data = pixels.astype(f"{order}u2").tobytes()
    entries = {  # TIFF 6.0: width, height, bits, no compression, RGB, offset of the data, channels, rows, bytes
        256: [pixels.shape[1]],
        257: [pixels.shape[0]],
        258: [16, 16, 16],
        259: [1],
        262: [2],
        273: [8],
        277: [3],
        278: [pixels.shape[0]],
        279: [len(data)],
    }
    directory = 8 + len(data)
    bits_at = directory + 2 + 12 * len(entries) + 4
    content = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, directory) + data
    content += struct.pack(f"{order}H", len(entries))
    for tag, values in entries.items():
        content += struct.pack(f"{order}HHI", tag, 3, len(values))
        content += struct.pack(f"{order}HH", values[0], 0) if len(values) == 1 else struct.pack(f"{order}I", bits_at)
    return content + struct.pack(f"{order}IHHH", 0, 16, 16, 16)


def test_rgb_comes_as_it_is(tmp_path: Path) -> None:
    pixels = noise(5, 7, 3)
    assert (np.array(opened(saved(tmp_path / "a.png", Image.fromarray(pixels)))) == pixels).all()


def test_greyscale_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = noise(5, 7)
    image = np.array(opened(saved(tmp_path / "a.png", Image.fromarray(grey))))
    assert (image == grey[..., None]).all()


def test_black_and_white_becomes_black_and_white(tmp_path: Path) -> None:
    image = opened(saved(tmp_path / "a.png", Image.fromarray(np.array([[False, True]]))))
    assert np.array(image).tolist() == [[[0, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    deep = Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    image = opened(saved(tmp_path / f"a.{suffix}", deep))
    assert np.array(image)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_16_bits_in_a_tiff_may_have_either_byte_order(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=">u2")
    path = saved(tmp_path / "a.tif", Image.frombytes("I;16B", (4, 1), values.tobytes()))
    assert path.read_bytes().startswith(b"MM")  # else this test proves nothing
    assert np.array(opened(path))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("kind", ["a PNG", "a little-endian TIFF", "a big-endian TIFF"])
def test_16_bits_a_channel_are_scaled(tmp_path: Path, kind: str) -> None:
    deep = np.array([[[0, 257, 32896], [65535, 0, 257 * 77]]])  # Pillow reads these, but writes none
    if kind == "a PNG":
        content = png(2, 1, 16, 2, b"\0" + deep.astype(">u2").tobytes())
    else:
        content = tiff_of_16_bits(deep, "<" if kind == "a little-endian TIFF" else ">")
    (tmp_path / "a").write_bytes(content)
    assert np.array(opened(tmp_path / "a")).tolist() == [[[0, 1, 128], [255, 0, 77]]]


def test_transparent_pixels_are_white_whatever_lies_under_them(tmp_path: Path) -> None:
    pixels = np.array([[[9, 8, 7, 0], [9, 8, 7, 255], [0, 0, 0, 51]]], dtype=np.uint8)
    image = opened(saved(tmp_path / "a.png", Image.fromarray(pixels)))
    assert np.array(image).tolist() == [[[255, 255, 255], [9, 8, 7], [204, 204, 204]]]


@pytest.mark.parametrize("colour", [(255,), (255, 255, 255)], ids=["grey", "colour"])
def test_a_white_picture_with_a_transparent_ground_stays_visible(tmp_path: Path, colour: tuple[int, ...]) -> None:
    hidden = (0,) * len(colour)
    pixels = np.array([[[*hidden, 0], [*colour, 51], [*colour, 255]]], dtype=np.uint8)
    image = opened(saved(tmp_path / "a.png", Image.fromarray(pixels)))
    assert np.array(image).tolist() == [[[0, 0, 0], [51, 51, 51], [255, 255, 255]]]


def test_an_image_without_a_visible_pixel_gives_its_colours(tmp_path: Path) -> None:
    pixels = np.array([[[9, 8, 7, 0], [1, 2, 3, 0]]], dtype=np.uint8)
    assert np.array(opened(saved(tmp_path / "a.png", Image.fromarray(pixels)))).tolist() == [[[9, 8, 7], [1, 2, 3]]]


def test_transparent_grey_is_white(tmp_path: Path) -> None:
    image = opened(saved(tmp_path / "a.png", Image.fromarray(np.array([[[9, 0], [9, 255]]], dtype=np.uint8))))
    assert np.array(image).tolist() == [[[255, 255, 255], [9, 9, 9]]]


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "tif"])
def test_a_palette_gives_its_colours(tmp_path: Path, suffix: str) -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.putdata([2, 0, 1])
    image = opened(saved(tmp_path / f"a.{suffix}", palette))
    assert np.array(image).tolist() == [[[70, 80, 90], [10, 20, 30], [40, 50, 60]]]


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
def test_a_palette_with_transparency(tmp_path: Path, transparency: int | bytes) -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.putdata([0, 1, 2])
    image = opened(saved(tmp_path / "a.png", palette, transparency=transparency))
    assert np.array(image).tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]


@pytest.mark.parametrize(("mode", "transparent"), [("L", 9), ("RGB", (9, 9, 9))])
def test_a_colour_declared_transparent_is_white(tmp_path: Path, mode: str, transparent: object) -> None:
    picture = Image.fromarray(np.array([[9, 10]], dtype=np.uint8)).convert(mode)
    image = opened(saved(tmp_path / "a.png", picture, transparency=transparent))
    assert np.array(image).tolist() == [[[255, 255, 255], [10, 10, 10]]]


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
@pytest.mark.parametrize(
    ("ink", "colour"),
    [
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 0, 0), (255, 0, 255)),
        ((0, 0, 255, 0), (255, 255, 0)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 0, 0, 0), (255, 255, 255)),
    ],
)
def test_cmyk_becomes_the_colours_it_prints(
    tmp_path: Path, ink: tuple[int, ...], colour: tuple[int, ...], suffix: str
) -> None:
    path = saved(tmp_path / f"a.{suffix}", Image.new("CMYK", (8, 8), ink))
    assert (b"Adobe" in path.read_bytes()) is (suffix == "jpg")  # the marker of inverted inks
    assert np.abs(np.array(opened(path))[4, 4].astype(int) - colour).max() < 40


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
def test_a_photo_is_turned_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = noise(3, 5, 3).repeat(8, axis=0).repeat(8, axis=1)  # blocks of one colour, which JPEG keeps
    # EXIF 2.3: the tag says which sides of the stored picture are the top and the left.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1],
        7: upright.swapaxes(0, 1)[::-1, ::-1],
        8: upright.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {"lossless": True}
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(np.ascontiguousarray(stored)), exif=exif, **options)
    image = np.array(opened(path)).astype(int)
    assert image.shape == upright.shape and upright_size(path, "") == image.shape[1::-1]
    assert np.abs(image - upright).max() <= (3 if suffix == "jpg" else 0)


def test_damaged_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    pixels = noise(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 3
    exif[0x010E] = "description"
    damaged = exif.tobytes().replace(b"\x01\x0e", b"\x01\x1a")  # the resolution is now text
    path = saved(tmp_path / "a.webp", Image.fromarray(pixels), exif=damaged, lossless=True)
    with pytest.raises(TypeError), Image.open(path) as image:
        ImageOps.exif_transpose(image)  # else this test proves nothing
    assert (np.array(opened(path)) == pixels[::-1, ::-1]).all()


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_an_animation_gives_its_first_picture(tmp_path: Path, suffix: str) -> None:
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", first, save_all=True, append_images=[second], **options)
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 2  # else this test proves nothing
    assert (np.array(opened(path)) == (255, 0, 0)).all()


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_may_begin_transparent(tmp_path: Path, suffix: str) -> None:
    first, second = Image.new("RGBA", (4, 4)), Image.new("RGBA", (4, 4), "blue")
    first.putpixel((1, 0), (255, 0, 0, 255))
    options = {"lossless": True} if suffix == "webp" else {}
    image = opened(saved(tmp_path / f"a.{suffix}", first, save_all=True, append_images=[second], **options))
    assert image.getpixel((1, 0)) == (255, 0, 0)
    assert image.getpixel((0, 0)) == image.getpixel((3, 3)) == WHITE


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_the_content_counts_and_not_the_extension(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(encoded(kind))
    with Image.open(io.BytesIO(encoded(kind))) as image:
        assert image.format == kind
        expected = np.array(image.convert("RGB"))
    assert (np.array(opened(path)) == expected).all()


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(40, 40, 3)).save(buffer, kind)
    return buffer.getvalue()


DAMAGED = {
    "a cut PNG": encoded("PNG")[:-1500],
    "a cut JPEG": encoded("JPEG")[:-500],
    "a JPEG without its last byte": encoded("JPEG")[:-1],
    "a JPEG cut in its header": encoded("JPEG")[:100],
    "a cut GIF": encoded("GIF")[:-500],
    "a cut WebP": encoded("WEBP")[:-100],
    "a cut TIFF": encoded("TIFF")[:-500],
    "a PNG with a changed byte": encoded("PNG").replace(b"IHDR\x00", b"IHDR\x01"),
    "a header of 60000 x 60000": png_of_size(60000, 60000),
    "a header of 10000 x 10000": png_of_size(10000, 10000),
    "a header of 0 x 0": png_of_size(0, 0),
    "no data": png_of_size(8, 8),
    "a text": b"<html>404 not found</html>",
    "an empty file": b"",
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_file_that_is_no_whole_image_is_named_with_its_row(tmp_path: Path, what: str) -> None:
    path = tmp_path / "odd name.png"
    path.write_bytes(DAMAGED[what])
    with pytest.raises(UserError) as error:
        open_image(path, "id '7', line 9 of split.csv")
    assert str(error.value).startswith(f"{path} (id '7', line 9 of split.csv) cannot be read as an image: ")


@pytest.mark.parametrize("factor", [1, 1.5, 3])
def test_a_picture_of_too_many_pixels_is_named_with_how_many_there_may_be(tmp_path: Path, factor: float) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png_of_size(int(MAX_PIXELS * factor) + 1, 1))
    with pytest.raises(UserError, match=r"x\.png \(id '7', line 9.*larger than 89,478,485 pixels.*scale it down\. "):
        opened(path)


def test_a_file_too_large_for_any_picture_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"")
    os.truncate(path, 1 << 40)  # a sparse file
    with pytest.raises(UserError, match="the file is larger than 715,827,880 bytes"):
        opened(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
def test_a_picture_converted_in_strips_is_that_converted_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    if mode == "I;16":
        image = Image.fromarray(noise(7, 10).view(np.uint16))
    else:
        image = Image.fromarray(noise(7, 5, 4)).convert(mode)
    path = saved(tmp_path / "x.png", image, **({"transparency": bytes(range(256))} if mode == "P" else {}))
    at_once = opened(path).tobytes()
    for pixels in (1, 10, 17):  # strips of 1, 2 and 3 rows
        monkeypatch.setattr(depth, "STRIP_PIXELS", pixels)
        assert opened(path).tobytes() == at_once


def test_a_missing_file_and_a_folder_are_named_with_their_row(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.png \(id '7', line 9 of split\.csv\).*the file is missing"):
        open_image(tmp_path / "absent.png", "id '7', line 9 of split.csv")
    with pytest.raises(UserError, match=r"line 9 of split\.csv"):
        open_image(tmp_path, "id '7', line 9 of split.csv")


def test_an_image_of_the_right_size_is_left_alone() -> None:
    pixels = noise(8, 8, 3)
    assert (fit(Image.fromarray(pixels), 8, resize=8) == pixels).all()


def test_an_image_of_the_right_size_loses_its_margin_like_any_other() -> None:
    pixels = noise(8, 8, 3)
    enlarged = Image.fromarray(pixels).resize((16, 16), Image.Resampling.BILINEAR)
    expected = np.array(enlarged)[4:12, 4:12].astype(int)
    assert np.abs(fit(Image.fromarray(pixels), 8, resize=16) - expected).max() <= 1


@pytest.mark.parametrize(("width", "height"), [(30, 20), (20, 30), (64, 8), (8, 64), (60, 20)])
def test_fit_is_resize_then_centre_crop(width: int, height: int) -> None:
    """All resized sizes and margins are integers, so both methods give the same bits."""
    image = Image.fromarray(noise(height, width, 3))
    scale = 8 / min(width, height)
    resized = np.array(image.resize((int(width * scale), int(height * scale)), Image.Resampling.BILINEAR))
    top, left = (resized.shape[0] - 8) // 2, (resized.shape[1] - 8) // 2
    assert (fit(image, 8, resize=8) == resized[top : top + 8, left : left + 8]).all()


def test_fit_leaves_out_a_margin_where_the_resize_is_larger() -> None:
    pixels = noise(16, 32, 3)
    assert (fit(Image.fromarray(pixels), 8, resize=16) == pixels[4:12, 12:20]).all()


def test_fit_of_a_long_strip_stays_small() -> None:
    assert fit(Image.new("RGB", (60_000, 2), "red"), 64, resize=73).tolist() == [[[255, 0, 0]] * 64] * 64


@pytest.mark.parametrize(("width", "height"), [(30, 20), (20, 31), (300, 2), (2, 300), (1, 1)])
@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.08, 1.0), (0.75, 1.3333)), ((0.5, 0.5), (1.0, 1.0)), ((0.9, 1.0), (2.0, 3.0))]
)
def test_a_random_box_lies_inside_and_keeps_to_scale_and_ratio(
    width: int, height: int, scale: tuple[float, ...], ratio: tuple[float, ...]
) -> None:
    random = np.random.default_rng(0)
    boxes = [random_crop_box(width, height, scale, ratio, random) for _ in range(200)]
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        if min(width, height) >= 20:  # where rounding to whole pixels is small
            area = (right - left) * (bottom - top) / (width * height)
            assert area <= scale[1] * 1.1
            assert ratio[0] * 0.8 <= (right - left) / (bottom - top) <= ratio[1] * 1.2
    if min(width, height) >= 20 and scale != (0.9, 1.0):
        assert len(set(boxes)) > 20


def test_random_boxes_are_spread_as_torchvision_spreads_them() -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    picture, scale, ratio = torch.zeros(3, 40, 60), (0.2, 0.8), (0.5, 2.0)
    cropper = v2.RandomResizedCrop(8, scale, ratio)
    theirs = []
    for _ in range(3000):
        box = cropper.make_params([picture])
        theirs.append((box["left"], box["top"], box["left"] + box["width"], box["top"] + box["height"]))
    ours = [random_crop_box(60, 40, scale, ratio, random) for _ in range(3000)]
    assert np.abs(np.mean(theirs, axis=0) - np.mean(ours, axis=0)).max() < 0.7
    assert np.abs(np.std(theirs, axis=0) - np.std(ours, axis=0)).max() < 0.7


def test_scale_one_takes_the_whole_square_and_the_centre_of_a_rectangle() -> None:
    random = np.random.default_rng(0)
    assert random_crop_box(20, 20, (1.0, 1.0), (1.0, 1.0), random) == (0, 0, 20, 20)
    assert random_crop_box(30, 20, (1.0, 1.0), (1.0, 1.0), random) == (5, 0, 25, 20)
    assert random_crop_box(20, 30, (1.0, 1.0), (1.0, 1.0), random) == (0, 5, 20, 25)


def test_the_same_generator_draws_the_same_boxes() -> None:
    first, second, other = (
        [random_crop_box(30, 20, (0.1, 1.0), (0.5, 2.0), random) for _ in range(5)]
        for random in map(np.random.default_rng, (1, 1, 2))
    )
    assert first == second != other


def test_crop_takes_the_box_and_resizes_it() -> None:
    pixels = noise(20, 30, 3)
    image = Image.fromarray(pixels)
    assert (crop(image, (3.0, 2.0, 11.0, 10.0), 8) == pixels[2:10, 3:11]).all()
    expected = image.crop((3, 2, 19, 18)).resize((8, 8), Image.Resampling.BILINEAR)
    difference = crop(image, (3.0, 2.0, 19.0, 18.0), 8).astype(int)[1:-1, 1:-1] - np.array(expected)[1:-1, 1:-1]
    assert np.abs(difference).max() <= 1
