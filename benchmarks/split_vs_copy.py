"""Our split against the textbook's copies: seconds, and disk beyond the raw images.

Both start from the same raw folder in the form of CIFAR-10 (ten classes in a labels CSV, one image in six for test),
which was just written and is in the page cache. Both read the labels, split, and write
train_valid_test/{train,valid,train_valid,test}/<class>/. Ours also writes split.csv and its record. The textbook
(d2l.ai, section 14.13) copies each labelled image twice with `shutil.copy`, each test image once. They alternate; the
disk is flushed before each, so that neither pays for the other. Ours waits until split.csv is on the disk; the copies
do not wait.
"""

import contextlib
import os
import random
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import measuring, textbook
from benchmarks.measuring import Finding, spread, timed
from pipelines import split

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LEAST_FASTER = 3  # times
MOST_DISK = 0.05  # of what the copies take
BLOCK_BYTES = 512  # the unit of st_blocks, on every file system


def make_raw(raw: Path, count: int) -> None:
    """Write `count` files of 1 to 2.3 kB, one in six of them for test, and their two CSVs."""
    generator = random.Random(0)
    test = count // 6
    for folder, number in (("train", count - test), ("test", test)):
        (raw / folder).mkdir(parents=True)
        for index in range(1, number + 1):
            (raw / folder / f"{index}.png").write_bytes(generator.randbytes(generator.randint(1000, 2300)))
    labels = (f"{index},{generator.choice(CLASSES)}\n" for index in range(1, count - test + 1))
    (raw / "trainLabels.csv").write_text("id,label\n" + "".join(labels))
    (raw / "sampleSubmission.csv").write_text("id,label\n" + "".join(f"{i},cat\n" for i in range(1, test + 1)))


def disk_bytes(paths: Sequence[Path], raw: Path) -> int:
    """Return the allocated bytes of all files and folders in `paths`, each inode once, without those of `raw`."""
    seen = {state.st_ino for state in _states(raw)}
    total = 0
    for path in paths:
        for state in _states(path):
            if state.st_ino not in seen:
                seen.add(state.st_ino)
                total += state.st_blocks * BLOCK_BYTES
    return total


def _states(path: Path) -> Iterator[os.stat_result]:
    yield path.lstat()
    for folder, folders, names in os.walk(path):
        for name in (*folders, *names):
            yield os.lstat(os.path.join(folder, name))  # noqa: PTH118


def measure(count: int, pairs: int) -> list[Finding]:
    """Return time and disk of a split of `count` images, each way measured `pairs` times, alternating."""
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        root = Path(name)
        raw, tree, copies = root / "data/cifar/raw", root / "data/cifar/train_valid_test", root / "copies"
        make_raw(raw, count)
        (root / "cifar.toml").write_text(
            '[data]\nlabels = "trainLabels.csv"\nsample_submission = "sampleSubmission.csv"\n'
        )
        written = [tree, root / "data/cifar/split.csv", root / "data/cifar/split.json"]

        def our_split() -> None:
            with contextlib.redirect_stdout(None):
                split.main(["cifar.toml"])

        our_split()  # imports and the page cache
        our_disk = disk_bytes(written, raw)
        for _ in range(pairs):
            for path in written:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            ours.append(timed(our_split))
            theirs.append(timed(lambda: textbook.copy_images(raw, copies)))
            their_disk = disk_bytes([copies], raw)
            shutil.rmtree(
                copies
            )  # before the flush: on a disk that discards freed blocks, removing flushed files takes minutes
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    share = our_disk / their_disk
    return [
        Finding(
            f"split of {count:,} images, time",
            f"{spread(ours)} s, the textbook's copies {spread(theirs)} s",
            f"{spread(ratios, unit='x')} faster",
            f"at least {LEAST_FASTER}x",
            statistics.median(ratios) >= LEAST_FASTER,
        ),
        Finding(
            "  disk beyond the raw images",
            f"{our_disk / 1e6:.1f} MB, the textbook's copies {their_disk / 1e6:.1f} MB",
            f"{share:.1%}",
            f"less than {MOST_DISK:.0%}",
            share < MOST_DISK,
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "split_vs_copy")
    parser.add_argument("--files", type=int, default=60_000, help="images in the raw folder")
    parser.add_argument("--pairs", type=int, default=3, help="measurements of each way, alternating")
    words = parser.parse_args(arguments)
    findings = measure(words.files, words.pairs)
    sizes = f"{words.files:,} files of 1 to 2.3 kB in the temporary folder, {words.pairs} alternating pairs"
    measuring.conclude("split_vs_copy", __doc__, arguments, findings, sizes)
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
