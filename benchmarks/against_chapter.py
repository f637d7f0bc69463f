"""From the archive of CIFAR-10 to a submission: the default recipe against the textbook's loop, extrapolated.

Ours is all five stages, each a process of its own: download, split, train, retrain and predict.  The textbook's way
(d2l.ai, section 14.13) is its copies of the images, made in full; its loop for 20 epochs over the training images and
20 over all labelled ones; and its prediction of the test images: both loops measured in turn over steady batches, on
the same raw images.  Left out, to its advantage: unpacking the archive, validation after each epoch, and gradients of
its prediction.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import measuring
from benchmarks.measuring import Finding, Stopwatch, run_stage, spread
from benchmarks.split_vs_copy import textbook
from benchmarks.textbook_loop import BATCH_SIZE, COMPETITION, textbook_resnet18, textbook_speed
from benchmarks.whole_pipeline import RUN, STAGES
from pipelines import command
from pipelines.core.errors import UserError
from pipelines.core.files import read_json
from pipelines.core.layout import Layout, RunLayout
from pipelines.core.settings import DEFAULT_RECIPE

if TYPE_CHECKING:
    import torch

EPOCHS = 20
ROUNDS = 3
LEAST_RATIO = 20


def prediction_speed(tree: Path, device: "torch.device", batches: int) -> float:
    """Return the images per second of the textbook's prediction of the images in `tree`/unknown/."""
    import torch
    from torchvision import datasets, transforms

    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])]
    )
    dataset = datasets.ImageFolder(str(tree), transform=transform)
    loader = torch.utils.data.DataLoader(dataset, BATCH_SIZE)
    model = textbook_resnet18(10).to(device).eval()
    stopwatch = Stopwatch(device, batches)
    predicted: list[int] = []
    with torch.no_grad():
        for images, _ in stopwatch.watch(loader, lambda batch: len(batch[0])):
            predicted.extend(model(images.to(device)).argmax(dim=1).cpu().tolist())
    return stopwatch.images_per_second


def chapter_seconds(train: int, valid: int, test: int, training: float, predicting: float, copying: float) -> float:
    """Return how long the textbook's way takes for so many images, at so many a second, after `copying`."""
    return copying + EPOCHS * (train + train + valid) / training + test / predicting


def measure_chapter(layout: Layout, batches: int) -> tuple[list[Finding], list[float]]:
    """Return what the textbook's way is made of, and its seconds in each round."""
    from pipelines.core.device import choose_hardware
    from pipelines.core.settings import HardwareSettings
    from pipelines.core.splits import read_split_csv

    table = read_split_csv(layout.split_csv, "the stage split")
    train, valid, test = (int((table["split"] == split).sum()) for split in ("train", "valid", "test"))
    started = time.perf_counter()
    textbook(layout.raw, layout.root / "copies")
    copying = time.perf_counter() - started
    device = choose_hardware(HardwareSettings()).device
    each = -(-batches // ROUNDS)
    training, predicting = [], []
    for number in range(ROUNDS):
        training.append(textbook_speed(layout.tree / "train", device, each))
        predicting.append(prediction_speed(layout.tree / "test", device, each))
        print(
            f"  round {number + 1}: {training[-1]:.1f} images/s in training, {predicting[-1]:.1f} in prediction",
            flush=True,
        )
    seconds = [chapter_seconds(train, valid, test, *rates, copying) for rates in zip(training, predicting, strict=True)]
    what = f"textbook's way: {EPOCHS} epochs of {train:,} and {EPOCHS} of {train + valid:,} images, {test:,} predicted"
    return [
        Finding(what, "-", spread([each / 3600 for each in seconds], ".2f", " h")),
        Finding("  images/s in training", "-", spread(training)),
        Finding("  images/s in prediction", "-", spread(predicting)),
        Finding("  its copies", "-", command.duration(copying)),
    ], seconds


def scores(run: RunLayout) -> list[Finding]:
    """Return what our `run` scores on the validation images."""
    trained = read_json(run.trained)
    ((_, predicted),) = read_json(run.predicted).items()
    count = trained["valid_images"]
    return [
        Finding(f"ours, valid accuracy while training, n = {count:,}", "-", f"{trained['score']:.4f}"),
        Finding(f"ours, valid accuracy as predicted, n = {count:,}", "-", f"{predicted['valid_score']:.4f}"),
    ]


def measure(folder: Path, archive: Path, recipe: str, batches: int, ours: float | None) -> list[Finding]:
    """Return both ways' times, and their ratio.

    ours: seconds that all our stages took when they were measured; None: measured now.
    """
    words = (COMPETITION, "--recipe", recipe, "--run", RUN)
    layout = Layout(folder, COMPETITION)
    scored: list[Finding] = []
    if ours is None:
        runs = [
            run_stage(folder, stage, *words, *(["--archive", str(archive)] if stage == "download" else []))
            for stage in STAGES
        ]
        ours = sum(run.seconds for run in runs)
        scored = scores(layout.run(RUN))
    else:
        measuring.prepared(folder, COMPETITION, archive)
    findings, theirs = measure_chapter(layout, batches)
    ratios = [each / ours for each in theirs]
    return [
        *findings,
        Finding(
            f"ours, recipe {recipe}: {', '.join(STAGES)}, {ours / 60:.1f} min",
            f"textbook's way, {spread([each / 60 for each in theirs], ',.0f')} min",
            spread(ratios, ".1f", " times less"),
            f"at least {LEAST_RATIO} times",
            statistics.median(ratios) >= LEAST_RATIO,
        ),
        *scored,
    ]


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "against_chapter")
    parser.add_argument("--archive", type=Path, required=True, help="Kaggle's cifar-10.zip")
    parser.add_argument("--recipe", default=DEFAULT_RECIPE)
    parser.add_argument("--batches", type=int, default=200, help="batches of each of the textbook's loops (200)")
    parser.add_argument("--ours-seconds", type=float, help="what our stages took, as whole_pipeline has measured it")
    words = parser.parse_args(arguments)
    if not words.archive.exists():
        raise UserError(f"There is no archive {words.archive}.")
    with tempfile.TemporaryDirectory() as name:
        findings = measure(Path(name), words.archive.resolve(), words.recipe, words.batches, words.ours_seconds)
    section = "against_chapter" + ("" if words.recipe == DEFAULT_RECIPE else f"-{words.recipe}")
    ours = "as measured before" if words.ours_seconds else "one run"
    sizes = f"textbook's loops: {words.batches} batches of {BATCH_SIZE} of each, in {ROUNDS} rounds; ours: {ours}"
    measuring.conclude(section, __doc__, arguments, findings, sizes)
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
