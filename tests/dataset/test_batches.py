"""Batches: every image once, with its own id and label, whatever the source, the order and the number of workers."""

import dataclasses
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipelines.dataset import packed
from pipelines.dataset.batches import PackedBatches, all_on_device, fits_on_device, moved_once, open_source
from pipelines.dataset.loading import Batch, BatchSource, Loading, WatchedBatches, prediction_batch, training_size
from pipelines.dataset.packed import PackedImages
from pipelines.dataset.photos import PhotoBatches
from pipelines.settings.loading import merge, with_input
from pipelines.settings.schema import PLAIN_INPUT, Settings
from pipelines.system import processes
from pipelines.system.errors import UserError
from tests.support.pictures import noise
from tests.support.tiny import Tiny, numbers_of

PACKED, PHOTOS = "input.source=packed", "input.source=photos"
VARIED = ("augment.flip=true", "augment.translate=2", "augment.crop_scale=[0.4, 1.0]", "augment.colour_jitter=0.3")
NO_WARNING_ABOUT_CORES = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def batches(source: BatchSource, epoch: int, global_seed: int = 0) -> list[Batch]:
    torch.manual_seed(global_seed)  # as the engine does, for what torchvision draws
    return list(source.batches(epoch))


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.labels, b.labels) and torch.equal(a.positions, b.positions)
        for a, b in zip(left, right, strict=True)
    )


def loading(batch_size: int, training: bool) -> Loading:
    sizes = {"train": {"batch_size": batch_size}, "predict": {"batch_size": batch_size}}
    settings = merge(with_input(Settings("x"), **PLAIN_INPUT), sizes, "here")
    return Loading(settings, 3, torch.device("cpu"), training)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 7, 8, 9, 100])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 8, 1000])
def test_training_batches_hold_every_image_once_and_sizes_differ_by_one(count: int, batch_size: int) -> None:
    source = loading(batch_size, training=True)
    parts = [part.taken for part in source.divide(count, epoch=1)]
    assert sorted(torch.cat(parts).tolist()) == list(range(count))
    sizes = [len(part) for part in parts]
    assert max(sizes) <= max(batch_size, 3)
    assert max(sizes) - min(sizes) <= 1
    assert len(parts) == source.steps(count)
    assert min(sizes) > 1 or count == 1  # batch statistics of one image fail


def test_evaluation_goes_in_order_and_counts_the_last_partial_batch() -> None:
    parts = loading(4, training=False).divide(9, epoch=0)
    assert [part.taken.tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


def test_each_epoch_has_its_own_order_which_comes_back() -> None:
    orders = ([part.taken for part in loading(8, training=True).divide(40, epoch)] for epoch in (1, 2, 1))
    first, second, again = (torch.cat(order).tolist() for order in orders)
    assert first == again != second
    assert first != list(range(40))


@pytest.mark.parametrize("source", [PACKED, PHOTOS])
@pytest.mark.parametrize("training", [False, True])
def test_images_labels_and_positions_belong_together(tiny: Tiny, source: str, training: bool) -> None:
    opened = tiny.source("train", source, training=training)
    settings = tiny.settings()
    labels = dict(zip(tiny.table["id"][:24], tiny.table["label"][:24], strict=True))
    seen = []
    for batch in opened.batches(1 if training else 0):
        assert batch.inputs.shape[1:] == (3, 8, 8)
        assert batch.inputs.dtype == torch.float32
        ids = opened.ids[batch.positions.numpy()]
        assert numbers_of(batch, settings) == [int(each) for each in ids]
        assert [tiny.classes[label] for label in batch.labels] == [labels[each] for each in ids]
        seen += list(ids)
    assert sorted(seen) == sorted(tiny.rows("train")["id"])
    assert (seen == list(opened.ids)) is not training
    assert len(opened) == 18


@pytest.mark.parametrize("source", [PACKED, PHOTOS])
def test_test_images_keep_their_ids_and_have_no_labels(tiny: Tiny, source: str) -> None:
    opened = tiny.source("test", source)
    assert list(opened.ids) == ["8", "1", "12", "3", "10", "2", "11", "4", "6", "5", "9", "7"]
    found: dict[str, int] = {}
    for batch in opened.batches(0):
        assert len(batch.labels) == 0
        found |= dict(zip(opened.ids[batch.positions.numpy()], numbers_of(batch, tiny.settings()), strict=True))
    assert found == {str(number): number for number in range(1, 13)}


def test_pixels_are_normalised_with_mean_and_std(tiny: Tiny) -> None:
    plain = torch.cat([batch.inputs for batch in tiny.source("train").batches(0)])
    moved = tiny.source("train", "input.mean=[0, 0, 0]", "input.std=[1, 1, 1]")
    raw = torch.cat([batch.inputs for batch in moved.batches(0)])
    assert 0 <= raw.min() <= raw.max() <= 1
    assert torch.allclose((raw - 0.5) / 0.25, plain)


def test_photos_and_packed_give_the_same_batches_of_images_that_fit(tiny: Tiny) -> None:
    for part, training, epoch in (("train", True, 1), ("train", True, 2), ("valid", False, 0), ("test", False, 0)):
        packed = batches(tiny.source(part, PACKED, training=training), epoch)
        assert same(packed, batches(tiny.source(part, PHOTOS, training=training), epoch))


def test_photos_and_packed_are_augmented_alike_where_the_crop_is_not_random(tiny: Tiny) -> None:
    options = ("augment.flip=true", "augment.translate=2", "augment.colour_jitter=0.3", "augment.cutout=3")
    packed = batches(tiny.source("train", PACKED, *options, training=True), 3)
    assert same(packed, batches(tiny.source("train", PHOTOS, *options, training=True), 3))


def varied_source(tiny: Tiny, source: str, *more: str, seed: int = 0, training: bool = True) -> BatchSource:
    return tiny.source("train", source, *VARIED, *more, f"train.seed={seed}", training=training)


@pytest.mark.parametrize("source", [PACKED, PHOTOS])
def test_an_epoch_can_be_repeated_whatever_came_before_it(tiny: Tiny, source: str) -> None:
    opened = varied_source(tiny, source)
    first, second = batches(opened, 1), batches(opened, 2)
    assert not same(first, second)
    next(opened.batches(3))  # begun and abandoned
    assert same(batches(opened, 1), first)
    assert same(batches(varied_source(tiny, source), 2), second)
    assert not same(batches(varied_source(tiny, source, seed=1), 2), second)


@pytest.mark.parametrize("source", [PACKED, PHOTOS])
def test_a_crop_belongs_to_epoch_and_image(tiny: Tiny, source: str) -> None:
    opened = tiny.source("train", source, "augment.crop_scale=[0.2, 0.9]", training=True)

    def by_position(epoch: int) -> Tensor:
        parts = list(opened.batches(epoch))
        order = torch.cat([part.positions for part in parts]).argsort()
        return torch.cat([part.inputs for part in parts])[order]

    changed = (by_position(1) != by_position(2)).flatten(1).any(dim=1)
    assert changed.sum() > 12  # of 18; a few boxes of 8 x 8 pixels may be drawn twice


@pytest.mark.parametrize("source", [PACKED, PHOTOS])
@pytest.mark.parametrize("mix", ["augment.mixup=0.4", "augment.cutmix=1.0"])
def test_evaluation_varies_nothing(tiny: Tiny, source: str, mix: str) -> None:
    whole = "input.resize=8"  # else it leaves out a margin where training crops
    varied = batches(varied_source(tiny, source, mix, whole, training=False), 0)
    assert same(varied, batches(tiny.source("train", source), 0))


def unmixed_and_mixed(tiny: Tiny, source: str, mix: str) -> list[tuple[Batch, Batch]]:
    plain = tiny.source("train", source, "augment.flip=true", training=True)
    mixed = tiny.source("train", source, "augment.flip=true", mix, training=True)
    return list(zip(batches(plain, 1), batches(mixed, 1), strict=True))


@pytest.mark.parametrize("source", [PACKED, PHOTOS])
def test_mixup_adds_a_neighbour_with_the_share_that_the_labels_say(tiny: Tiny, source: str) -> None:
    shares = []
    for plain, mixed in unmixed_and_mixed(tiny, source, "augment.mixup=0.8"):
        one_hot = torch.nn.functional.one_hot(plain.labels, 3).float()
        partner = one_hot.roll(1, 0)
        differs = (plain.labels != plain.labels.roll(1)).nonzero()[0, 0]
        share = mixed.labels[differs, plain.labels[differs]]
        assert torch.allclose(mixed.labels, share * one_hot + (1 - share) * partner, atol=1e-6)
        expected = share * plain.inputs + (1 - share) * plain.inputs.roll(1, 0)
        assert torch.allclose(mixed.inputs, expected, atol=1e-4)
        shares.append(share.item())
    assert len(set(shares)) == len(shares) == 3
    assert all(0 <= share <= 1 for share in shares)


@pytest.mark.parametrize("source", [PACKED, PHOTOS])
def test_cutmix_pastes_a_box_of_the_share_that_the_labels_say(tiny: Tiny, source: str) -> None:
    pasted_ever = 0.0
    for plain, mixed in unmixed_and_mixed(tiny, source, "augment.cutmix=1.0"):
        pasted = (mixed.inputs != plain.inputs).any(dim=1)
        assert torch.equal(mixed.inputs.movedim(1, -1)[pasted], plain.inputs.roll(1, 0).movedim(1, -1)[pasted])
        area = pasted.any(dim=0).float().mean()
        one_hot = torch.nn.functional.one_hot(plain.labels, 3).float()
        assert torch.allclose(mixed.labels, (1 - area) * one_hot + area * one_hot.roll(1, 0), atol=1e-6)
        pasted_ever += area.item()
    assert 0.1 < pasted_ever < 2.9


@NO_WARNING_ABOUT_CORES
@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_no_batch(tiny: Tiny, workers: int) -> None:
    options = (*VARIED, "augment.mixup=0.4")
    alone = tiny.source("train", PHOTOS, *options, training=True)
    helped = tiny.source("train", PHOTOS, *options, f"hardware.workers={workers}", training=True)
    for epoch in (1, 2):
        assert same(batches(helped, epoch), batches(alone, epoch))
    assert same(
        batches(tiny.source("test", PHOTOS, f"hardware.workers={workers}"), 0), batches(tiny.source("test", PHOTOS), 0)
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_photos_leave_torchs_global_generator_alone(tiny: Tiny, workers: int) -> None:
    opened = tiny.source("train", PHOTOS, f"hardware.workers={workers}", training=True)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for epoch in (1, 2):
        list(opened.batches(epoch))
        assert torch.equal(torch.get_rng_state(), before)  # else dropout would depend on epochs and workers before


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["unreadable", "missing"])
def test_a_bad_photo_is_named_with_its_row(tiny: Tiny, workers: int, damage: str) -> None:
    path = tiny.layout.raw / "test/10.png"
    path.unlink()
    if damage == "unreadable":
        path.write_text("no image")
    opened = tiny.source("test", PHOTOS, f"hardware.workers={workers}")
    with pytest.raises(UserError, match=r"raw/test/10\.png \(id '10', (train|test)\)"):
        list(opened.batches(0))


@pytest.mark.parametrize("damage", ["unreadable", "missing"])
def test_a_bad_labelled_photo_is_named_before_the_first_batch(tiny: Tiny, damage: str) -> None:
    path = tiny.layout.raw / "train/11.png"
    path.unlink()
    if damage == "unreadable":
        path.write_text("no image")
    with pytest.raises(UserError, match=r"raw/train/11\.png \(id '11', (train|test)\)"):
        tiny.source("train", PHOTOS, training=True)


def test_a_photo_that_breaks_later_is_named_too(tiny: Tiny) -> None:
    opened = tiny.source("train", PHOTOS, training=True)
    (tiny.layout.raw / "train/11.png").write_text("no image")
    with pytest.raises(UserError, match=r"raw/train/11\.png \(id '11', (train|test)\)"):
        list(opened.batches(1))


def test_a_bad_photo_ends_the_workers_at_once(tiny: Tiny) -> None:
    (tiny.layout.raw / "test/10.png").write_text("no image")
    opened = tiny.source("test", PHOTOS, "hardware.workers=1")
    with pytest.raises(UserError):
        list(opened.batches(0))
    del opened
    assert not multiprocessing.active_children()  # else the stage would wait 5 seconds for them before it ends


def test_a_bad_small_image_is_named_with_its_row(tiny: Tiny) -> None:
    (tiny.layout.raw / "test/10.png").write_text("no image")
    with pytest.raises(UserError, match=r"raw/test/10\.png \(id '10', (train|test)\)"):
        list(tiny.source("test").batches(0))
    tiny.source("train")  # and only who needs it is stopped


def test_a_bad_small_labelled_image_is_named_before_the_first_batch(tiny: Tiny) -> None:
    (tiny.layout.raw / "train/11.png").write_text("no image")
    with pytest.raises(UserError, match=r"raw/train/11\.png \(id '11', (train|test)\)"):
        tiny.source("train", training=True)


def test_small_test_images_are_used_while_later_ones_are_decoded(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "CHUNK_IMAGES", 6)
    monkeypatch.setattr(processes, "cores", lambda: 1)
    fresh = tiny.source("test")
    begun = fresh.batches(0)
    first = next(begun)
    assert not list(tiny.layout.cache.glob("*.npy"))
    streamed = [first, *begun]
    assert len(list(tiny.layout.cache.glob("*.npy"))) == 1
    assert same(streamed, batches(fresh, 0))  # now from the whole file
    assert same(streamed, batches(tiny.source("test", PHOTOS), 0))


def test_an_abandoned_stream_of_small_images_leaves_nothing_that_looks_whole(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "CHUNK_IMAGES", 6)
    before = multiprocessing.active_children()
    begun = tiny.source("test").batches(0)
    next(begun)
    begun.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == before
    assert not list(tiny.layout.cache.glob("*.npy"))
    assert len(batches(tiny.source("test"), 0)) == 3


def test_images_to_validate_on_stay_the_same_whatever_becomes_of_their_cache(tiny: Tiny) -> None:
    """It goes when `make clean` is called meanwhile, or a stage with another `hardware.cache_by`."""
    opened = tiny.source("valid")
    before = batches(opened, 1)
    for path in (*tiny.layout.cache.glob("*.npy"), *(tiny.layout.raw / "train").iterdir()):
        path.unlink()
    assert same(before, batches(opened, 2))
    assert not list(tiny.layout.cache.glob("*.npy"))


def test_pixels_move_to_a_device_if_half_of_its_free_memory_holds_them() -> None:
    assert fits_on_device(500, free=1000)
    assert not fits_on_device(501, free=1000)
    pixels = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    assert moved_once(pixels, torch.device("cpu")) is pixels


@pytest.mark.gpu
@pytest.mark.parametrize("free", [0, 1 << 30])
def test_on_a_gpu_the_batches_are_those_of_the_cpu(tiny: Tiny, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    for part, training in (("train", True), ("valid", False), ("test", False)):
        there = open_source(tiny.settings(), tiny.part(part), torch.device("cuda"), training)
        assert isinstance(there, PackedBatches)
        assert (isinstance(there.pixels, Tensor) and there.pixels.is_cuda) == (bool(free) and part != "test")
        found = batches(there, 1 if training else 0)
        for ours, theirs in zip(
            found, batches(tiny.source(part, training=training), 1 if training else 0), strict=True
        ):
            assert ours.inputs.is_cuda
            assert torch.allclose(ours.inputs.cpu(), theirs.inputs, atol=1e-6)
            assert torch.equal(ours.labels.cpu(), theirs.labels)
            assert torch.equal(ours.positions, theirs.positions)


@pytest.mark.parametrize(("resize", "crop_scale", "short"), [(0, 0.5, 16), (24, 1, 24), (0, 1, 14)])
def test_photos_are_evaluated_on_the_centre_after_a_resize(
    tmp_path: Path, tiny: Tiny, resize: int, crop_scale: float, short: int
) -> None:
    photo = Image.fromarray(noise(42, 84, 3))
    rows = tiny.rows("test").iloc[:1]
    photo.save(tiny.layout.raw / rows["path"].iloc[0])
    scale = f"augment.crop_scale=[{crop_scale}, 1]"
    values = ["input.size=14", f"input.resize={resize}", "input.mean=[0, 0, 0]", "input.std=[1, 1, 1]"]
    settings = tiny.settings("input.source=photos", scale, *values)
    loading = Loading(settings, 3, torch.device("cpu"), False)
    source = PhotoBatches(tiny.images.select(rows), loading, workers=0)
    resized = np.array(photo.resize((short * 2, short), Image.Resampling.BILINEAR))
    top, left = (short - 14) // 2, (short * 2 - 14) // 2
    (batch,) = source.batches(0)
    expected = torch.tensor(resized[top : top + 14, left : left + 14]).movedim(2, 0)
    assert torch.equal((batch.inputs[0] * 255).round(), expected)


def test_the_cache_is_shared_by_parts_limits_and_folds(tiny: Tiny) -> None:
    tiny.source("train")
    before = {path.name: path.stat().st_mtime_ns for path in tiny.layout.cache.iterdir()}
    tiny.source("valid")
    assert {path.name: path.stat().st_mtime_ns for path in tiny.layout.cache.iterdir()} == before
    assert len(before) == 1


def test_a_packed_source_finds_its_images_by_place() -> None:
    pixels = torch.from_numpy(noise(10, 4, 4, 3))
    places, labels = torch.tensor([7, 2, 9]), torch.tensor([0, 1, 2])
    source = PackedBatches(np.array(["a", "b", "c"]), pixels, places, labels, loading(2, training=False))
    images = torch.cat([batch.inputs for batch in source.batches(0)])
    assert torch.allclose(images * 0.25 + 0.5, pixels[places].movedim(3, 1) / 255)
    assert (len(source), source.steps) == (3, 2)


def test_a_watched_source_is_the_source(tiny: Tiny) -> None:
    calls = []

    def watch(items: object, what: str, total: int | None = None, unit: str = "files") -> object:
        calls.append((what, total, unit))
        return items

    source = tiny.source("train", training=True)
    watched = WatchedBatches(source, "epoch", watch)  # type: ignore[arg-type]
    assert same(batches(watched, 2), batches(source, 2))
    assert same(batches(WatchedBatches(source, "validating", watch), 0), batches(source, 0))  # type: ignore[arg-type]
    assert calls == [("epoch 2", 3, "batches"), ("validating", 3, "batches")]
    assert (len(watched), watched.steps, list(watched.ids)) == (18, 3, list(source.ids))


def test_batch_sizes_are_those_of_training_and_of_prediction(tiny: Tiny) -> None:
    assert [len(batch.inputs) for batch in tiny.source("train", training=True).batches(1)] == [6, 6, 6]
    assert [len(batch.inputs) for batch in tiny.source("train").batches(0)] == [5, 5, 5, 3]


def test_a_batch_is_a_plain_value() -> None:
    batch = Batch(torch.zeros(1), torch.zeros(1), torch.zeros(1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.inputs = torch.ones(1)  # type: ignore[misc]


@pytest.mark.parametrize("source", [PACKED, PHOTOS])
def test_alternating_flips_show_each_image_from_both_sides_in_two_epochs(tiny: Tiny, source: str) -> None:
    flipped = tiny.source("train", source, "augment.alternating_flip=true", training=True)
    plain = tiny.source("train", source, training=True)

    def by_position(batches_of: BatchSource, epoch: int) -> dict[int, Tensor]:
        return {
            int(position): image
            for each in batches(batches_of, epoch)
            for position, image in zip(each.positions, each.inputs, strict=True)
        }

    originals = by_position(plain, 1)
    seen = [by_position(flipped, epoch) for epoch in (1, 2, 3, 4)]
    mirrored = [[torch.equal(image, originals[p].flip(2)) for p, image in sorted(each.items())] for each in seen]
    straight = [[torch.equal(image, originals[p]) for p, image in sorted(each.items())] for each in seen]
    assert mirrored[0] == straight[1] == mirrored[2] == straight[3]
    assert straight[0] == mirrored[1] == straight[2] == mirrored[3]
    assert 0 < sum(mirrored[0]) < len(originals)
    assert all(one != other for one, other in zip(mirrored[0], straight[0], strict=True))


@pytest.mark.parametrize("source", [PACKED, PHOTOS])
def test_training_images_grow_as_the_sizes_say_and_evaluation_sees_them_whole(tiny: Tiny, source: str) -> None:
    sizes = ("augment.sizes=[4, 6, 8]", "train.epochs=7", source)

    def seen(training: bool, epoch: int) -> tuple[int, ...]:
        (shape,) = {
            tuple(each.inputs.shape[1:]) for each in batches(tiny.source("train", *sizes, training=training), epoch)
        }
        return shape

    assert [seen(True, epoch)[1] for epoch in range(1, 8)] == [4, 4, 6, 6, 8, 8, 8]
    assert seen(False, 0) == (3, 8, 8)


def test_fewer_epochs_than_sizes_end_with_whole_images() -> None:
    for epochs in (1, 2, 3):
        settings = merge(
            with_input(Settings("x"), **PLAIN_INPUT),
            {"augment": {"sizes": [16, 20, 24, 28, 32]}, "train": {"epochs": epochs}},
            "here",
        )
        seen = [training_size(settings, epoch) for epoch in range(1, epochs + 1)]
        assert seen[-1] == 32
        assert seen == sorted(seen)


def test_a_reduced_image_is_the_image_reduced(tiny: Tiny) -> None:
    small = tiny.source("train", "augment.sizes=[4, 8]", "train.epochs=2", training=True)
    whole = tiny.source("train", "train.epochs=2", training=True)
    for one, other in zip(batches(small, 1), batches(whole, 1), strict=True):
        expected = torch.nn.functional.interpolate(other.inputs, 4, mode="bilinear", antialias=True)
        assert torch.allclose(one.inputs, expected, atol=1e-5)
    assert same(batches(small, 2), batches(whole, 2))


def test_images_known_by_their_bytes_are_not_decoded_again_when_they_were_only_copied(tiny: Tiny) -> None:
    by_bytes = "hardware.cache_by=bytes"
    tiny.source("train", by_bytes)
    (kept,) = tiny.layout.cache.glob("*.npy")
    made = kept.stat().st_mtime_ns
    for path in (tiny.layout.raw / "train").iterdir():
        os.utime(path, (1, 1))
    tiny.source("train", by_bytes)
    assert [path.stat().st_mtime_ns for path in tiny.layout.cache.glob("*.npy")] == [made]
    tiny.source("train")
    assert made not in [path.stat().st_mtime_ns for path in tiny.layout.cache.glob("*.npy")]


TARGETS = {
    "several_labels": (
        ["a", "b"],
        {"red": "a|b", "green": "b", "blue": ""},
        ("competition.metric=auc_columns", "competition.submission=probabilities"),
    ),
    "numbers": (
        ["x", "y"],
        {"red": "-100|3", "green": "250.5|", "blue": "0|7"},
        ("competition.metric=rmse", "competition.submission=numbers"),
    ),
}


@pytest.mark.parametrize("source", [PACKED, PHOTOS])
@pytest.mark.parametrize("mix", ["augment.mixup=0.8", "augment.cutmix=1.0"])
@pytest.mark.parametrize("task", TARGETS)
def test_labels_and_numbers_are_mixed_by_the_share_of_the_images(tiny: Tiny, source: str, mix: str, task: str) -> None:
    names, targets, more = TARGETS[task]
    tiny = tiny.with_targets(task, names, targets)
    options = (source, f"competition.task={task}", *more)
    plain = batches(tiny.source("train", *options, training=True), 1)
    mixed = batches(tiny.source("train", *options, mix, training=True), 1)
    for one, other in zip(plain, mixed, strict=True):
        partner = one.inputs.roll(1, 0)
        if "cutmix" in mix:
            share = 1 - (other.inputs != one.inputs).any(dim=1).any(dim=0).double().mean()
        else:
            share = ((other.inputs - partner) * (one.inputs - partner)).sum() / (one.inputs - partner).square().sum()
        expected = share * one.labels + (1 - share) * one.labels.roll(1, 0)  # missing where one of both is
        assert torch.allclose(other.labels, expected.float(), atol=1e-3, equal_nan=True)
    assert any((other.labels != one.labels).any() for one, other in zip(plain, mixed, strict=True))


@pytest.mark.parametrize(("size", "on_gpu"), [(8, 2048), (32, 2048), (64, 512), (128, 128), (224, 128)])
def test_a_gpu_predicts_small_images_in_large_batches(tiny: Tiny, size: int, on_gpu: int) -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    settings = tiny.settings("predict.batch_size=0", f"input.size={size}")
    assert (prediction_batch(settings, gpu), prediction_batch(settings, cpu)) == (on_gpu, 128)
    for device in (gpu, cpu):
        assert prediction_batch(tiny.settings("predict.batch_size=7"), device) == 7


@pytest.mark.parametrize("together", [2, 100])
def test_images_that_stay_on_a_device_are_those_of_the_file(
    tiny: Tiny, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.dataset.batches.READ_TOGETHER", together)
    images = PackedImages(tiny.part("valid"), 8)
    images.decode()
    there = all_on_device(images, torch.device("cpu"))
    assert len(there) == len(tiny.part("valid")) > 2
    assert np.array_equal(there.numpy(), images.whole()[images.places])
