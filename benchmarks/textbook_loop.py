"""Our training against the textbook's own loop, on the first rows of CIFAR-10: images per second, or accuracy.

The textbook's loop is in `benchmarks/textbook.py`. Ours is the recipe `textbook`: the same batch size, augmentation and
network (except biases before norms), with our engine and packed images. Both train on the same rows. Not timed:
decoding once into the packed array, building the networks, the first batches.
"""

import statistics
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import measuring, textbook
from benchmarks.measuring import WARM_UP, Finding, Stopwatch, run_stage, spread
from benchmarks.textbook import BATCH_SIZE, COMPETITION
from pipelines.system.errors import UserError
from pipelines.system.files import read_json

if TYPE_CHECKING:
    from pipelines.dataset.image_set import ImageSet
    from pipelines.models.device import Hardware
    from pipelines.settings.schema import Settings

RECIPE = "textbook"
TEXTBOOK_ACCURACY = (0.36, 0.48)  # in the published versions of the chapter's output, on its sample of 1,000 images


def our_speed(settings: "Settings", images: "ImageSet", hardware: "Hardware", batches: int | None = None) -> float:
    """Return the images per second of our engine and packed images in a first epoch over `images`.

    batches: the number of batches to measure; None for all.
    """
    from pipelines.core import engine
    from pipelines.core.decide import make_judge
    from pipelines.core.job import to_device
    from pipelines.core.phases import make_learner, phases
    from pipelines.core.tasks import make_task
    from pipelines.dataset.batches import open_source
    from pipelines.dataset.loading import WatchedBatches
    from pipelines.models.building import build_network
    from pipelines.models.networks import whitening_of

    network = to_device(build_network(settings, images.classes, []), hardware)
    if whitening := whitening_of(network):
        seen = open_source(settings, images, hardware.device)
        whitening.fit([next(seen.batches(0)).inputs])
    task, judge = make_task(settings, images.classes, {}), make_judge(settings, images.classes, images.labels)
    learner = make_learner(settings, network, phases(settings)[0], hardware, task, judge)
    source = open_source(settings, images, hardware.device, training=True)
    stopwatch = Stopwatch(hardware.device, batches)

    def watch(items: Iterable[Any], what: str, total: int | None = None, unit: str = "") -> Iterator[Any]:
        return stopwatch.watch(items, lambda batch: len(batch.inputs))

    timed = WatchedBatches(source, "training", watch)
    for _ in engine.fit(learner, timed, None, [1], settings.train.seed):
        pass
    return stopwatch.images_per_second


def measure_speed(folder: Path, archive: Path, images: int, pairs: int) -> list[Finding]:
    """Return speeds and ratios on the train rows among the first `images` rows, over `pairs`, alternating."""
    layout = measuring.prepared(folder, COMPETITION, archive)

    from pipelines.dataset.image_set import ImageSet
    from pipelines.dataset.splits import read_split_csv
    from pipelines.models.device import choose_hardware
    from pipelines.settings.loading import load_settings
    from pipelines.settings.running_sections import HardwareSettings

    table = read_split_csv(layout.split_csv, "the stage split")
    rows = table[table["split"] != "test"].head(images)
    rows = rows[rows["split"] == "train"]
    if len(rows) < 2 * WARM_UP * BATCH_SIZE:
        raise UserError(
            f"--images {images} leaves {len(rows)} training images; the minimum is {2 * WARM_UP * BATCH_SIZE}."
        )
    tree = folder / "train"
    for label, path in zip(rows["label"], rows["path"], strict=True):
        (tree / label).mkdir(parents=True, exist_ok=True)
        (tree / label / Path(path).name).hardlink_to(layout.raw / path)

    images_used = ImageSet(rows, rows, layout.raw, layout.cache, sorted(set(rows["label"])))
    settings = load_settings(COMPETITION, RECIPE)
    chosen = choose_hardware(HardwareSettings())
    plain = choose_hardware(HardwareSettings(precision="float32"))
    ways = {
        "textbook": lambda: textbook.training_speed(tree, chosen.device),
        "chosen": lambda: our_speed(settings, images_used, chosen),
        "float32": lambda: our_speed(settings, images_used, plain),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for pair in range(pairs):
        for name, way in ways.items():
            speeds[name].append(way())
        print(f"  pair {pair + 1}: " + ", ".join(f"{name} {each[-1]:.0f} images/s" for name, each in speeds.items()))
    precision = str(chosen.dtype).removeprefix("torch.")
    against = f"textbook's loop, {spread(speeds['textbook'], ',.0f')} images/s"
    findings = []
    for name, label in {"chosen": f"{precision}, as chosen here", "float32": "forced to float32"}.items():
        ratios = [ours / theirs for ours, theirs in zip(speeds[name], speeds["textbook"], strict=True)]
        findings.append(Finding(f"training, {label}: images/s", "-", spread(speeds[name], ",.0f")))
        faster = statistics.median(ratios) > 1
        findings.append(Finding("  times as fast", against, spread(ratios, ".2f"), "above 1", faster))
    return findings


def measure_accuracy(folder: Path, archive: Path, images: int, overrides: Sequence[str]) -> list[Finding]:
    """Return the validation accuracy of the stage train with our recipe on the first `images` rows."""
    layout = measuring.prepared(folder, COMPETITION, archive)
    run = run_stage(
        folder, "train", COMPETITION, "--recipe", RECIPE, "--run", RECIPE, "--set", f"train.limit={images}", *overrides
    )
    note = read_json(layout.run(RECIPE).trained)
    low, high = TEXTBOOK_ACCURACY
    what = f"best of {note['epochs']} epochs on {note['train_images']:,} images in {run.seconds:,.0f} s: valid accuracy"
    against = f"textbook's {low}-{high}; here n = {note['valid_images']:,}"
    return [Finding(what, against, f"{note['score']:.3f}", f"at least {low}", note["score"] >= low)]


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "textbook_loop")
    parser.add_argument("--archive", type=Path, required=True, help="Kaggle's cifar-10.zip")
    parser.add_argument("--images", type=int, default=1000, help="first rows of the labels to use, as train.limit does")
    parser.add_argument("--pairs", type=int, default=3, help="measurements of each way")
    parser.add_argument("--accuracy", action="store_true", help="train the recipe and measure its accuracy instead")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides for --accuracy")
    words = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        if words.accuracy:
            findings = measure_accuracy(Path(name), words.archive, words.images, words.set)
        else:
            findings = measure_speed(Path(name), words.archive, words.images, words.pairs)
    sizes = f"first {words.images:,} rows" + ("" if words.accuracy else f", {words.pairs} alternating pairs")
    section = "textbook_loop-accuracy" if words.accuracy else "textbook_loop"
    measuring.conclude(section, __doc__, arguments, findings, sizes)
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
