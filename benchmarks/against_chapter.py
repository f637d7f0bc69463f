"""From the archive of CIFAR-10 to a submission: the default recipe against the textbook's way, extrapolated.

Ours: all five stages, as `whole_pipeline` measures them. The textbook's way: its copies of the images, made in full;
its loop for 20 epochs over the training images and 20 over all labelled images; its prediction of the test images. Both
loops are measured in turn over some batches after a warm-up, on the same raw images. Not counted, to the textbook's
advantage: unpacking the archive, validation after each epoch, and the gradients in its prediction.
"""

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import measuring, textbook, whole_pipeline
from benchmarks.measuring import Finding, spread, timed
from benchmarks.textbook import BATCH_SIZE, COMPETITION, EPOCHS
from pipelines import command
from pipelines.settings.layout import Layout
from pipelines.settings.schema import DEFAULT_RECIPE
from pipelines.system.errors import UserError

ROUNDS = 3
LEAST_RATIO = 20


def measure_chapter(layout: Layout, batches: int) -> tuple[list[Finding], list[float]]:
    """Return the findings on each part of the textbook's way, and its seconds in each round."""
    from pipelines.dataset.splits import read_split_csv
    from pipelines.models.device import choose_hardware
    from pipelines.settings.running_sections import HardwareSettings

    table = read_split_csv(layout.split_csv, "the stage split")
    train, valid, test = (int((table["split"] == split).sum()) for split in ("train", "valid", "test"))
    copying = timed(lambda: textbook.copy_images(layout.raw, layout.root / "copies"))
    device = choose_hardware(HardwareSettings()).device
    training, predicting = textbook.training_and_prediction(
        layout.tree / "train", layout.tree / "test", device, batches, ROUNDS
    )
    seconds = [
        textbook.seconds(train, valid, test, *rates, copying) for rates in zip(training, predicting, strict=True)
    ]
    what = f"textbook's way: {EPOCHS} epochs of {train:,} and {EPOCHS} of {train + valid:,} images, {test:,} predicted"
    return [
        Finding(what, "-", spread([each / 3600 for each in seconds], ".2f", " h")),
        Finding("  images/s in training", "-", spread(training)),
        Finding("  images/s in prediction", "-", spread(predicting)),
        Finding("  its copies", "-", command.duration(copying)),
    ], seconds


def measure(folder: Path, archive: Path, recipe: str, batches: int) -> list[Finding]:
    """Return time and score of our stages with `recipe`, the time of the textbook's way, and the ratio."""
    runs, told = whole_pipeline.measure(folder, archive, COMPETITION, recipe)
    ours = sum(run.seconds for run in runs)
    findings, theirs = measure_chapter(Layout(folder, COMPETITION), batches)
    ratios = [each / ours for each in theirs]
    return [
        *told,
        *findings,
        Finding(
            f"ours, recipe {recipe}, one run: {', '.join(run.stage for run in runs)}, {ours / 60:.1f} min",
            f"textbook's way, {spread([each / 60 for each in theirs], ',.0f')} min",
            spread(ratios, ".1f", " times less"),
            f"at least {LEAST_RATIO} times",
            statistics.median(ratios) >= LEAST_RATIO,
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "against_chapter")
    parser.add_argument("--archive", type=Path, required=True, help="Kaggle's cifar-10.zip")
    parser.add_argument("--recipe", default=DEFAULT_RECIPE)
    parser.add_argument("--batches", type=int, default=200, help="batches of each of the textbook's loops (200)")
    words = parser.parse_args(arguments)
    if not words.archive.exists():
        raise UserError(f"There is no archive {words.archive}.")
    with tempfile.TemporaryDirectory() as name:
        findings = measure(Path(name), words.archive.resolve(), words.recipe, words.batches)
    section = "against_chapter" + ("" if words.recipe == DEFAULT_RECIPE else f"-{words.recipe}")
    sizes = f"ours: one run; the textbook's loops: {words.batches} batches of {BATCH_SIZE} of each, in {ROUNDS} rounds"
    measuring.conclude(section, __doc__, arguments, findings, sizes)
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
