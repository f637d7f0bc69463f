"""The task boxes in the training core: its losses, a training that goes on after a stop, and the mirrored view."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipelines.core import checkpoint
from pipelines.core.engine import infer, make_views, unchanged
from pipelines.core.fusion import mirrored
from pipelines.core.job import Job
from pipelines.core.prediction import Resources, open_predictor
from pipelines.core.tasks import Boxes, loss_unit, training_task
from pipelines.dataset.boxes import MOST
from pipelines.dataset.loading import Batch, known_targets
from pipelines.models.detectors import pad
from pipelines.system.group import Group
from tests.core.test_job import same_after_a_stop
from tests.support.found_boxes import unpad
from tests.support.histories import same, same_checkpoints, timeless
from tests.support.tiny_boxes import TinyBoxes, make_tiny_boxes

PARTS = ["loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"]
VARIED = ("augment.flip=true", "augment.zoom_out=1.3", "augment.crop_scale=[0.6, 1.0]", "augment.colour_jitter=0.1")


@pytest.fixture
def tiny_boxes(tmp_path: Path) -> TinyBoxes:
    return make_tiny_boxes(tmp_path)


def test_a_training_goes_on_after_a_stop(tiny_boxes: TinyBoxes) -> None:
    same_after_a_stop(tiny_boxes, *VARIED, "train.ema_decay=0.8")


def test_the_same_seed_gives_the_same_bytes_and_the_parts_of_the_loss(tiny_boxes: TinyBoxes) -> None:
    jobs: list[Job] = [tiny_boxes.job(*VARIED, "train.epochs=1", run=name) for name in ("one", "two")]
    (one,), (two,) = (list(tiny_boxes.run(job)) for job in jobs)
    assert timeless([one]) == timeless([two])
    left, right = (checkpoint.load(job.files.last) for job in jobs)
    assert same(left.weights, right.weights) and same_checkpoints(left, right)
    assert list(one)[:6] == ["epoch", "train_loss", *(f"train_{part}" for part in PARTS)]
    assert sum(one[f"train_{part}"] for part in PARTS) == pytest.approx(one["train_loss"], rel=1e-5)
    assert one["valid_loss"] > 0 and 0 <= one["box_map_at"] <= 1


def test_a_checkpoint_predicts_with_the_anchors_of_its_training(tiny_boxes: TinyBoxes) -> None:
    job = tiny_boxes.job("train.epochs=1")
    list(tiny_boxes.run(job))
    saved = checkpoint.load(job.files.last)
    assert saved.settings.model.anchor_sizes == job.settings.model.anchor_sizes != ()
    test = tiny_boxes.images.part(test=True)
    predictor = open_predictor(saved, job.settings, test, Resources(tiny_boxes.layout.weights))
    found = list(infer(predictor.model, predictor.source, predictor.task, predictor.hardware, predictor.views))
    assert sum(len(batch.positions) for batch, _ in found) == 4
    assert all(predictions.shape[1] == 6 * MOST for _, predictions in found)


def test_losses_and_targets(tiny_boxes: TinyBoxes) -> None:
    settings = tiny_boxes.settings()
    task = training_task(settings, tiny_boxes.part("train"), tiny_boxes.part("valid"))
    assert isinstance(task, Boxes) and list(task.parts) == PARTS and task.scale == {}
    assert loss_unit(settings) == "loss of the detector"
    outputs = torch.tensor([[0.5, 0.25, 0.125, 0.0]], requires_grad=True)
    targets = torch.full((3, 2, 5), torch.nan)
    loss = task.loss(outputs, targets)
    assert task.summed(outputs, loss).tolist() == [0.875, 0.5, 0.25, 0.125, 0.0]
    averaged = torch.arange(3 * 601.0).view(3, 601)
    assert task.losses(averaged, targets).tolist() == [0.0, 601.0, 1202.0]
    assert torch.equal(task.predictions(averaged), averaged[:, 1:])
    assert known_targets(targets) == 3  # images, whatever their boxes


class Remembering(nn.Module):
    """Returns a box in the left half of an image and in the mirrored place for its mirror image."""

    def forward(self, images: Tensor, targets: Tensor | None = None) -> Tensor:
        box = [0.1, 0.2, 0.4, 0.6] if images[0, 0, 0, 0] else [0.6, 0.2, 0.9, 0.6]
        found = pad([torch.tensor([1.0])], [torch.tensor([0.8])], [torch.tensor([box])])
        return torch.cat([torch.full((1, 1), 0.0 if targets is None else 7.0), found], dim=1)


def test_the_mirrored_view_is_mirrored_back_and_fused(tiny_boxes: TinyBoxes) -> None:
    pytest.importorskip("pipelines.core.fusion")
    images = torch.zeros(1, 3, 8, 8)
    images[..., 0] = 1
    task = Boxes(())
    batch = Batch(images, torch.zeros(1, 1, 5), torch.zeros(1, dtype=torch.int64))
    outputs = task.outputs(Remembering(), batch, make_views(mirror=True, shift=0))
    assert [each[0, 0].item() for each in outputs] == [7.0, 0.0]
    assert torch.allclose(mirrored(outputs[1][:, 1:]), outputs[0][:, 1:])
    fused = task.average(outputs)
    assert fused.shape == outputs[0].shape and fused[0, 0] == 7
    (box,) = [each for each in unpad(fused[:, 1:])[0] if each[1] > 0]
    assert box.tolist() == pytest.approx([1, 0.8, 0.1, 0.2, 0.4, 0.6], abs=1e-5)
    (alone,) = task.outputs(Remembering(), Batch(images, torch.zeros(0), batch.positions), (unchanged,))
    assert alone[0, 0] == 0 and task.average([alone]) is alone


def test_a_part_of_a_batch_weighs_as_many_images(tiny_boxes: TinyBoxes) -> None:
    source = tiny_boxes.source("train", "train.batch_size=9", training=True)
    source.loading = type(source.loading)(source.loading.settings, 2, torch.device("cpu"), True, Group(0, 2))
    (batch,) = source.batches(1)
    assert (len(batch.inputs), batch.whole, batch.weight) == (5, 9, pytest.approx(10 / 9))
