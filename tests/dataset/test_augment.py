"""Augmentation: each variation does what it says, to every image by itself, from the generator's numbers alone."""

from collections.abc import Sized

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from pipelines.dataset.augment import (
    Draws,
    augment,
    cut_out,
    jitter_colours,
    normalise,
    random_resized_crop,
    reduce,
    shift_and_flip,
    to_float,
)
from pipelines.settings.training_sections import AugmentSettings
from tests.support.pictures import noise

EVERYTHING = AugmentSettings(
    flip=True,
    translate=2,
    resize=10,
    crop_scale=(0.3, 1.0),
    crop_ratio=(0.5, 2.0),
    colour_jitter=0.4,
    cutout=3,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(images: Sized, seed: int = 0) -> Draws:
    return Draws(seeded(seed), len(images))


def batch(count: int = 64, height: int = 8, width: int = 8) -> Tensor:
    return torch.from_numpy(noise(count, height, width, 3))


def test_to_float_moves_the_channels_and_divides_by_255() -> None:
    images = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)
    assert torch.allclose(to_float(images), torch.tensor([[[[0.0]], [[0.2]], [[1.0]]]]))
    assert to_float(batch(2)).is_contiguous(memory_format=torch.channels_last)
    assert images.tolist() == [[[[0, 51, 255]]]]


def test_normalise_is_torchvisions() -> None:
    images, mean, std = to_float(batch(3)), (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    assert torch.allclose(normalise(images, mean, std), v2.Normalize(list(mean), list(std))(images))


def test_nothing_set_changes_nothing() -> None:
    images = batch()
    assert torch.equal(augment(images, AugmentSettings(), 8, draws(images), crop=True), to_float(images))


@pytest.mark.parametrize("setting", ["flip", "translate", "crop_scale", "crop_ratio", "colour_jitter", "cutout"])
def test_each_setting_alone_changes_images_and_leaves_the_input_alone(setting: str) -> None:
    images = batch()
    value = {"flip": True, "translate": 2, "crop_scale": (0.3, 0.9), "crop_ratio": (0.5, 2.0), "colour_jitter": 0.5}
    settings = AugmentSettings(**{setting: value.get(setting, 3)})  # type: ignore[arg-type]
    varied = augment(images, settings, 8, draws(images), crop=True)
    assert varied.shape == (64, 3, 8, 8)
    assert varied.dtype == torch.float32
    assert 0 <= varied.min() <= varied.max() <= 1
    changed = (varied != to_float(images)).flatten(1).any(dim=1)
    assert changed.sum() >= (16 if setting == "flip" else 32)
    assert torch.equal(images, batch())


def test_everything_together_keeps_shape_and_range() -> None:
    varied = augment(batch(), EVERYTHING, 8, draws(batch()), crop=True)
    assert varied.shape == (64, 3, 8, 8)
    assert 0 <= varied.min() <= varied.max() <= 1


def test_the_same_generator_gives_the_same_images_and_another_gives_others() -> None:
    first, same, other = (augment(batch(), EVERYTHING, 8, draws(batch(), seed), crop=True) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_augmentation_leaves_torchs_global_generator_alone() -> None:
    before = torch.get_rng_state()
    augment(batch(), EVERYTHING, 8, draws(batch()), crop=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_photos_that_were_cropped_when_decoded_are_not_cropped_again() -> None:
    settings = AugmentSettings(crop_scale=(0.3, 0.5), resize=12)
    assert torch.equal(augment(batch(), settings, 8, draws(batch()), crop=False), to_float(batch()))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("pixels", [1, 3])
def test_each_shift_is_a_crop_of_the_reflected_image(pixels: int, flip: bool) -> None:
    images = noise(100, 8, 9, 3)
    shifted = shift_and_flip(torch.from_numpy(images), pixels, flip, draws(images)).numpy()
    places = set()
    for image, result in zip(images, shifted, strict=True):
        padded = np.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)), mode="reflect")
        fits = [
            (top, left, mirrored)
            for top in range(2 * pixels + 1)
            for left in range(2 * pixels + 1)
            for mirrored in {False, flip}
            if (padded[top : top + 8, left : left + 9][:, :: -1 if mirrored else 1] == result).all()
        ]
        assert len(fits) == 1
        places.add(fits[0])
    assert {top for top, _, _ in places} == {left for _, left, _ in places} == set(range(2 * pixels + 1))
    assert {mirrored for _, _, mirrored in places} == {False, flip}


def test_a_shift_beyond_the_image_is_reflected_again() -> None:
    images = noise(50, 3, 3, 3)
    shifted = shift_and_flip(torch.from_numpy(images), 7, False, draws(images)).numpy()
    for image, result in zip(images, shifted, strict=True):
        padded = np.pad(image, ((7, 7), (7, 7), (0, 0)), mode="reflect")
        assert any((padded[y : y + 3, x : x + 3] == result).all() for y in range(15) for x in range(15))


def test_about_half_are_mirrored() -> None:
    images = batch(400)
    flipped = shift_and_flip(images, 0, True, draws(images))
    mirrored = (flipped == images.flip(2)).flatten(1).all(dim=1)
    assert torch.equal(flipped[~mirrored], images[~mirrored])
    assert 150 < mirrored.sum() < 250


def test_a_crop_of_the_whole_area_is_the_image() -> None:
    images = to_float(batch())
    cropped = random_resized_crop(images, 8, (1.0, 1.0), (1.0, 1.0), draws(images))
    assert torch.allclose(cropped, images, atol=1e-5)


def test_enlarging_then_cropping_the_whole_is_enlarging_and_reducing() -> None:
    settings = AugmentSettings(resize=16)
    constant = torch.full((4, 8, 8, 3), 77, dtype=torch.uint8)
    assert torch.allclose(augment(constant, settings, 8, draws(constant), crop=True), to_float(constant))
    assert augment(batch(4), settings, 8, draws(batch(4)), crop=True).shape == (4, 3, 8, 8)


@pytest.mark.parametrize("size", [4, 8, 12])
def test_a_crop_has_the_size_asked_for(size: int) -> None:
    assert random_resized_crop(to_float(batch(5)), size, (0.3, 0.9), (0.5, 2.0), draws(batch(5))).shape == (
        5,
        3,
        size,
        size,
    )


def ramps(side: int) -> Tensor:
    """An image whose red is the column's and whose green is the row's number, so that a crop shows where it was cut."""
    numbers = torch.arange(side).float()
    return torch.stack([numbers.expand(side, side), numbers[:, None].expand(side, side), torch.zeros(side, side)])


def test_a_crop_shows_what_pillow_shows_of_the_same_box() -> None:
    side, size, count = 40, 40, 200
    crops = random_resized_crop(
        ramps(side).expand(count, -1, -1, -1), size, (0.25, 0.81), (0.5, 2.0), Draws(seeded(), count)
    )
    centres, drawn = set(), []
    for red, green, _ in crops:
        # Away from the borders the values are linear: the step between two pixels is the box's side over `size`.
        wide, high = (red[20, 25] - red[20, 15]).item() / 10 * size, (green[25, 20] - green[15, 20]).item() / 10 * size
        left = red[20, 20].item() + 0.5 - wide / size * 20.5
        top = green[20, 20].item() + 0.5 - high / size * 20.5
        assert -0.01 <= left <= left + wide <= side + 0.01
        assert -0.01 <= top <= top + high <= side + 0.01
        assert wide * high / side**2 <= 0.811
        assert (wide * high / side**2 >= 0.249) or max(wide, high) > side - 0.01  # a box cut to the image is smaller
        assert 0.499 <= wide / high <= 2.001
        centres.add((round(left + wide / 2), round(top + high / 2)))
        room = max(side - wide, 1e-3), max(side - high, 1e-3)
        if min(room) > 0.5:
            drawn.append((wide * high, np.log(wide / high), left / room[0], top / room[1]))
        for channel in (red, green):
            source = Image.fromarray((ramps(side)[0] if channel is red else ramps(side)[1]).numpy(), mode=None)
            box = (max(left, 0), max(top, 0), min(left + wide, side), min(top + high, side))
            theirs = np.asarray(source.resize((size, size), Image.Resampling.BILINEAR, box=box))
            assert np.abs(theirs - channel.numpy())[2:-2, 2:-2].max() < 0.02
    assert len(centres) > 50
    # Area, shape and both places are drawn apart: none of the four follows from another.
    assert np.abs(np.corrcoef(np.array(drawn).T) - np.eye(4)).max() < 0.3


def test_crops_are_drawn_for_each_image() -> None:
    crops = random_resized_crop(ramps(16).expand(8, -1, -1, -1), 8, (0.2, 0.6), (1.0, 1.0), Draws(seeded(), 8))
    assert len({tuple(each.flatten().tolist()) for each in crops}) == 8


def test_colour_jitter_is_torchvisions_with_the_same_factors() -> None:
    images = to_float(batch(20))
    jittered = jitter_colours(images, 0.4, draws(images))
    factors = 1 + 0.4 * (2 * torch.rand(3, 20, generator=seeded()) - 1)
    assert 0.6 <= factors.min() < 0.7 < 1.3 < factors.max() <= 1.4
    for number in range(20):
        brightness, contrast, saturation = factors[:, number].tolist()
        expected = v2.functional.adjust_brightness(images[number], brightness)
        expected = v2.functional.adjust_contrast(expected, contrast)
        expected = v2.functional.adjust_saturation(expected, saturation)
        assert torch.allclose(jittered[number], expected, atol=2e-3)  # torchvision rounds its weights of grey


def test_colour_jitter_of_full_strength_stays_in_range() -> None:
    jittered = jitter_colours(to_float(batch(200)), 1.0, draws(batch(200)))
    assert 0 <= jittered.min() <= jittered.max() <= 1
    assert jittered.isfinite().all()


@pytest.mark.parametrize("side", [1, 3, 4, 8, 20])
def test_cutout_greys_one_square_around_any_centre(side: int) -> None:
    white = torch.ones(600, 3, 8, 8)
    cut = cut_out(white, side, draws(white))
    assert set(cut.unique().tolist()) <= {0.5, 1.0}
    seen = torch.zeros(8, 8, dtype=torch.bool)
    for image in cut:
        grey = image == 0.5
        assert torch.equal(grey[0], grey[1])
        assert torch.equal(grey[0], grey[2])
        rows, columns = grey[0].any(dim=1).nonzero(), grey[0].any(dim=0).nonzero()
        high, wide = (int(each.max() - each.min()) + 1 for each in (rows, columns))
        assert grey[0].sum() == high * wide  # a whole rectangle: the part of the square that lies inside
        assert max(high, wide) <= side
        assert min(high, wide) >= min(side // 2, 4)
        seen |= grey[0]
    assert seen.all()
    if side == 1:
        assert (cut == 0.5).sum() == 600 * 3


@pytest.mark.parametrize("translate", [0, 2])
def test_images_that_are_to_be_mirrored_are_and_the_others_are_not(translate: int) -> None:
    images, mirrored = batch(100), torch.arange(100) % 3 == 0
    plain = shift_and_flip(images, translate, False, draws(images))
    varied = shift_and_flip(images, translate, False, draws(images), mirrored)
    assert torch.equal(varied[~mirrored], plain[~mirrored])
    shifted_after_mirroring = shift_and_flip(images, translate, False, draws(images), torch.ones(100, dtype=torch.bool))
    assert torch.equal(varied[mirrored], shifted_after_mirroring[mirrored])
    if not translate:
        assert torch.equal(varied[mirrored], images[mirrored].flip(2))
    settings = AugmentSettings(translate=translate)
    assert torch.equal(augment(images, settings, 8, draws(images), crop=True, mirrored=mirrored), to_float(varied))


def test_reducing_is_pillows_and_keeps_the_channels_last() -> None:
    images = batch(5, 32, 32)
    reduced = reduce(to_float(images), 20)
    assert reduced.shape == (5, 3, 20, 20)
    assert reduced.is_contiguous(memory_format=torch.channels_last)
    for image, ours in zip(images, reduced, strict=True):
        theirs = Image.fromarray(image.numpy()).resize((20, 20), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(theirs) - ours.permute(1, 2, 0).numpy() * 255).max() < 1.01
