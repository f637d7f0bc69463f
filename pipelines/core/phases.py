"""The phases of a training: which parts of a network train, on which batches, at which learning rate."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from pipelines.core import engine
from pipelines.core.averages import Average
from pipelines.core.decide import Judge
from pipelines.core.optim import make_optimizer, make_schedule
from pipelines.core.tasks import Task
from pipelines.dataset.batches import open_source
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.loading import BatchSource, Loading, training_size
from pipelines.models.device import Hardware
from pipelines.models.features import FeatureBatches, Features, compute_features, inputs_of
from pipelines.models.networks import whitening_of
from pipelines.models.side_by_side import lay_side_by_side
from pipelines.models.transfer import WHOLE, FineTuned
from pipelines.settings.schema import Settings
from pipelines.system.group import ALONE, Group
from pipelines.system.watch import Watch, unwatched


@dataclass(frozen=True)
class Phase:
    """Epochs, `first` to `last`, in which the same parts train on the same kind of batches.

    head_only: the pretrained network is frozen.  cached: the head trains on cached features.  lr: the peak rate.
    """

    first: int
    last: int
    head_only: bool
    cached: bool
    lr: float


def phases(settings: Settings) -> list[Phase]:
    """Return the phases of training: one, or one for the head alone before it."""
    train, finetune = settings.train, settings.tuning
    cached = settings.features.cached
    if finetune.frozen_stages == WHOLE:
        return [Phase(1, train.epochs, head_only=True, cached=cached, lr=train.lr)]
    found = []
    if finetune.head_epochs:
        found.append(Phase(1, finetune.head_epochs, head_only=True, cached=cached, lr=finetune.head_lr or train.lr))
    return [*found, Phase(finetune.head_epochs + 1, train.epochs, head_only=False, cached=False, lr=train.lr)]


def describe_phases(settings: Settings, network: nn.Module) -> list[dict[str, Any]]:
    """Return a row for each phase and part of a pretrained network; no rows for other networks."""
    if not isinstance(network, FineTuned):
        return []
    rows = []
    for phase in phases(settings):
        freeze(network, settings, phase)
        for part in network.parts(settings.tuning.backbone_lr):
            trains = part.lr_share > 0
            row = {"epochs": f"{phase.first}-{phase.last}", "part": part.name, "parameters": part.parameters}
            row |= {"lr": part.lr_share * phase.lr if trains else None}
            rows.append(row | {"weight_decay": settings.train.weight_decay if trains else None})
    return rows


def phase_of_epochs(settings: Settings) -> list[str]:
    """Return for each epoch a few words on its phase: the part that trains, the size of the images and what the
    learning rate does.  What is the same in all epochs is left out."""
    columns: list[list[str]] = [[], [], []]
    for phase in phases(settings):
        train = replace(settings.train, lr=phase.lr, epochs=phase.last - phase.first + 1)
        schedule = make_schedule(train)
        for done in range(train.epochs):
            rate = "warm-up" if done < train.warmup_epochs else "decay" if schedule(done + 0.5) < phase.lr else "peak"
            part, size = "head" if phase.head_only else "tuning", training_size(settings, phase.first + done)
            for column, word in zip(columns, (part, f"{size} px", rate), strict=True):
                column.append(word)
    changing = [column for column in columns if len(set(column)) > 1]
    return [" ".join(words) for words in zip(*changing, strict=True)] or [""] * settings.train.epochs


def freeze(network: FineTuned, settings: Settings, phase: Phase) -> None:
    """Freeze the parts of `network` that do not train in `phase`."""
    network.freeze(WHOLE if phase.head_only else settings.tuning.frozen_stages, settings.tuning.freeze_norms)


def make_learner(
    settings: Settings, network: nn.Module, phase: Phase, hardware: Hardware, task: Task, judge: Judge
) -> engine.Learner:
    """Return the learner of `phase`: for `network`, or for its top alone on cached features."""
    train = replace(settings.train, lr=phase.lr, epochs=phase.last - phase.first + 1)
    schedule = make_schedule(train)
    model: nn.Module = network
    views: tuple[engine.View, ...] = (engine.unchanged,)
    pretrained: list[nn.Parameter] = []
    if isinstance(network, FineTuned):
        freeze(network, settings, phase)
        pretrained = list(network.pretrained_parameters()) if settings.model.pretrained else []
        if phase.cached:
            model, hardware = network.top, exact(hardware)
            views = engine.feature_views(inputs_of(settings))
    lay_side_by_side(model, hardware.side_by_side)
    averaged = Average(model, train.ema_decay) if train.ema_decay else None
    optimizer = make_optimizer(model, train, pretrained, settings.tuning.backbone_lr)
    if isinstance(optimizer, torch.optim.LBFGS):  # from zeros the solution is found soonest
        for parameter in optimizer.param_groups[0]["params"]:
            nn.init.zeros_(parameter)
    if settings.hardware.compile_training:
        model.compile()  # in place, so that the names of its weights stay
    return engine.Learner(
        model,
        optimizer,
        lambda progress: schedule(progress - (phase.first - 1)),
        hardware,
        task,
        judge,
        averaged,
        clip_norm=train.clip_norm,
        penalty=train.weight_decay if train.optimizer == "lbfgs" else 0.0,
        views=views,
        before_epoch=partial(_choose_biases, network, settings.model.whitening_epochs or train.epochs),
    )


def _choose_biases(network: nn.Module, learning: int, epoch: int) -> None:
    """Let the biases of a whitening layer learn in the first epochs, `learning`, and fix them after."""
    if whitening := whitening_of(network):
        whitening.convolution.bias.requires_grad_(epoch <= learning)  # type: ignore[union-attr]


def exact(hardware: Hardware) -> Hardware:
    """Return `hardware` with float32, which costs a small head on features no time."""
    return replace(hardware, dtype=torch.float32)


@dataclass(frozen=True)
class Sources:
    """Opens the batches of image sets for one network, in one process of `group`."""

    settings: Settings
    network: nn.Module
    hardware: Hardware
    watch: Watch = unwatched
    group: Group = ALONE

    def open(self, images: ImageSet, cached: bool, training: bool = False) -> BatchSource:
        """Return the batches of `images`, or of their features if these are `cached`."""
        settings, device = self.settings, self.hardware.device
        with self.group.main_first():  # which decodes what is missing
            if not cached:
                return open_source(settings, images, device, training, self.watch, self.group)
            loading = Loading(settings, len(images.classes), device, training, self.group, pixels=False)
            return FeatureBatches(images.ids, self.features(images), torch.from_numpy(images.labels), loading)

    def features(self, images: ImageSet) -> Features:
        """Return the features of `images`, after computing those that are not cached yet."""
        assert isinstance(self.network, FineTuned)
        return compute_features(self.settings, images, self.network, self.hardware, self.watch, self.group)
