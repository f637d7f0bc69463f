"""Several networks predict the same batches, as each of them alone."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.core import checkpoint
from pipelines.core.prediction import Resources, on_features, predict, predict_each
from pipelines.dataset import image_reader
from pipelines.dataset.image_set import ImageSet
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from tests.support.tiny import Tiny, pretrained

PHOTOS = ("input.source=photos", "predict.mirror=true")


def epochs_of(tiny: Tiny, folder: Path, *overrides: str) -> tuple[Settings, ImageSet, list[Path]]:
    """Train; return the settings, the validation rows, and the checkpoint of each epoch."""
    job = tiny.job(*overrides)
    assert job.valid is not None
    paths = []
    for row in tiny.run(job):
        paths.append(folder / f"epoch-{row['epoch']}.pt")
        shutil.copyfile(job.files.last, paths[-1])
    return job.settings, job.valid, paths


def alone(tiny: Tiny, path: Path, settings: Settings, images: ImageSet) -> Tensor:
    (block,) = [block for _, block in predict(path, settings, images, Resources(tiny.layout.weights), "")]
    return block


def test_each_photo_is_decoded_once_for_all_networks(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, images, paths = epochs_of(tiny, tmp_path, *PHOTOS, "train.epochs=2")
    expected = [alone(tiny, path, settings, images) for path in paths]
    opened: list[str] = []
    plain = image_reader.Reader.open

    def counted(self: image_reader.Reader, path: str, *more: str) -> object:
        opened.append(path)
        return plain(self, path, *more)

    monkeypatch.setattr(image_reader.Reader, "open", counted)
    ((places, found),) = predict_each([*paths, paths[0]], settings, images, Resources(tiny.layout.weights), "")
    assert sorted(opened) == sorted(images.rows["path"])
    assert places.tolist() == list(range(len(images)))
    for one, other in zip(found, [*expected, expected[0]], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(found[0], found[1])


def test_networks_on_features_and_on_images_predict_together(tiny: Tiny, small_weights: Path, tmp_path: Path) -> None:
    words = (*pretrained(small_weights), "finetune.head_epochs=1", "train.epochs=2", "train.lr=0.01")
    settings, images, paths = epochs_of(tiny, tmp_path, *words)
    assert [on_features(checkpoint.load(path), settings) for path in paths] == [True, False]
    for order in (paths, paths[::-1]):
        blocks = list(predict_each(order, settings, images, Resources(tiny.layout.weights), ""))
        assert np.concatenate([places for places, _ in blocks]).tolist() == list(range(len(images)))
        for number, path in enumerate(order):
            assert torch.equal(torch.cat([each[number] for _, each in blocks]), alone(tiny, path, settings, images))


def test_images_that_are_decoded_while_they_are_predicted_are_kept(tiny: Tiny, tmp_path: Path) -> None:
    settings, images, (path,) = epochs_of(tiny, tmp_path, "train.epochs=1")
    tests, cache = images.part(test=True), images.cache
    assert not [*cache.glob("test-*px-*")]
    alone(tiny, path, settings, tests)
    (kept,) = cache.glob("*test-*px-*")  # without a partial file and a journal
    assert kept.suffix == ".npy" and not kept.name.startswith(".")


def test_a_network_with_numbers_that_are_not_finite_is_named(tiny: Tiny, tmp_path: Path) -> None:
    settings, images, paths = epochs_of(tiny, tmp_path, "train.epochs=2")
    saved = checkpoint.load(paths[1])
    for weights in saved.weights.values():
        if weights.is_floating_point():
            weights.fill_(torch.nan)
    checkpoint.save(paths[1], saved)
    with pytest.raises(UserError, match=r"epoch-2\.pt predicts numbers that are not finite"):
        list(predict_each(paths, settings, images, Resources(tiny.layout.weights), ""))
