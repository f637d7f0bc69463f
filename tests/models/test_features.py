"""Features: of the right pictures, computed once, found by all that determines them, and never lost."""

import dataclasses
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from pipelines.core import checkpoint, engine
from pipelines.core.job import Job, prepare_features, run_job
from pipelines.core.prediction import Resources, open_predictor
from pipelines.dataset import images
from pipelines.dataset.augment import normalise, to_float
from pipelines.dataset.loading import Loading, evaluation_resize
from pipelines.models import extractor, features
from pipelines.models.backbones import Backbone, build_backbone
from pipelines.models.building import build_network
from pipelines.models.device import Hardware, choose_hardware
from pipelines.models.features import FeatureBatches, Features, View, compute_features, views_of
from pipelines.models.published import Published
from pipelines.models.transfer import FineTuned, Top, build_fine_tuned, learned_state
from pipelines.models.weights import Origin, find_origins
from pipelines.settings.loading import load_settings
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from tests.support.histories import timeless
from tests.support.networks import outputs, save_network, settled
from tests.support.pictures import noise
from tests.support.tiny import LOG_LOSS, Tiny

NAME, OTHER = "shufflenet_v2_x0_5", "shufflenet_v2_x1_0"
ROOT = Path(__file__).parents[2]
MOBILENET = ROOT.parent / "shared/weights/mobilenet_v2-imagenet.pth"
PHOTOS = ROOT.parent / "shared/data/dog-breed-identification-300photos.zip"
FROZEN = ("finetune.frozen_stages=-1", "input.source=photos", "train.lr=0.01", "features.dtype=float32")
IMAGE = ("input.size=32", "input.mean=[0.5, 0.5, 0.5]", "input.std=[0.25, 0.25, 0.25]")
LABELLED, VIEWS, DIMENSIONS = 24, 2, 16
PIECE = 8  # images at once


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "IMAGES_AT_ONCE", PIECE)
    monkeypatch.setattr(extractor, "IMAGES_AT_ONCE", PIECE)
    monkeypatch.setattr(features, "APPEND_ROWS", PIECE * VIEWS)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("weights") / "small.pth"
    save_network(path, NAME)
    return path


def real(weights: Path, *more: str) -> tuple[str, ...]:
    return (f"model.name={NAME}", f"model.weights={weights}", *IMAGE, *FROZEN, *more)


def on(*more: str) -> tuple[str, ...]:
    return real(Path("x"), "model.name=made-by-hand", *more)


def small_body() -> nn.Module:
    """As little as has all that matters: convolutions with norms, and features that depend on left and right."""
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, DIMENSIONS, 5, stride=2),
        nn.BatchNorm2d(DIMENSIONS),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
    )
    return settled(body)


def network_around(body: nn.Module, settings: Settings) -> FineTuned:
    torch.manual_seed(settings.train.seed)
    top = Top([nn.Linear(DIMENSIONS, 1000)], 3, settings.model)
    return FineTuned([Backbone(body, DIMENSIONS)], [Origin("small", sha256="0" * 64)], top)


def network_of(tiny: Tiny, settings: Settings) -> FineTuned:
    if settings.model.name == "made-by-hand":
        return network_around(small_body(), settings)
    network = build_network(settings, tiny.classes, find_origins(settings.model, tiny.layout.weights))
    assert isinstance(network, FineTuned)
    return network


def extract(
    tiny: Tiny,
    overrides: Iterable[str],
    rows: pd.DataFrame | None = None,
    network: FineTuned | None = None,
    cache: str = "cache",
) -> Features:
    """The features of `rows`, or of all labelled ones."""
    settings = tiny.settings(*overrides)
    images = replace(tiny.images, cache=tiny.layout.data / cache)
    images = images if rows is None else images.select(rows)
    network = network or network_of(tiny, settings)
    hardware = choose_hardware(settings.hardware)
    return compute_features(settings, images, network, hardware)


def everything(found: Features) -> Tensor:
    return found.take(np.arange(len(found)), slice(None))


def write_photos(tiny: Tiny) -> None:
    """Photos of different sizes in place of the equal small images."""
    for number, path in enumerate(tiny.table["path"]):
        size = 40 + number % 5, 36 + number % 3
        Image.fromarray(noise(*size, 3, seed=number)).resize((60, 44 + number)).save(tiny.layout.raw / path)


def expected_features(
    tiny: Tiny, settings: Settings, picture: Callable[[Image.Image], npt.NDArray[np.uint8]]
) -> Tensor:
    """What the backbone, as torchvision has it, makes of `picture` of each labelled image."""
    (backbone,) = network_of(tiny, settings).backbones
    pictures = []
    for path in tiny.table["path"][:LABELLED]:
        with Image.open(tiny.layout.raw / path) as image:
            pictures.append(torch.from_numpy(picture(image).copy()))
    return outputs(backbone, normalise(to_float(torch.stack(pictures)), settings.input.mean, settings.input.std))


def close(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=1e-3, atol=1e-4 * float(right.abs().max()))


# Views


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), [View(-1, False), View(-1, True)]),
        (("features.mirror=false",), [View(-1, False)]),
        (("features.mirror=false", "features.crops=2"), [View(-1, False), View(0, False), View(1, False)]),
        (("features.crops=1",), [View(-1, False), View(-1, True), View(0, False), View(0, True)]),
    ],
)
def test_views(tiny: Tiny, overrides: tuple[str, ...], expected: list[View]) -> None:
    settings = tiny.settings(*overrides)
    assert views_of(settings) == expected
    assert len({view.describe(settings) for view in expected}) == len(expected)


@pytest.mark.parametrize("resize", [32, 40])
def test_the_centre_and_its_mirror_image(tiny: Tiny, resize: int) -> None:
    write_photos(tiny)
    options = on(f"input.resize={resize}")
    settings = tiny.settings(*options)
    found = everything(extract(tiny, options))
    assert found.shape == (LABELLED, VIEWS, DIMENSIONS)

    def centre(image: Image.Image) -> npt.NDArray[np.uint8]:
        return images.fit(image, 32, resize)

    assert evaluation_resize(settings) == resize
    assert close(found[:, 0], expected_features(tiny, settings, centre))
    mirrored = expected_features(tiny, settings, lambda image: centre(image)[:, ::-1])
    assert close(found[:, 1], mirrored)
    assert not close(found[:, 0], mirrored)


def test_the_mirrored_view_is_that_of_the_mirrored_image(tiny: Tiny) -> None:
    write_photos(tiny)
    straight = everything(extract(tiny, on("input.resize=40")))
    for path in tiny.table["path"]:
        with Image.open(tiny.layout.raw / path) as image:
            mirrored = ImageOps.mirror(image)
        mirrored.save(tiny.layout.raw / path)
    turned = everything(extract(tiny, on("input.resize=40")))
    assert torch.nn.functional.cosine_similarity(turned.flip(1), straight, dim=2).min() > 0.995


def test_crops_differ_from_one_another_and_belong_to_the_images_bytes(tiny: Tiny) -> None:
    write_photos(tiny)
    options = on("features.crops=2", "augment.crop_scale=[0.2, 0.6]", "features.mirror=false")
    found = everything(extract(tiny, options))
    for left, right in ((0, 1), (0, 2), (1, 2)):
        assert not close(found[:, left], found[:, right])
    # The same images in another order, under other ids and with another seed.
    order = np.random.default_rng(0).permutation(LABELLED)
    table = tiny.table.copy()
    table.loc[: LABELLED - 1, "path"] = tiny.table["path"][:LABELLED].to_numpy()[order]
    shuffled = extract(dataclasses.replace(tiny, table=table), [*options, "train.seed=3"], cache="other")
    assert close(everything(shuffled), found[order])


# What is computed again, and what is not


def spoil(path: Path) -> None:
    """Make nonsense of a file without changing its size and time: who opens it will know."""
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def spoil_all(tiny: Tiny) -> None:
    for path in tiny.table["path"]:
        spoil(tiny.layout.raw / path)


def test_a_second_run_computes_nothing_and_opens_no_image(tiny: Tiny) -> None:
    first = extract(tiny, on())
    assert (first.computed, first.lost) == (LABELLED * VIEWS, 0)
    spoil_all(tiny)
    second = extract(tiny, on())
    assert (second.computed, second.lost) == (0, 0)
    assert torch.equal(everything(second), everything(first))
    assert first.describe() == "24 images in 2 views; 48 of 48 computed now (float32)."
    assert second.describe() == "24 images in 2 views; 0 of 48 computed now."


def test_a_second_training_opens_no_image(tiny: Tiny) -> None:
    histories = []
    for run in ("first", "second"):
        job, network = start(tiny, *on(), run=run)
        prepare_features(job, network)
        histories.append(timeless(list(run_job(job, network))))
        spoil_all(tiny)
    assert histories[0] == histories[1]
    assert len(histories[0]) == 3


def test_of_a_changed_image_alone_features_are_computed_again(tiny: Tiny) -> None:
    first = extract(tiny, on())
    path = tiny.layout.raw / tiny.table["path"][5]
    Image.fromarray(noise(8, 8, 3)).save(path)
    second = extract(tiny, on())
    assert second.computed == VIEWS
    same = (everything(first) == everything(second)).flatten(1).all(dim=1)
    assert [place for place in range(LABELLED) if not same[place]] == [5]


def test_a_touched_image_is_read_but_not_computed_again(tiny: Tiny) -> None:
    extract(tiny, on())
    os.utime(tiny.layout.raw / tiny.table["path"][5], ns=(1, 1))
    assert extract(tiny, on()).computed == 0


def test_only_the_views_that_are_new_are_computed(tiny: Tiny) -> None:
    steps = [
        (("features.mirror=false",), LABELLED),
        ((), LABELLED),
        (("features.crops=1",), 2 * LABELLED),
        (("features.crops=2", "features.mirror=false"), LABELLED),
        (("features.crops=2",), LABELLED),
        (("features.crops=1",), 0),
    ]
    found = []
    for overrides, computed in steps:
        found.append(extract(tiny, on("augment.crop_scale=[0.3, 0.8]", *overrides)))
        assert found[-1].computed == computed
    assert torch.equal(everything(found[4])[:, :4], everything(found[5]))


def test_where_images_lack_different_views_each_gets_its_own(tiny: Tiny) -> None:
    rows = tiny.table[:LABELLED]
    extract(tiny, on("features.mirror=false"), rows[:10])
    extract(tiny, on(), rows[5:7])
    found = extract(tiny, on())
    assert found.computed == LABELLED * VIEWS - 10 - 2
    assert close(everything(found), everything(extract(tiny, on(), cache="other")))


def test_a_network_whose_norms_are_folded_before_is_another_one(tiny: Tiny) -> None:
    extract(tiny, on())
    assert extract(tiny, on("finetune.freeze_norms=true")).computed == LABELLED * VIEWS


@pytest.mark.parametrize(
    ("more", "computed"),
    [
        (("input.size=40",), LABELLED * VIEWS),
        (("input.resize=40",), LABELLED * VIEWS),
        (("input.mean=[0.4, 0.5, 0.5]",), LABELLED * VIEWS),
        (("input.std=[0.25, 0.25, 0.3]",), LABELLED * VIEWS),
        (("features.dtype=float16",), LABELLED * VIEWS),
        (("hardware.precision=bfloat16",), LABELLED * VIEWS),
        (("train.seed=5", "train.epochs=9", "model.hidden=[7]", "model.features=both", "augment.flip=true"), 0),
        (("predict.batch_size=3", "hardware.compile=false"), 0),
    ],
)
def test_what_determines_features_and_what_does_not(tiny: Tiny, more: tuple[str, ...], computed: int) -> None:
    before = everything(extract(tiny, on()))
    found = extract(tiny, on(*more))
    assert found.computed == computed
    assert torch.equal(everything(found), before) == (computed == 0)
    again = extract(tiny, on())  # and nothing was overwritten
    assert again.computed == 0
    assert torch.equal(everything(again), before)


def test_other_weights_of_the_same_network_have_their_own_features(tiny: Tiny, weights: Path, tmp_path: Path) -> None:
    extract(tiny, real(weights))
    state = torch.load(weights, weights_only=True)
    state["conv5.0.weight"][0] += 0.1
    torch.save(state, tmp_path / "other.pth")
    assert extract(tiny, real(tmp_path / "other.pth")).computed == LABELLED * VIEWS
    (tmp_path / "copy.pth").write_bytes(weights.read_bytes())
    assert extract(tiny, real(tmp_path / "copy.pth")).computed == 0  # the path is nothing to it


def test_a_network_that_changes_its_input_does_not_find_what_it_made_of_it_unchanged(
    tiny: Tiny, tmp_path: Path
) -> None:
    """Published weights of GoogLeNet want their input changed; the same file by its path does not get it so."""
    save_network(tmp_path / "weights.pth", "googlenet", 64, aux_logits=False, init_weights=False)
    overrides = real(tmp_path / "weights.pth", "model.name=googlenet", "features.mirror=false", "input.size=64")
    rows, settings = tiny.table[:2], tiny.settings(*overrides)
    by_path = Origin("googlenet", tmp_path / "weights.pth", "0" * 64)
    image = settings.input
    facts = Published("googlenet", "TEST", "", "", "", image.mean, image.std, size=64, resize=64, categories=None)
    by_name = dataclasses.replace(by_path, facts=facts)
    networks = [build_fine_tuned(settings, tiny.classes, [each]) for each in (by_path, by_name)]
    first, second = (everything(extract(tiny, overrides, rows, network)) for network in networks)
    assert not close(first, second)


def test_labelled_and_test_images_and_parts_of_them(tiny: Tiny) -> None:
    whole = everything(extract(tiny, on()))
    valid = tiny.rows("valid")
    found = extract(tiny, on(), valid)
    assert found.computed == 0
    assert torch.equal(everything(found), whole[valid.index.tolist()])
    tests = extract(tiny, on(), tiny.rows("test"))
    assert (len(tests), tests.computed) == (12, 24)
    stores = sorted(folder.name.split("-")[0] for folder in (tiny.layout.cache / "features").iterdir())
    assert stores == ["labelled", "test"]


def test_images_of_the_same_bytes_are_computed_once(tiny: Tiny) -> None:
    paths = [tiny.layout.raw / path for path in tiny.table["path"]]
    for place in (3, 11, 17):
        paths[place].write_bytes(paths[2].read_bytes())
    found = extract(tiny, on())
    assert found.computed == (LABELLED - 3) * VIEWS
    values = everything(found)
    assert all(torch.equal(values[place], values[2]) for place in (3, 11, 17))
    assert close(values[:, 0], expected_features(tiny, tiny.settings(*on()), lambda each: images.fit(each, 32, 32)))
    assert extract(tiny, on()).computed == 0


# Nothing is lost

KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
import torch
from pathlib import Path
from pipelines.models import extractor, features
from pipelines.models.device import choose_hardware

extractor.IMAGES_AT_ONCE = features.IMAGES_AT_ONCE = {piece}
features.APPEND_ROWS = {piece} * 2
settings, images, network = torch.load({job!r}, weights_only=False)

def watch(items, what, *_):
    for number, item in enumerate(items):
        if what.startswith("features") and number == 2:
            print("killed", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        yield item

features.compute_features(settings, images, network, choose_hardware(settings.hardware), watch)
"""


def test_killed_half_way_it_goes_on_where_it_was(tiny: Tiny) -> None:
    write_photos(tiny)
    overrides = on("hardware.workers=1", "input.resize=40")
    settings, job = tiny.settings(*overrides), tiny.layout.data / "job.pt"
    torch.save((settings, tiny.images, network_of(tiny, settings)), job)
    script = KILLED.format(root=str(ROOT), piece=PIECE, job=str(job))
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert (process.returncode, process.stdout) == (-signal.SIGKILL, "killed\n"), process.stderr
    kept = 2 * PIECE
    went_on = extract(tiny, overrides)
    assert (went_on.computed, went_on.lost) == ((LABELLED - kept) * VIEWS, 0)
    undisturbed = extract(tiny, overrides, cache="other")
    assert undisturbed.computed == LABELLED * VIEWS
    assert torch.equal(everything(went_on), everything(undisturbed))


@pytest.mark.parametrize("more", [(), ("features.crops=1", "augment.crop_scale=[0.3, 0.9]")])
def test_the_number_of_workers_changes_nothing(tiny: Tiny, more: tuple[str, ...]) -> None:
    write_photos(tiny)
    found = [
        everything(extract(tiny, on(f"hardware.workers={workers}", *more), cache=f"workers{workers}"))
        for workers in (0, 1, 2)
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_and_what_was_computed_stays(tiny: Tiny, workers: int) -> None:
    path = tiny.layout.raw / tiny.table["path"][2 * PIECE + 3]
    whole = path.read_bytes()
    path.write_bytes(whole[:60])
    options = on(f"hardware.workers={workers}")
    with pytest.raises(UserError, match=r"raw/train/20\.png \(id '20', valid\): the file is cut short"):
        extract(tiny, options)
    path.write_bytes(whole)
    found = extract(tiny, options)
    assert found.computed == PIECE * VIEWS
    assert close(everything(found), everything(extract(tiny, options, cache="other")))


def test_a_broken_image_stops_the_run_before_it_trains(tiny: Tiny) -> None:
    (tiny.layout.raw / tiny.rows("valid")["path"].iloc[-1]).write_bytes(b"no picture")
    job, network = start(tiny, *on())
    with pytest.raises(UserError, match=r"train/24\.png \(id '24', valid\): it is none of"):
        prepare_features(job, network)
    with pytest.raises(UserError, match=r"train/24\.png \(id '24', valid\): it is none of"):
        next(run_job(job, network))
    assert not job.files.last.exists()


def test_images_of_all_kinds_are_taken_as_a_viewer_shows_them(tiny: Tiny) -> None:
    picture = Image.fromarray(noise(8, 8, 3))
    paths = [tiny.layout.raw / path for path in tiny.table["path"]]
    grey = picture.convert("L")
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.save(paths[0])
    picture.transpose(Image.Transpose.ROTATE_180).save(paths[1], format="PNG", exif=exif)
    picture.save(paths[2], format="TIFF")  # misnamed
    grey.save(paths[3])
    grey.convert("RGB").save(paths[4])
    values = everything(extract(tiny, on()))
    assert close(values[1], values[0])
    assert close(values[2], values[0])
    assert close(values[3], values[4])


def store_files(tiny: Tiny) -> tuple[Path, Path]:
    (folder,) = (tiny.layout.cache / "features").iterdir()
    return folder / "values.float32", folder / "keys.u64"


def test_a_store_that_was_cut_short_is_healed_and_it_is_said(tiny: Tiny) -> None:
    before = everything(extract(tiny, on()))
    values, _ = store_files(tiny)
    os.truncate(values, values.stat().st_size - 5 * DIMENSIONS * 4 - 3)  # six rows
    found = extract(tiny, on())
    assert (found.computed, found.lost) == (6, 6)
    assert found.describe() == (
        "24 images in 2 views; 6 of 48 computed now (float32), 6 of them again: their file had been cut short."
    )
    assert close(everything(found), before)
    assert (extract(tiny, on()).computed, extract(tiny, on()).lost) == (0, 0)


def test_rows_lost_of_other_images_are_not_said_to_be_computed_again(tiny: Tiny) -> None:
    extract(tiny, on())
    values, _ = store_files(tiny)
    os.truncate(values, values.stat().st_size - 6 * DIMENSIONS * 4)
    found = extract(tiny, on(), tiny.table[:4])
    assert (found.computed, found.lost) == (0, 0)


def test_a_store_of_another_version_is_not_used(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    extract(tiny, on())
    monkeypatch.setattr(features, "FORMAT", "features-9")
    assert extract(tiny, on()).computed == LABELLED * VIEWS


# How they are kept


def test_float16_holds_the_same_in_half_the_space(tiny: Tiny) -> None:
    exact, rounded = (extract(tiny, on(f"features.dtype={dtype}")) for dtype in ("float32", "float16"))
    assert [found.values[0].dtype for found in (exact, rounded)] == [np.float32, np.float16]
    assert everything(rounded).dtype == torch.float32
    assert torch.allclose(everything(rounded), everything(exact), rtol=1e-3, atol=1e-3)


class Large(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1)[:, :DIMENSIONS] * 1e6


def test_what_float16_cannot_hold_is_an_error_that_names_the_setting(tiny: Tiny) -> None:
    network = network_around(Large(), tiny.settings())
    assert everything(extract(tiny, on(), network=network)).max() > 65504
    with pytest.raises(UserError, match=r"features\.dtype"):
        extract(tiny, on("features.dtype=float16"), network=network)


def test_shapes_of_what_is_taken(tiny: Tiny) -> None:
    found = extract(tiny, on("features.crops=1"))
    assert (len(found), found.views) == (LABELLED, 4)
    whole = everything(found)
    positions, views = np.array([7, 3, 3]), np.array([0, 3, 1])
    assert torch.equal(found.take(positions, slice(None)), whole[[7, 3, 3]])
    assert torch.equal(found.take(positions, views), whole[[7, 3, 3], [0, 3, 1]])
    assert found.take(positions, views).shape == (3, DIMENSIONS)
    assert found.take(positions[:0], views[:0]).shape == (0, DIMENSIONS)


def test_several_backbones_stand_side_by_side(tiny: Tiny, weights: Path, tmp_path: Path) -> None:
    save_network(tmp_path / "other.pth", OTHER)
    first = extract(tiny, real(weights))
    both = extract(
        tiny, real(weights, f"model.name={NAME}+{OTHER}", f"model.weights={weights}+{tmp_path / 'other.pth'}")
    )
    assert both.computed == LABELLED * VIEWS  # by the second alone
    second = extract(tiny, real(tmp_path / "other.pth", f"model.name={OTHER}"))
    assert second.computed == 0
    assert torch.equal(everything(both), torch.cat([everything(first), everything(second)], dim=2))
    assert both.describe() == "24 images in 2 views by each of 2 networks; 48 of 96 computed now (float32)."


# Batches and training


def start(tiny: Tiny, *overrides: str, run: str = "run") -> tuple[Job, FineTuned]:
    job = tiny.job(*overrides, run=run)
    return job, network_of(tiny, job.settings)


def batches_of(tiny: Tiny, part: str, overrides: tuple[str, ...], training: bool) -> FeatureBatches:
    images = tiny.part(part)
    loading = Loading(tiny.settings(*overrides), 3, torch.device("cpu"), training)
    found = extract(tiny, overrides, images.rows)
    return FeatureBatches(images.ids, found, torch.from_numpy(images.labels), loading)


def test_a_training_batch_holds_one_random_view_of_each_image(tiny: Tiny) -> None:
    source = batches_of(tiny, "train", on("features.crops=1", "augment.crop_scale=[0.3, 0.8]"), training=True)
    whole, seen = everything(source.features), set()
    assert (len(source), source.steps) == (18, 3)
    for epoch in range(1, 6):
        positions = []
        for batch in source.batches(epoch):
            assert batch.inputs.shape == (6, DIMENSIONS)
            assert torch.equal(batch.labels, source.labels[batch.positions])
            same = (batch.inputs[:, None] == whole[batch.positions]).all(dim=2)
            assert same.any(dim=1).all()
            seen |= {
                (place, int(view))
                for place, row in zip(batch.positions.tolist(), same, strict=True)
                for view in row.nonzero()
            }
            positions += batch.positions.tolist()
        assert sorted(positions) == list(range(18))
    assert len({view for _, view in seen}) == 4
    assert len(seen) > 36  # several of each image


def test_an_epochs_views_are_the_same_each_time_and_other_ones_in_the_next(tiny: Tiny) -> None:
    source = batches_of(tiny, "train", on(), training=True)
    again = batches_of(tiny, "train", on(), training=True)
    other_seed = batches_of(tiny, "train", on("train.seed=1"), training=True)

    def inputs(each: FeatureBatches, epoch: int) -> Tensor:
        torch.rand(3)
        return torch.cat([batch.inputs for batch in each.batches(epoch)])

    first = inputs(source, 1)
    inputs(source, 2)
    assert torch.equal(inputs(source, 1), first)
    assert torch.equal(inputs(again, 1), first)
    assert not torch.equal(inputs(source, 2), first)
    assert not torch.equal(inputs(other_seed, 1), first)


def test_a_batch_for_evaluation_holds_all_views_in_order(tiny: Tiny) -> None:
    source = batches_of(tiny, "train", on(), training=False)
    batches = list(source.batches(0))
    assert [tuple(batch.inputs.shape) for batch in batches] == [(5, 2, DIMENSIONS)] * 3 + [(3, 2, DIMENSIONS)]
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), everything(source.features))
    tests = batches_of(tiny, "test", on(), training=False)
    assert all(len(batch.labels) == 0 for batch in tests.batches(0))


def test_validation_averages_the_probabilities_of_all_views(tiny: Tiny) -> None:
    options = on("features.crops=1", "augment.crop_scale=[0.3, 0.8]", *LOG_LOSS)
    job, network = start(tiny, *options, "train.epochs=1")
    (row,) = run_job(job, network)
    source = batches_of(tiny, "valid", options, training=False)
    with torch.inference_mode():
        logits = [network.top(everything(source.features)[:, view]).double() for view in range(4)]
    predicted = torch.stack([each.softmax(dim=1) for each in logits]).mean(dim=0)
    loss = -predicted[torch.arange(6), source.labels].log().mean()
    assert row["valid_loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert row["log_loss"] == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("input.source=packed",),
        ("model.features=both", "model.hidden=[8]", "model.dropout=0.3", "train.optimizer=adam", "train.lr=0.002"),
        ("train.ema_decay=0.5", "finetune.freeze_norms=true", "train.schedule=cosine"),
    ],
)
def test_cached_training_is_uncached_training_on_fixed_views(tiny: Tiny, more: tuple[str, ...]) -> None:
    for number, path in enumerate(tiny.table["path"]):
        Image.fromarray(noise(32, 32, 3, seed=number)).save(tiny.layout.raw / path)
    histories, heads = [], []
    for cached in ("true", "false"):
        job, network = start(tiny, *on("features.mirror=false", f"features.cached={cached}", *more), run=cached)
        histories.append(timeless(list(run_job(job, network))))
        heads.append(learned_state(network, head_only=True))
    for left, right in zip(*histories, strict=True):
        assert left == pytest.approx(right, rel=1e-4)
    for name, value in heads[0].items():
        assert torch.allclose(value, heads[1][name], rtol=1e-4, atol=1e-5)


def test_packed_images_are_whole_in_the_cache_too(tiny: Tiny) -> None:
    """`input.resize`, which published weights fill in, is for photos: packed images have no margin to leave out."""
    histories = []
    for cached in ("true", "false"):
        options = ("input.source=packed", "input.resize=40", "features.mirror=false", f"features.cached={cached}")
        histories.append(timeless(list(run_job(*start(tiny, *on(*options), run=cached)))))
    for left, right in zip(*histories, strict=True):
        assert left == pytest.approx(right, rel=1e-4)


def test_a_limit_computes_only_what_is_learned_from(tiny: Tiny) -> None:
    job, network = start(tiny, *on("train.limit=9"), run="few")
    assert prepare_features(job, network) == "9 images in 2 views; 18 of 18 computed now (float32)."
    list(run_job(job, network))
    job, network = start(tiny, *on(), run="all")
    assert prepare_features(job, network) == "24 images in 2 views; 30 of 48 computed now (float32)."
    assert prepare_features(job, network) == "24 images in 2 views; 0 of 48 computed now."


def test_of_two_phases_the_first_learns_from_the_cache(tiny: Tiny) -> None:
    options = on("finetune.frozen_stages=0", "finetune.head_epochs=1", "train.epochs=2", "train.lr=0.001")
    job, network = start(tiny, *options)
    assert prepare_features(job, network) == "24 images in 2 views; 48 of 48 computed now (float32)."
    assert len(list(run_job(job, network))) == 2
    job, network = start(tiny, *on("features.cached=false"))
    assert prepare_features(job, network) == ""


def test_predicting_gives_what_validating_gave(tiny: Tiny, weights: Path) -> None:
    job, network = start(tiny, *real(weights, *LOG_LOSS))
    rows = list(run_job(job, network))
    assert job.valid is not None
    saved = checkpoint.load(job.files.last)
    predictor = open_predictor(saved, job.settings, job.valid, Resources(tiny.layout.weights))
    judge, views = job.judge(), predictor.views
    found = engine.evaluate(predictor.model, predictor.source, predictor.task, judge, predictor.hardware, views)
    assert (found.loss, found.score) == pytest.approx((rows[-1]["valid_loss"], rows[-1]["log_loss"]))
    assert len(predictor.views) == VIEWS


# Precision and speed


class Cancelling(nn.Module):
    """Right in float32; in bfloat16, nothing is left."""

    def forward(self, inputs: Tensor) -> Tensor:
        shifted = inputs.flatten(1)[:, :DIMENSIONS] + 4096
        return (shifted.bfloat16() if torch.is_autocast_enabled("cpu") else shifted) - 4096


class Infinite(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1)[:, :DIMENSIONS] * 1e38 * 1e38


class Silent(nn.Module):
    """Nothing is activated, in any precision."""

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs.flatten(1)[:, :DIMENSIONS] - 100).relu()


def test_a_network_that_bfloat16_spoils_is_computed_in_float32(tiny: Tiny) -> None:
    network = network_around(Cancelling(), tiny.settings())
    rough, exact = (
        extract(tiny, on(f"hardware.precision={each}"), network=network) for each in ("bfloat16", "float32")
    )
    assert rough.how == exact.how == ["float32"]
    assert torch.equal(everything(rough), everything(exact))


def test_features_that_are_no_numbers_are_refused(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"not finite numbers in float32"):
        extract(tiny, on(), network=network_around(Infinite(), tiny.settings()))


def test_an_image_that_activates_nothing_is_not_taken_for_an_error(tiny: Tiny) -> None:
    assert not everything(extract(tiny, on(), network=network_around(Silent(), tiny.settings()))).any()


def test_bfloat16_features_of_real_photos_are_those_of_float32(tmp_path: Path) -> None:
    if not (MOBILENET.exists() and PHOTOS.exists()):
        pytest.skip("needs the shared weights and photos")
    with zipfile.ZipFile(PHOTOS) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][:8]
        archive.extractall(tmp_path, names)
    pictures = [images.fit(images.open_image(tmp_path / name, name), 224, 256) for name in names]
    pixels = torch.from_numpy(np.stack(pictures))
    normalised = ["input.mean=[0.5,0.5,0.5]", "input.std=[0.5,0.5,0.5]"]
    settings = load_settings("dog-breed-identification", overrides=normalised)
    backbone, _ = build_backbone("mobilenet_v2", MOBILENET)
    plain, chosen = (Hardware(torch.device("cpu"), each) for each in (torch.float32, torch.bfloat16))
    exact = extractor.Extractor(backbone, settings, plain, folded=False)
    fast = extractor.choose_extractor(backbone, settings, chosen, compiled=False, probe=pixels)
    expected, found = (torch.from_numpy(each.features(pixels)) for each in (exact, fast))
    assert torch.cosine_similarity(expected, found).min() >= 0.999


@pytest.mark.parametrize(
    ("least", "how"), [([0.9], "bfloat16"), ([1.1, 0.9], "bfloat16, norms in float32"), ([1.1, 1.1], "float32")]
)
def test_where_folded_norms_are_too_rough_they_are_left_alone(
    tiny: Tiny, weights: Path, monkeypatch: pytest.MonkeyPatch, least: list[float], how: str
) -> None:
    likeness = extractor._least_cosine
    monkeypatch.setattr(extractor, "FOLDED_COSINE", 0.0)
    monkeypatch.setattr(extractor, "LEAST_COSINE", 0.0)
    # Each way is compared with a bar of its own, so that the next one has its turn.
    monkeypatch.setattr(extractor, "_least_cosine", lambda ours, theirs: likeness(ours, theirs) - least.pop(0))
    backbone, _ = build_backbone(NAME, weights)
    hardware = Hardware(torch.device("cpu"), torch.bfloat16)
    pixels = torch.from_numpy(noise(4, 32, 32, 3))
    chosen = extractor.choose_extractor(backbone, tiny.settings(), hardware, compiled=False, probe=pixels)
    assert chosen.describe().partition(", cosine")[0] == how
    norms = [module for module in chosen.plain.modules() if isinstance(module, nn.BatchNorm2d)]
    assert bool(norms) == ("norms" in how)


def test_bfloat16_features_are_near(tiny: Tiny) -> None:
    exact, rough = (everything(extract(tiny, on(f"hardware.precision={each}"))) for each in ("float32", "bfloat16"))
    assert torch.cosine_similarity(exact, rough, dim=2).min() > 0.99
    assert not torch.equal(exact, rough)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
def test_a_compiled_network_gives_the_same_features(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "COMPILE_FROM", 0)
    compile_, compiled = torch.compile, []

    def counting(module: Any) -> Any:
        made = compile_(module)

        def call(inputs: Tensor) -> Tensor:
            found: Tensor = made(inputs)
            compiled.append(len(inputs))
            return found

        return call

    monkeypatch.setattr(torch, "compile", counting)
    fast = everything(extract(tiny, on()))
    plain = everything(extract(tiny, on("hardware.compile=false"), cache="other"))
    assert compiled == [PIECE] * (LABELLED // PIECE * VIEWS)
    assert torch.allclose(fast, plain, rtol=1e-3, atol=1e-4)


def failing_at_once(module: nn.Module) -> Any:
    raise RuntimeError("torch.compile is not supported on this Python")


def failing_when_called(module: nn.Module) -> Any:
    def call(inputs: Tensor) -> Tensor:
        raise RuntimeError("no compiler")

    return call


@pytest.mark.parametrize("failing", [failing_at_once, failing_when_called])
def test_where_compiling_fails_the_network_is_used_as_it_is(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, failing: Callable[[nn.Module], Any]
) -> None:
    plain = everything(extract(tiny, on()))
    monkeypatch.setattr(features, "COMPILE_FROM", 0)
    monkeypatch.setattr(torch, "compile", failing)
    assert torch.equal(everything(extract(tiny, on(), cache="other")), plain)


@pytest.mark.parametrize(("least", "more"), [(LABELLED * VIEWS + 1, ()), (0, ("hardware.compile=false",))])
def test_few_views_are_not_worth_compiling(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, least: int, more: tuple[str, ...]
) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(features, "COMPILE_FROM", least)
    monkeypatch.setattr(torch, "compile", compiled.append)
    assert extract(tiny, on(*more)).computed == LABELLED * VIEWS
    assert not compiled


def test_features_travel_through_the_watch_a_piece_at_a_time(tiny: Tiny) -> None:
    seen: list[tuple[str, int | None]] = []

    def watch(items: Iterable[Any], what: str, total: int | None = None, unit: str = "files") -> Iterator[Any]:
        seen.append((what, total))
        yield from items

    job, network = start(tiny, *on())
    prepare_features(replace(job, watch=watch), network)
    assert seen == [("reading", LABELLED), ("features by small", LABELLED // PIECE)]
