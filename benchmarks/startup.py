"""How long a person waits for nothing: the help of a stage, and a finished stage that is called again; whole processes.

The stages are those of the digits, trained for an epoch.  All commands take turns.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import measuring
from benchmarks.measuring import Finding, run_stage, spread

WORDS = ("digits", "--run", "run", "--set", "train.epochs=1")
STAGES = ("download", "split", "train", "retrain", "predict")
AGAIN = ("train", "retrain", "predict")
HELP_SECONDS, AGAIN_SECONDS = 0.3, 1.0


def seconds(folder: Path, words: Sequence[str], expected: str) -> float:
    """Return how long `python -m <words>` takes in `folder`; what it prints must contain `expected`."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(measuring.ROOT)},
        capture_output=True,
        text=True,
    )
    took = time.perf_counter() - started
    if done.returncode or expected not in done.stdout:
        raise RuntimeError(f"python -m {' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return took


def measure(folder: Path, runs: int) -> list[Finding]:
    """Return what the help of `train` takes, and each finished stage, called `runs` times in turn."""
    for stage in STAGES:
        run_stage(folder, stage, *WORDS)
    calls: dict[str, tuple[tuple[str, ...], str]] = {"--help": (("pipelines.train", "--help"), "usage:")}
    calls |= {stage: ((f"pipelines.{stage}", *WORDS), "Already") for stage in AGAIN}
    took: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, (words, expected) in calls.items():
            took[name].append(seconds(folder, words, expected))
    labels = {"--help": "python -m pipelines.train --help"} | {stage: f"{stage}, finished, again" for stage in AGAIN}
    goals = {"--help": HELP_SECONDS} | dict.fromkeys(AGAIN, AGAIN_SECONDS)
    return [
        Finding(labels[name], "-", spread(each, ".2f", " s"), f"under {goals[name]} s", median < goals[name])
        for name, each in took.items()
        for median in [statistics.median(each)]
    ]


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "startup")
    parser.add_argument("--runs", type=int, default=9, help="calls of each command (9)")
    words = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        findings = measure(Path(name), words.runs)
    measuring.conclude("startup", __doc__, arguments, findings, f"digits, {words.runs} calls of each in turn")
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
