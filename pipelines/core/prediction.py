"""Predict images with a trained network."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipelines.core import checkpoint, engine
from pipelines.core.checkpoint import Checkpoint
from pipelines.core.job import to_device
from pipelines.core.phases import Sources, exact
from pipelines.core.tasks import Task, make_task
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.loading import BatchSource, WatchedBatches
from pipelines.models.device import Hardware, choose_hardware
from pipelines.models.features import views_of
from pipelines.models.transfer import FineTuned
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.watch import Watch, unwatched


@dataclass(frozen=True)
class Predictor:
    """A trained network, the batches to predict, its task, and the views: the arguments of `engine.infer`."""

    model: nn.Module
    source: BatchSource
    task: Task
    hardware: Hardware
    views: tuple[engine.View, ...]


def open_predictor(
    saved: Checkpoint, settings: Settings, images: ImageSet, weights: Path, watch: Watch = unwatched
) -> Predictor:
    """Return the network of the checkpoint `saved` and the batches of `images`.

    settings: those of the run, with the current [predict] and [hardware].  weights: the folder of pretrained weights.
    A head on frozen backbones gets their cached features, as it did in training.
    """
    hardware = choose_hardware(settings.hardware)
    network = to_device(saved.model(images.classes, weights), hardware)
    cached = saved.head_only and settings.features.cached
    source = Sources(settings, network, hardware, watch).open(images, cached)
    task = make_task(saved.settings, saved.classes, saved.scale)
    if not cached:
        views = engine.make_views(settings.predict.mirror, settings.predict.shift)
        return Predictor(network, source, task, hardware, views)
    assert isinstance(network, FineTuned)
    return Predictor(network.top, source, task, exact(hardware), engine.feature_views(len(views_of(settings))))


def predict(path: Path, settings: Settings, images: ImageSet, weights: Path, what: str, watch: Watch) -> Tensor:
    """Return the predictions of `images` by the checkpoint at `path`, float32 (N, ·), averaged over the views.

    what: the text of the progress bar.  Raises `UserError` where they are not finite.
    """
    predictor = open_predictor(checkpoint.load(path), settings, images, weights, watch)
    source = WatchedBatches(predictor.source, what, watch)
    device = predictor.hardware.device
    # Kept on the device: fetching each batch would wait for it and leave a GPU idle until the next one.
    computed = torch.full((len(images), len(images.classes)), torch.nan, device=device)
    model, task = predictor.model, predictor.task
    for batch, predictions in engine.infer(model, source, task, predictor.hardware, predictor.views):
        computed[batch.positions.to(device, non_blocking=True)] = predictions
    predicted = computed.cpu()
    if not predicted.amax(dim=1).isfinite().all():  # the maximum of numbers with a NaN is a NaN
        raise UserError(f"{path} predicts numbers that are not finite. Train another RUN= with a lower train.lr.")
    return predicted
