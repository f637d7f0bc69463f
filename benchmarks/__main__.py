"""Run all benchmarks and print one table: `python -m benchmarks`; --help lists the files that some need."""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from benchmarks import measuring
from pipelines import command
from pipelines.system.errors import UserError
from pipelines.system.shell import user_path


class Benchmark(NamedTuple):
    """A call of one benchmark: its arguments, those for --quick (None: skipped then), and our options that name its
    files."""

    name: str
    words: tuple[str, ...]
    quick: tuple[str, ...] | None
    files: tuple[str, ...] = ()


DOGS = ("--competition", "dog-breed-identification")
MOBILENET = ("--network", "mobilenet_v2")
BENCHMARKS = (
    Benchmark("startup", (), ("--runs", "5")),
    Benchmark("report_page", (), ("--rounds", "2", "--share", "0.2")),
    Benchmark("download", (), ("--megabytes", "50", "--pairs", "3")),
    Benchmark("split_vs_copy", (), ("--files", "3000")),
    Benchmark("packing", (), ("--images", "3000")),
    Benchmark("packing", (), None, ("archive",)),
    Benchmark("predict_memory", (), ("--images", "2000", "--fewer", "500", "--batches", "6")),
    Benchmark("predict_memory", (*MOBILENET, "--images", "100000", "--fewer", "20000"), None),
    Benchmark(
        "many_classes",
        (),
        ("--classes", "300", "--test", "2000", "--valid", "500", "--wide", "200", "--old", "200", "400"),
    ),
    Benchmark("scaling", (), None),
    Benchmark("training_speed", (), ("--images", "600", "--set", "train.batch_size=125"), ("archive",)),
    Benchmark("side_by_side", (), ("--steps", "1", "--set", "train.batch_size=32")),
    Benchmark("depthwise", (), ("--networks", "mobilenet_v2", "--sizes", "64", "--steps", "1")),
    Benchmark("processes", (), None),
    Benchmark("airbench", (), None, ("archive",)),
    Benchmark("textbook_loop", (), None, ("archive",)),
    Benchmark("textbook_loop", ("--accuracy",), None, ("archive",)),
    Benchmark("against_chapter", (), None, ("archive",)),
    Benchmark("whole_pipeline", ("--recipe", "best", "--set", "predict.checkpoint=best"), None, ("archive",)),
    Benchmark("whole_pipeline", (*DOGS, "--warm"), None, ("dogs", "weights")),
    Benchmark("whole_pipeline", (*DOGS, "--recipe", "best"), None, ("dogs", "weights")),
    Benchmark("folds", (), None),
    Benchmark("folds", (), None, ("archive",)),
    Benchmark("safety", (), None, ("archive",)),
    Benchmark("frozen_vs_chapter", (), None, ("dogs",)),
    Benchmark("frozen_vs_chapter", MOBILENET, None, ("dogs",)),
    Benchmark("extraction", (), None, ("photos",)),
)
NORMALISATION = ("input.mean=[0.5,0.5,0.5]", "input.std=[0.5,0.5,0.5]")  # of the images that the weights file expects


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    for option, what in {
        "archive": "Kaggle's cifar-10.zip",
        "dogs": "the archive of dog-breed-identification",
        "photos": "an archive of the same form with photos of full size",
        "weights": "a file of MobileNetV2's weights, for images normalised to -1 to 1",
    }.items():
        parser.add_argument(f"--{option}", type=user_path, help=f"{what}; some benchmarks need it")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, in three minutes; RESULTS.md does not change"
    )
    words = parser.parse_args(arguments)

    started = time.monotonic()
    rows: list[tuple[str, ...]] = []
    skipped, failed = [], []
    for benchmark in BENCHMARKS:
        chosen = benchmark.quick if words.quick else benchmark.words
        repeat = f"python -m benchmarks.{benchmark.name}"
        if chosen is None:
            skipped.append(f"{' '.join((repeat, *benchmark.words))} (too long for --quick)")
            continue
        given = {option: getattr(words, option) for option in benchmark.files}
        if absent := [option for option, path in given.items() if path is None or not path.exists()]:
            needs = ", ".join(f"--{option}: {given[option] or 'not given'}" for option in absent)
            skipped.append(f"{' '.join((repeat, *chosen))} (needs {needs})")
            continue
        for option, path in given.items():
            if option == "weights":
                chosen = (*chosen, "--set", "model.name=mobilenet_v2", f"model.weights={path}", *NORMALISATION)
            else:
                chosen = (*chosen, "--archive", str(path))
        chosen = (*chosen, *(["--no-record"] if words.quick else []))
        repeat = f"{repeat} {measuring.plain(chosen)}".rstrip()
        print(f"\n{repeat}", flush=True)
        try:
            findings = measuring.in_a_process(benchmark.name, chosen)
        except UserError as error:
            print(f"Error: {error}", file=sys.stderr)
            failed.append(repeat)
            continue
        # Findings without a comparison or a goal appear only in the benchmark's own table, above.
        telling = [finding for finding in findings if finding.against != "-" or finding.goal != "-"]
        if words.quick:  # goals are for full sizes
            telling = [replace(finding, goal="-", reached=None) for finding in telling]
        rows += [(*finding.row(), repeat.removeprefix("python -m ")) for finding in telling]
    print(f"\n{measuring.hardware_line()}; {command.duration(time.monotonic() - started)} in all\n")
    print(command.table((*measuring.HEADINGS, "python -m …"), rows))
    for line in skipped:
        print(f"Skipped: {line}")
    if failed:
        raise UserError(f"Failed, see above: {'; '.join(failed)}.")


if __name__ == "__main__":
    raise SystemExit(command.run(main))
