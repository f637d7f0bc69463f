"""All that is claimed, measured on this machine in one table: `python -m benchmarks`; --help lists the files."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import (
    download,
    extraction,
    frozen_vs_chapter,
    measuring,
    predict_memory,
    split_vs_copy,
    textbook_loop,
    whole_pipeline,
)
from pipelines import command


class Benchmark(NamedTuple):
    """A call of one benchmark: its words, those for --quick (None: not called then), and the options of ours that give
    it files."""

    name: str
    words: tuple[str, ...]
    quick: tuple[str, ...] | None
    files: tuple[str, ...] = ()


DOGS = ("--competition", "dog-breed-identification")
MOBILENET = ("--network", "mobilenet_v2")
BENCHMARKS = (
    Benchmark("download", (), ("--megabytes", "50", "--pairs", "3")),
    Benchmark("split_vs_copy", (), ("--files", "3000")),
    Benchmark("predict_memory", (), ("--images", "3000", "--fewer", "1000")),
    Benchmark("predict_memory", MOBILENET, (*MOBILENET, "--images", "3000", "--fewer", "1000")),
    Benchmark("extraction", (), ("--pairs", "1"), ("photos",)),
    Benchmark("textbook_loop", (), ("--images", "250", "--pairs", "1"), ("archive",)),
    Benchmark("textbook_loop", ("--accuracy",), None, ("archive",)),
    Benchmark("whole_pipeline", (), None, ("archive",)),
    Benchmark("whole_pipeline", (*DOGS, "--warm"), None, ("dogs", "weights")),
    Benchmark("whole_pipeline", (*DOGS, "--recipe", "best"), None, ("dogs", "weights")),
    Benchmark("frozen_vs_chapter", (), None, ("dogs",)),
    Benchmark("frozen_vs_chapter", MOBILENET, None, ("dogs",)),
)
NORMALISATION = ("input.mean=[0.5,0.5,0.5]", "input.std=[0.5,0.5,0.5]")  # that the file of weights expects
MAINS = {
    "download": download.main,
    "extraction": extraction.main,
    "frozen_vs_chapter": frozen_vs_chapter.main,
    "split_vs_copy": split_vs_copy.main,
    "predict_memory": predict_memory.main,
    "textbook_loop": textbook_loop.main,
    "whole_pipeline": whole_pipeline.main,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    for option, what in {
        "archive": "Kaggle's cifar-10.zip",
        "dogs": "the archive of dog-breed-identification",
        "photos": "an archive of the same form with photos of full size",
        "weights": "a file of MobileNetV2's weights, for images normalised to -1 to 1",
    }.items():
        parser.add_argument(f"--{option}", type=Path, help=f"{what}, which some of the benchmarks need")
    parser.add_argument("--quick", action="store_true", help="small sizes, in three minutes; RESULTS.md is left alone")
    words = parser.parse_args(arguments)

    rows, skipped = [], []
    for benchmark in BENCHMARKS:
        chosen = benchmark.quick if words.quick else benchmark.words
        repeat = f"python -m benchmarks.{benchmark.name}"
        if chosen is None:
            skipped.append(f"{' '.join((repeat, *benchmark.words))} (takes longer than --quick is to)")
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
        repeat = f"{repeat} {measuring.plain(chosen)}".rstrip()
        print(f"\n{repeat}", flush=True)
        findings = MAINS[benchmark.name]([*chosen, *(["--no-record"] if words.quick else [])])
        rows += [(*finding.row(), repeat.removeprefix("python -m ")) for finding in findings]
    print(f"\n{measuring.hardware_line()}\n")
    print(command.table((*measuring.HEADINGS, "python -m …"), rows))
    for line in skipped:
        print(f"Skipped: {line}")


if __name__ == "__main__":
    raise SystemExit(command.run(main))
