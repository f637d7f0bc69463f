"""Time per image of each stage, memory and files, as the number of images grows.

The competition is generated: 8x8 PNGs, half of them labelled and half for test, one file each, with the settings of the
digits and a tiny network. Stages run as processes; all sizes alternate. `split` makes no tree of links; `tree` is the
second call, which adds it. Of `train`, the epoch with its validation is the time in the run's record; packing is the
rest: reading the table, decoding, drawing curves. `table` is the memory of a process that reads split.csv.

The time for `TINY` images is the start of a stage and is subtracted from the time for more. Starts differ by tenths of
a second, so the fastest of `TRIES` counts for `TINY` images and for the smallest size. Decoding processes start only
above `TINY` images, which affects the smallest size most. Therefore the lines "each more" give the time of an image
beyond those of the previous size, which contains no start.
"""

import multiprocessing
import os
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import measuring
from benchmarks.measuring import Finding, StageRun, resident, run_stage, spread
from benchmarks.synthetic import make_competition
from pipelines.settings.layout import Layout
from pipelines.system.errors import UserError
from pipelines.system.files import read_json

TEMPLATE, RUN = "digits", "run"
TINY, TRIES = 200, 3
SIDE = 8
OVERRIDES = ("model.widths=[8,8]", "train.epochs=1", "hardware.precision=float32", "predict.checkpoint=best")
STAGES = ("split", "tree", "packing", "epoch", "predict")
OF_ALL = ("split", "tree")  # the stages that work on all images; the others on half of them
MOST_TIMES, MOST_BYTES = 1.2, 300


@dataclass(frozen=True)
class Trial:
    """The seconds of each of `STAGES`; bytes: the peak memory of the largest process, and its stage; that of the table.

    files: all that the stages wrote. fullest: the most files of these in one folder.
    """

    seconds: dict[str, float]
    memory: int
    largest: str
    table: int = 0
    files: int = 0
    fullest: int = 0


def try_stages(folder: Path, toml: str) -> Trial:
    """Run split, train and predict of a competition below `folder`, and remove their files."""
    words = (toml, "--run", RUN, "--set", *OVERRIDES)
    layout = Layout(folder, Path(toml).stem)
    runs: dict[str, StageRun] = {"split": run_stage(folder, "split", toml, "--set", "split.tree=false")}
    runs["tree"] = run_stage(folder, "split", toml)
    runs |= {stage: run_stage(folder, stage, *words) for stage in ("train", "predict")}
    epoch = read_json(layout.run(RUN).trained)["seconds"]
    seconds = {stage: run.seconds for stage, run in runs.items()}
    seconds |= {"epoch": epoch, "packing": seconds.pop("train") - epoch}
    largest = max(runs.values(), key=lambda run: run.memory.largest)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        table = pool.submit(table_memory, layout.split_csv).result()
    in_folders = written(layout)
    for path in (layout.run(RUN).folder, layout.cache, layout.tree):
        shutil.rmtree(path)
    layout.split_csv.unlink()
    layout.split_record.unlink()
    return Trial(seconds, largest.memory.largest, largest.stage, table, sum(in_folders), max(in_folders))


def table_memory(split_csv: Path) -> int:
    """Return by how many bytes reading the split raises the peak memory of this process."""
    from pipelines.dataset.splits import read_split_csv

    before = resident("VmRSS")
    read_split_csv(split_csv)
    return resident("VmHWM") - before


def written(layout: Layout) -> list[int]:
    """Return the number of files in each folder that the stages have written."""
    tops = (layout.data, layout.runs_folder, layout.submissions)
    folders = (
        found for top in tops for found in os.walk(top) if layout.raw not in (Path(found[0]), *Path(found[0]).parents)
    )
    return [len(names) for _, _, names in folders]


def fastest(trials: Sequence[Trial]) -> Trial:
    """Return the shortest time of each stage in `trials`, and what the one with the largest memory has."""
    seconds = {stage: min(trial.seconds[stage] for trial in trials) for stage in STAGES}
    return replace(max(trials, key=lambda trial: trial.memory), seconds=seconds)


def between(fewer: Trial, more: Trial, stage: str, count: int) -> float:
    """Return the seconds of `stage` per image, for the `count` images that `more` has beyond `fewer`."""
    worked_on = count if stage in OF_ALL else count / 2
    return (more.seconds[stage] - fewer.seconds[stage]) / worked_on


def compared(what: str, ours: Sequence[float], against: str, theirs: Sequence[float]) -> Finding:
    """Return the finding that compares the seconds per image `ours` with `theirs`, one value per round."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    mine, other = (f"{spread([1e6 * each for each in seconds])} µs" for seconds in (ours, theirs))
    reached = 0 < statistics.median(ratios) <= MOST_TIMES  # below 0: fewer images seemed to take longer
    return Finding(
        f"{what}: {mine} an image",
        f"{against}: {other}",
        spread(ratios, ".2f", " times"),
        f"at most {MOST_TIMES} times",
        reached,
    )


def findings(trials: dict[int, list[Trial]]) -> list[Finding]:
    """Return each stage's time per image at each size against the smallest size, and the memory."""
    smallest, *larger = sorted(size for size in trials if size != TINY)

    def rounds(stage: str, fewer: int, more: int) -> list[float]:
        pairs = zip(trials[fewer], trials[more], strict=True)
        return [between(one, other, stage, more - fewer) for one, other in pairs]

    found = []
    for stage in STAGES:
        least = rounds(stage, TINY, smallest)
        for size in larger:
            found.append(
                compared(f"{stage}, {size:,} images", rounds(stage, TINY, size), f"{smallest:,} images", least)
            )
        for first, second, third in zip((smallest, *larger), larger, larger[1:], strict=False):
            found.append(
                compared(
                    f"  each more, {second:,} to {third:,}",
                    rounds(stage, second, third),
                    f"{first:,} to {second:,}",
                    rounds(stage, first, second),
                )
            )
    return [*found, *_growth(trials, smallest, larger)]


def _growth(trials: dict[int, list[Trial]], smallest: int, larger: Sequence[int]) -> list[Finding]:
    """Return the memory and the files for each image beyond those of the `smallest` size."""
    found = []
    for what, field in (("table, read from split.csv", "table"), ("largest process", "memory")):
        peaks = {size: statistics.median(getattr(trial, field) for trial in trials[size]) for size in trials}
        for size in larger:
            growth = (peaks[size] - peaks[smallest]) / (size - smallest)
            stage = f": that of {trials[size][0].largest}" if field == "memory" else ""
            found.append(
                Finding(
                    f"{what}, {size:,} images{stage}",
                    f"{smallest:,} images: {peaks[smallest] / 1e6:,.0f} MB",
                    f"{peaks[size] / 1e6:,.0f} MB, {growth:,.0f} bytes more for each image",
                    f"at most {MOST_BYTES} bytes" if field == "table" else "-",
                    growth <= MOST_BYTES if field == "table" else None,
                )
            )
    for size in (smallest, *larger):
        trial = trials[size][0]
        found.append(
            Finding(f"files written, {size:,} images", "-", f"{trial.files:,}, at most {trial.fullest:,} a folder")
        )
    return found


def measure(folder: Path, sizes: Sequence[int], rounds: int) -> list[Finding]:
    """Return how time and memory grow over `sizes`, in rising order, measured in `rounds`."""
    tomls = {}
    for size in (TINY, *sizes):
        print(f"Making {size:,} images", flush=True)
        (folder / str(size)).mkdir()
        tomls[size] = make_competition(folder / str(size), TEMPLATE, SIDE, size - size // 2, size // 2)
    trials: dict[int, list[Trial]] = {size: [] for size in tomls}
    for number in range(rounds):
        for size, toml in tomls.items():
            print(f"Round {number + 1}, {size:,} images", flush=True)
            tries = TRIES if size in (TINY, sizes[0]) else 1
            trials[size].append(fastest([try_stages(folder / str(size), toml) for _ in range(tries)]))
    return findings(trials)


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "scaling")
    parser.add_argument("--sizes", default="10000,100000,1000000", help="numbers of images (10000,100000,1000000)")
    parser.add_argument("--pairs", type=int, default=3, help="rounds; each measures every size (3)")
    words = parser.parse_args(arguments)
    sizes = sorted({int(size) for size in words.sizes.split(",")})
    if len(sizes) < 2 or sizes[0] <= TINY:
        raise UserError(f"--sizes is {words.sizes}; give two or more numbers above {TINY}.")
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), sizes, words.pairs)
    measuring.conclude("scaling", __doc__, arguments, found, f"{words.pairs} rounds; starts are those of {TINY} images")
    return found


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
