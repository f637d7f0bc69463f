"""What test_processes.py lets 1, 2, 3 and 4 processes do, in groups that follow each other in the same processes.

Each process writes what it found to <folder>/<number of processes>-<its rank>.pt.
"""

import os
import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.core import checkpoint, engine
from pipelines.core.job import Job, prepare_features, run_job
from pipelines.core.phases import make_learner, phases
from pipelines.core.prediction import Resources, predict_each
from pipelines.core.tasks import Task
from pipelines.dataset.batches import open_source
from pipelines.dataset.loading import Batch, BatchSource, Loading
from pipelines.models import extractor, features
from pipelines.models.device import Hardware
from pipelines.models.features import FeatureBatches, Features
from pipelines.system.group import ALONE, Group
from tests.support.tiny import LOG_LOSS, Tiny
from tests.support.tiny_boxes import TinyBoxes

WORLDS = (1, 2, 3)
MOST = 4  # processes; these have only a few of the checks, which take time
TRAINED = 17  # images: in two batches, of 9 and 8
BASE = ("train.batch_size=9", "train.epochs=2")
CPU = Hardware(torch.device("cpu"), torch.float32)
MOVED = ("augment.flip=true", "augment.translate=1", "augment.cutout=3")
CROPPED, JITTERED = "augment.crop_scale=[0.4, 1.0]", "augment.colour_jitter=0.3"
BATCHES: dict[str, tuple[str, ...]] = {
    "moved, cropped, coloured": (*MOVED, CROPPED, "augment.crop_ratio=[0.7, 1.4]", JITTERED),
    "alternating, cutmix": ("augment.alternating_flip=true", "augment.sizes=[6, 8]", "augment.cutmix=1.0"),
    "mixup": ("augment.mixup=0.4", "augment.translate=1"),
    "photos": ("input.source=photos", CROPPED, "augment.flip=true", JITTERED),
}
LINEAR: dict[str, tuple[str, ...]] = {
    "momentum": ("train.momentum=0.9", "train.weight_decay=1e-3"),
    "clipped": ("train.momentum=0.9", "train.clip_norm=0.05"),
    "averaged": ("train.momentum=0.9", "train.ema_decay=0.8"),
    "muon": ("train.optimizer=muon", "train.momentum=0.6", "train.weight_decay=1e-3"),
    "adamw": ("train.optimizer=adamw", "train.lr=0.01", "train.weight_decay=1e-2"),
}
VARIED = (*MOVED, "augment.mixup=0.3", "model.dropout=0.3", "train.ema_decay=0.8", "train.momentum=0.9")
WHITENED = (
    *("train.optimizer=muon", "train.momentum=0.6", "train.bias_lr=0.05", "model.whitening=2"),
    "model.whitening_epochs=1",
)
BOXED = (
    *("augment.flip=true", "augment.crop_scale=[0.6, 1.0]", "augment.zoom_out=1.3", "augment.colour_jitter=0.2"),
    *("train.batch_size=9", "train.epochs=2", "train.ema_decay=0.8", "predict.batch_size=2", "predict.mirror=true"),
)
DIMENSIONS = 12


class Recorded(BatchSource):
    """A source that keeps its batches."""

    def __init__(self, source: BatchSource) -> None:
        super().__init__(source.ids, source.labels, source.loading)
        self.source, self.seen = source, dict[int, list[Batch]]()

    def batches(self, epoch: int) -> Iterator[Batch]:
        self.seen[epoch] = []
        for batch in self.source.batches(epoch):
            self.seen[epoch].append(batch)
            yield batch


class Exact(Task):
    """Cross-entropy in the type of the outputs."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)


class Head(nn.Module):
    """A linear layer in float64, as on a frozen network."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(DIMENSIONS, 3, dtype=torch.float64)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.linear(inputs.double())
        return outputs


@dataclass(frozen=True)
class Checks:
    """The data in `folder`, and the pretrained weights."""

    folder: Path
    weights: Path

    @property
    def tiny(self) -> Tiny:
        found: Tiny = pickle.loads((self.folder / "tiny.pickle").read_bytes())
        return found

    @property
    def boxes(self) -> TinyBoxes:
        found: TinyBoxes = pickle.loads((self.folder / "boxes.pickle").read_bytes())
        return found

    def pretrained(self) -> tuple[str, ...]:
        """Settings of a frozen network that nothing random changes."""
        image = ("input.size=32", "input.mean=[0.5, 0.5, 0.5]", "input.std=[0.25, 0.25, 0.25]")
        names = ("model.name=shufflenet_v2_x0_5", f"model.weights={self.weights}", "input.source=photos")
        return (*names, *image, "model.dropout=0", "features.dtype=float32", "train.lr=0.01")

    def job(self, group: Group, run: str, *options: str) -> Job:
        job = self.tiny.job(*BASE, *options, run=f"{run}-{group.world}")
        train = job.train.select(job.train.rows.head(TRAINED))
        return replace(job, train=train, hardware=replace(job.hardware, processes=group.world))

    def box_job(self, group: Group, run: str) -> Job:
        job = self.boxes.job(*BOXED, run=f"{run}-{group.world}")
        return replace(job, hardware=replace(job.hardware, processes=group.world))


def trained_batches(group: Group, job: Job, network: nn.Module) -> dict[int, list[Any]]:
    """Train, and return the batches of each epoch as this process got them."""
    learner = make_learner(job.settings, network, phases(job.settings)[0], CPU, job.task(), job.judge())
    with group.main_first():
        source = Recorded(open_source(job.settings, job.train, CPU.device, training=True, group=group))
    losses = [each.train_loss for each in engine.fit(learner, source, None, (1, 2), seed=0)]
    seen = {
        epoch: [(each.inputs, each.labels, each.positions, each.whole, each.weight) for each in batches]
        for epoch, batches in source.seen.items()
    }
    return {**seen, "losses": losses, "steps": (source.steps, source.own_steps)}  # type: ignore[dict-item]


def feature_batches(group: Group, settings: Any, training: bool = True) -> FeatureBatches:
    """Batches of made-up features of 53 images in two views."""
    random = np.random.default_rng(1)
    values = random.normal(size=(106, DIMENSIONS)).astype(np.float32)
    found = Features([values], [np.arange(106).reshape(53, 2)], 0, 0, [])
    labels = torch.from_numpy(random.integers(0, 3, 53))
    loading = Loading(settings, 3, CPU.device, training, group)
    return FeatureBatches(np.arange(53).astype(str), found, labels, loading)


def linear_head(group: Group, checks: Checks, options: tuple[str, ...]) -> dict[str, Any]:
    """Train a linear head for 20 steps; return its weights, and their average, if there is one."""
    settings = checks.tiny.settings("train.batch_size=11", "train.epochs=4", "train.lr=0.5", *options)
    head, job = Head(), checks.tiny.job()
    exact = replace(CPU, dtype=torch.float64)
    learner = make_learner(settings, head, phases(settings)[0], exact, Exact(), job.judge())
    source = Recorded(feature_batches(group, settings))
    for _ in engine.fit(learner, source, None, range(1, 5), seed=0):
        pass
    assert sum(map(len, source.seen.values())) == 20
    first = [(each.inputs, each.positions) for each in source.seen[1]]
    return {"weights": dict(learner.result.state_dict()), "batches": first}


def normed(group: Group, checks: Checks) -> dict[str, Any]:
    """Train a network with batch norms, its average too; return what each process has after it, and the scores."""
    job = checks.job(group, "normed", "train.ema_decay=0.8", "model.dropout=0.3")
    network = fresh(checks.tiny, job)
    learner = make_learner(job.settings, network, phases(job.settings)[0], CPU, job.task(), job.judge())
    assert job.valid is not None
    with group.main_first():
        train = open_source(job.settings, job.train, CPU.device, training=True, group=group)
        valid = open_source(job.settings, job.valid, CPU.device, group=group)
    found = list(engine.fit(learner, train, valid, (1, 2), seed=0))
    states = [{name: value.clone() for name, value in each.state_dict().items()} for each in (network, learner.result)]
    own = torch.rand(3)  # of the generator that dropout draws from
    return {"states": states, "results": [(each.train_loss, each.valid, each.lr) for each in found], "own": own}


def fresh(tiny: Tiny, job: Job) -> nn.Module:
    torch.manual_seed(1)
    return tiny.network(job.settings)


def evaluated(group: Group, checks: Checks) -> list[engine.Evaluation]:
    """Evaluate a network whose norms have learned nothing, on 1, 2 and all validation images; and a detector."""
    found = []
    for tiny, job in (
        (checks.tiny, checks.job(group, "evaluated", "predict.batch_size=2", *LOG_LOSS)),
        (checks.boxes, checks.box_job(group, "evaluated")),
    ):
        network = fresh(tiny, job)
        assert job.valid is not None
        for count in (1, 2, len(job.valid)):
            some = job.valid.select(job.valid.rows.head(count))
            with group.main_first():
                source = open_source(job.settings, some, CPU.device, group=group)
            found.append(engine.evaluate(network, source, job.task(), job.judge(), CPU))
    return found


def together(group: Group, checks: Checks) -> None:
    """Do what all processes take part in from the start, and write what this one found."""
    found: dict[str, Any] = {
        "evaluated": evaluated(group, checks),
        "linear": {name: linear_head(group, checks, options) for name, options in LINEAR.items()},
    }
    if group.world < MOST:
        found["batches"] = {}
        for name, options in BATCHES.items():
            job = checks.job(group, "batches", *options)
            found["batches"][name] = trained_batches(group, job, fresh(checks.tiny, job))
        boxed = checks.box_job(group, "batches")
        found["boxes"] = trained_batches(group, boxed, fresh(checks.boxes, boxed))
        found["normed"] = normed(group, checks)
    torch.save(found, checks.folder / f"{group.world}-{group.rank}.pt")


def alone(group: Group, checks: Checks) -> None:
    """Do what the main process begins, and write what it found."""
    found: dict[str, Any] = {}
    cases = {"twice": VARIED, "again": VARIED, "whitened": WHITENED}
    frozen = (*checks.pretrained(), "finetune.freeze_norms=true")
    cases["unfrozen"] = (*frozen, "finetune.head_epochs=1", "augment.cutmix=1")  # of images; features are not mixed
    cases["head"] = (*frozen, "finetune.frozen_stages=-1", "features.mirror=true")
    for name, options in cases.items():
        job = checks.job(group, name, *options)
        network = fresh(checks.tiny, job)
        prepare_features(job, network, group)
        kept, rows = [{name: value.clone() for name, value in network.state_dict().items()}], []
        for row in run_job(job, network, group):
            rows.append(row)
            kept.append(checkpoint.load(job.files.last).weights)
        found[name] = {"rows": rows, "weights": kept, "checkpoint": checkpoint.load(job.files.last)}
    boxed = checks.box_job(group, "boxes")
    found["boxes"] = {"rows": list(run_job(boxed, fresh(checks.boxes, boxed), group))}
    using = Resources(checks.weights.parent, group=group)
    for tiny, name in ((checks.tiny, "twice"), (checks.tiny, "head"), (checks.boxes, "boxes")):
        files = tiny.layout.run(f"{name}-1").training  # of one process, so that all predict by the same weights
        settings, tests = checkpoint.load(files.last).settings, tiny.images.part(test=True)
        blocks = list(predict_each([files.last, files.best or files.last], settings, tests, using, ""))
        positions = np.concatenate([places for places, _ in blocks])
        each = [torch.cat(parts) for parts in zip(*(predictions for _, predictions in blocks), strict=True)]
        found[f"predicted by {name}"] = {"positions": positions, "each": each, "ids": list(tests.ids)}
    torch.save(found, checks.folder / f"{group.world}-main.pt")


def run(group: Group, checks: Checks) -> None:
    """Do all checks in the main process of `group`."""
    with group.sharing(together, checks):
        together(group, checks)
    if group.world < MOST:
        alone(group, checks)


def main(folder: Path, weights: Path) -> None:
    features.IMAGES_AT_ONCE = extractor.IMAGES_AT_ONCE = 5
    rank = int(os.environ["RANK"])
    checks = Checks(folder, weights)
    store, _, _ = next(iter(dist.rendezvous("env://", rank, MOST)))
    store.set_timeout(timedelta(minutes=5))
    torch.set_num_threads(1)
    for world in (*WORLDS, MOST):
        if rank >= world:
            continue
        if world == 1:
            run(ALONE, checks)
            store.set("alone", "done")
            continue
        store.wait(["alone"])  # its files
        dist.init_process_group("gloo", store=dist.PrefixStore(f"of {world}", store), rank=rank, world_size=world)
        group = Group(rank, world, rank, world)
        group._store = dist.PrefixStore(f"work of {world}", store)
        if group.is_main:
            run(group, checks)
            group._store.set(f"work {group._shared}", "end")
        else:
            group.serve()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
