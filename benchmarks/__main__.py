"""All that is claimed, measured on this machine in one table: `python -m benchmarks [--archive PATH] [--quick]`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import measuring, predict_memory, split_vs_copy, textbook_loop, whole_pipeline
from pipelines import command


class Benchmark(NamedTuple):
    """A call of one benchmark: its words, those for --quick (None: not called then), whether it needs the archive."""

    name: str
    words: tuple[str, ...]
    quick: tuple[str, ...] | None
    with_archive: bool


BENCHMARKS = (
    Benchmark("split_vs_copy", (), ("--files", "3000"), False),
    Benchmark("predict_memory", (), ("--images", "3000", "--fewer", "1000"), False),
    Benchmark("textbook_loop", (), ("--images", "250", "--pairs", "1"), True),
    Benchmark("textbook_loop", ("--accuracy",), None, True),
    Benchmark("whole_pipeline", (), None, True),
)
MAINS = {
    "split_vs_copy": split_vs_copy.main,
    "predict_memory": predict_memory.main,
    "textbook_loop": textbook_loop.main,
    "whole_pipeline": whole_pipeline.main,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--archive", type=Path, help="Kaggle's cifar-10.zip, which half of the benchmarks need")
    parser.add_argument("--quick", action="store_true", help="small sizes, in three minutes; RESULTS.md is left alone")
    words = parser.parse_args(arguments)

    rows, skipped = [], []
    for benchmark in BENCHMARKS:
        chosen = benchmark.quick if words.quick else benchmark.words
        repeat = f"python -m benchmarks.{benchmark.name}"
        if chosen is None:
            skipped.append(f"{' '.join((repeat, *benchmark.words))} (takes longer than --quick is to)")
            continue
        if benchmark.with_archive:
            if words.archive is None or not words.archive.exists():
                skipped.append(f"{' '.join((repeat, *chosen))} (needs --archive; it is {words.archive or 'not given'})")
                continue
            chosen = (*chosen, "--archive", str(words.archive))
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
