"""Where the time of a training goes: the parts of a recipe's epochs, measured on this machine.

Reads   data/<c>/split.csv and the images it lists; weights/, where pretrained weights are kept.
Writes  nothing.

Each kind of epoch (one image size, or only the head training) runs twice on --steps batches, exactly as in `train`; the
second run counts. Hooks on the network and the optimiser separate the parts, and each boundary waits for the device.
Work done once before the first epoch does not count, except decoding. The last line is the engine's own measurement of
the same epochs.
"""

import contextlib
import itertools
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks import measuring
from pipelines import command
from pipelines.settings.layout import Layout
from pipelines.system.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from pipelines.core.checkpoint import Checkpoint
    from pipelines.core.job import Job, Row
    from pipelines.dataset.image_set import ImageSet
    from pipelines.dataset.loading import Batch, BatchSource, Finisher, Part
    from pipelines.settings.schema import Settings

STEPS = 40
PARTS = {
    "decode": "packing, once; photos: waiting for them in each epoch",
    "transfer": "from the decoded images to the device",
    "augment": "and normalise",
    "forward": "",
    "backward": "with the loss",
    "optimiser": "with averaged weights",
    "evaluation": "of the valid images",
    "I/O": "best and last checkpoint, history",
}
TRAINING = ("decode", "transfer", "augment", "forward", "backward", "optimiser")  # parts of a training step


class Clock:
    """Adds up the seconds of each part; entering one part leaves the previous one."""

    def __init__(self, device: "torch.device") -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.part, self.since = "", 0.0

    def enter(self, part: str) -> None:
        """Count for `part` from now on; an empty name counts for nothing."""
        now = measuring.now(self.device)
        if self.part:
            self.seconds[self.part] = self.seconds.get(self.part, 0.0) + now - self.since
        self.part, self.since = part, now

    def taken(self) -> dict[str, float]:
        """Return the seconds so far, and reset them."""
        self.enter("")
        seconds, self.seconds = self.seconds, {}
        return seconds


@dataclass(frozen=True)
class Kind:
    """Consecutive epochs of equal cost: how many, their image size, and whether only the head trains."""

    epochs: int
    size: int
    head: bool


@dataclass(frozen=True)
class Profile:
    """Seconds of a training of `epochs`, by part and by the engine's own clock, and its numbers of images."""

    parts: dict[str, float]
    whole: float
    epochs: int
    train_images: int
    valid_images: int

    def table(self) -> str:
        """Return the parts as an aligned table: seconds per 1,000 images and per epoch, and shares."""
        total = sum(self.parts.values())
        images = dict.fromkeys(TRAINING, self.train_images) | {"evaluation": self.valid_images}
        rows = []
        for part, seconds in self.parts.items():
            epoch = seconds / self.epochs
            each = f"{1000 * epoch / images[part]:.4f}" if part in images else "-"
            label = f"{part} ({PARTS[part]})" if PARTS[part] else part
            rows.append((label, each, f"{epoch:,.3f}", f"{seconds / total:.1%}"))
        rows.append(("all parts", "", f"{total / self.epochs:,.3f}", "100.0%"))
        rows.append(("by the engine's own clock", "", f"{self.whole / self.epochs:,.3f}", f"{self.whole / total:.1%}"))
        return command.table(("part", "s per 1,000 images", "s per epoch", "share"), rows)


def kinds(settings: "Settings") -> list[Kind]:
    """Return the kinds of epochs of a training, in order."""
    from pipelines.dataset.loading import training_size

    epochs = range(1, settings.train.epochs + 1)
    alike = itertools.groupby(
        epochs, lambda epoch: (training_size(settings, epoch), epoch <= settings.tuning.head_epochs)
    )
    return [Kind(len(list(group)), size, head) for (size, head), group in alike]


def shortened(settings: "Settings", found: Sequence[Kind]) -> "Settings":
    """Return `settings` for a training of two epochs of each kind."""
    from pipelines.settings.loading import merge

    changes: dict[str, Any] = {"train": {"epochs": 2 * len(found), "patience": 0}}
    if settings.augment.sizes:
        changes["augment"] = {"sizes": [kind.size for kind in found for _ in range(2)]}
    if settings.tuning.head_epochs:
        changes["finetune"] = {"head_epochs": 2 * sum(kind.head for kind in found)}
    return merge(settings, changes, "profile")


@contextlib.contextmanager
def hooks(clock: Clock, network: "nn.Module") -> Iterator[None]:
    """Report each boundary inside a training step of `network`, and the end of evaluation, to `clock`."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    from pipelines.core import checkpoint
    from pipelines.dataset.loading import Finisher
    from pipelines.models.transfer import FineTuned

    finish, save = Finisher.__call__, checkpoint.save

    def timed_finish(self: "Finisher", pixels: "Tensor", source: "BatchSource", part: "Part") -> "Batch":
        if self.loading.training:
            clock.enter("transfer")
            pixels = pixels.to(self.loading.device)
            clock.enter("augment")
        return finish(self, pixels, source, part)

    def timed_save(path: Path, state: "Checkpoint") -> None:
        clock.enter("I/O")
        save(path, state)

    def after_forward(module: "nn.Module", inputs: object, outputs: object) -> None:
        if module.training:
            clock.enter("backward")

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(Finisher, "__call__", timed_finish))
        stack.enter_context(mock.patch.object(checkpoint, "save", timed_save))
        # On cached features the top is trained alone.
        for module in (network, *([network.top] if isinstance(network, FineTuned) else [])):
            stack.callback(module.register_forward_hook(after_forward).remove)
        stack.callback(register_optimizer_step_pre_hook(lambda *_: clock.enter("optimiser")).remove)
        yield


def measure(job: "Job", network: "nn.Module", steps: int) -> Profile:
    """Return the profile of `job`, measured on `steps` batches of each kind of epoch.

    Writes only into a temporary folder, so that no decoded images exist yet.
    """
    assert job.valid is not None
    found = kinds(job.settings)
    with tempfile.TemporaryDirectory() as name:
        short = _short_job(job, found, steps, Path(name))
        assert short.valid is not None
        larger, larger_valid = len(job.train) / len(short.train), len(job.valid) / len(short.valid)
        factors = dict.fromkeys(TRAINING, larger) | {"evaluation": larger_valid, "I/O": 1.0}
        seconds = dict.fromkeys(PARTS, 0.0)
        seconds["decode"] = whole = _decode(short, network, larger)
        for kind, (row, measured) in zip(found, list(_epochs(short, network))[1::2], strict=True):
            for part, taken in measured.items():
                seconds[part] += kind.epochs * factors[part] * taken
            trained = len(short.train) / row["images_per_second"]
            evaluated = row["seconds"] - trained
            whole += kind.epochs * (larger * trained + larger_valid * evaluated + measured["I/O"])
    return Profile(seconds, whole, job.settings.train.epochs, len(job.train), len(job.valid))


def _short_job(job: "Job", found: Sequence[Kind], steps: int, folder: Path) -> "Job":
    """Return `job` with `steps` batches per epoch, two epochs of each kind, and cache and run below `folder`."""
    from pipelines.dataset.loading import prediction_batch

    settings = shortened(job.settings, found)
    run = Layout(folder, settings.name).run("profile")
    assert job.valid is not None
    return replace(
        job,
        settings=settings,
        train=_spread_over(job.train, steps * settings.train.batch_size, folder),
        valid=_spread_over(job.valid, steps * prediction_batch(settings, job.hardware.device), folder),
        epochs=settings.train.epochs,
        files=run.training,
    )


def _spread_over(images: "ImageSet", count: int, folder: Path) -> "ImageSet":
    """Return `count` of `images`, or all, evenly spread, with their cache below `folder`."""
    some = images.select(images.rows.iloc[:: max(len(images) // count, 1)].head(count))
    return replace(some, cache=folder / "cache")


def _decode(job: "Job", network: "nn.Module", larger: float) -> float:
    """Return the seconds to decode the images once: packed, made into features, or only checked.

    larger: the number of all images divided by the number in `job`.
    """
    import pandas as pd

    from pipelines.core.job import prepare_features
    from pipelines.core.phases import phases
    from pipelines.dataset.batches import open_source

    seconds, started = 0.0, time.perf_counter()
    job = replace(job, watch=command.progress)
    assert job.valid is not None
    if prepare_features(job, network):
        seconds = larger * (time.perf_counter() - started)
    if not all(phase.cached for phase in phases(job.settings)):
        images = job.train.select(pd.concat([job.train.rows, job.valid.rows]))
        started = time.perf_counter()
        open_source(job.settings, images, job.hardware.device, watch=job.watch)
        # Packing decodes all images of the table, even when few rows are used.
        seconds += (time.perf_counter() - started) * (larger if job.settings.input.source == "photos" else 1)
    return seconds


def _epochs(job: "Job", network: "nn.Module") -> Iterator[tuple["Row", dict[str, float]]]:
    """Train, and yield each epoch's history row and the seconds of its parts."""
    from pipelines.core.job import run_job
    from pipelines.core.phases import phases

    clock = Clock(job.hardware.device)
    waiting = {
        epoch: "decode" if job.settings.input.source == "photos" and not phase.cached else "transfer"
        for phase in phases(job.settings)
        for epoch in range(phase.first, phase.last + 1)
    }

    def timed(batches: Iterable[Any], epoch: int) -> Iterator[Any]:
        iterator = iter(batches)
        while True:
            clock.enter(waiting[epoch])
            if (batch := next(iterator, None)) is None:
                break
            clock.enter("forward")
            yield batch
        clock.enter("evaluation")

    def watch(items: Iterable[Any], what: str, total: int | None = None, unit: str = "") -> Iterable[Any]:
        name, _, epoch = what.partition(" ")
        return timed(items, int(epoch)) if name == "epoch" else items

    with hooks(clock, network):
        for row in run_job(replace(job, watch=watch), network):
            yield row, clock.taken()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command.parser(__doc__, "profile")
    parser.prog = "python -m benchmarks.profile"
    parser.add_argument("--steps", type=int, default=STEPS, help=f"batches of each kind of epoch ({STEPS})")
    words = parser.parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    if words.steps < 1:
        raise UserError(f"--steps is {words.steps}; it must be at least 1.")
    words.require_raw(layout)

    from pipelines.dataset.split_record import require_split
    from pipelines.dataset.splits import read_split_csv

    table = read_split_csv(layout.split_csv, words.repeat("split"))
    require_split(layout, settings, words.repeat("split"))

    from pipelines.core.job import Job
    from pipelines.core.precision import settle_precision
    from pipelines.dataset.image_set import open_images
    from pipelines.models.building import build_network
    from pipelines.models.device import choose_hardware
    from pipelines.models.weights import find_origins, resolve

    found = []
    if settings.model.weights:
        found = find_origins(settings.model, layout.weights, watch=command.progress)
        settings = resolve(settings, found)
    train, valid = open_images(settings, layout, table).divide(settings)
    network = build_network(settings, train.classes, found)
    kept = layout.run(words.run_name())
    with tempfile.TemporaryDirectory() as name:
        settings, reason = settle_precision(settings, Path(name) / "precision", network, len(train))
    epochs, hardware = settings.train.epochs, choose_hardware(settings.hardware)
    print(
        f"{settings.name}, recipe {settings.recipe}: {epochs} epochs of {len(train):,} images, {len(valid):,} "
        f"validation images; {settings.model.name}; {hardware}{reason}"
    )
    job = Job(settings, train, valid, epochs, kept.training, hardware)
    print(measure(job, network, words.steps).table())


if __name__ == "__main__":
    sys.exit(command.run(main))
