"""What a look at the data says: the sample, the rule for brightness, and the images as the network sees them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageColor
from scipy.stats import ks_2samp
from torch.nn.functional import one_hot

from pipelines.analysis.drawn_boxes import COLOURS
from pipelines.analysis.look.batch import completed, seen_by_network, target_text
from pipelines.analysis.look.facts import brightness, number_facts, shift, shift_line
from pipelines.analysis.look.glance import Glance, tile
from pipelines.analysis.look.looking import look
from pipelines.analysis.look.sample import chosen
from pipelines.dataset.image_set import ImageSet
from pipelines.settings.metrics import NUMBERS, ONE_CLASS, SEVERAL_LABELS
from pipelines.system.errors import UserError
from tests.support.box_pages import boxes_of, make_boxes, numbers_in, opened
from tests.support.pictures import noise
from tests.support.tiny import Tiny, pretrained


def rows(labels: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame({"label": labels}, index=range(10, 10 + len(labels)))


def test_an_image_of_each_class_is_drawn_before_a_second_one() -> None:
    labels = ["a"] * 50 + ["rare"] + ["b"] * 50
    drawn = [labels[place] for place in chosen(rows(labels), ONE_CLASS)]
    assert drawn[:5] == ["a", "b", "rare", "a", "b"] and len(drawn) == 16
    many = [str(number // 2) for number in range(80)]
    drawn = [many[place] for place in chosen(rows(many), ONE_CLASS)]
    assert len({*drawn}) == 16
    assert chosen(rows([""] * 31), ONE_CLASS).tolist() == list(range(0, 31, 2))  # test rows have no label
    assert chosen(rows(["1", "2"]), NUMBERS).tolist() == [0, 1]
    assert chosen(rows([]), ONE_CLASS).tolist() == []


@pytest.mark.parametrize("change", [0.0, 3.0, 25.0, -40.0])
def test_the_distance_is_that_of_kolmogorov_and_smirnov(change: float) -> None:
    random = np.random.default_rng(1)
    train, test = random.normal(120, 30, 300), random.normal(120 + change, 30, 200)
    found, known = shift(train, test), ks_2samp(train, test)
    assert found["distance"] == pytest.approx(known.statistic, abs=1e-4)
    assert found["clear"] == (known.pvalue < 0.001) == (abs(change) > 20)
    assert found["test_is"] == ("" if abs(change) < 20 else "brighter" if change > 0 else "darker")


def test_many_images_do_not_make_a_small_shift_clear_and_few_make_none() -> None:
    random = np.random.default_rng(1)
    train, test = random.normal(120, 30, 100_000), random.normal(123, 30, 100_000)
    assert ks_2samp(train, test).pvalue < 1e-9 and not shift(train, test)["clear"]
    assert not shift(np.array([1.0, 2.0]), np.array([200.0, 201.0]))["clear"]
    wider = shift(random.normal(120, 5, 1000), random.normal(120, 40, 1000))
    assert (wider["clear"], wider["test_is"]) == (True, "different")
    parts = {name: {"brightness": {"mean": 120, "sd": 5}} for name in ("train", "test")}
    assert shift_line(parts, wider).startswith("Brightness: test images differ from train images: means 120 and 120")


def test_damaged_images_have_no_brightness() -> None:
    glances = [Glance(0, brightness=7.9), Glance(1, brightness=8.0), Glance(2, "it is cut short")]
    found = brightness({"train": glances})
    assert found["edges"][:2] == [0, 8] and found["train"][:3] == [1, 1, 0] and sum(found["train"]) == 2
    assert found["shift"] is None and brightness({"train": glances, "test": glances[2:]})["shift"] is None


@pytest.mark.parametrize("shape", [(3, 5, 1), (132, 132, 3), (700, 20, 3), (8, 8, 4), (8, 8, 2), (1, 3000, 3)])
def test_tiles_are_whole_images_in_colours(shape: tuple[int, ...]) -> None:
    made = tile(noise(*shape))
    height, width, channels = made.shape
    assert channels == 3 and max(height, width) in range(127, 133)
    assert height / width == pytest.approx(shape[0] / shape[1], rel=0.06, abs=0.05)


def test_targets_of_a_batch_as_text() -> None:
    classes = ["cat", "dog", "a\nbear"]
    assert target_text(torch.tensor(2), ONE_CLASS, classes) == "a\\nbear"
    assert target_text(torch.tensor([0.25, 0.75, 0.0]), ONE_CLASS, classes) == "75% dog, 25% cat"
    assert target_text(torch.tensor([0, 0, 0], dtype=torch.uint8), SEVERAL_LABELS, classes) == "(none)"
    assert target_text(torch.tensor([1.0, 0.0, 1.0]), SEVERAL_LABELS, classes) == "cat, a\\nbear"
    assert target_text(torch.tensor([1.5, float("nan")]), NUMBERS, classes[:2]) == "cat 1.5\ndog -"


def numbers(texts: Sequence[str], names: list[str]) -> ImageSet:
    parts = ["train" if place % 2 else "valid" for place in range(len(texts))]
    table = pd.DataFrame({"label": texts, "split": parts})
    return ImageSet(table, table, Path(), Path(), names, task=NUMBERS)


def test_whole_numbers_have_a_bin_each_and_missing_ones_are_counted() -> None:
    first, second = number_facts(numbers(["1|0.5", "3|", "2|0.25", "3|1"], ["grade", "share"]))
    assert first["edges"] == [0.5, 1.5, 2.5, 3.5]
    assert (first["train"], first["valid"]) == ([0, 0, 2], [1, 1, 0])
    assert len(second["edges"]) == 21 and second["missing"] == {"train": 1, "valid": 0}
    (same,) = number_facts(numbers(["2.5", "2.5"], ["x"]))
    assert sum(same["train"]) == sum(same["valid"]) == 1
    (none,) = number_facts(numbers(["", ""], ["x"]))
    assert none["missing"] == {"train": 1, "valid": 1}


def test_the_network_sees_what_the_sources_of_training_give(tiny: Tiny) -> None:
    images, settings = tiny.images, tiny.settings("augment.flip=true", "augment.translate=2")
    table = tiny.rows("train").head(7)
    alone = tiny.images.select(table)
    seen = seen_by_network(settings, images, table.index.tolist()[::-1], training=True)
    assert seen.title == "Train images as the network sees them in epoch 1: 8 x 8 pixels; augmented: flip, translate 2"
    assert [text for _, text in seen.cells] == table["label"].tolist()[::-1]
    assert not images.cache.exists()
    plain = seen_by_network(settings, images, table.index.tolist(), training=False)
    files = [np.asarray(alone.reader.open(path, "")) for path in table["path"]]
    assert all(np.array_equal(pixels, file) for (pixels, _), file in zip(plain.cells, files, strict=True))
    changed = [not np.array_equal(pixels, file) for (pixels, _), file in zip(seen.cells[::-1], files, strict=True)]
    assert any(changed)
    values = [{*map(tuple, pixels.reshape(-1, 3).tolist())} for pixels, _ in seen.cells[::-1]]
    assert all(each <= {*map(tuple, file.reshape(-1, 3).tolist())} for each, file in zip(values, files, strict=True))


def test_mixed_images_are_shown_mixed_and_change_no_random_numbers(tiny: Tiny) -> None:
    settings, rows = tiny.settings("augment.mixup=1", "train.batch_size=4"), tiny.rows("train").index.tolist()[:6]
    state = torch.get_rng_state()
    seen = seen_by_network(settings, tiny.images, rows, training=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(seen.cells) == 6 and any("%" in text for _, text in seen.cells)
    again = seen_by_network(settings, tiny.images, rows, training=True)
    assert all(np.array_equal(one[0], other[0]) for one, other in zip(seen.cells, again.cells, strict=True))


def test_progressive_sizes_and_crops_are_those_of_the_first_epoch(tiny: Tiny) -> None:
    rows = tiny.rows("train").index.tolist()[:3]
    seen = seen_by_network(tiny.settings("augment.sizes=[4, 8]"), tiny.images, rows, training=True)
    assert {pixels.shape for pixels, _ in seen.cells} == {(4, 4, 3)}
    settings = tiny.settings("input.source=photos", "augment.crop_scale=[0.3, 1.0]")
    train, valid = (seen_by_network(settings, tiny.images, rows, training).title for training in (True, False))
    assert train.endswith(": 8 x 8 pixels; augmented: crop_scale [0.3, 1.0]")
    assert valid.endswith(": 8 x 8 pixels, the centre of 9")


def test_a_frozen_network_sees_views(tiny: Tiny, small_weights: Path) -> None:
    given = tiny.settings(*pretrained(small_weights), "finetune.frozen_stages=-1", "features.crops=1")
    settings = completed(given, tiny.layout.weights)
    rows = tiny.rows("train").index.tolist()[:9]
    seen = seen_by_network(settings, tiny.images, rows, training=True)
    assert [text.partition("\n")[2] for _, text in seen.cells] == [
        *("centre", "centre, mirrored", "crop 1", "crop 1, mirrored") * 2
    ]
    assert np.array_equal(seen.cells[0][0][:, ::-1], seen.cells[1][0]) and not tiny.images.cache.exists()


def test_weights_give_the_size_and_are_not_downloaded(tiny: Tiny) -> None:
    settings = tiny.settings("input.size=0", "model.name=resnet18", "model.weights=IMAGENET1K_V1")
    assert settings.input.size == 0
    assert completed(settings, tiny.layout.weights).input.size == 224 and not tiny.layout.weights.exists()
    with pytest.raises(UserError, match="no file of weights"):
        completed(tiny.settings("model.name=resnet18", "model.weights=absent.pth"), tiny.layout.weights)


def test_one_hot_targets_of_one_class_are_not_mixed() -> None:
    assert target_text(one_hot(torch.tensor(1), 3).float(), ONE_CLASS, ["a", "b", "c"]) == "b"


def test_boxes_are_counted_measured_and_drawn(tmp_path: Path) -> None:
    site = make_boxes(tmp_path)
    settings, valid = opened(site)
    seen = look(settings, valid, site.layout, None, "")
    boxes = [boxes_of(number) for number in numbers_in(valid)]
    facts = seen.record["parts"]["valid"]
    assert (
        facts["boxes_per_image"]["most"] == max(map(len, boxes))
        and "boxes_per_image" not in seen.record["parts"]["test"]
    )
    assert facts["box_width"]["median"] == 0.25 and facts["box_height"]["least"] == 0.3
    assert seen.record["classes"]["valid"] == [
        sum(each[0] == number for some in boxes for each in some) for number in range(3)
    ]
    assert seen.record["classes"]["without_label"]["valid"] == sum(not some for some in boxes)
    assert seen.record["network"]["problem"] == "" and "images without a box" in seen.lines[0]
    with Image.open(site.layout.look_picture) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert all((pixels == ImageColor.getrgb(colour)).all(axis=2).any() for colour in COLOURS[:3])


def test_the_boxes_of_a_batch_are_drawn_on_its_images(tmp_path: Path) -> None:
    site = make_boxes(tmp_path)
    settings, valid = opened(site)
    rows = valid.rows.index[:4].tolist()
    seen = seen_by_network(settings, valid, rows, training=False)
    counts = [len(boxes_of(number)) for number in numbers_in(valid)[:4]]
    assert [sum(int(word) for word in text.split() if word.isdigit()) for _, text in seen.cells] == counts
    assert all(
        (np.asarray(ImageColor.getrgb(COLOURS[0])) == pixels).all(axis=2).any() or "cat" not in text
        for pixels, text in seen.cells
    )
