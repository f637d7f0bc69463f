"""Boxes move with the pixels, whatever changes the image, and the changes of an image depend on nothing else."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.dataset.augment_boxes import change
from pipelines.dataset.batches import PackedBatches
from pipelines.dataset.loading import Loading
from pipelines.settings.loading import merge
from pipelines.settings.schema import Settings
from pipelines.system.group import Group

SIZE = 64
CASES: dict[str, dict[str, Any]] = {
    "mirror": {"flip": True},
    "zoom": {"zoom_out": 2.0},
    "crop": {"crop_scale": [0.5, 1.0], "crop_ratio": [0.7, 1.4]},
    "all": {"flip": True, "zoom_out": 1.5, "crop_scale": [0.6, 1.0], "crop_ratio": [0.8, 1.25], "colour_jitter": 0.1},
}


def settings_of(**augment: Any) -> Settings:
    boxes = {"task": "boxes", "metric": "box_map", "submission": "boxes"}
    return merge(Settings("x"), {"competition": boxes, "augment": augment}, "here")


def squares(count: int) -> tuple[Tensor, Tensor]:
    """A white rectangle on black in each image, and its box."""
    random = torch.Generator().manual_seed(0)
    pixels, targets = torch.zeros(count, SIZE, SIZE, 3, dtype=torch.uint8), torch.full((count, 2, 5), torch.nan)
    for number in range(count):
        x, y = torch.randint(0, SIZE - 30, (2,), generator=random).tolist()
        pixels[number, y : y + 16, x : x + 28] = 255
        targets[number, 0] = torch.tensor([1, x / SIZE, y / SIZE, (x + 28) / SIZE, (y + 16) / SIZE])
    return pixels, targets


@pytest.mark.parametrize("case", CASES)
def test_boxes_move_with_the_pixels(case: str) -> None:
    pixels, targets = squares(40)
    images, boxes = change(pixels, targets, settings_of(**CASES[case]), 1, range(40))
    assert images.shape == pixels.shape and images.dtype == torch.uint8 and boxes.shape == targets.shape
    moved, found = 0, (~boxes[:, 0, 0].isnan()).nonzero().flatten().tolist()
    assert len(found) > 25 and boxes[:, 1].isnan().all()
    for number in found:
        lit = images[number, :, :, 0] > 180
        columns, rows = (lit.any(dim=axis).nonzero().flatten() for axis in (0, 1))
        edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert (boxes[number, 0, 1:] * SIZE).tolist() == pytest.approx([float(each) for each in edges], abs=1.6)
        assert boxes[number, 0, 0] == 1
        moved += not torch.equal(boxes[number, 0], targets[number, 0])
    assert moved > len(found) // 4


def test_a_box_of_which_little_is_left_is_dropped() -> None:
    pixels, targets = squares(60)
    images, boxes = change(pixels, targets, settings_of(crop_scale=[0.1, 0.3]), 1, range(60))
    for number in boxes[:, 0, 0].isnan().nonzero().flatten().tolist():
        assert (images[number] > 128).float().mean() < 0.31 * 28 * 16 / SIZE**2 / 0.1
    assert 0 < boxes[:, 0, 0].isnan().sum() < 60


def test_an_image_changes_as_its_place_and_the_epoch_say() -> None:
    pixels, targets = squares(8)
    settings = settings_of(**CASES["all"])
    state = torch.get_rng_state()
    images, boxes = change(pixels, targets, settings, 3, range(8))
    assert torch.equal(state, torch.get_rng_state())
    alone, its_boxes = change(pixels[5:6], targets[5:6], settings, 3, [5])
    assert torch.equal(alone[0], images[5]) and torch.equal(its_boxes[0].nan_to_num(), boxes[5].nan_to_num())
    other, _ = change(pixels, targets, settings, 4, range(8))
    assert not torch.equal(other, images)
    same, kept = change(pixels, targets, settings_of(colour_jitter=0.3), 3, range(8))
    assert same is pixels and kept is targets


def test_processes_see_the_images_of_one() -> None:
    pixels, targets = squares(12)
    settings = merge(
        settings_of(**CASES["all"]),
        {"train": {"batch_size": 6}, "input": {"size": SIZE, "mean": [0.5] * 3, "std": [0.5] * 3}},
        "here",
    )

    def batches(group: Group) -> dict[int, tuple[Tensor, Tensor]]:
        loading = Loading(settings, 2, torch.device("cpu"), True, group)
        source = PackedBatches(np.arange(12).astype(str), pixels, torch.arange(12), targets, loading)
        return {
            place: (image, box)
            for batch in source.batches(2)
            for place, image, box in zip(batch.positions.tolist(), batch.inputs, batch.labels, strict=True)
        }

    whole = batches(Group())
    parts = batches(Group(0, 2)) | batches(Group(1, 2))
    assert whole.keys() == parts.keys() == set(range(12))
    for place, (image, box) in whole.items():
        torch.testing.assert_close(parts[place][0], image)
        assert torch.equal(parts[place][1].nan_to_num(), box.nan_to_num())
