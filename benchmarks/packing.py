"""Packing images against decoding them one by one: generated PNGs; or CIFAR-10, from its archive.

The PNGs are 32x32 and in the page cache, because they were just written. Packing is compared with a loop that opens
each image with Pillow and writes its pixels into a memory-mapped array. Our time includes starting processes and
waiting for the disk; the loop does not wait for the disk.

With --archive, ours is the stages download (which unpacks) and split, each a process, and then packing all labelled and
all test images. The textbook's way (d2l.ai, section 14.13) is the same unpacking, its copies of the images, and
decoding all labelled images as its loader does in each epoch, in the main process, without augmentation. Nothing is
extrapolated. Both ways alternate.
"""

import filecmp
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import measuring, textbook
from benchmarks.measuring import Finding, run_stage, spread, timed
from benchmarks.synthetic import make_competition
from benchmarks.textbook import COMPETITION
from pipelines.settings.layout import Layout
from pipelines.system.errors import UserError

SIDE, LABELLED = 32, 10
LEAST_FASTER = 1.8  # times, on two cores
LEAST_RATIO = 3
MOST_SECONDS = 30


def pillow_loop(raw: Path, paths: Sequence[str], target: Path) -> None:
    """Decode the images at `paths` below `raw`, one after the other, into the new array `target`."""
    import numpy as np
    from PIL import Image

    pixels = np.lib.format.open_memmap(target, "w+", np.uint8, (len(paths), SIDE, SIDE, 3))
    for number, path in enumerate(paths):
        with Image.open(raw / path) as image:
            pixels[number] = np.asarray(image.convert("RGB"))


def measure_pngs(folder: Path, count: int, pairs: int) -> list[Finding]:
    """Return the time of packing `count` PNGs against a loop, each measured `pairs` times, alternating."""
    import pandas as pd

    from pipelines.dataset.image_set import ImageSet
    from pipelines.dataset.packed import PackedImages

    layout = Layout(folder, Path(make_competition(folder, COMPETITION, SIDE, LABELLED, count)).stem)
    numbers = [str(number) for number in range(1, count + 1)]
    rows = pd.DataFrame({"id": numbers, "path": [f"test/{number}.png" for number in numbers], "split": "test"})
    images = ImageSet(rows, rows, layout.raw, layout.cache)
    target = folder / "loop.npy"

    def pack() -> None:
        PackedImages(images, SIDE).whole()

    ours, theirs = [], []
    for number in range(pairs):
        ours.append(timed(pack))
        theirs.append(timed(lambda: pillow_loop(layout.raw, rows["path"].tolist(), target)))
        print(f"  pair {number + 1}: packing {ours[-1]:.1f} s, the loop {theirs[-1]:.1f} s", flush=True)
        (packed,) = layout.cache.iterdir()
        if not filecmp.cmp(packed, target, shallow=False):
            raise UserError("Packing and the loop gave different pixels.")
        packed.unlink()
        target.unlink()
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    return [
        Finding(
            f"packing {count:,} PNGs, {os.cpu_count()} cores: {spread(ours)} s",
            f"Pillow, one by one: {spread(theirs)} s",
            f"{spread(ratios, '.2f', 'x')} faster",
            f"at least {LEAST_FASTER}x",
            statistics.median(ratios) >= LEAST_FASTER,
        )
    ]


def our_way(folder: Path, archive: Path) -> dict[str, float]:
    """Return the seconds from `archive` to packed images below `folder`, by step."""
    from pipelines.dataset.image_set import ImageSet
    from pipelines.dataset.packed import PackedImages
    from pipelines.dataset.splits import read_split_csv

    seconds = {"unpacking": run_stage(folder, "download", COMPETITION, "--archive", str(archive)).seconds}
    seconds["split"] = run_stage(folder, "split", COMPETITION).seconds
    layout = Layout(folder, COMPETITION)

    def pack() -> None:
        table = read_split_csv(layout.split_csv)
        images = ImageSet(table, table, layout.raw, layout.cache)
        for part in (images.part(test=False), images.part(test=True)):
            PackedImages(part, SIDE).whole()

    return seconds | {"packing": timed(pack)}


def textbook_way(folder: Path, archive: Path) -> dict[str, float]:
    """Return the seconds from `archive` to the end of the textbook's first epoch below `folder`, by step."""
    seconds = {"unpacking": run_stage(folder, "download", COMPETITION, "--archive", str(archive)).seconds}
    tree = folder / "copies"
    seconds["copies"] = timed(lambda: textbook.copy_images(Layout(folder, COMPETITION).raw, tree))
    return seconds | {"decoding once": timed(lambda: textbook.decode_all(tree / "train_valid"))}


def measure_archive(folder: Path, archive: Path, pairs: int) -> list[Finding]:
    """Return the time from `archive` to packed images against the textbook's way, each measured `pairs` times."""
    import torchvision  # noqa: F401 - imported here so that it does not count in one of the ways

    trials: dict[str, list[dict[str, float]]] = {"ours": [], "textbook": []}
    for number in range(pairs):
        for name, way in {"ours": our_way, "textbook": textbook_way}.items():
            # Removed only at the end: a disk that discards freed blocks would make the next unpacking ten times slower.
            place = folder / f"{name}-{number}"
            place.mkdir()
            trials[name].append(way(place, archive))
            print(f"  {name}: {_steps(trials[name][-1:])}", flush=True)
    ours, theirs = ([sum(trial.values()) for trial in trials[name]] for name in trials)
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    return [
        Finding(
            f"{COMPETITION}: {_steps(trials['ours'])}",
            "-",
            f"{spread(ours)} s",
            f"at most {MOST_SECONDS} s",
            statistics.median(ours) <= MOST_SECONDS,
        ),
        Finding(
            "  against unpacking, the textbook's copies, and decoding as in its first epoch",
            f"{spread(theirs)} s: {_steps(trials['textbook'])}",
            f"{spread(ratios, '.2f', 'x')} faster",
            f"at least {LEAST_RATIO}x",
            statistics.median(ratios) >= LEAST_RATIO,
        ),
    ]


def _steps(trials: Sequence[dict[str, float]]) -> str:
    medians = {step: statistics.median(trial[step] for trial in trials) for step in trials[0]}
    return ", ".join(f"{step} {seconds:.1f} s" for step, seconds in medians.items())


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "packing")
    parser.add_argument("--images", type=int, default=300_000, help="PNGs to make and pack")
    parser.add_argument("--archive", type=Path, help="Kaggle's cifar-10.zip: measure from this archive instead")
    parser.add_argument("--pairs", type=int, default=3, help="measurements of each way, alternating")
    words = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        if words.archive:
            findings = measure_archive(Path(name), words.archive.resolve(), words.pairs)
        else:
            findings = measure_pngs(Path(name), words.images, words.pairs)
    section = "packing-archive" if words.archive else "packing"
    sizes = f"{words.pairs} alternating pairs"
    measuring.conclude(section, __doc__, arguments, findings, sizes)
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
