"""Several processes train and predict what one does: the same batches, losses, weights and predictions."""

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from pipelines.core import engine
from pipelines.core.prediction import blocks
from pipelines.core.processes import convert_norms, shared
from pipelines.core.tasks import Task, make_task
from pipelines.dataset.batches import open_source
from pipelines.dataset.loading import Batch, BatchSource, Loading, Part
from pipelines.models.transfer import FineTuned
from pipelines.system.errors import UserError
from pipelines.system.group import ALONE, Group
from tests.support.groups import PATIENCE, TORCHRUN, Running
from tests.support.histories import same, same_checkpoints, timeless
from tests.support.process_checks import BATCHES, CPU, LINEAR, MOST, WORLDS
from tests.support.tiny import LOG_LOSS, Tiny, make_tiny
from tests.support.tiny_boxes import make_tiny_boxes

SEVERAL = WORLDS[1:]
Found = dict[str, Any]


class Groups:
    """What groups of 1, 2, 3 and 4 processes found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self, world: int, name: str) -> list[Any]:
        """What each process found in work that all take part in from the start."""
        return [self._load(f"{world}-{rank}")[name] for rank in range(world)]

    def main(self, world: int, name: str) -> Any:
        """What the main process found in work that it begins."""
        return self._load(f"{world}-main")[name]

    def _load(self, name: str) -> Found:
        found: Found = torch.load(self.folder / f"{name}.pt", weights_only=False)
        return found


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory, small_weights: Path) -> Groups:
    folder = tmp_path_factory.mktemp("groups")
    (folder / "tiny.pickle").write_bytes(pickle.dumps(make_tiny(folder)))
    (folder / "boxes.pickle").write_bytes(pickle.dumps(make_tiny_boxes(folder)))
    words = [f"--nproc-per-node={MOST}", "-m", "tests.support.process_checks", str(folder), str(small_weights)]
    running = Running([*TORCHRUN, *words], folder, folder / "logs")
    assert running.end(5 * PATIENCE) == 0, running.err
    return Groups(folder)


def joined(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Return a batch that processes share, in the order of its images."""
    columns = [torch.cat([part[column] for part in parts]) for column in range(3)]
    order = columns[2].argsort()
    return tuple(column[order] for column in columns)


@pytest.mark.parametrize("world", SEVERAL)
@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_holds_the_same_images_in_any_number_of_processes(groups: Groups, name: str, world: int) -> None:
    (whole,), parts = groups.all(1, "batches"), groups.all(world, "batches")
    check_same_batches(whole[name], [each[name] for each in parts], [8, 9])


@pytest.mark.parametrize("world", SEVERAL)
def test_a_batch_holds_the_same_boxes_in_any_number_of_processes(groups: Groups, world: int) -> None:
    (whole,), parts = groups.all(1, "boxes"), groups.all(world, "boxes")
    check_same_batches(whole, parts, [9])
    assert [each["losses"] for each in parts] == [parts[0]["losses"]] * world


def check_same_batches(whole: dict[Any, Any], parts: Sequence[dict[Any, Any]], sizes: list[int]) -> None:
    world = len(parts)
    for epoch in (1, 2):
        expected = whole[epoch]
        assert sorted(len(batch[2]) for batch in expected) == sizes
        for step, batch in enumerate(expected):
            shared = [each[epoch][step] for each in parts]
            inputs, labels, positions = joined(shared)
            theirs = joined([batch])
            assert positions.tolist() == theirs[2].tolist()
            torch.testing.assert_close(labels, theirs[1], rtol=0, atol=1e-6, equal_nan=True)
            torch.testing.assert_close(inputs, theirs[0], rtol=0, atol=1e-5)
            assert {part[3] for part in shared} == {len(positions)}
            assert sum(part[4] for part in shared) == pytest.approx(world)
        seen = torch.cat([batch[2] for each in parts for batch in each[epoch]])
        assert sorted(seen) == list(range(sum(sizes)))
    assert {each["steps"] for each in parts} == {(len(sizes),) * 2}


@pytest.mark.parametrize("world", SEVERAL)
def test_all_processes_know_the_same_losses(groups: Groups, world: int) -> None:
    for name in BATCHES:
        first, *others = [each[name]["losses"] for each in groups.all(world, "batches")]
        assert others == [first] * (world - 1)


@pytest.mark.parametrize("world", [*SEVERAL, MOST])
@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_head_gets_the_same_weights(groups: Groups, name: str, world: int) -> None:
    (whole,), parts = groups.all(1, "linear"), groups.all(world, "linear")
    for part in parts:
        for key, value in whole[name]["weights"].items():
            torch.testing.assert_close(part[name]["weights"][key], value, rtol=0, atol=1e-10)
    for step, (inputs, positions) in enumerate(whole[name]["batches"]):
        shared = [each[name]["batches"][step] for each in parts]
        mine, places = (torch.cat(column) for column in zip(*shared, strict=True))
        assert torch.equal(places, positions)
        assert torch.equal(mine, inputs)  # the same views of the same images


@pytest.mark.parametrize("world", SEVERAL)
def test_all_processes_have_the_same_network_after_each_epoch(groups: Groups, world: int) -> None:
    first, *others = groups.all(world, "normed")
    for other in others:
        assert same(other["states"], first["states"])
        assert other["results"] == first["results"]
        assert not torch.equal(other["own"], first["own"])  # dropout has masks of its own in each process


@pytest.mark.parametrize("world", SEVERAL)
def test_statistics_of_norms_are_means_over_the_processes(groups: Groups, world: int) -> None:
    """The mean of the parts' means is that of the whole, so the first layer's is about what one process has."""
    ((network, average),) = (each["states"] for each in groups.all(1, "normed"))
    found, averaged = groups.all(world, "normed")[0]["states"]
    means = [name for name in network if name.endswith("running_mean")]
    assert means
    for ours, theirs in ((found, network), (averaged, average)):
        torch.testing.assert_close(ours[means[0]], theirs[means[0]], rtol=0.5, atol=0.2)
        counts = [name for name in theirs if name.endswith("num_batches_tracked")]
        assert all(torch.equal(ours[name], theirs[name]) for name in counts)


@pytest.mark.parametrize("world", [*SEVERAL, MOST])
def test_evaluation_is_the_same_also_with_fewer_batches_than_processes(groups: Groups, world: int) -> None:
    ((*expected,),) = groups.all(1, "evaluated")
    for found in groups.all(world, "evaluated"):
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.loss == pytest.approx(theirs.loss, abs=1e-6)
            assert ours.score == pytest.approx(theirs.score, abs=1e-6)
            assert ours.bounds == pytest.approx(theirs.bounds, abs=1e-6)


@pytest.mark.parametrize("world", SEVERAL)
@pytest.mark.parametrize("name", ["twice", "head", "boxes"])
def test_predictions_are_the_same_in_order(groups: Groups, name: str, world: int) -> None:
    found, expected = (groups.main(each, f"predicted by {name}") for each in (world, 1))
    assert found["ids"] == expected["ids"]
    assert found["positions"].tolist() == list(range(len(found["ids"])))
    assert expected["positions"].tolist() == found["positions"].tolist()
    for ours, theirs in zip(found["each"], expected["each"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("world", WORLDS)
def test_a_detector_trains_in_any_number_of_processes(groups: Groups, world: int) -> None:
    rows = groups.main(world, "boxes")["rows"]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert 0 < rows[1]["train_loss"] < rows[0]["train_loss"] < 100 and 0 < rows[1]["valid_loss"] < 100


@pytest.mark.parametrize("world", WORLDS)
def test_as_many_processes_give_the_same_bytes(groups: Groups, world: int) -> None:
    first, again = (groups.main(world, name) for name in ("twice", "again"))
    assert same_checkpoints(first["checkpoint"], again["checkpoint"])
    assert timeless(first["rows"]) == timeless(again["rows"])


@pytest.mark.parametrize("world", WORLDS)
def test_whitening_biases_stop_learning(groups: Groups, world: int) -> None:
    start, first, second = groups.main(world, "whitened")["weights"]
    (name,) = (name for name in first if name.endswith("convolution.bias"))
    assert not torch.equal(first[name], start[name])
    assert torch.equal(second[name], first[name])
    assert any(not torch.equal(second[other], first[other]) for other in first)


@pytest.mark.parametrize("world", SEVERAL)
def test_a_network_unfreezes_after_its_head(groups: Groups, world: int) -> None:
    """With frozen norms and without dropout, the weights are those of one process but for rounding."""
    losses = [[row["train_loss"] for row in groups.main(each, "unfrozen")["rows"]] for each in (world, 1)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    found, expected = (groups.main(each, "unfrozen")["weights"] for each in (world, 1))
    start, head, everything = found
    assert len(head) < len(everything)  # the head alone, then all
    assert any(not torch.equal(everything[name], start[name]) for name in everything.keys() - head.keys())
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("world", SEVERAL)
def test_a_head_on_shared_features_is_that_of_one_process(groups: Groups, world: int) -> None:
    found, expected = (groups.main(each, "head")["weights"] for each in (world, 1))
    for ours, theirs in zip(found, expected, strict=True):
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


def test_joined_norms_keep_the_activations_of_timm() -> None:
    """In evaluation, which needs no GPU, a converted network gives the same."""
    network = timm.create_model("tf_efficientnet_lite0", num_classes=3).eval()
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(pixels)
        convert_norms(network)
        assert torch.equal(network(pixels), expected)
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    convert_norms(plain)
    assert [type(module) for module in plain] == [nn.Conv2d, nn.SyncBatchNorm, nn.ReLU]


def test_too_small_batches_are_refused(tiny: Tiny) -> None:
    for world, fitting in ((2, True), (3, True), (4, False), (5, False)):
        loading = Loading(tiny.settings("train.batch_size=7"), 3, CPU.device, True, Group(0, world))
        if fitting:
            assert [len(part.taken) for part in loading.divide(20, 1)] == [-(-7 // world), -(-7 // world), 6 // world]
            continue
        with pytest.raises(UserError, match=f"{world} processes cannot share batches of 6 images") as refused:
            loading.divide(20, 1)
        assert "Use 3 processes at most (NPROC), or a larger train.batch_size" in str(refused.value)


def test_batches_to_predict_go_round_without_padding(tiny: Tiny) -> None:
    for world in range(1, 6):
        loadings = [Loading(tiny.settings(), 3, CPU.device, False, Group(rank, world)) for rank in range(world)]
        parts = [[part.taken for part in loading.divide(17, 0)] for loading in loadings]
        assert sorted(torch.cat([each for part in parts for each in part]).tolist()) == list(range(17))
        assert [len(part) for part in parts] == [loading.own_steps(17) for loading in loadings]
        assert max(map(len, parts)) == len(parts[0])


class Given(BatchSource):
    """A source of made-up inputs, of which one process takes its part."""

    def __init__(self, tiny: Tiny, options: tuple[str, ...], inputs: Tensor, labels: Tensor, group: Group) -> None:
        loading = Loading(tiny.settings("train.batch_size=11", *options), 3, CPU.device, True, group)
        super().__init__(np.arange(len(inputs)).astype(str), labels, loading)
        self.inputs = inputs

    def batches(self, epoch: int) -> Iterator[Batch]:
        for part in self.loading.divide(len(self), epoch):
            taken = part.taken
            yield self.batch(self.inputs[taken], self.labels_at(taken), taken, part)


MISSING = torch.tensor([[1.0, float("nan")], [float("nan"), float("nan")], [0.5, 2.0], [float("nan"), -1.0]])
NUMBERS = ("competition.task=numbers", "competition.metric=rmse", "competition.submission=numbers")
LABELS = ("competition.task=several_labels", "competition.metric=fbeta_micro", "competition.submission=label_lists")
SCALE = {"mean": [0.5, 0.1], "std": [1.5, 0.7]}
TASKS: dict[str, tuple[tuple[str, ...], Tensor]] = {
    "one class": (("train.label_smoothing=0.1",), torch.arange(29) % 3),
    "weighted": (("train.class_weights=['red=4', 'blue=0.3']",), torch.arange(29) % 3),
    "focal": (("train.loss=focal",), torch.arange(29) % 3),
    "several labels": (LABELS, (torch.arange(29 * 3).view(29, 3) % 4 == 0).to(torch.uint8)),
    "numbers": ((*NUMBERS, "train.loss=huber"), MISSING.repeat(8, 1)[:29]),
    "grades": (
        (*NUMBERS, "train.loss=ordinal", "competition.grades=[0, 1, 2]", "competition.metric=quadratic_kappa"),
        torch.tensor([0.0, 1.0, 2.0, float("nan")]).repeat(8)[:29, None],
    ),
}


def task_of(tiny: Tiny, name: str) -> Task:
    settings = tiny.settings(*TASKS[name][0])
    if name == "grades":
        return make_task(settings, ["grade"], {})
    weights = torch.tensor([0.3, 1.0, 4.0]) if name == "weighted" else None
    return make_task(settings, ["first", "second"] if name == "numbers" else tiny.classes, SCALE, weights)


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("name", TASKS)
def test_the_mean_of_weighted_losses_is_the_loss_of_the_whole_batch(tiny: Tiny, name: str, world: int) -> None:
    options, labels = TASKS[name]
    random = torch.Generator().manual_seed(0)
    outputs = torch.randn(29, 3 if labels.ndim == 1 else 2 if name in ("numbers", "grades") else 3, generator=random)
    task = task_of(tiny, name)

    def losses(group: Group) -> list[Tensor]:
        source = Given(tiny, options, outputs, labels, group)
        return [task.loss(batch.inputs, batch.labels) * batch.weight for batch in source.batches(1)]

    whole = losses(ALONE)
    parts = [losses(Group(rank, world)) for rank in range(world)]
    for loss, *shared_losses in zip(whole, *parts, strict=True):
        torch.testing.assert_close(torch.stack(shared_losses).mean(), loss)


def test_a_part_without_targets_has_no_weight(tiny: Tiny) -> None:
    labels = torch.full((6, 1), float("nan"))
    labels[0] = 1.0
    for rank in range(2):
        source = Given(tiny, NUMBERS, torch.zeros(6, 1), labels, Group(rank, 2))
        part = Part(torch.arange(6), torch.arange(6).tensor_split(2)[rank])
        batch = source.batch(torch.zeros(3, 1), labels[part.taken], part.taken, part)
        assert batch.weight == (2.0, 0.0)[rank]
        assert (
            make_task(tiny.settings(*NUMBERS), ["a"], {"mean": [0.0], "std": [1.0]})
            .loss(batch.inputs, batch.labels)
            .isfinite()
        )


class Losing(BatchSource):
    """A source that loses a batch."""

    def __init__(self, source: BatchSource) -> None:
        super().__init__(source.ids, source.labels, source.loading)
        self.source = source

    def batches(self, epoch: int) -> Iterator[Batch]:
        yield from list(self.source.batches(epoch))[1:]


def test_a_lost_image_is_noticed(tiny: Tiny) -> None:
    job = tiny.job(*LOG_LOSS, "predict.batch_size=4")
    network = tiny.network(job.settings)
    assert job.valid is not None
    source = Losing(open_source(job.settings, job.valid, CPU.device))
    with pytest.raises(AssertionError, match="2 of 6 images were predicted"):
        engine.evaluate(network, source, job.task(), job.judge(), CPU)
    from pipelines.core.prediction import Predictor

    predictor = Predictor(network, source, job.task(), CPU, (engine.unchanged,))
    with pytest.raises(AssertionError, match="2 of 6 images were predicted"):
        list(blocks([predictor], [Path("x.pt")]))


def test_what_does_not_learn_is_not_shared(tiny: Tiny) -> None:
    network = tiny.network(tiny.settings())
    assert shared(network, CPU, ALONE) is network
    assert shared(network.requires_grad_(False), CPU, Group(0, 2)) is network
    assert not isinstance(network, FineTuned)
    assert replace(CPU, processes=2).of(Group(1, 2, 1, 2)).device == CPU.device
