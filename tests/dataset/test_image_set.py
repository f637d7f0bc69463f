"""The image set: its training and validation sets, its labels, and the images it shares a cache with."""

import dataclasses

import pytest

from pipelines.dataset.image_set import ImageSet, open_images, read_images
from pipelines.dataset.splits import write_split_csv
from pipelines.system.errors import UserError
from tests.support.tiny import Tiny


def ids(images: ImageSet) -> list[int]:
    return [int(each) for each in images.ids]


def test_the_split_chooses_training_and_validation_set(tiny: Tiny) -> None:
    train, valid = tiny.images.divide(tiny.settings())
    assert ids(valid) == [4, 8, 12, 16, 20, 24]
    assert ids(train) == [number for number in range(1, 25) if number % 4]


def test_limit_takes_the_first_rows_of_the_labels(tiny: Tiny) -> None:
    train, valid = tiny.images.divide(tiny.settings("train.limit=9"))
    assert (ids(train), ids(valid)) == ([1, 2, 3, 5, 6, 7, 9], [4, 8])
    assert len(tiny.images.divide(tiny.settings("train.limit=99"))[0]) == 18


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_the_fold_validates_and_rows_without_fold_always_train(tiny: Tiny, fold: int) -> None:
    table = tiny.table.assign(fold=[number % 3 if number > 3 else -1 for number in range(36)])
    images = dataclasses.replace(tiny.images, table=table)
    train, valid = images.divide(tiny.settings("split.folds=3", f"train.fold={fold}"))
    assert ids(valid) == [number + 1 for number in range(4, 24) if number % 3 == fold]
    assert sorted(ids(train) + ids(valid)) == list(range(1, 25))


@pytest.mark.parametrize("limit", [1, 3])
def test_an_empty_part_is_refused_with_its_reason(tiny: Tiny, limit: int) -> None:
    with pytest.raises(UserError, match=rf"train\.limit is {limit}: .*{limit} labelled rows, 0 are .* or 0 for all"):
        tiny.images.divide(tiny.settings(f"train.limit={limit}"))
    assert len(tiny.images.divide(tiny.settings("train.limit=0"))[0]) == 18


def test_labels_are_class_numbers_and_test_images_have_none(tiny: Tiny) -> None:
    images = tiny.images
    assert [images.classes[number] for number in images.labels] == images.rows["label"].tolist()
    assert images.part(test=True).labels.shape == (0,)


def test_places_are_those_among_the_images_of_the_same_cache(tiny: Tiny) -> None:
    for part, name in (("valid", "labelled"), ("train", "labelled"), ("test", "test")):
        images = tiny.part(part)
        together = images.cached_together
        assert images.cache_name == together.cache_name == name
        assert together.ids[images.places].tolist() == images.ids.tolist()


def test_it_is_read_from_the_split_with_the_classes_of_the_competition(tiny: Tiny) -> None:
    write_split_csv(tiny.layout.split_csv, tiny.table)
    images = read_images(tiny.settings(), tiny.layout, "make split")
    assert images.classes == tiny.classes == open_images(tiny.settings(), tiny.layout, tiny.table).classes
    assert images.ids.tolist() == tiny.images.ids.tolist()
