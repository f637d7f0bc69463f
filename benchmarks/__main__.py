"""All that is claimed, measured on this machine in one table: `python -m benchmarks --archive PATH --dogs PATH`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import (
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
    """A call of one benchmark: its words, those for --quick (None: not called then), the archive that it needs."""

    name: str
    words: tuple[str, ...]
    quick: tuple[str, ...] | None
    archive: str = ""


DOGS = ("--competition", "dog-breed-identification")
FEATURES = ("--network", "mobilenet_v2")
BENCHMARKS = (
    Benchmark("split_vs_copy", (), ("--files", "3000")),
    Benchmark("predict_memory", (), ("--images", "3000", "--fewer", "1000")),
    Benchmark("predict_memory", FEATURES, (*FEATURES, "--images", "3000", "--fewer", "1000")),
    Benchmark("extraction", (), ("--pairs", "1")),
    Benchmark("textbook_loop", (), ("--images", "250", "--pairs", "1"), "archive"),
    Benchmark("textbook_loop", ("--accuracy",), None, "archive"),
    Benchmark("whole_pipeline", (), None, "archive"),
    Benchmark("whole_pipeline", (*DOGS, "--warm"), None, "dogs"),
    Benchmark("whole_pipeline", (*DOGS, "--recipe", "best"), None, "dogs"),
    Benchmark("frozen_vs_chapter", (), None, "dogs"),
)
MAINS = {
    "extraction": extraction.main,
    "frozen_vs_chapter": frozen_vs_chapter.main,
    "split_vs_copy": split_vs_copy.main,
    "predict_memory": predict_memory.main,
    "textbook_loop": textbook_loop.main,
    "whole_pipeline": whole_pipeline.main,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--archive", type=Path, help="Kaggle's cifar-10.zip, which some of the benchmarks need")
    parser.add_argument("--dogs", type=Path, help="the archive of dog-breed-identification, which others need")
    parser.add_argument("--quick", action="store_true", help="small sizes, in three minutes; RESULTS.md is left alone")
    words = parser.parse_args(arguments)

    rows, skipped = [], []
    for benchmark in BENCHMARKS:
        chosen = benchmark.quick if words.quick else benchmark.words
        repeat = f"python -m benchmarks.{benchmark.name}"
        if chosen is None:
            skipped.append(f"{' '.join((repeat, *benchmark.words))} (takes longer than --quick is to)")
            continue
        if benchmark.archive:
            archive = getattr(words, benchmark.archive)
            if archive is None or not archive.exists():
                given = archive or "not given"
                skipped.append(f"{' '.join((repeat, *chosen))} (needs --{benchmark.archive}; it is {given})")
                continue
            chosen = (*chosen, "--archive", str(archive))
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
